"""`StaticStep`: the decode step of a `LeanLlama` in shapes that never change, so that a GPU replays it as one graph.

On a GPU a step is several hundred kernels of a few microseconds each, and starting them one by one from Python takes
longer than they run. A CUDA graph starts them all at once, but it is bound to shapes and addresses. So the step is
computed for a bucket of rows and of positions, the next power of two, in the memory of the `KvCache` itself: rows that
nobody holds are computed along and hold nothing that anybody reads, positions past a row's end are masked. A bucket is
captured when it is first needed and stays with the cache until that is moved. On a processor the very same step runs
uncaptured, which is how it is tested without a GPU.

CUDA graphs: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from emollama.backbones.kv_cache import KvCache
from emollama.backbones.step_graph import Computed

if TYPE_CHECKING:
    from emollama.backbones.lean import LeanLlama

_FEWEST_POSITIONS = 64
_WARM_UPS = 2  # before a capture: libraries reserve their workspaces in the first calls


class StaticStep:
    """Steps over one model's weights. Any number of threads may use it, each on caches of its own."""

    def __init__(self, model: LeanLlama) -> None:
        self.model = model
        self.is_captured = model.device.type == "cuda"
        self._lock = threading.Lock()  # one capture at a time

    @torch.inference_mode()
    def step(self, cache: KvCache, token_ids: Sequence[int]) -> Computed:
        """Append one token to every row; the result may be overwritten by the next call on the same cache."""
        num_rows, held = cache.num_rows, max(cache.lengths) + 1
        cache.reserve(capacity=held)
        place = (cache.held.data_ptr(), cache.held.shape[2], cache.capacity)
        binding = cache.binding
        if not isinstance(binding, _Binding) or binding.place != place:
            binding = cache.binding = _Binding(place)
        size = (min(_bucket(num_rows), cache.held.shape[2]), min(_bucket(held, _FEWEST_POSITIONS), cache.capacity))
        form = binding.forms.get(size)
        if form is None:
            form = binding.forms[size] = _Form(self.model, cache, num_rows=size[0], num_positions=size[1])
        form.feed(token_ids, cache.lengths)
        if not self.is_captured:
            form.compute()
        else:
            if form.graph is None:
                with self._lock:
                    form.capture()
            form.graph.replay()
        cache.lengths = [length + 1 for length in cache.lengths]
        return Computed(form.hidden[:num_rows], form.logits[:num_rows])


class _Binding:
    """The forms that were made in the memory of one cache."""

    def __init__(self, place: tuple[int, int, int]) -> None:
        self.place = place
        self.forms: dict[tuple[int, int], _Form] = {}  # by rows and positions


class _Form:
    """One shape of the step: B rows that look at S positions. What it reads and writes stays where it is."""

    hidden: Tensor  # [B, W], normed
    logits: Tensor  # fp32 [B, V]

    def __init__(self, model: LeanLlama, cache: KvCache, *, num_rows: int, num_positions: int) -> None:
        device = model.device
        self._model = model
        self._layers = cache.held[:, :, :num_rows].unbind(0)  # [2, B, K, capacity, D] each
        self._num_rows, self._num_positions = num_rows, num_positions
        self._given = torch.zeros(2, num_rows, dtype=torch.long, device=device)  # token ids, and where they go
        self._rows = torch.arange(num_rows, device=device)
        self._positions = torch.arange(num_positions, device=device)
        self._rotations = model.rotations(min(num_positions, model.shape.max_positions))
        self.graph: Any = None

    def feed(self, token_ids: Sequence[int], lengths: Sequence[int]) -> None:
        """Say what comes next; rows of the bucket that nobody holds get a token at their beginning."""
        spare = [0] * (self._num_rows - len(token_ids))
        self._given.copy_(torch.tensor([[*token_ids, *spare], [*lengths, *spare]]))

    def compute(self) -> None:
        """Compute a step: no shape, address or branch of it depends on what was fed."""
        model, num_rows, span = self._model, self._num_rows, self._num_positions
        shape = model.shape
        heads, kv_heads, size = shape.num_heads, shape.num_kv_heads, shape.size_of_head
        rotated, group = heads + kv_heads, heads // kv_heads
        token_ids, ends = self._given.unbind(0)
        rotation = self._rotations[ends][:, None]  # [B, 1, D / 2]
        unseen = self._positions > ends[:, None]
        mask = torch.zeros(unseen.shape, dtype=model.dtype, device=model.device).masked_fill_(unseen, -torch.inf)
        mask = mask[:, None, None].expand(-1, kv_heads, group, -1)
        x = F.embedding(token_ids, model.embedding)  # [B, W]
        for known, weights in zip(self._layers, model.layers, strict=True):
            qkv = torch.mm(self._norm(x), weights.qkv).view(num_rows, rotated + kv_heads, size)
            qkv[:, :rotated] = model.rotate(qkv[:, :rotated], rotation)
            fresh = qkv[:, heads:].view(num_rows, 2, kv_heads, size)
            known.transpose(0, 1)[self._rows, :, :, ends] = fresh
            # one new token: the heads that share keys are laid where a longer query would have its positions
            mixed = F.scaled_dot_product_attention(
                qkv[:, :heads].view(num_rows, kv_heads, group, size),
                known[0, :, :, :span],
                known[1, :, :, :span],
                attn_mask=mask,
            )
            x = torch.addmm(x, mixed.reshape(num_rows, heads * size), weights.o)
            gate, up = torch.mm(self._norm(x), weights.gate_up).chunk(2, dim=-1)
            x = torch.addmm(x, F.silu(gate).mul_(up), weights.down)
        self.hidden = self._norm(x)
        self.logits = model.logits(self.hidden)

    def _norm(self, x: Tensor) -> Tensor:
        """The lean model's norm by torch's own operator, which is one kernel; sqrt(width) is in what follows."""
        shape = self._model.shape
        return F.rms_norm(x, (shape.hidden_size,), eps=shape.rms_norm_eps).mul_(shape.hidden_size**-0.5)

    def capture(self) -> None:
        """Record the step as a CUDA graph; what is computed on the way is what the replay computes again."""
        beside = torch.cuda.Stream(self._model.device)
        beside.wait_stream(torch.cuda.current_stream(self._model.device))
        with torch.cuda.stream(beside):
            for _ in range(_WARM_UPS):
                self.compute()
        torch.cuda.current_stream(self._model.device).wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        # other threads go on meanwhile: their prompts are computed, which reserves memory
        with torch.cuda.graph(graph, stream=beside, capture_error_mode="thread_local"):
            self.compute()
        self.graph = graph


def _bucket(number: int, least: int = 1) -> int:
    """Return the power of two from ``number`` on, ``least`` or more."""
    return max(least, 1 << (number - 1).bit_length())
