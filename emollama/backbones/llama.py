"""LLaMA through transformers, for training: built from sizes with random weights, or read strictly from a folder.

Weight names and ``config.json`` are those of transformers' ``LlamaForCausalLM``, so a folder written here is one that
``from_pretrained`` reads, and Llama 2 and 3 folders are read here. `lean.py` computes the same without transformers.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from emollama.config import LlamaShape
from emollama.tensors import check_tensors, read_folder, write_json, write_tensors

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

TIED_HEAD = "lm_head.weight"


def build_llama(
    shape: LlamaShape, *, seed: int | None = None, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> LlamaForCausalLM:
    """Build a ``LlamaForCausalLM`` with random weights; ``device="meta"`` gives shapes without memory."""
    from transformers import LlamaConfig, LlamaForCausalLM

    document: dict[str, Any] = shape.to_hf_dict()
    document.pop("architectures")
    document.pop("model_type")
    config = LlamaConfig(**document)
    config._attn_implementation = "sdpa"
    with torch.random.fork_rng(devices=[], enabled=seed is not None), torch.device(device):
        if seed is not None:
            torch.manual_seed(seed)
        model = LlamaForCausalLM(config).to(dtype)
    if device != "meta":
        _restore_rotary(model)
    return model


def _restore_rotary(model: LlamaForCausalLM) -> None:
    """Compute the rotary frequencies anew in fp32: they are never stored, and a cast to bf16 would spoil them."""
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    model.model.rotary_emb = LlamaRotaryEmbedding(config=model.config)


def load_llama(folder: Path, *, dtype: torch.dtype = torch.float32) -> LlamaForCausalLM:
    """Read a backbone folder (``config.json``, ``model.safetensors`` or shards) into ``dtype``; every key must fit."""
    shape = LlamaShape.load(folder)
    model = build_llama(shape, device="meta", dtype=dtype)
    tensors = read_folder(folder, dtype=dtype)
    expected = dict(model.state_dict())
    if shape.tie_embeddings:
        expected.pop(TIED_HEAD, None)
        tensors.pop(TIED_HEAD, None)
    tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith("rotary_emb.inv_freq")}
    check_tensors(tensors, expected, what=str(folder))
    model.load_state_dict(tensors, strict=False, assign=True)
    if shape.tie_embeddings:
        model.tie_weights()
    _restore_rotary(model)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model.eval()


def save_llama(model: nn.Module, folder: Path, *, shape: LlamaShape, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write ``config.json`` and ``model.safetensors``; a tied head is stored once, as the embedding."""
    tensors: dict[str, Tensor] = dict(model.state_dict())
    if shape.tie_embeddings:
        tensors.pop(TIED_HEAD, None)
    write_tensors(folder / "model.safetensors", tensors, dtype=dtype)
    write_json(folder / "config.json", {**shape.to_hf_dict(), "dtype": str(dtype).removeprefix("torch.")})


def recompute_activations(model: nn.Module) -> None:
    """Let every layer compute its activations again in the backward pass, to save memory.

    Embeddings are given a gradient as well: without one, nothing would be recomputed where only adapters learn.
    """
    llama: Any = model
    settings = {"use_reentrant": False}
    # transformers 5.23 calls it by a new name and warns about the old one
    enable = getattr(llama, "activation_checkpointing_enable", None) or llama.gradient_checkpointing_enable
    enable(settings)
    llama.enable_input_require_grads()


def resize_vocabulary(model: LlamaForCausalLM, num_tokens: int) -> None:
    """Grow the embedding (and the head) to ``num_tokens`` rows; new rows are the mean of the old ones."""
    old = model.get_input_embeddings().weight.shape[0]
    model.resize_token_embeddings(num_tokens, mean_resizing=False)
    with torch.no_grad():
        for layer in {model.get_input_embeddings(), model.get_output_embeddings()}:
            layer.weight[old:] = layer.weight[:old].mean(0)
