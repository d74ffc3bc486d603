"""A face model in onnxruntime says what it says in torch; published graphs are known by name, others are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from emollama.cli import app
from emollama.encoders import onnx_face
from emollama.encoders.face import FaceEncoder, FaceModel, preprocess
from emollama.encoders.face_models import FACE_MODELS, FaceModelConfig
from emollama.encoders.onnx_face import OnnxFaceEncoder, export_onnx, load_face, to_graph
from emollama.errors import CheckpointError, InputError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # timm's own imports


def faces(count: int = 3) -> np.ndarray:
    coarse = np.random.default_rng(0).integers(0, 255, (count, 7, 7, 3), np.uint8)
    return coarse.repeat(10, axis=1).repeat(10, axis=2)


def at_random(config: FaceModelConfig) -> FaceEncoder:
    """A model with weights and statistics that matter: as it is made, many of its layers say nearly nothing."""
    torch.manual_seed(0)
    encoder = FaceEncoder(FaceModel(config), name="at random", flip=False)
    encoder.model.train()
    with torch.no_grad():
        encoder.model(preprocess(faces(8), config) + torch.randn(8, config.channels, config.size, config.size))
        encoder.model.head.weight.mul_(20.0)
        for module in encoder.model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.bias.normal_(std=0.2)
    encoder.model.eval().requires_grad_(False)
    return encoder


# nano-face at its own size: the residual network with grey pictures
@pytest.mark.parametrize(
    "name",
    [
        "nano-face",
        "enet_b0_8_va_mtl",
        pytest.param("enet_b2_8", marks=pytest.mark.slow),
        pytest.param("mobilevit_va_mtl", marks=pytest.mark.slow),
        "mbf_va_mtl",
        pytest.param("ddamfnet_8_mtl", marks=pytest.mark.slow),
    ],
)
def test_torch_and_onnx_say_the_same(name, tmp_path):
    ours = at_random(FACE_MODELS[name])
    export_onnx(ours, tmp_path / "face.onnx")
    loaded = OnnxFaceEncoder.load(tmp_path / "face.onnx", flip=False)
    assert (loaded.config, loaded.name, loaded.token_width) == (ours.config, ours.name, ours.token_width)
    pictures = preprocess(faces(), ours.config)
    with torch.inference_mode():
        expected, found = ours.look(pictures), loaded.look(pictures)
    assert expected.logits.std() > 0.05  # there is something to agree about
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.embedding, expected.embedding, atol=1e-4, rtol=1e-4)
    if expected.affect is not None:
        torch.testing.assert_close(found.affect, expected.affect, atol=1e-4, rtol=1e-4)
    alone = loaded.look(pictures[:1])
    torch.testing.assert_close(alone.logits, expected.logits[:1], atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module")
def small() -> FaceEncoder:
    return at_random(replace(FaceModelConfig().at_debug_size(), action_units=("AU4", "AU12")))


def test_the_command_writes_a_graph_that_was_compared_with_torch(small, tmp_path):
    small.save(tmp_path / "mine.safetensors", dtype=torch.float32)
    arguments = ["export", "onnx", str(tmp_path / "mine.safetensors"), str(tmp_path / "out" / "mine.onnx")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "mine.onnx: at random, within " in done.output
    loaded = OnnxFaceEncoder.load(tmp_path / "out" / "mine.onnx", flip=False)
    expected, found = (encoder.embed(faces()) for encoder in (FaceEncoder.load(arguments[2], flip=False), loaded))
    assert np.abs(expected.log_probabilities - found.log_probabilities).max() < 1e-4
    for wrong, message in (
        (arguments, "mine.onnx exists; name a new file"),
        (["export", "pickle", *arguments[2:]], "form is 'pickle'; allowed: onnx"),
        ([*arguments[:3], str(tmp_path / "mine.pt")], "allowed: a file X.onnx"),
        (["export", "onnx", str(tmp_path / "none.safetensors"), str(tmp_path / "b.onnx")], "the face model needs"),
    ):
        done = CliRunner().invoke(app, wrong)
        assert done.exit_code == 2
        assert message in " ".join(done.output.split())


def test_a_graph_that_says_something_else_is_not_written(small, tmp_path, monkeypatch):
    def spoilt(model, *, name):
        graph = to_graph(model, name=name)
        tensor = next(t for t in graph.graph.initializer if len(t.dims) == 2)
        tensor.CopyFrom(numpy_helper.from_array(1.01 * numpy_helper.to_array(tensor), tensor.name))
        return graph

    monkeypatch.setattr(onnx_face, "to_graph", spoilt)
    with pytest.raises(
        CheckpointError, match=r"the graph of at random and the model in torch differ by 0\.\d+; allowed"
    ):
        export_onnx(small, tmp_path / "mine.onnx")
    assert not list(tmp_path.iterdir())


def test_a_track_is_read_by_a_graph_as_by_the_model(small):
    graph = OnnxFaceEncoder.of(small, threads=1)
    times = np.arange(5) * 0.2
    for mine, theirs in zip(small.read(faces(5), times, 2), graph.read(faces(5), times, 2), strict=True):
        for name, value in vars(mine).items():
            other = getattr(theirs, name)
            assert other == pytest.approx(value, abs=1e-4) if isinstance(value, np.ndarray) else other == value


def test_exporting_leaves_the_model_as_it_was(small):
    before = small.model.backbone.stem.weight
    OnnxFaceEncoder.of(small)
    assert small.model.backbone.stem.weight is before
    assert before.is_contiguous(memory_format=torch.channels_last)


# ---- published and foreign graphs ---------------------------------------------------------------------------------


def graph(
    path: Path,
    *,
    shape: tuple[Any, ...] = ("batch_size", 3, 224, 224),
    outputs: int = 8,
    last: str = "Gemm",
    **options: Any,
) -> Path:
    """A graph in the layout of the published ones: a mean over the picture, and a linear layer."""
    axes = [2, 3] if shape[1] == 3 else [1, 2]
    rng = np.random.default_rng(3)
    weights = [
        numpy_helper.from_array(rng.normal(size=(outputs, 3)).astype(np.float32), "classifier.weight"),
        numpy_helper.from_array(rng.normal(size=outputs).astype(np.float32), "classifier.bias"),
    ]
    nodes = [helper.make_node("ReduceMean", ["input"], ["mean"], axes=axes, keepdims=0)]
    if last == "Gemm":
        nodes.append(helper.make_node("Gemm", ["mean", "classifier.weight", "classifier.bias"], ["output"], transB=1))
    else:
        nodes += [
            helper.make_node("Gemm", ["mean", "classifier.weight", "classifier.bias"], ["logits"], transB=1),
            helper.make_node(last, ["logits"], ["output"], **options),
        ]
    model = helper.make_model(
        helper.make_graph(
            nodes, "torch-jit-export",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, list(shape))],
            [helper.make_tensor_value_info("output", TensorProto.FLOAT, [shape[0], outputs])],
            weights,
        ),
        opset_imports=[helper.make_opsetid("", 11)],
        ir_version=6,
    )  # fmt: skip
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("shape", [("batch_size", 3, 224, 224), ("batch_size", 224, 224, 3)])
def test_a_published_graph_is_known_by_its_name_and_read_in_its_layout(shape, tmp_path):
    encoder = OnnxFaceEncoder.load(graph(tmp_path / "enet_b0_8_va_mtl.onnx", shape=shape, outputs=10), flip=False)
    assert encoder.config == FACE_MODELS["enet_b0_8_va_mtl"]
    assert encoder.embedding_width == 3
    read = encoder.embed(faces())
    pictures = preprocess(faces(), encoder.config).mean((2, 3)).numpy()
    assert read.embedding == pytest.approx(pictures, abs=1e-4)  # what goes into the last layer
    rng = np.random.default_rng(3)
    weight, bias = rng.normal(size=(10, 3)), rng.normal(size=10)
    outputs = pictures @ weight.T + bias
    assert read.va == pytest.approx(np.clip(outputs[:, 8:], -1, 1), abs=1e-4)
    assert read.log_probabilities.argmax(1).tolist() == outputs[:, :8].argmax(1).tolist()


def test_a_renamed_graph_may_be_named_by_the_caller(tmp_path):
    encoder = OnnxFaceEncoder.load(graph(tmp_path / "mine.onnx", outputs=7), model="enet_b0_7")
    assert "contempt" not in encoder.config.labels


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("resnet50", {}, "resnet50.onnx does not say which face model it is.*enet_b0_8_va_mtl"),
        ("nano-face", {}, "nano-face.onnx does not say"),
        ("enet_b0_8_va_mtl", {}, "it has 8 outputs; expected 10"),
        ("enet_b2_8", {}, r"its input input is \[None, 3, 224, 224\]; expected \[N, 3, 260, 260\]"),
        ("enet_b0_8", {"shape": (1, 3, 224, 224)}, "one picture at a time"),
        ("enet_b0_8", {"last": "Softmax"}, "it ends in Softmax; expected a Gemm"),
        ("enet_b0_8", {"last": "Evil", "domain": "com.example"}, "operators of com.example.Evil"),
    ],
)
def test_a_graph_that_is_no_known_face_model_is_refused_and_says_why(name, options, told, tmp_path):
    with pytest.raises(CheckpointError, match=told):
        OnnxFaceEncoder.load(graph(tmp_path / f"{name}.onnx", **options))


def test_weights_in_other_files_are_never_opened(tmp_path):
    path = graph(tmp_path / "enet_b0_8.onnx")
    model = onnx.load(path)
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../../secret")
    path.write_bytes(model.SerializeToString())
    with pytest.raises(CheckpointError, match=r"classifier\.weight lie in another file"):
        OnnxFaceEncoder.load(path)


@pytest.mark.parametrize("data", [b"", b"\x00\xffnothing", b"\x08\x07"])
def test_a_damaged_file_is_said_to_be_so(data, tmp_path):
    (tmp_path / "enet_b0_8.onnx").write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged or no ONNX file"):
        OnnxFaceEncoder.load(tmp_path / "enet_b0_8.onnx")
    with pytest.raises(CheckpointError, match="there is no ONNX file"):
        OnnxFaceEncoder.load(tmp_path / "absent.onnx")


def test_the_file_says_which_reader_it_wants(small, tmp_path):
    small.save(tmp_path / "a.safetensors")
    export_onnx(small, tmp_path / "b.onnx")
    assert type(load_face(tmp_path / "a.safetensors")) is FaceEncoder
    assert type(load_face(tmp_path / "b.onnx", flip=False)) is OnnxFaceEncoder


def test_a_graph_is_for_the_processor(tmp_path):
    with pytest.raises(InputError, match="allowed for an ONNX face model: cpu"):
        OnnxFaceEncoder.load(graph(tmp_path / "enet_b0_8.onnx"), device="cuda")
