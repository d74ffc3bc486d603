"""The forward pass of training: what a LLaMA thinks at some positions of a padded batch, and nothing that is not asked.

The same numbers as transformers' ``LlamaModel`` from the same modules (LoRA pairs, packed 4-bit weights and all), with
less work:
- padding is left out of every layer but the attention itself, where rows lie side by side;
- the last layer asks, projects and transforms only at the wanted positions, since no other is read from it;
- with rows padded on the right, causality already hides the padding, so attention needs no mask;
- a LoRA pair is added to its projection in one operation instead of three, and a norm is one.

`supports` says where this applies. Weights that lie in parts on several processes have to be put together by their
layer's own forward pass, and rows padded on the left need a mask: `EmoLlama` then runs the model as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def supports(llama: Any) -> bool:
    """Say whether a ``LlamaForCausalLM`` can be run by `hidden_at`: whole, plain, with transformers' own layers."""
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaForCausalLM

    if type(llama) is not LlamaForCausalLM or llama.config.attention_dropout:
        return False
    first = llama.model.layers[0]
    # Sharded layers are of another class (FSDP2) or have partitioned parameters (ZeRO-3).
    plain = all(
        type(layer) is LlamaDecoderLayer and not layer._forward_hooks and not layer._forward_pre_hooks
        for layer in llama.model.layers
    )
    return plain and not any(hasattr(parameter, "ds_id") for parameter in first.parameters())


def is_right_padded(attention_mask: Tensor) -> bool:
    """Say whether every row of a mask [B, T] is ones and then zeros, with at least one one."""
    return bool((attention_mask[:, 0] == 1).all() and (attention_mask.diff(dim=1) <= 0).all())


@dataclass(frozen=True, kw_only=True)
class _Places:
    """Where the N tokens lie in a batch of B rows of T places; ``index`` [N] counts through the rows."""

    index: Tensor
    num_rows: int
    length: int
    cos: Tensor  # [N, 1, D]
    sin: Tensor


def hidden_at(llama: Any, embeddings: Tensor, attention_mask: Tensor | None, wanted: Tensor) -> Tensor:
    """Return the last hidden states [n, W], after the final norm, at the n places where ``wanted`` [B, T] is true.

    ``embeddings`` [B, T, W]; ``attention_mask`` [B, T], padded on the right, or ``None``; no wanted place is padding.
    """
    num_rows, length, _ = embeddings.shape
    if attention_mask is None:
        index = torch.arange(num_rows * length, device=embeddings.device)
    else:
        index = attention_mask.flatten().nonzero().squeeze(1)
    x = embeddings.flatten(0, 1)[index]  # [N, W]
    cos, sin = llama.model.rotary_emb(x, (index % length)[None])
    places = _Places(index=index, num_rows=num_rows, length=length, cos=cos[0, :, None], sin=sin[0, :, None])
    *earlier, last = llama.model.layers
    for layer in earlier:
        x = _recomputed(layer, _layer, x, places)
    chosen = wanted.flatten()[index].nonzero().squeeze(1)  # of the N
    return _norm(llama.model.norm, _recomputed(last, _last_layer, x, places, wanted, chosen))


def _recomputed(layer: Any, function: Any, *arguments: Any) -> Tensor:
    """Run a layer, keeping its activations or, where that is switched on, computing them again when they are needed."""
    if layer.gradient_checkpointing and layer.training and torch.is_grad_enabled():
        from torch.utils.checkpoint import checkpoint

        return checkpoint(function, layer, *arguments, use_reentrant=False)
    return function(layer, *arguments)


def _layer(layer: Any, x: Tensor, places: _Places) -> Tensor:
    attention = layer.self_attn
    normed = _norm(layer.input_layernorm, x)
    size = attention.head_dim
    query, key = (
        _rotate(_linear(projection, normed).unflatten(-1, (-1, size)), places.cos, places.sin)
        for projection in (attention.q_proj, attention.k_proj)
    )
    value = _linear(attention.v_proj, normed).unflatten(-1, (-1, size))  # [N, K, D]
    mixed = F.scaled_dot_product_attention(
        _padded(query, places), _padded(key, places), _padded(value, places), is_causal=True, scale=attention.scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )  # [B, H, T, D]  # fmt: skip
    mixed = mixed.transpose(1, 2).flatten(0, 1)[places.index].flatten(1)
    x = x + _linear(attention.o_proj, mixed)
    return x + _mlp(layer.mlp, _norm(layer.post_attention_layernorm, x))


