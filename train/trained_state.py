"""What a run changes, as name -> tensor: trained parameters, kept buffers, and the optimiser's state by parameter name.

Names and whole tensors are the same under every strategy: what is sharded (FSDP2's DTensor, DeepSpeed's ZeRO-3) is put
together when it is read and taken apart when it is written, by all processes in step. A frozen backbone is in none of
it. ZeRO keeps the optimiser's state to itself; see `Strategy.save_optimizer`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from emollama.errors import CheckpointError


def trained_state(model: nn.Module, *, in_parts: bool = False) -> dict[str, Tensor]:
    """Return parameters with ``requires_grad`` (tied ones once) and kept buffers; what is not sharded is not copied.

    ``in_parts`` leaves FSDP2's parts where they are; `gathered` puts them together.
    """
    names = {name: p for name, p in model.named_parameters() if p.requires_grad}
    with _whole(names, writes=False):
        # What ZeRO-3 puts together here is gone after this block.
        state = {k: p.detach().clone() if hasattr(p, "ds_id") else p.detach() for k, p in names.items()}
    for prefix, module in model.named_modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and name not in module._non_persistent_buffers_set:
                state[f"{prefix}.{name}" if prefix else name] = buffer.detach()
    return state if in_parts else gathered(state)


def gathered(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put the parts of a state together, in all processes at once."""
    return {name: _full(tensor) for name, tensor in state.items()}


@torch.no_grad()
def load_trained_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy `trained_state` back in place; names or shapes that differ raise `CheckpointError`."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    own: dict[str, Tensor] = {**parameters, **{k: v for k, v in model.named_buffers() if k in state}}
    missing = trained_state_names(model) ^ state.keys()
    if missing:
        raise CheckpointError(
            f"the checkpoint does not fit the model; differing names: {', '.join(sorted(missing)[:8])}"
        )
    for name, tensor in own.items():
        shape = getattr(tensor, "ds_shape", tensor.shape)
        if shape != state[name].shape:
            raise CheckpointError(
                f"{name} has shape {tuple(state[name].shape)} in the checkpoint, {tuple(shape)} in the model"
            )
    with _whole(parameters, writes=True):
        for name, tensor in own.items():
            tensor.copy_(like(state[name], tensor))


def trained_state_names(model: nn.Module) -> set[str]:
    """Return the names in `trained_state`."""
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    for prefix, module in model.named_modules():
        kept = (name for name, buffer in module._buffers.items() if buffer is not None)
        kept = (name for name in kept if name not in module._non_persistent_buffers_set)
        names |= {f"{prefix}.{name}" if prefix else name for name in kept}
    return names


def optimizer_state(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """Return an optimiser's tensors as ``<kind>/<parameter>``, such as ``exp_avg/projectors.face.norm.weight``.

    A number that is no tensor (the step of 8-bit AdamW) becomes one of int64 without dimensions.
    """
    names = {p: name for name, p in model.named_parameters()}
    found: dict[str, Tensor] = {}
    for p, state in optimizer.state.items():
        for kind, value in state.items():
            key = f"{kind}/{names[cast(nn.Parameter, p)]}"
            if isinstance(value, Tensor):
                # 8-bit AdamW has one table for all parameters; a file must not hold the same memory twice
                found[key] = value.detach().clone() if kind.startswith("qmap") else _full(value.detach())
            elif isinstance(value, int):
                found[key] = torch.tensor(value)
    return found


def load_optimizer_state(model: nn.Module, optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put `optimizer_state` into a fresh optimiser; a parameter that the model lacks raises `CheckpointError`."""
    parameters = dict(model.named_parameters())
    for key, tensor in tensors.items():
        kind, _, name = key.partition("/")
        if name not in parameters:
            raise CheckpointError(f"the checkpoint does not fit the model; it has the optimiser's state of {name}")
        parameter = parameters[name]
        own: Tensor | int
        if tensor.ndim == 0 and tensor.dtype == torch.int64:
            own = int(tensor)
        elif not tensor.is_floating_point():
            own = tensor.to(parameter.device)  # moments of 8 bits
        elif tensor.shape == parameter.shape:
            own = like(tensor, parameter)
        elif tensor.ndim:
            own = tensor.to(parameter.device)
        else:
            # A count of steps stays where the optimiser would have made it: on the host, unless the update is fused.
            own = tensor.to(_device_of_step(optimizer, parameter))
        optimizer.state[parameter][kind] = own


def _device_of_step(optimizer: Optimizer, parameter: Tensor) -> torch.device:
    is_fused = any(group.get("fused") or group.get("capturable") for group in optimizer.param_groups)
    return parameter.device if is_fused else torch.device("cpu")


@contextmanager
def whole_parameters(model: nn.Module, state: Mapping[str, Tensor]) -> Iterator[None]:
    """Let the parameters named in ``state`` be those whole tensors for a while, in place of shards: for an export."""
    places = []
    for name, tensor in state.items():
        prefix, _, own = name.rpartition(".")
        module = model.get_submodule(prefix)
        if own in module._parameters:
            places.append((module, own, module._parameters[own]))
            module._parameters[own] = nn.Parameter(tensor, requires_grad=True)
    try:
        yield
    finally:
        for module, own, parameter in places:
            module._parameters[own] = parameter


def _full(tensor: Tensor) -> Tensor:
    """The whole of a tensor that may be a DTensor."""
    full = getattr(tensor, "full_tensor", None)
    return tensor if full is None else cast(Tensor, full())


def like(tensor: Tensor, own: Tensor) -> Tensor:
    """Return a tensor as the model holds ``own``: on its device, in its type, and sharded alike."""
    tensor = tensor.to(device=own.device, dtype=own.dtype)
    mesh = getattr(own, "device_mesh", None)
    if mesh is None or hasattr(tensor, "device_mesh"):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, mesh, cast(Any, own).placements, src_data_rank=None)


def _whole(parameters: Mapping[str, nn.Parameter], *, writes: bool) -> Any:
    """DeepSpeed's ZeRO-3 parameters are empty outside of this; of others nothing has to be done."""
    sharded = [p for p in parameters.values() if hasattr(p, "ds_id")]
    if not sharded:
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(sharded, modifier_rank=0 if writes else None)
