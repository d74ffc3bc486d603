"""`StepGraph`: the layers of a small `LeanLlama` as one ONNX graph, run by onnxruntime in float32 on the processor.

A small model's step is a few hundred operations of a few microseconds each. onnxruntime runs them without an
interpreter in between, with its fused operators (grouped-query attention with rotation, norm with residual) and
matrices packed once. Keys and values stay where they are: the graph reads and writes the memory of the `KvCache`.
It is made of the folded weights in memory; no file is written. The operators of the domain ``com.microsoft`` are
described in onnxruntime's ContribOperators.md.

What is packed is a second copy of the matrices, so only models of up to `_MOST_BYTES` are run by it. In larger ones the
multiplications outweigh everything that is saved here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from emollama.backbones.kv_cache import KvCache

if TYPE_CHECKING:
    from emollama.backbones.lean import LeanLlama

_MOST_BYTES = 256 << 20
_BYTES_OF_A_THREAD = 8 << 20  # with fewer bytes of weights, waking a thread costs more than it helps
_CONTRIB = "com.microsoft"
_OPSET, _IR_VERSION = 20, 10


class Computed(NamedTuple):
    """Of the last token of each row: the hidden state [B, W], normed, and the logits [B, V] of the next one.

    Both may be overwritten by the next call on the same cache.
    """

    hidden: Tensor
    logits: Tensor


class _Binding:
    """Where one shape of input reads and writes: buffers of its own and the memory of a cache's rows."""

    def __init__(self, graph: StepGraph, cache: KvCache, *, first: int, num_rows: int, num_tokens: int) -> None:
        shape = graph.shape
        self.place = _place(cache, num_rows)
        self.x = torch.empty(num_rows, num_tokens, shape.hidden_size)
        self.tokens = self.x.view(-1, shape.hidden_size).numpy()  # the same memory [B * T, W]
        self.ends = np.empty(num_rows, dtype=np.int32)  # the last position of each row after this step
        self.total = np.empty(1, dtype=np.int32)
        self.last = np.empty(num_rows, dtype=np.int64)  # where in the flattened input each row's last token is
        self.hidden = torch.empty(num_rows, shape.hidden_size)
        self.logits = torch.empty(num_rows, shape.vocab_size)
        self.io = graph.session.io_binding()
        inputs = (
            ("x", self.x, np.float32),
            ("ends", torch.from_numpy(self.ends), np.int32),
            ("total", torch.from_numpy(self.total), np.int32),
            ("last", torch.from_numpy(self.last), np.int64),
        )
        for name, buffer, kind in inputs:
            self.io.bind_input(name, "cpu", 0, kind, tuple(buffer.shape), buffer.data_ptr())
        for name, buffer in (("hidden", self.hidden), ("logits", self.logits)):
            self.io.bind_output(name, "cpu", 0, np.float32, tuple(buffer.shape), buffer.data_ptr())
        size = (num_rows, shape.num_kv_heads, cache.capacity, shape.size_of_head)
        base, item = cache.held.data_ptr(), cache.held.element_size()
        strides = cache.held.stride()
        for layer in range(shape.num_layers):
            for side, role in enumerate(("key", "value")):
                pointer = base + item * (layer * strides[0] + side * strides[1] + first * strides[2])
                self.io.bind_input(f"{role}_{layer}", "cpu", 0, np.float32, size, pointer)
                self.io.bind_output(f"new_{role}_{layer}", "cpu", 0, np.float32, size, pointer)


