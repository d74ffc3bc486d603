"""LLaMA for answering: the same numbers as transformers' ``LlamaForCausalLM`` in plain torch and few operations.

A small model on a processor spends its time in the interpreter and the dispatcher, not in the multiplications, so
everything that is constant is folded into the weights once at loading:
- LoRA: W += alpha / rank * B @ A (read from a PEFT folder, without peft);
- the gains of the RMS norms and their sqrt(width), so that a norm is x / hypot(|x|, sqrt(width * eps));
- q, k, v side by side in one matrix and gate, up in another, stored as [in, out] as is the head: for one row that is
  several times as fast as [out, in];
- rows of q and k reordered so that rotary pairs are neighbours and rotation is one complex product
  (a dot product does not care about the order of its terms).
Keys and values lie in a `KvCache`; a row's prefix is computed once and copied where it is needed. What is left of the
small operations' cost is saved by `emollama.backbones.step_graph`, which runs the same weights where it can: a small
model in float32 on the processor; and on a GPU by `emollama.backbones.static_step`, which replays a step as one CUDA
graph. Everything else is computed by torch here, and tests hold them together.
The module knows nothing of prompts or label sets. Rows are padded on the right inside `extend` only.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from emollama.backbones.kv_cache import KvCache
from emollama.backbones.static_step import StaticStep
from emollama.backbones.step_graph import StepGraph
from emollama.config import LlamaShape
from emollama.errors import CheckpointError, InputError
from emollama.tensors import check_tensors, read_folder, read_tensors

# Who computes: the fastest that fits, torch operation by operation, or torch in shapes that do not change.
Steps = Literal["auto", "torch", "static"]


class _Layer:
    """Folded weights of a layer: ``qkv`` [W, (H + 2K) D], ``o`` [H D, W], ``gate_up`` [W, 2I], ``down`` [I, W]."""

    __slots__ = ("down", "gate_up", "o", "qkv")

    def __init__(self, qkv: Tensor, o: Tensor, gate_up: Tensor, down: Tensor) -> None:
        self.qkv, self.o, self.gate_up, self.down = qkv, o, gate_up, down


class LeanLlama:
    """A LLaMA that only answers. Build it with `load` (a folder) or `from_tensors`; it is not changed afterwards.

    Any number of threads may compute with it, each on caches of its own.
    """

    def __init__(
        self, shape: LlamaShape, embedding: Tensor, layers: list[_Layer], head: Tensor, *, steps: Steps = "auto"
    ) -> None:
        self.shape, self.embedding, self.layers, self.head = shape, embedding, layers, head  # head [W, V]
        self.dtype, self.device = embedding.dtype, embedding.device
        self._norm_floor = torch.tensor([math.sqrt(shape.hidden_size * shape.rms_norm_eps)], device=embedding.device)
        self._angles = _inverse_frequencies(shape).to(embedding.device)
        self._rotations = self._make_rotations(1)
        self._graph: StepGraph | None = None  # made when first it is needed
        self._wants_graph = steps == "auto" and StepGraph.supports(self)
        self._graph_lock = threading.Lock()
        is_static = steps == "static" or (steps == "auto" and embedding.device.type == "cuda")
        self._static = StaticStep(self) if is_static else None
        self._num_threads = torch.get_num_threads()  # of a process that has nothing else to do; see `emollama.cores`

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        adapter: Path | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        steps: Steps = "auto",
    ) -> LeanLlama:
        """Read a backbone folder and, when asked, a PEFT folder merged into it; every tensor of both must fit."""
        shape = LlamaShape.load(folder)
        return cls.from_tensors(
            shape, read_folder(folder), adapter=adapter, dtype=dtype, device=device, steps=steps, what=str(folder)
        )

    @classmethod
    def from_tensors(
        cls,
        shape: LlamaShape,
        tensors: Mapping[str, Tensor],
        *,
        adapter: Path | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        steps: Steps = "auto",
        what: str = "the backbone",
    ) -> LeanLlama:
        """Fold a ``LlamaForCausalLM`` state dict; the fold is computed in fp32 and kept in ``dtype``."""
        tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith("rotary_emb.inv_freq")}
        if shape.tie_embeddings:
            tensors.pop("lm_head.weight", None)
        check_tensors(tensors, expected_tensors(shape), what=what)
        deltas = {} if adapter is None else read_lora_deltas(adapter, shape)
        size, scale = shape.size_of_head, math.sqrt(shape.hidden_size)
        pairs = torch.arange(size).view(2, size // 2).t().flatten()  # i and i + D/2 become neighbours

        def weight(layer: int, block: str, name: str) -> Tensor:
            key = f"model.layers.{layer}.{block}.{name}"
            full = tensors[f"{key}.weight"].float()
            return full + deltas[key] if key in deltas else full

        def finish(matrix: Tensor) -> Tensor:
            return matrix.t().contiguous().to(device=device, dtype=dtype)

        layers = []
        for index in range(shape.num_layers):
            first = tensors[f"model.layers.{index}.input_layernorm.weight"].float() * scale
            second = tensors[f"model.layers.{index}.post_attention_layernorm.weight"].float() * scale
            q, k = (
                weight(index, "self_attn", name).unflatten(0, (-1, size))[:, pairs].flatten(0, 1)
                for name in ("q_proj", "k_proj")
            )
            qkv = torch.cat((q, k, weight(index, "self_attn", "v_proj"))) * first
            gate_up = torch.cat((weight(index, "mlp", "gate_proj"), weight(index, "mlp", "up_proj"))) * second
            o, down = weight(index, "self_attn", "o_proj"), weight(index, "mlp", "down_proj")
            layers.append(_Layer(finish(qkv), finish(o), finish(gate_up), finish(down)))
        embedding = tensors["model.embed_tokens.weight"]
        head = embedding if shape.tie_embeddings else tensors["lm_head.weight"]
        head = head.float() * (tensors["model.norm.weight"].float() * scale)
        return cls(
            shape,
            embedding.to(device=device, dtype=dtype, copy=True).contiguous(),
            layers,
            finish(head),
            steps=steps,
        )

    @classmethod
    def with_random_weights(
        cls,
        shape: LlamaShape,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        steps: Steps = "auto",
        seed: int = 0,
    ) -> LeanLlama:
        """Make a model that says nothing, at the speed of one that does; its weights are drawn on the device."""
        draw = torch.Generator(device).manual_seed(seed)

        def matrix(rows: int, columns: int) -> Tensor:
            drawn = torch.empty(rows, columns, dtype=dtype, device=device)
            return drawn.normal_(std=rows**-0.5, generator=draw)

        width, inner = shape.hidden_size, shape.intermediate_size
        heads, all_heads = shape.num_heads * shape.size_of_head, shape.num_heads + 2 * shape.num_kv_heads
        layers = []
        for _ in range(shape.num_layers):
            qkv, gate_up = matrix(width, all_heads * shape.size_of_head), matrix(width, 2 * inner)
            for normed in (qkv, gate_up):  # as `from_tensors` folds the norm's sqrt(width)
                normed.mul_(math.sqrt(width))
            layers.append(_Layer(qkv, matrix(heads, width), gate_up, matrix(inner, width)))
        head = matrix(width, shape.vocab_size).mul_(math.sqrt(width))
        return cls(shape, matrix(shape.vocab_size, width), layers, head, steps=steps)

    @property
    def num_bytes(self) -> int:
        """Bytes of the weights that a step reads: all but the embedding, of which it reads a row a token."""
        matrices = [weights for each in self.layers for weights in (each.qkv, each.o, each.gate_up, each.down)]
        return sum(matrix.numel() * matrix.element_size() for matrix in [*matrices, self.head])

    @property
    def keeps_cache(self) -> bool:
        """Whether steps are sooner on a cache that stays where it is, also while it holds no rows."""
        return self._static is not None

    def embed(self, input_ids: Tensor) -> Tensor:
        """Return input embeddings [..., W]."""
        return F.embedding(input_ids, self.embedding)

    def logits(self, hidden: Tensor, ids: Tensor | None = None) -> Tensor:
        """Return fp32 logits [..., V] of hidden states [..., W], or [..., len(ids)] for some token ids only."""
        return torch.matmul(hidden, self.head if ids is None else self.head[:, ids]).float()

    def new_cache(self, *, rows: int, capacity: int) -> KvCache:
        self._check_length(capacity)
        return KvCache.empty(self.shape, rows=rows, capacity=capacity, like=self.embedding)

    @torch.inference_mode()
    def extend(self, cache: KvCache, embeddings: Sequence[Tensor]) -> Tensor:
        """Append [T_i, W] to every row of the cache and return the last hidden state of each row, [B, W], normed."""
        counts = [len(row) for row in embeddings]
        if len(counts) != cache.num_rows or min(counts, default=0) < 1:
            raise InputError(f"extend needs 1 or more tokens for each of {cache.num_rows} rows; got {counts}")
        starts, longest = list(cache.lengths), max(counts)
        self._check_length(max(begin + count for begin, count in zip(starts, counts, strict=True)))
        graph = self._step_graph()
        if graph is not None:
            return graph.extend(cache, embeddings).hidden.clone()
        cache.reserve(capacity=max(starts) + longest)
        x = torch.nn.utils.rnn.pad_sequence(list(embeddings), batch_first=True)  # [B, T, W]
        start = torch.tensor(starts, device=self.device)
        positions = start[:, None] + torch.arange(longest, device=self.device)  # [B, T]
        positions = positions.clamp(max=self.shape.max_positions - 1)  # of padding, whose result nobody reads
        held = max(starts) + longest
        mask = None
        if any(starts):
            mask = self._mask(torch.arange(held, device=self.device) <= positions[:, :, None])[:, None]
        rotation = self._rotation_at(positions)
        is_even, kv_heads = len(set(starts)) == 1, self.shape.num_kv_heads

        def attend(layer: int, q: Tensor, kv: Tensor) -> Tensor:
            known = cache.layers[layer]
            pair = kv.unflatten(1, (2, kv_heads)).transpose(0, 1)  # [2, B, K, T, D]
            if is_even:
                known[:, :, :, starts[0] : held] = pair
            else:
                for row, begin in enumerate(starts):
                    known[:, row, :, begin : begin + longest] = pair[:, row]
            if mask is None:
                return F.scaled_dot_product_attention(q, pair[0], pair[1], is_causal=True, enable_gqa=True)
            return _attend(q, known[0, :, :, :held], known[1, :, :, :held], mask)

        x = self._run(x, rotation, attend, cache)
        cache.lengths = [begin + count for begin, count in zip(starts, counts, strict=True)]
        last = torch.tensor([count - 1 for count in counts], device=self.device)
        return self._norm(x[torch.arange(len(counts), device=self.device), last])

    @torch.inference_mode()
    def branch(self, cache: KvCache, branches: Sequence[Sequence[int]]) -> Tensor:
        """Continue every row by several token sequences at once, without changing the cache.

        The sequences lie side by side; each sees its row's prefix and itself. Returns [B, sum of lengths, W], normed.
        """
        total, num_rows, kv_heads = sum(len(branch) for branch in branches), cache.num_rows, self.shape.num_kv_heads
        held = max(cache.lengths)
        self._check_length(held + max(len(branch) for branch in branches))
        ids = torch.tensor([token for branch in branches for token in branch], device=self.device)
        owner = torch.tensor([n for n, branch in enumerate(branches) for _ in branch], device=self.device)
        offset = torch.tensor([n for branch in branches for n in range(len(branch))], device=self.device)
        length = torch.tensor(cache.lengths, device=self.device)
        prefix = (torch.arange(held, device=self.device) < length[:, None])[:, None, :].expand(-1, total, -1)
        own = (owner[:, None] == owner) & (offset[:, None] >= offset)
        mask = self._mask(torch.cat((prefix, own.expand(num_rows, -1, -1)), dim=-1))[:, None]  # [B, 1, T, held + T]
        rotation = self._rotation_at(length[:, None] + offset)

        def attend(layer: int, q: Tensor, kv: Tensor) -> Tensor:
            known = cache.layers[layer][:, :, :, :held]
            whole = torch.cat((known, kv.unflatten(1, (2, kv_heads)).transpose(0, 1)), dim=3)
            return _attend(q, whole[0], whole[1], mask)

        return self._norm(self._run(self.embed(ids).expand(num_rows, -1, -1), rotation, attend, cache))

    @torch.inference_mode()
    def step(self, cache: KvCache, token_ids: Sequence[int]) -> Tensor:
        """Append one token to every row of the cache and return the hidden states [B, W], normed."""
        shape, lengths = self.shape, cache.lengths
        num_rows, held = len(lengths), max(lengths) + 1
        self._check_length(held)
        graph = self._step_graph()
        if graph is not None:
            return graph.step(cache, token_ids).hidden.clone()
        if self._static is not None:
            return self._static.step(cache, token_ids).hidden.clone()
        cache.reserve(capacity=held)
        rotations = self.rotations(held)
        heads, kv_heads, size = shape.num_heads, shape.num_kv_heads, shape.size_of_head
        rotated, group = heads + kv_heads, heads // kv_heads
        uniform = min(lengths) + 1 == held
        mask = rows = where = None
        if uniform:
            rotation = rotations[held - 1]
        else:
            where = torch.tensor(lengths, device=self.device)
            rows = torch.arange(num_rows, device=self.device)
            mask = self._mask(torch.arange(held, device=self.device) <= where[:, None])[:, None, None]
            rotation = rotations[where][:, None]
        x = self._rows_of(token_ids)  # [B, W]
        for layer, weights in enumerate(self.layers):
            qkv = torch.mm(self._norm(x), weights.qkv).view(num_rows, rotated + kv_heads, size)
            if self.dtype == torch.float32:
                torch.view_as_complex(qkv[:, :rotated].view(num_rows, rotated, -1, 2)).mul_(rotation)
            else:
                qkv[:, :rotated] = self.rotate(qkv[:, :rotated], rotation)
            known = cache.layers[layer]
            fresh = qkv[:, heads:].view(num_rows, 2, kv_heads, size)
            if uniform:
                known[:, :, :, held - 1] = fresh.transpose(0, 1)
            else:
                known.transpose(0, 1)[rows, :, :, where] = fresh
            # one new token: the heads that share keys are laid where a longer query would have its positions
            mixed = F.scaled_dot_product_attention(
                qkv[:, :heads].view(num_rows, kv_heads, group, size),
                known[0, :, :, :held],
                known[1, :, :, :held],
                attn_mask=mask,
            )
            x = torch.addmm(x, mixed.reshape(num_rows, heads * size), weights.o)
            gate, up = torch.mm(self._norm(x), weights.gate_up).chunk(2, dim=-1)
            x = torch.addmm(x, F.silu(gate).mul_(up), weights.down)
        cache.lengths = [length + 1 for length in lengths]
        return self._norm(x)

    @torch.inference_mode()
    def advance(self, cache: KvCache, runs: Sequence[Sequence[int]]) -> Tensor:
        """Append one token or more to every row and return the fp32 logits [B, V] of the next token of each.

        The result may be overwritten by the next call on the same cache.
        """
        graph = self._step_graph()
        if all(len(run) == 1 for run in runs):
            token_ids, fixed = [run[0] for run in runs], graph or self._static
            if fixed is None:
                return self.logits(self.step(cache, token_ids))
            self._check_length(max(cache.lengths) + 1)
            return fixed.step(cache, token_ids).logits
        embeddings = self._rows_of([token for run in runs for token in run]).split([len(run) for run in runs])
        if graph is None:
            return self.logits(self.extend(cache, embeddings))
        self._check_length(max(length + len(run) for length, run in zip(cache.lengths, runs, strict=True)))
        return graph.extend(cache, embeddings).logits

    def _rows_of(self, token_ids: Sequence[int]) -> Tensor:
        return self.embedding[torch.tensor(token_ids, device=self.device)]

    def _step_graph(self) -> StepGraph | None:
        """Return the graph that computes instead of torch, where there is one; the first call makes it."""
        if self._wants_graph and self._graph is None:
            with self._graph_lock:
                if self._graph is None:
                    self._graph = StepGraph(self, num_threads=self._num_threads)
        return self._graph

    def _run(self, x: Tensor, rotation: Tensor, attend: Any, cache: KvCache) -> Tensor:
        """All layers over x [B, T, W]; ``attend(layer, q [B, H, T, D], kv [B, 2K, T, D])`` -> [B, H, T, D].

        ``cache`` is what the rows belong to; `emollama.backbones.multi_lora` reads its tags.
        """
        shape = self.shape
        heads, kv_heads, size = shape.num_heads, shape.num_kv_heads, shape.size_of_head
        rotated = heads + kv_heads
        for layer, weights in enumerate(self.layers):
            qkv = torch.matmul(self._norm(x), weights.qkv).unflatten(-1, (rotated + kv_heads, size))
            if self.dtype == torch.float32:
                torch.view_as_complex(qkv[..., :rotated, :].unflatten(-1, (-1, 2))).mul_(rotation)
            else:
                qkv[..., :rotated, :] = self.rotate(qkv[..., :rotated, :], rotation)
            q, kv = qkv.transpose(1, 2).split((heads, 2 * kv_heads), dim=1)
            mixed = attend(layer, q, kv)
            x = x + torch.matmul(mixed.transpose(1, 2).flatten(2), weights.o)
            gate, up = torch.matmul(self._norm(x), weights.gate_up).chunk(2, dim=-1)
            x = x + torch.matmul(F.silu(gate).mul_(up), weights.down)
        return x

    def _norm(self, x: Tensor) -> Tensor:
        """RMS norm without its gain and without sqrt(width); both are in the weights that follow."""
        if self.dtype == torch.float32:
            return x / torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), self._norm_floor)
        wide = x.float()
        return (wide / torch.hypot(torch.linalg.vector_norm(wide, dim=-1, keepdim=True), self._norm_floor)).to(x.dtype)

    def rotate(self, heads: Tensor, rotation: Tensor) -> Tensor:
        """Rotate [..., N, D] by [..., 1 or N, D / 2] complex, in fp32."""
        pairs = torch.view_as_complex(heads.float().unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * rotation).flatten(-2).to(heads.dtype)

    def _rotation_at(self, positions: Tensor) -> Tensor:
        """Return [B, T, 1, D / 2] complex rotations at positions [B, T]."""
        return self.rotations(int(positions.max()) + 1)[positions][:, :, None]

    def rotations(self, length: int) -> Tensor:
        """Return the complex rotations [at least ``length``, D / 2] of the positions from 0 on."""
        rotations = self._rotations  # another thread may replace it at any time
        if length > len(rotations):
            rotations = self._rotations = self._make_rotations(length)
        return rotations

    def _mask(self, seen: Tensor) -> Tensor:
        """Turn "may look at" into what is added to the scores, once for all layers."""
        return torch.zeros(seen.shape, dtype=self.dtype, device=self.device).masked_fill_(~seen, -torch.inf)

    def _make_rotations(self, length: int) -> Tensor:
        self._check_length(length)
        length = min(max(2 * length, 256), self.shape.max_positions)
        angles = torch.arange(length, device=self.device)[:, None].float() * self._angles
        return torch.polar(torch.ones_like(angles), angles)

    def _check_length(self, length: int) -> None:
        if length > self.shape.max_positions:
            raise InputError(
                f"{length} tokens do not fit; this backbone reads at most {self.shape.max_positions}", field="prompt"
            )


def _attend(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, keys, values, attn_mask=mask, enable_gqa=True)


def _inverse_frequencies(shape: LlamaShape) -> Tensor:
    """Return [D / 2] rotary frequencies, scaled as in Llama 3.1 when the config says so."""
    half = torch.arange(0, shape.size_of_head, 2, dtype=torch.float32) / shape.size_of_head
    frequencies = 1.0 / shape.rope_theta**half
    scaling = shape.rope_scaling
    if scaling is None:
        return frequencies
    factor, low, high = (float(scaling[name]) for name in ("factor", "low_freq_factor", "high_freq_factor"))
    original = float(scaling["original_max_position_embeddings"])
    turns = original * frequencies / (2 * math.pi)  # how often a frequency turns in the original context
    smooth = ((turns - low) / (high - low)).clamp(0.0, 1.0)
    return frequencies * (smooth + (1.0 - smooth) / factor)


def expected_tensors(shape: LlamaShape) -> dict[str, Tensor]:
    """Return the state dict of a ``LlamaForCausalLM`` of this shape, as tensors without memory."""
    width = shape.hidden_size
    sizes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (shape.vocab_size, width)}
    for index in range(shape.num_layers):
        sizes |= {f"{name}.weight": dimensions for name, dimensions in _projections(shape, index).items()}
        sizes[f"model.layers.{index}.input_layernorm.weight"] = (width,)
        sizes[f"model.layers.{index}.post_attention_layernorm.weight"] = (width,)
    sizes["model.norm.weight"] = (width,)
    if not shape.tie_embeddings:
        sizes["lm_head.weight"] = (shape.vocab_size, width)
    return {name: torch.empty(dimensions, device="meta") for name, dimensions in sizes.items()}


def _projections(shape: LlamaShape, layer: int) -> dict[str, tuple[int, int]]:
    """Return name -> [out, in] of the seven projections of a layer."""
    width, inner, size = shape.hidden_size, shape.intermediate_size, shape.size_of_head
    heads, kv_heads = shape.num_heads * size, shape.num_kv_heads * size
    prefix = f"model.layers.{layer}"
    return {
        f"{prefix}.self_attn.q_proj": (heads, width),
        f"{prefix}.self_attn.k_proj": (kv_heads, width),
        f"{prefix}.self_attn.v_proj": (kv_heads, width),
        f"{prefix}.self_attn.o_proj": (width, heads),
        f"{prefix}.mlp.gate_proj": (inner, width),
        f"{prefix}.mlp.up_proj": (inner, width),
        f"{prefix}.mlp.down_proj": (width, inner),
    }


class LoraPair(NamedTuple):
    """A [r, in] and B [out, r] of one projection in float32, and alpha / r."""

    a: Tensor
    b: Tensor
    scale: float

    def delta(self) -> Tensor:
        """Return what the pair adds to the weight: scale * B @ A  [out, in]."""
        return self.scale * (self.b @ self.a)


def read_lora_pairs(folder: Path, shape: LlamaShape) -> dict[str, LoraPair]:
    """Return the pairs of a PEFT folder by the name of the projection that they adapt.

    Every projection that ``adapter_config.json`` targets must be there in every layer and nothing else may be;
    otherwise `CheckpointError` names what differs.
    """
    from emollama.backbones.lora import WEIGHTS, read_adapter_config

    settings = read_adapter_config(folder)
    tensors = read_tensors(folder / WEIGHTS, dtype=torch.float32)
    expected: dict[str, Tensor] = {}
    targeted: list[str] = []
    for index in range(shape.num_layers):
        for name, (width_out, width_in) in _projections(shape, index).items():
            if name.rpartition(".")[2] in settings.targets:
                targeted.append(name)
                prefix = f"base_model.model.{name}"
                expected[f"{prefix}.lora_A.weight"] = torch.empty(settings.rank, width_in, device="meta")
                expected[f"{prefix}.lora_B.weight"] = torch.empty(width_out, settings.rank, device="meta")
    check_tensors(tensors, expected, what=f"adapter {folder}")
    return {
        name: LoraPair(
            tensors[f"base_model.model.{name}.lora_A.weight"],
            tensors[f"base_model.model.{name}.lora_B.weight"],
            settings.alpha / settings.rank,
        )
        for name in targeted
    }


def read_lora_deltas(folder: Path, shape: LlamaShape) -> dict[str, Tensor]:
    """Return what a PEFT folder adds to each projection, by the projection's name; see `read_lora_pairs`."""
    return {name: pair.delta() for name, pair in read_lora_pairs(folder, shape).items()}


def adapter_fits(folder: Path, shape: LlamaShape) -> str | None:
    """Return ``None`` when a PEFT folder fits a backbone of this shape, or what is wrong with it."""
    try:
        read_lora_pairs(folder, shape)
    except (CheckpointError, json.JSONDecodeError, KeyError) as error:
        return str(error)
    return None
