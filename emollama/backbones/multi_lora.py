"""Several LoRA adapters on one base in one batch: the base's products once for all rows, each row's own update beside.

A merged copy of the weights answers fastest, and for a small model it costs a few megabytes; for eight billion
parameters it costs as much as the model. `SharedLlama` keeps the weights as they are. Rows of a batch carry the adapter
that they belong to (`KvCache.tags`); in every projection those of one adapter are taken together, x A B is added to
what the base gave them, and rows without one are left alone. (The idea is that of S-LoRA, Sheng et al., 2023, and of
Punica, Chen et al., 2023, in plain torch: rows are grouped where those gather.) An adapter costs its A and B, comes and
goes while others are being answered, and is freed when nobody holds it.

The norms' gains and the order of rotary pairs are part of the base's folded weights, so they are folded into A and B.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from emollama.backbones.kv_cache import KvCache
from emollama.backbones.lean import LeanLlama, LoraPair, read_lora_pairs
from emollama.config import LlamaShape
from emollama.tensors import read_folder

_Pair = tuple[Tensor, Tensor]  # A [in, r], B [r, out] with the scale in it
_BLOCKS: Mapping[str, tuple[str, ...]] = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "o": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}


@dataclass(frozen=True, eq=False)
class LoraUpdate:
    """One adapter, folded for a base: for each layer the pair of each of its four products, where it has one."""

    layers: tuple[Mapping[str, _Pair], ...]

    @property
    def num_bytes(self) -> int:
        return sum(
            tensor.numel() * tensor.element_size()
            for layer in self.layers
            for pair in layer.values()
            for tensor in pair
        )


class SharedLlama(LeanLlama):
    """A `LeanLlama` whose rows may each have an adapter. ``adapted`` gives it as one adapter's own backbone."""

    _gains: Sequence[tuple[Tensor, Tensor]]
    _update: LoraUpdate | None

    @classmethod
    def build(
        cls,
        shape: LlamaShape,
        tensors: Mapping[str, Tensor],
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        what: str = "the backbone",
    ) -> SharedLlama:
        """Fold a ``LlamaForCausalLM`` state dict and keep what adapters are folded by."""
        # the graph of small models knows nothing of adapters
        made = cls.from_tensors(shape, tensors, dtype=dtype, device=device, steps="torch", what=what)
        assert isinstance(made, SharedLlama)
        scale = math.sqrt(shape.hidden_size)
        made._gains = [
            tuple(
                tensors[f"model.layers.{layer}.{norm}.weight"].float() * scale
                for norm in ("input_layernorm", "post_attention_layernorm")
            )  # type: ignore[misc]
            for layer in range(shape.num_layers)
        ]
        made._update = None
        return made

    @classmethod
    def read(
        cls, folder: Path, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> SharedLlama:
        """Read a backbone folder; every tensor must fit."""
        return cls.build(LlamaShape.load(folder), read_folder(folder), dtype=dtype, device=device, what=str(folder))

    def read_update(self, folder: Path) -> LoraUpdate:
        """Read a PEFT folder strictly and fold it; nothing of the base is copied."""
        pairs = read_lora_pairs(folder, self.shape)
        return LoraUpdate(tuple(self._folded(layer, pairs) for layer in range(self.shape.num_layers)))

    def adapted(self, update: LoraUpdate | None) -> SharedLlama:
        """Return a backbone over the same tensors whose rows have an adapter; rows of others it computes too."""
        view = copy.copy(self)
        view._update = update
        return view

    def new_cache(self, *, rows: int, capacity: int) -> KvCache:
        cache = super().new_cache(rows=rows, capacity=capacity)
        cache.tags = [self._update] * rows
        return cache

    @torch.inference_mode()
    def step(self, cache: KvCache, token_ids: Sequence[int]) -> Tensor:
        if not any(cache.tags):
            return super().step(cache, token_ids)
        return self.extend(cache, self.embed(torch.tensor(list(token_ids), device=self.device))[:, None].unbind(0))

    def _run(self, x: Tensor, rotation: Tensor, attend: Any, cache: KvCache) -> Tensor:
        groups = self._groups(cache.tags)
        if not groups:
            return super()._run(x, rotation, attend, cache)
        shape = self.shape
        heads, kv_heads, size = shape.num_heads, shape.num_kv_heads, shape.size_of_head
        rotated = heads + kv_heads
        for layer, weights in enumerate(self.layers):
            normed = self._norm(x)
            qkv = _updated(torch.matmul(normed, weights.qkv), normed, groups, layer, "qkv")
            qkv = qkv.unflatten(-1, (rotated + kv_heads, size))
            qkv = torch.cat((self.rotate(qkv[..., :rotated, :], rotation), qkv[..., rotated:, :]), dim=-2)
            q, kv = qkv.transpose(1, 2).split((heads, 2 * kv_heads), dim=1)
            mixed = attend(layer, q, kv).transpose(1, 2).flatten(2)
            x = x + _updated(torch.matmul(mixed, weights.o), mixed, groups, layer, "o")
            normed = self._norm(x)
            gate, up = _updated(torch.matmul(normed, weights.gate_up), normed, groups, layer, "gate_up").chunk(2, -1)
            inner = F.silu(gate).mul_(up)
            x = x + _updated(torch.matmul(inner, weights.down), inner, groups, layer, "down")
        return x

    def _groups(self, tags: Sequence[LoraUpdate | None]) -> list[tuple[LoraUpdate, Tensor | None]]:
        """Return each adapter of a batch with its rows, ``None`` where all are."""
        rows: dict[int, list[int]] = {}
        known: dict[int, LoraUpdate] = {}
        for row, update in enumerate(tags):
            if update is not None:
                known[id(update)] = update
                rows.setdefault(id(update), []).append(row)
        return [
            (known[key], None if len(places) == len(tags) else torch.tensor(places, device=self.device))
            for key, places in rows.items()
        ]

    def _folded(self, layer: int, pairs: Mapping[str, LoraPair]) -> dict[str, _Pair]:
        """Fold the pairs of one layer: those of one product side by side in A, and each in its own columns of B."""
        shape, folded = self.shape, {}
        size = shape.size_of_head
        order = torch.arange(size).view(2, size // 2).t().flatten()  # as the base's rows of q and k
        widths = {
            "self_attn.q_proj": shape.num_heads * size,
            "self_attn.k_proj": shape.num_kv_heads * size,
            "self_attn.v_proj": shape.num_kv_heads * size,
            "self_attn.o_proj": shape.hidden_size,
            "mlp.gate_proj": shape.intermediate_size,
            "mlp.up_proj": shape.intermediate_size,
            "mlp.down_proj": shape.hidden_size,
        }
        gains = {"qkv": self._gains[layer][0], "gate_up": self._gains[layer][1]}
        for block, names in _BLOCKS.items():
            left: list[Tensor] = []
            right: list[Tensor] = []
            before, total = 0, sum(widths[name] for name in names)
            for name in names:
                pair = pairs.get(f"model.layers.{layer}.{name}")
                if pair is not None:
                    a = pair.a * gains[block] if block in gains else pair.a  # [r, in]
                    b = pair.scale * pair.b  # [out, r]
                    if name in ("self_attn.q_proj", "self_attn.k_proj"):
                        b = b.unflatten(0, (-1, size))[:, order].flatten(0, 1)
                    left.append(a.t())
                    right.append(F.pad(b.t(), (before, total - before - widths[name])))
                before += widths[name]
            if left:
                folded[block] = (self._placed(torch.cat(left, 1)), self._placed(torch.cat(right, 0)))
        return folded

    def _placed(self, tensor: Tensor) -> Tensor:
        return tensor.contiguous().to(device=self.device, dtype=self.dtype)


def _updated(
    out: Tensor, x: Tensor, groups: Sequence[tuple[LoraUpdate, Tensor | None]], layer: int, block: str
) -> Tensor:
    """Add x A B to the rows [B, T, out] of each adapter, in place."""
    for update, rows in groups:
        pair = update.layers[layer].get(block)
        if pair is None:
            continue
        a, b = pair
        if rows is None:
            out += torch.matmul(torch.matmul(x, a), b)
        else:
            out.index_add_(0, rows, torch.matmul(torch.matmul(x[rows], a), b))
    return out
