"""Write an adapter into a backbone: W += alpha / r * B @ A, file by file, so that two models never lie in memory.

The sum is made in float32. Stored in 16 bits it is rounded once more: an update smaller than half a step of the weight
it is added to is lost, which is why small models are merged in float32. A backbone that is stored in 4 or 8 bits is
refused, as its weights could not be written back without rounding them to the grid again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from emollama.backbones.lean import LoraPair, expected_tensors, read_lora_pairs
from emollama.config import LlamaShape
from emollama.errors import CheckpointError
from emollama.tensors import check_tensors, read_tensors, write_json, write_tensors

INDEX = "model.safetensors.index.json"
HEAD = "lm_head.weight"
# What may lie beside the weights and belongs to the model.
_BESIDE = (
    "generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json",
    "LICENSE", "LICENSE.txt", "USE_POLICY.md",
)  # fmt: skip


def merge_backbone(source: Path, adapter: Path, target: Path, *, dtype: torch.dtype | None = None) -> None:
    """Write ``source`` with a PEFT folder merged into it to the folder ``target``; ``dtype`` ``None`` keeps its own.

    Every tensor of both must be accounted for: what is missing, left over or of another shape is a `CheckpointError`.
    Shards stay as they are cut.
    """
    shape = LlamaShape.load(source)
    pairs = read_lora_pairs(adapter, shape)
    files = _files(source)
    expected = expected_tensors(shape)
    target.mkdir(parents=True, exist_ok=True)
    found: dict[str, Tensor] = {}
    where: dict[str, str] = {}
    size, stored = 0, dtype
    for file in files:
        tensors = _kept(read_tensors(source / file), shape)
        found |= {name: tensor.to("meta") for name, tensor in tensors.items()}
        if any(not tensor.is_floating_point() for tensor in tensors.values()):
            raise CheckpointError(
                f"{source / file} holds packed weights; merge into the backbone that was not quantised", field="base"
            )
        merged = {name: _merged(name, tensor, pairs, dtype) for name, tensor in tensors.items()}
        if merged and stored is None:
            stored = next(iter(merged.values())).dtype
        where |= dict.fromkeys(merged, file)
        size += sum(tensor.numel() * tensor.element_size() for tensor in merged.values())
        write_tensors(target / file, merged)
    check_tensors(found, expected, what=str(source))
    if len(files) > 1:
        write_json(target / INDEX, {"metadata": {"total_size": size}, "weight_map": where})
    config = {**shape.to_hf_dict(), "dtype": str(stored or torch.float32).removeprefix("torch.")}
    write_json(target / "config.json", config)
    for name in _BESIDE:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def _files(folder: Path) -> list[str]:
    if (folder / "model.safetensors").is_file():
        return ["model.safetensors"]
    if not (folder / INDEX).is_file():
        raise CheckpointError(f"{folder} holds no model.safetensors", field="base")
    names = sorted(set(json.loads((folder / INDEX).read_text("utf-8")).get("weight_map", {}).values()))
    outside = [name for name in names if Path(name).name != name]
    if outside:
        raise CheckpointError(f"{folder / INDEX} names a shard outside its folder: {outside[0]!r}", field="base")
    return names


def _kept(tensors: Mapping[str, Tensor], shape: LlamaShape) -> dict[str, Tensor]:
    """Leave out what is computed anew: rotary frequencies, and the head where it is the embedding."""
    return {
        name: tensor
        for name, tensor in tensors.items()
        if not name.endswith("rotary_emb.inv_freq") and not (shape.tie_embeddings and name == HEAD)
    }


def _merged(name: str, tensor: Tensor, pairs: Mapping[str, LoraPair], dtype: torch.dtype | None) -> Tensor:
    pair = pairs.get(name.removesuffix(".weight"))
    if pair is not None:
        if tensor.shape != (len(pair.b), pair.a.shape[1]):
            raise CheckpointError(
                f"{name} is {list(tensor.shape)}, the adapter has {[len(pair.b), pair.a.shape[1]]}", field="adapter"
            )
        return (tensor.float() + pair.delta()).to(dtype or tensor.dtype)
    return tensor.to(dtype or tensor.dtype)
