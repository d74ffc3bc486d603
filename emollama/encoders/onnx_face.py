"""Face models as ONNX graphs: any of ours written as one, and the published files of HSEmotion read by onnxruntime.

A graph has one picture input, [N, 3, S, S] or [N, S, S, 3] float32, and ends in the linear layer that gives the outputs
(a Gemm with its weights in the file); what goes into that layer is the embedding. The size and the layout are read from
the graph. The mean and deviation of its pictures and the order of its outputs are in no graph: ours carry them as JSON
in the metadata (`KEY`), the published ones are known by what the file is called (`FACE_MODELS`). A graph that is none
of these is refused by name; so is one with weights in other files, or with operators that are not ONNX's own.

Published: sb-ai-lab/EmotiEffLib, ``models/affectnet_emotions/onnx``, opset 11, input ``input``, output ``output``.
"""

from __future__ import annotations

import copy
import io
import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from emollama.encoders.face import FaceEncoder, FaceOutput, split_outputs, unit_head_beside
from emollama.encoders.face_models import FACE_MODELS, FaceModelConfig
from emollama.encoders.frame_head import FrameHead
from emollama.errors import CheckpointError, InputError

if TYPE_CHECKING:
    from emollama.encoders.face import FaceModel

KEY = "emollama.face"
TOLERANCE = 1e-4
_OPSET = 17
_MOST_BYTES = 1 << 30


class _Outputs(nn.Module):
    """The head's outputs in one tensor, as the published graphs have them."""

    def __init__(self, model: FaceModel) -> None:
        super().__init__()
        self.backbone, self.head = model.backbone, model.head

    def forward(self, pictures: Tensor) -> Tensor:
        return self.head(self.backbone(pictures))


def load_face(path: str | Path, **options: Any) -> FaceEncoder:
    """Load a face model's ``X.onnx`` or ``X.safetensors``, as the name says."""
    kind = OnnxFaceEncoder if Path(path).suffix.lower() == ".onnx" else FaceEncoder
    return kind.load(path, **options)


def export_onnx(encoder: FaceEncoder, path: Path) -> float:
    """Write a face model as one ONNX file with a free batch size, by a temporary name and a rename.

    Nothing is written before the graph has said what the model says of the same pictures, to `TOLERANCE`; returns the
    largest difference. Raises `CheckpointError` where they disagree.
    """
    graph = to_graph(encoder.model, name=encoder.name)
    difference = largest_difference(encoder, graph)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(graph.SerializeToString())
    partial.replace(path)
    return difference


@torch.inference_mode()
def largest_difference(encoder: FaceEncoder, graph: Any) -> float:
    """Compare a model in torch with its graph in onnxruntime, on pictures alone and in a batch.

    Returns the largest difference of an output or of an embedding, each in proportion to 1 + its size; raises
    `CheckpointError` where one is above `TOLERANCE` or not a number.
    """
    config = encoder.config
    beside = OnnxFaceEncoder(graph, config, name=encoder.name, threads=1)
    pictures = _pictures(config)
    model = encoder.model.eval()
    device = model.head.weight.device
    expected = [part.float().cpu() for part in model(pictures.to(device)) if part is not None]
    largest = 0.0
    for rows in (slice(0, 1), slice(0, len(pictures))):
        found = [part for part in beside.look(pictures[rows]) if part is not None]
        for ours, theirs in zip((part[rows] for part in expected), found, strict=True):
            difference = float(((ours - theirs).abs() / (1.0 + ours.abs())).max())
            largest = difference if difference != difference else max(largest, difference)
            if not largest <= TOLERANCE:
                raise CheckpointError(
                    f"the graph of {encoder.name} and the model in torch differ by {largest:.2g}; allowed: "
                    f"{TOLERANCE:g}; nothing was written",
                    field="model",
                )
    return largest


def _pictures(config: FaceModelConfig) -> Tensor:
    """Return inputs that reach all of a network: noise, coarse patches, one colour."""
    generator = torch.Generator().manual_seed(0)
    shape = (2, config.channels, config.size, config.size)
    coarse = torch.randn((2, config.channels, 5, 5), generator=generator)
    patches = nn.functional.interpolate(coarse, size=shape[2:], mode="nearest")
    return torch.cat((torch.randn(shape, generator=generator), patches, torch.full((1, *shape[1:]), 0.5)))


