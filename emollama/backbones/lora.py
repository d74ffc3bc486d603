"""LoRA through peft: attach, load, save and merge standard PEFT folders.

peft itself loads adapters leniently; here a tensor of the file that the model has no place for, or a place that the
file does not fill, is an error with the names, so an adapter is never half applied.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from emollama.backbones.quantize import quiet_bitsandbytes
from emollama.config import LORA_TARGETS, LoraSettings
from emollama.errors import CheckpointError
from emollama.tensors import check_tensors, read_tensors, write_json, write_tensors

if TYPE_CHECKING:
    from peft import PeftModel

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


@contextmanager
def _quiet_about_transformers() -> Iterator[None]:
    """peft asks transformers 5.23 for a property by its old name; the user can do nothing about that."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        yield


def attach_lora(backbone: nn.Module, settings: LoraSettings, *, seed: int | None = None) -> PeftModel:
    """Put fresh LoRA pairs on the backbone's projections; only they are trained (B starts at zero)."""
    with quiet_bitsandbytes():
        from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=list(settings.targets),
        bias="none",
        task_type="CAUSAL_LM",
    )
    is_meta = next(backbone.parameters()).is_meta  # then the pairs get no memory either
    with _quiet_about_transformers(), torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        return get_peft_model(backbone, config, low_cpu_mem_usage=is_meta)


def read_adapter_config(folder: Path) -> LoraSettings:
    """Read ``adapter_config.json``; what this project does not compute (DoRA, rsLoRA, patterns, biases) is refused."""
    path = folder / CONFIG
    if not path.is_file():
        raise CheckpointError(f"{folder} is no PEFT folder: {CONFIG} is missing", field="adapter")
    document: dict[str, Any] = json.loads(path.read_text("utf-8"))
    if document.get("peft_type", "LORA") != "LORA":
        raise CheckpointError(f"peft_type is {document['peft_type']!r}; allowed: 'LORA'", field="adapter")
    refused = (
        "use_dora", "use_rslora", "alpha_pattern", "rank_pattern", "modules_to_save", "layers_to_transform",
        "lora_bias", "fan_in_fan_out", "megatron_config", "trainable_token_indices", "exclude_modules",
        "target_parameters", "layer_replication",
    )  # fmt: skip
    for name in refused:
        if document.get(name):
            raise CheckpointError(f"{CONFIG} sets {name}={document[name]!r}, which is not supported", field="adapter")
    if document.get("bias", "none") != "none":
        raise CheckpointError(f"{CONFIG} sets bias={document['bias']!r}; allowed: 'none'", field="adapter")
    targets = document.get("target_modules") or ()
    if isinstance(targets, str) or not set(targets) <= set(LORA_TARGETS):
        raise CheckpointError(
            f"{CONFIG} sets target_modules={targets!r}; allowed: a list of {', '.join(LORA_TARGETS)}", field="adapter"
        )
    return LoraSettings(
        rank=int(document["r"]),
        alpha=float(document["lora_alpha"]),
        dropout=float(document.get("lora_dropout", 0.0)),
        targets=tuple(sorted(targets, key=LORA_TARGETS.index)),
    )


def load_lora(backbone: nn.Module, folder: Path, *, trainable: bool = False) -> PeftModel:
    """Attach the adapter of a PEFT folder; a missing, unexpected or wrongly shaped tensor raises `CheckpointError`."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    tensors = read_tensors(folder / WEIGHTS, dtype=torch.float32)
    model = attach_lora(backbone, read_adapter_config(folder))
    check_tensors(tensors, get_peft_model_state_dict(model), what=str(folder))
    set_peft_model_state_dict(model, tensors)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.requires_grad_(trainable)
    return model


def save_lora(model: PeftModel, folder: Path, *, dtype: torch.dtype = torch.float32, base_name: str = "nano") -> None:
    """Write a standard PEFT folder: ``adapter_model.safetensors`` and ``adapter_config.json``."""
    from peft import get_peft_model_state_dict

    config = model.peft_config["default"]
    document = {key: value for key, value in config.to_dict().items() if _is_plain(value)}
    document["target_modules"] = sorted(config.target_modules, key=LORA_TARGETS.index)
    document |= {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base_name}
    document["inference_mode"] = True
    write_tensors(folder / WEIGHTS, get_peft_model_state_dict(model), dtype=dtype)
    write_json(folder / CONFIG, document)


def _is_plain(value: object) -> bool:
    return isinstance(value, (str, int, float, bool, list, dict, type(None)))


def merge_lora(model: PeftModel) -> nn.Module:
    """Return the bare backbone with W += alpha / rank * B @ A."""
    return model.merge_and_unload()


def base_of(backbone: nn.Module) -> nn.Module:
    """Return the ``LlamaForCausalLM`` inside a backbone that may carry LoRA."""
    inner = getattr(backbone, "get_base_model", None)
    return inner() if callable(inner) else backbone
