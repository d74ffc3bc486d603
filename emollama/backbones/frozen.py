"""The backbone that is trained on: frozen, in the precision asked for; and what a model takes of memory.

Only adapters and projectors learn here, so the backbone itself never has a gradient: it may be in 16, 8 or 4 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from emollama.errors import InputError

BITS = (0, 4, 8)  # 0: not quantised


def load_frozen(
    folder: Path, *, bits: int = 0, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> nn.Module:
    """Read a backbone folder for training adapters: as it is in ``dtype``, or its projections in 4 or 8 bits."""
    if bits not in BITS:
        raise InputError(f"bits is {bits!r}; allowed: 0 (not quantised), 4, 8", field="bits")
    if bits:
        from emollama.backbones.quantize import load_quantized_llama

        return load_quantized_llama(folder, bits=bits, compute_dtype=dtype, device=str(device))
    from emollama.backbones.llama import load_llama

    return freeze(load_llama(folder, dtype=dtype).to(device))


def freeze(model: nn.Module) -> nn.Module:
    """Take the gradient from every parameter."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


@dataclass(frozen=True, kw_only=True)
class MemoryReport:
    """What a model holds in bytes. ``parameters`` counts weights as they were before packing into 4 bits.

    ``optimizer_bytes`` is what AdamW will add for what is trained: two moments and a gradient in float32.
    ``peak_bytes`` is the most that the process has held on the GPU, ``None`` without one.
    """

    parameters: int
    trained: int
    frozen_bytes: int
    trained_bytes: int
    optimizer_bytes: int
    peak_bytes: int | None = None

    @property
    def total_bytes(self) -> int:
        return self.frozen_bytes + self.trained_bytes + self.optimizer_bytes


def memory_report(model: nn.Module) -> MemoryReport:
    """Measure a model's weights; activations are not in it (they are in ``peak_bytes`` after a step on a GPU)."""
    parameters = trained = frozen_bytes = trained_bytes = 0
    for parameter in model.parameters():
        size = parameter.numel() * parameter.element_size()
        # two weights of four bits lie in one byte; their own record knows the shape they had
        state = getattr(parameter, "quant_state", None)
        parameters += parameter.numel() if state is None else state.shape.numel()
        if parameter.requires_grad:
            trained += parameter.numel()
            trained_bytes += size
        else:
            frozen_bytes += size + _scales(state)
    frozen_bytes += sum(buffer.numel() * buffer.element_size() for buffer in model.buffers())
    on_gpu = torch.cuda.is_available() and any(parameter.is_cuda for parameter in model.parameters())
    return MemoryReport(
        parameters=parameters,
        trained=trained,
        frozen_bytes=frozen_bytes,
        trained_bytes=trained_bytes,
        optimizer_bytes=3 * 4 * trained,
        peak_bytes=torch.cuda.max_memory_allocated() if on_gpu else None,
    )


def _scales(state: object) -> int:
    """Bytes of the (nested) scales of a packed weight."""
    total = 0
    while state is not None:
        for name in ("absmax", "offset"):
            value = getattr(state, name, None)
            total += value.numel() * value.element_size() if isinstance(value, torch.Tensor) else 0
        state = getattr(state, "state2", None)
    return total