def to_graph(model: FaceModel, *, name: str) -> Any:
    """Return a model in evaluation as an ``onnx.ModelProto`` that says what it is in its metadata."""
    import onnx

    config = model.config
    picture = torch.zeros(2, config.channels, config.size, config.size)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # torch's other exporter needs one more package, and its graphs are no better for these networks
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
        cast(Any, torch.onnx.export)(
            _Outputs(copy.deepcopy(model)).eval().to("cpu", torch.float32), (picture,), buffer,
            dynamo=False, opset_version=_OPSET, input_names=["input"], output_names=["output"],
            dynamic_axes={"input": {0: "batch"}, "output": {0: "batch"}},
        )  # fmt: skip
    graph = onnx.load_from_string(buffer.getvalue())
    onnx.helper.set_model_props(graph, {KEY: json.dumps({"name": name, "model": asdict(config)})})
    return graph


class OnnxFaceEncoder(FaceEncoder):
    """A `FaceEncoder` whose network is a graph in onnxruntime, on the processor; there is no torch module in it."""

    def __init__(
        self,
        graph: Any,
        config: FaceModelConfig,
        *,
        name: str,
        batch_size: int = 16,
        flip: bool = True,
        threads: int = 0,
        unit_head: FrameHead | None = None,
    ) -> None:
        """``graph`` is an ``onnx.ModelProto``; ``threads`` 0 leaves their number to onnxruntime."""
        import onnxruntime

        self._width, self._is_channels_first, graph = _with_embedding(graph, config, what=name)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # threads that wait in a loop take the cores from whatever runs between two batches
        options.add_session_config_entry("session.force_spinning_stop", "1")
        try:
            self.session: Any = onnxruntime.InferenceSession(
                graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except _errors() as error:
            raise CheckpointError(f"{name} is damaged: onnxruntime cannot load it: {_first_line(error)}") from error
        self._input, self._outputs = self.session.get_inputs()[0].name, [o.name for o in self.session.get_outputs()]
        self._set_up(config, name=name, batch_size=batch_size, flip=flip, unit_head=unit_head)

    @property
    def embedding_width(self) -> int:
        return self._width

    @classmethod
    def of(cls, encoder: FaceEncoder, *, threads: int = 0) -> OnnxFaceEncoder:
        """Return the same face model in onnxruntime: on a processor it is faster than torch's modules."""
        return cls(
            to_graph(encoder.model, name=encoder.name), encoder.config, name=encoder.name, threads=threads,
            batch_size=encoder.batch_size, flip=encoder.flip, unit_head=encoder.unit_head,
        )  # fmt: skip

    @classmethod
    def load(
        cls, path: str | Path, *, device: str = "cpu", model: str | None = None, **options: Any
    ) -> OnnxFaceEncoder:
        """Load ``X.onnx``. ``model`` says which of `FACE_MODELS` it is, where neither the file nor its name does.

        A head for action units is taken along when it lies beside it as ``X.au.safetensors``. Raises `CheckpointError`
        for a graph that is none of a face model, is damaged, or names other files.
        """
        path = Path(path)
        if device != "cpu":
            raise InputError(f"device is {device!r}; allowed for an ONNX face model: cpu", field="device")
        graph = _read(path)
        name, config = _identity(graph, path, model=model)
        options.setdefault("unit_head", unit_head_beside(path))
        return cls(graph, config, name=name, **options)

    def look(self, pictures: Tensor) -> FaceOutput:
        given = np.ascontiguousarray((pictures if self._is_channels_first else pictures.permute(0, 2, 3, 1)).numpy())
        outputs, embedding = self.session.run(self._outputs, {self._input: given})
        return split_outputs(self.config, torch.from_numpy(embedding), torch.from_numpy(outputs))

    def save(self, path: str | Path, **_: Any) -> None:
        raise InputError(f"{self.name} is an ONNX graph; its file is what there is to keep", field="path")


def _read(path: Path) -> Any:
    import onnx
    from google.protobuf.message import DecodeError

    if not path.is_file():
        raise CheckpointError(f"there is no ONNX file at {path}", field="checkpoint")
    if path.stat().st_size > _MOST_BYTES:
        raise CheckpointError(f"{path.name} is larger than any face model", field="checkpoint")
    try:
        graph = onnx.load_from_string(path.read_bytes())
    except DecodeError as error:
        raise CheckpointError(f"{path.name} is damaged or no ONNX file", field="checkpoint") from error
    if not graph.graph.node:
        raise CheckpointError(f"{path.name} is damaged or no ONNX file: it has no operators", field="checkpoint")
    return graph


def _identity(graph: Any, path: Path, *, model: str | None) -> tuple[str, FaceModelConfig]:
    """Return the name and the config of a graph: its own, or what it is called."""
    kept = {entry.key: entry.value for entry in graph.metadata_props}.get(KEY)
    if kept is not None:
        try:
            document = json.loads(kept)
            return str(document["name"]), FaceModelConfig.from_json_dict(document["model"])
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path.name} is damaged: its metadata {KEY} cannot be read: {error}") from error
    name = model or path.stem
    if name not in FACE_MODELS or FACE_MODELS[name].colour == "grey":
        known = ", ".join(name for name, config in FACE_MODELS.items() if config.colour != "grey")
        raise CheckpointError(
            f"{path.name} does not say which face model it is, and {name!r} is none that is known: {known}",
            field="model",
        )
    return name, FACE_MODELS[name]