class StepGraph:
    """A session over the folded weights of one model. Any number of threads may use it, each on caches of its own."""

    def __init__(self, model: LeanLlama, *, num_threads: int) -> None:
        import onnxruntime

        self.shape = model.shape
        self._embedding = model.embedding.numpy()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = max(1, min(num_threads, _num_bytes(model) // _BYTES_OF_A_THREAD))
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # threads look for work in a loop only while a step is under way; between two steps they cost nothing
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self.session: Any = onnxruntime.InferenceSession(
            _serialised(model), options, providers=["CPUExecutionProvider"]
        )

    @staticmethod
    def supports(model: LeanLlama) -> bool:
        """Say whether this model can be run: float32 on the processor, small, with heads as the operators want them."""
        return (
            model.dtype == torch.float32
            and model.device.type == "cpu"
            and model.shape.size_of_head % 16 == 0
            and _num_bytes(model) <= _MOST_BYTES
        )

    def extend(self, cache: KvCache, embeddings: Sequence[Tensor]) -> Computed:
        """Append [T_i, W] to every row of the cache; the caller has checked that they fit."""
        counts = [len(row) for row in embeddings]
        starts = list(cache.lengths)
        longest, num_rows = max(counts), len(counts)
        cache.reserve(capacity=max(start + count for start, count in zip(starts, counts, strict=True)))
        if longest == 1:
            binding = self._bind(cache)
            torch.cat(list(embeddings), out=binding.x[:, 0])
            return self._append(cache, binding)
        if num_rows == 1 or not any(starts):
            cache.reserve(capacity=max(starts) + longest)
            binding = _Binding(self, cache, first=0, num_rows=num_rows, num_tokens=longest)
            binding.x.zero_()
            for row, tokens in enumerate(embeddings):
                binding.x[row, : len(tokens)] = tokens
            binding.last[:] = [row * longest + count - 1 for row, count in enumerate(counts)]
            self._run(binding, starts, counts, total=max(starts) + longest)
            cache.lengths = [start + count for start, count in zip(starts, counts, strict=True)]
            return Computed(binding.hidden, binding.logits)
        # the attention operator takes several tokens of several rows only where nothing precedes them; so all but the
        # last token of each row are computed row by row, and the last tokens together
        for row, tokens in enumerate(embeddings):
            if len(tokens) > 1:
                binding = _Binding(self, cache, first=row, num_rows=1, num_tokens=len(tokens) - 1)
                binding.x[0] = tokens[:-1]
                binding.last[0] = len(tokens) - 2
                self._run(binding, starts[row : row + 1], [len(tokens) - 1], total=starts[row] + len(tokens) - 1)
        cache.lengths = [start + count - 1 for start, count in zip(starts, counts, strict=True)]
        binding = self._bind(cache)
        torch.stack([tokens[-1] for tokens in embeddings], out=binding.x[:, 0])
        return self._append(cache, binding)

    def step(self, cache: KvCache, token_ids: Sequence[int]) -> Computed:
        """Append one token to every row."""
        binding = self._bind(cache)
        np.take(self._embedding, token_ids, axis=0, out=binding.tokens)
        return self._append(cache, binding)

    def _bind(self, cache: KvCache) -> _Binding:
        """Return the buffers of one token a row; they stay with the cache until it is moved or cut anew."""
        num_rows = cache.num_rows
        cache.reserve(capacity=max(cache.lengths) + 1)
        binding = cache.binding
        if binding is None or binding.place != _place(cache, num_rows):
            binding = cache.binding = _Binding(self, cache, first=0, num_rows=num_rows, num_tokens=1)
            binding.last[:] = range(num_rows)
        return binding

    def _append(self, cache: KvCache, binding: _Binding) -> Computed:
        num_rows = cache.num_rows
        self._run(binding, cache.lengths, [1] * num_rows, total=max(cache.lengths) + 1)
        cache.lengths = [length + 1 for length in cache.lengths]
        return Computed(binding.hidden, binding.logits)

    def _run(self, binding: _Binding, starts: Sequence[int], counts: Sequence[int], *, total: int) -> None:
        binding.ends[:] = [start + count - 1 for start, count in zip(starts, counts, strict=True)]
        binding.total[0] = total
        self.session.run_with_iobinding(binding.io)


def _place(cache: KvCache, num_rows: int) -> tuple[int, int, int, int]:
    """Return what a binding depends on: where the cache lies and how it is cut."""
    return cache.held.data_ptr(), cache.held.shape[2], cache.capacity, num_rows


def _num_bytes(model: LeanLlama) -> int:
    """Return the bytes of everything that the graph holds."""
    matrices = [weights for layer in model.layers for weights in (layer.qkv, layer.o, layer.gate_up, layer.down)]
    tables = 4 * model.shape.max_positions * model.shape.size_of_head
    return tables + sum(matrix.numel() * matrix.element_size() for matrix in [*matrices, model.head])


def _serialised(model: LeanLlama) -> bytes:
    """Return the model of one step over T tokens of B rows, in ONNX's format.

    Inputs: ``x`` [B, T, W], ``ends`` [B] (last position of each row), ``total`` [1] (the longest row after the step),
    ``last`` [B] (index of each row's last token in [B * T]), and the cache by layer. Outputs: `Computed`, the cache.
    """
    from onnx import TensorProto, helper

    shape = model.shape
    width, inner = shape.hidden_size, shape.intermediate_size
    nodes: list[Any] = []
    weights: list[Any] = []

    def hold(name: str, tensor: Tensor) -> str:
        kind = TensorProto.INT64 if tensor.dtype == torch.int64 else TensorProto.FLOAT
        raw = tensor.contiguous().numpy().tobytes()
        weights.append(helper.make_tensor(name, kind, list(tensor.shape), raw, raw=True))
        return name

    def add(operator: str, inputs: Sequence[str], *outputs: str, domain: str = "", **attributes: Any) -> str:
        nodes.append(helper.make_node(operator, list(inputs), list(outputs), domain=domain, **attributes))
        return outputs[0]

    def value(name: str, sizes: Sequence[int | str], kind: int = TensorProto.FLOAT) -> Any:
        return helper.make_tensor_value_info(name, kind, list(sizes))

    # the norms' gains and sqrt(width) are folded into what follows; the operator divides by the root of the mean
    unit = hold("unit", torch.full((width,), width**-0.5))
    rotations = model.rotations(shape.max_positions)
    cosines, sines = hold("cosines", rotations.real), hold("sines", rotations.imag)
    epsilon = shape.rms_norm_eps
    cache_size = ("B", shape.num_kv_heads, "S", shape.size_of_head)
    caches_in, caches_out = [], []
    residual = "x"
    normed = add("SimplifiedLayerNormalization", (residual, unit), "normed", epsilon=epsilon, axis=-1, stash_type=1)
    for index, layer in enumerate(model.layers):
        qkv = add("MatMul", (normed, hold(f"qkv_{index}", layer.qkv)), f"heads_{index}")
        keys, values = f"key_{index}", f"value_{index}"
        caches_in += [value(keys, cache_size), value(values, cache_size)]
        caches_out += [value(f"new_{keys}", cache_size), value(f"new_{values}", cache_size)]
        mixed = add(
            "GroupQueryAttention", (qkv, "", "", keys, values, "ends", "total", cosines, sines),
            f"mixed_{index}", f"new_{keys}", f"new_{values}", domain=_CONTRIB,
            num_heads=shape.num_heads, kv_num_heads=shape.num_kv_heads, do_rotary=1, rotary_interleaved=1,
        )  # fmt: skip
        if index == shape.num_layers - 1:  # beyond the last attention, only the last token of each row matters
            for name, size in ((mixed, shape.num_heads * shape.size_of_head), (residual, width)):
                flat = add("Reshape", (name, hold(f"flat_{name}", torch.tensor([-1, size]))), f"all_{name}")
                add("Gather", (flat, "last"), f"last_{name}")
            mixed, residual = f"last_{mixed}", f"last_{residual}"
        attended = add("MatMul", (mixed, hold(f"o_{index}", layer.o)), f"attended_{index}")
        normed, residual = _add_and_norm(add, residual, attended, unit, epsilon, name=f"middle_{index}")
        gate = add("MatMul", (normed, hold(f"gate_{index}", layer.gate_up[:, :inner])), f"gated_{index}")
        up = add("MatMul", (normed, hold(f"up_{index}", layer.gate_up[:, inner:])), f"upped_{index}")
        silu = add("QuickGelu", (gate,), f"silu_{index}", domain=_CONTRIB, alpha=1.0)  # x * sigmoid(alpha * x)
        product = add("Mul", (silu, up), f"product_{index}")
        down = add("MatMul", (product, hold(f"down_{index}", layer.down)), f"fed_{index}")
        is_last = index == shape.num_layers - 1
        name = "hidden" if is_last else f"next_{index}"
        normed, residual = _add_and_norm(add, residual, down, unit, epsilon, name=name)
    add("MatMul", (normed, hold("head", model.head)), "logits")
    graph = helper.make_graph(
        nodes,
        "step",
        [
            value("x", ("B", "T", width)),
            value("ends", ("B",), TensorProto.INT32),
            value("total", (1,), TensorProto.INT32),
            value("last", ("B",), TensorProto.INT64),
            *caches_in,
        ],
        [value("hidden", ("B", width)), value("logits", ("B", shape.vocab_size)), *caches_out],
        weights,
    )
    operators = [helper.make_opsetid("", _OPSET), helper.make_opsetid(_CONTRIB, 1)]
    serialised: bytes = helper.make_model(graph, opset_imports=operators, ir_version=_IR_VERSION).SerializeToString()
    return serialised


def _add_and_norm(add: Any, residual: str, change: str, unit: str, epsilon: float, *, name: str) -> tuple[str, str]:
    """Add a change to the residual stream; returns the names of its norm and of the sum."""
    total = f"sum_{name}"
    add(
        "SkipSimplifiedLayerNormalization", (residual, change, unit), name, "", "", total,
        domain=_CONTRIB, epsilon=epsilon,
    )  # fmt: skip
    return name, total
