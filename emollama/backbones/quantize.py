"""LLaMA in 4 or 8 bits through bitsandbytes, to train LoRA on a model that does not fit otherwise (QLoRA, 2023).

The frozen weights are quantised while a folder is read, or in place (`quantize_llama`); LoRA, norms, embeddings and the
head stay unquantised, because the head decides between near labels. NF4 runs on a processor as well (slowly: it is for
tests there). `lean.py` answers with merged, unquantised weights.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from emollama.config import LlamaShape
from emollama.errors import DependencyError, InputError
from emollama.tensors import refuse_pickle

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

BITS = (4, 8)
_UNQUANTISED = ("lm_head",)


def load_quantized_llama(
    folder: Path, *, bits: int = 4, compute_dtype: torch.dtype = torch.bfloat16, device: str = "cpu"
) -> LlamaForCausalLM:
    """Read a backbone folder with its projections in ``bits`` (4: NF4 with nested scales; 8: LLM.int8).

    Raises `DependencyError` when bitsandbytes is not installed, `InputError` for other bits, `CheckpointError` for a
    folder whose keys do not fit.
    """
    if bits not in BITS:
        raise InputError(f"bits is {bits!r}; allowed: 4, 8", field="bits")
    _bitsandbytes()
    from transformers import BitsAndBytesConfig, LlamaForCausalLM

    for path in folder.glob("*.bin"):
        refuse_pickle(path)
    shape = LlamaShape.load(folder)
    settings = (
        BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=compute_dtype,
            llm_int8_skip_modules=list(_UNQUANTISED),
        )
        if bits == 4
        else BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=list(_UNQUANTISED))
    )
    model, info = LlamaForCausalLM.from_pretrained(
        folder,
        quantization_config=settings,
        dtype=compute_dtype,
        device_map={"": device},
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
    )
    _check_report(info, shape, folder)
    _keep_layout(model)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


def _check_report(info: dict[str, object], shape: LlamaShape, folder: Path) -> None:
    from emollama.errors import CheckpointError

    problems = {name: sorted(map(str, found)) for name, found in info.items() if found}  # type: ignore[call-overload]
    if shape.tie_embeddings and problems.get("missing_keys") == ["lm_head.weight"]:
        del problems["missing_keys"]
    if problems:
        listed = "; ".join(f"{name}: {', '.join(found[:6])}" for name, found in problems.items())
        raise CheckpointError(f"{folder} does not fit the model; {listed}", field="checkpoint")


def quantize_llama(
    model: nn.Module, *, compute_dtype: torch.dtype = torch.bfloat16, device: torch.device | str = "cpu"
) -> nn.Module:
    """Replace every projection of a model in memory by its NF4 form with nested scales, on ``device``; freezes them.

    For weights that lie in no folder: random ones of a benchmark or a test. The head stays as it is.
    """
    bnb = _bitsandbytes()
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] not in _UNQUANTISED:
            packed = bnb.nn.Linear4bit(
                module.in_features, module.out_features, bias=False, compute_dtype=compute_dtype,
                compress_statistics=True, quant_type="nf4", device="meta",
            )  # fmt: skip
            packed.weight = bnb.nn.Params4bit(
                module.weight.data, requires_grad=False, compress_statistics=True, quant_type="nf4"
            )
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, packed.to(device))
    model.to(device)
    _keep_layout(model)
    model.is_loaded_in_4bit = True  # type: ignore[assignment] # peft asks the model, not the layer
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


def _keep_layout(model: nn.Module) -> None:
    """Keep bitsandbytes from repacking weights for some processors the first time a model answers in eval mode.

    What it repacks cannot be trained on afterwards, and a run goes on training after each validation.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def adamw_8bit(groups: Iterable[Any], *, lr: float, betas: tuple[float, float]) -> torch.optim.Optimizer:
    """Return AdamW with moments of 8 bits (tensors of under 4096 numbers keep 32), in pages where there is a GPU.

    Pages may move to the host when the GPU is full (QLoRA, section 3); a processor has no use for them.
    """
    bnb = _bitsandbytes()
    kind = bnb.optim.PagedAdamW8bit if torch.cuda.is_available() else bnb.optim.AdamW8bit
    optimizer: torch.optim.Optimizer = kind(groups, lr=lr, betas=betas)
    return optimizer


@contextmanager
def quiet_bitsandbytes() -> Iterator[None]:
    """Import bitsandbytes, or peft, which does so, without its advice on a kernel that is downloaded when it is used.

    Nothing is fetched here, and what it would speed up (answering in 4 bits on a processor) is not done here.
    """
    log = logging.getLogger("bitsandbytes.backends.cpu.ops")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def _bitsandbytes() -> Any:
    try:
        with quiet_bitsandbytes():
            import bitsandbytes
    except ImportError as error:
        raise DependencyError("4 and 8 bits need bitsandbytes: pip install 'emollama[gpu]'") from error
    return bitsandbytes


def is_quantized(model: nn.Module) -> bool:
    """Say whether any layer of a model holds packed 4- or 8-bit weights."""
    return any(type(module).__module__.startswith("bitsandbytes") for module in model.modules())
