"""LLaMA in 4 or 8 bits through bitsandbytes, to train LoRA on a model that does not fit otherwise (QLoRA, 2023).

The frozen weights are quantised while the folder is read; LoRA, norms and the head stay in the compute dtype. NF4 runs
on a processor as well (slowly: it is for tests there). `lean.py` answers with merged, unquantised weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from emollama.config import LlamaShape
from emollama.errors import DependencyError, InputError
from emollama.tensors import refuse_pickle

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

BITS = (4, 8)


def load_quantized_llama(
    folder: Path, *, bits: int = 4, compute_dtype: torch.dtype = torch.bfloat16, device: str = "cpu"
) -> LlamaForCausalLM:
    """Read a backbone folder with its projections in ``bits`` (4: NF4 with nested scales; 8: LLM.int8).

    Raises `DependencyError` when bitsandbytes is not installed, `InputError` for other bits, `CheckpointError` for a
    folder whose keys do not fit.
    """
    if bits not in BITS:
        raise InputError(f"bits is {bits!r}; allowed: 4, 8", field="bits")
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise DependencyError("4 and 8 bits need bitsandbytes: pip install 'emollama[gpu]'") from error
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
        )
        if bits == 4
        else BitsAndBytesConfig(load_in_8bit=True)
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


def is_quantized(model: nn.Module) -> bool:
    """Say whether any layer of a model holds packed 4- or 8-bit weights."""
    return any(type(module).__module__.startswith("bitsandbytes") for module in model.modules())