def _last_layer(layer: Any, x: Tensor, places: _Places, wanted: Tensor, chosen: Tensor) -> Tensor:
    """As `_layer`, but queries and everything after them at the wanted places only: [N, W] -> [n, W]."""
    attention = layer.self_attn
    normed = _norm(layer.input_layernorm, x)
    size = attention.head_dim
    key = _rotate(_linear(attention.k_proj, normed).unflatten(-1, (-1, size)), places.cos, places.sin)
    value = _linear(attention.v_proj, normed).unflatten(-1, (-1, size))
    query = _linear(attention.q_proj, normed[chosen]).unflatten(-1, (-1, size))
    query = _rotate(query, places.cos[chosen], places.sin[chosen])  # [n, H, D]

    # The queries of a row move to its beginning; the mask says how far each of them sees.
    count = wanted.sum(1)
    most = max(1, int(count.max()))
    slot = torch.arange(most, device=x.device) < count[:, None]  # [B, M]
    seen = slot.new_zeros(slot.shape, dtype=torch.long).masked_scatter(slot, wanted.nonzero()[:, 1])
    mask = torch.arange(places.length, device=x.device) <= seen[..., None]  # [B, M, T]
    asked = query.new_zeros(places.num_rows * most, *query.shape[1:])
    asked = asked.index_copy(0, slot.flatten().nonzero().squeeze(1), query)
    mixed = F.scaled_dot_product_attention(
        asked.unflatten(0, (places.num_rows, most)).transpose(1, 2), _padded(key, places), _padded(value, places),
        attn_mask=mask[:, None], scale=attention.scaling, enable_gqa=query.shape[1] != key.shape[1],
    )  # [B, H, M, D]  # fmt: skip
    mixed = mixed.transpose(1, 2)[slot].flatten(1)  # [n, H D]
    x = x[chosen] + _linear(attention.o_proj, mixed)
    return x + _mlp(layer.mlp, _norm(layer.post_attention_layernorm, x))


def _mlp(mlp: Any, x: Tensor) -> Tensor:
    return _linear(mlp.down_proj, mlp.act_fn(_linear(mlp.gate_proj, x)) * _linear(mlp.up_proj, x))


def _padded(tokens: Tensor, places: _Places) -> Tensor:
    """[N, H, D] -> [B, H, T, D]; padding is zero, and after every token that could look at it."""
    rows = tokens.new_zeros(places.num_rows * places.length, *tokens.shape[1:])
    rows = rows.index_copy(0, places.index, tokens)
    return rows.unflatten(0, (places.num_rows, places.length)).transpose(1, 2)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions on [N, H, D], in the halves of transformers."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def _norm(module: Any, x: Tensor) -> Tensor:
    """The RMS norm in one operation; in less than float32 transformers' own, for its rounding."""
    if x.dtype != torch.float32:
        return module(x)
    return F.rms_norm(x, (x.shape[-1],), module.weight.to(x.dtype), module.variance_epsilon)


def _linear(module: Any, x: Tensor) -> Tensor:
    """A projection, with one vanilla LoRA pair or as it is: x W + scale * dropout(x) A B."""
    pairs = getattr(module, "lora_A", None)
    if pairs is None or len(pairs) != 1 or module.merged or module.disable_adapters or module.lora_variant:
        return module(x)
    (name,) = pairs.keys()
    if name not in module.active_adapters or module.lora_B[name].bias is not None:
        return module(x)
    base = module.base_layer(x)
    down, up = module.lora_A[name].weight, module.lora_B[name].weight
    low = F.linear(module.lora_dropout[name](x).to(down.dtype), down)
    if low.dtype == base.dtype:
        return torch.addmm(base, low, up.t(), alpha=module.scaling[name])
    return base + (F.linear(low, up) * module.scaling[name]).to(base.dtype)