def _with_embedding(graph: Any, config: FaceModelConfig, *, what: str) -> tuple[int, bool, Any]:
    """Check a graph against its config; return the embedding's width, whether channels come first, and the graph with
    the embedding as its second output."""
    import onnx

    def refused(why: str) -> CheckpointError:
        return CheckpointError(f"{what} is no graph of a face model that is known: {why}", field="checkpoint")

    foreign = sorted(
        {f"{node.domain}.{node.op_type}" for node in graph.graph.node if node.domain not in ("", "ai.onnx")}
    )
    if foreign:
        raise refused(f"it has operators of {', '.join(foreign[:3])}")
    weights = {tensor.name: tensor for tensor in graph.graph.initializer}
    outside = [name for name, tensor in weights.items() if tensor.external_data]
    if outside:
        raise refused(f"the weights {outside[0]} lie in another file")
    inputs = [value for value in graph.graph.input if value.name not in weights]
    if len(inputs) != 1 or len(graph.graph.output) != 1:
        raise refused(f"it has {len(inputs)} inputs and {len(graph.graph.output)} outputs; expected one of each")
    shape = [d.dim_value if d.HasField("dim_value") else None for d in inputs[0].type.tensor_type.shape.dim]
    if inputs[0].type.tensor_type.elem_type != onnx.TensorProto.FLOAT or len(shape) != 4:
        raise refused(f"its input {inputs[0].name} is {shape}; expected four dimensions of float32")
    sides = {True: [config.channels, config.size, config.size], False: [config.size, config.size, config.channels]}
    first = next((first for first, side in sides.items() if shape[1:] == side), None)
    if first is None:
        raise refused(f"its input {inputs[0].name} is {shape}; expected [N, {', '.join(map(str, sides[True]))}] or "
                      f"[N, {', '.join(map(str, sides[False]))}]")  # fmt: skip
    if shape[0] == 1:
        raise refused("it takes one picture at a time; expected a batch of any size")
    last = next((node for node in graph.graph.node if graph.graph.output[0].name in node.output), None)
    if last is None or last.op_type != "Gemm" or len(last.input) != 3 or last.input[1] not in weights:
        raise refused(f"it ends in {'nothing' if last is None else last.op_type}; expected a Gemm with its weights")
    attributes: Mapping[str, Any] = {a.name: onnx.helper.get_attribute_value(a) for a in last.attribute}
    dims = list(weights[last.input[1]].dims)
    outputs, width = dims if attributes.get("transB") else reversed(dims)
    if outputs != config.num_outputs:
        raise refused(f"it has {outputs} outputs; expected {config.num_outputs}")
    both = onnx.ModelProto()
    both.CopyFrom(graph)
    both.graph.output.append(onnx.helper.make_tensor_value_info(last.input[0], onnx.TensorProto.FLOAT, [None, width]))
    return int(width), first, both


def _errors() -> tuple[type[Exception], ...]:
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return (state.Fail, state.InvalidArgument, state.InvalidGraph, state.InvalidProtobuf, state.NotImplemented)


def _first_line(error: Exception) -> str:
    return str(error).split("\n", maxsplit=1)[0]
