"""Pickled face models become safetensors and nothing of theirs is imported; whatever else they name is refused."""

from __future__ import annotations

import io
import json
import os
import pickle
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from emollama.cli import app
from emollama.converters.hsemotion import convert_hsemotion
from emollama.converters.pickled_module import read_module
from emollama.encoders.ddamfn import Ddamfn
from emollama.encoders.face import FaceEncoder, preprocess
from emollama.encoders.face_models import FACE_MODELS
from emollama.encoders.mobilefacenet import MobileFaceNet
from emollama.errors import CheckpointError, InputError
from train.face_start import find_start, load_start

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # timm's own imports


def faces(count: int = 2) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (count, 40, 40, 3), np.uint8)


@pytest.fixture(scope="module")
def efficient() -> nn.Module:
    """The network of `enet_b0_8_best_vgaf` as it is published: a head in a Sequential."""
    import timm

    torch.manual_seed(0)
    network = timm.create_model("tf_efficientnet_b0", num_classes=8)
    network.classifier = nn.Sequential(nn.Linear(1280, 8))
    return network.eval()


@pytest.fixture(scope="module")
def published(efficient: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hsemotion") / "enet_b0_8_best_vgaf.pt"
    torch.save(efficient, path)
    return path


def test_a_whole_pickled_network_gives_the_same_numbers_after_conversion(efficient, published, tmp_path):
    result = CliRunner().invoke(app, ["convert", "hsemotion", str(published), str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    encoder = FaceEncoder.load(tmp_path / "out" / "face.safetensors", flip=False)
    assert encoder.name == "enet_b0_8_best_vgaf"
    with torch.inference_mode():
        expected = efficient(preprocess(faces(), encoder.config))
        found = encoder.look(preprocess(faces(), encoder.config))
    torch.testing.assert_close(found.logits, expected, atol=1e-4, rtol=1e-4)
    report = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert report["pickled"] == "timm.models.efficientnet.EfficientNet"
    assert report["groups"]["head"] == {"fate": "kept", "keys": 2, "parameters": 1280 * 8 + 8}


def test_a_recogniser_without_a_head_becomes_a_backbone_to_begin_with(efficient, tmp_path):
    bare = {key: value for key, value in efficient.state_dict().items() if not key.startswith("classifier")}
    path = tmp_path / "state_vggface2_enet0_new.pt"
    torch.save(bare, path)
    arguments = ["convert", "hsemotion", str(path), str(tmp_path / "out"), "--model", "enet_b0_8_va_mtl"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["backbone.safetensors", "conversion.json"]
    model = FaceEncoder.build("enet_b0_8_va_mtl").model
    assert not load_start(model, find_start(tmp_path / "out", model="enet_b0_8_va_mtl"))
    for name, value in bare.items():
        assert torch.equal(model.backbone.state_dict()[name].float(), value.float()) or name.endswith("tracked")
    # by its own name a file is a whole model, and one that lost its head is damaged
    path.rename(tmp_path / "enet_b0_8.pt")
    with pytest.raises(CheckpointError, match=r"head"):
        convert_hsemotion(tmp_path / "enet_b0_8.pt", tmp_path / "other")


def test_reading_imports_none_of_the_names_in_the_file(published, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "timm"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "timm", None)  # importing it would raise
    module = read_module(published)
    assert module.tensors["classifier.0.weight"].shape == (8, 1280)
    assert module.tensors["bn1.running_var"].dtype == torch.float32


class _Wrapper(nn.Module):
    """As the published MobileFaceNet probably is: a network and ``fc`` beside it."""

    def __init__(self, network: nn.Module, num_outputs: int) -> None:
        super().__init__()
        self.features, self.fc = network, nn.Linear(512, num_outputs)


@pytest.mark.parametrize("wrapped", [True, False])
def test_mobilefacenet_is_found_at_the_top_or_inside_a_wrapper(wrapped, tmp_path, monkeypatch):
    torch.manual_seed(1)
    network = MobileFaceNet().eval()
    whole: nn.Module = _Wrapper(network, 10)
    head = whole.fc
    if not wrapped:
        whole, network.fc = network, head
    foreign = ModuleType("mobilefacenet")  # where the classes of the published file are
    for kind in (_Wrapper, *{type(part) for part in network.modules() if type(part).__module__.startswith("emollama")}):
        monkeypatch.setattr(kind, "__module__", "mobilefacenet")
        monkeypatch.setattr(foreign, kind.__name__, kind, raising=False)
    monkeypatch.setitem(sys.modules, "mobilefacenet", foreign)
    torch.save(whole, tmp_path / "mbf_va_mtl.pt")
    monkeypatch.delitem(sys.modules, "mobilefacenet")
    convert_hsemotion(tmp_path / "mbf_va_mtl.pt", tmp_path / "out")
    encoder = FaceEncoder.load(tmp_path / "out" / "face.safetensors", flip=False)
    with torch.inference_mode():
        expected = head(network(preprocess(faces(), encoder.config)))
        found = encoder.look(preprocess(faces(), encoder.config))
    torch.testing.assert_close(found.logits, expected[:, :8], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.affect, expected[:, 8:], atol=1e-4, rtol=1e-4)


def upstream_ddamfn() -> dict[str, torch.Tensor]:
    """A state dict in the names of the public code, with the modules that it never calls."""
    torch.manual_seed(2)
    tensors = {}
    for key, tensor in Ddamfn().state_dict().items():
        parts = key.split(".")
        if parts[0] == "stem":
            if parts[2].isdecimal():
                parts.insert(2, "model")
            parts[0] = "features"
        name = ".".join(parts).replace(".mixed.", ".conv_dw.mixed_depthwise_conv.").replace(".attention.", ".CA.")
        if parts[0] == "heads":
            rest = name.split(".", 2)[2].replace("across.", "Linear_h.").replace("down.", "Linear_w.")
            name = f"cat_head{parts[1]}.CoordAtt.{rest}"
        tensors[name.replace("pool.", "Linear.", 1) if parts[0] == "pool" else name] = tensor
    tensors["features.2.conv_dw.bn.weight"] = torch.ones(128)
    tensors["cat_head0.CoordAtt.Linear.conv.weight"] = torch.ones(512, 1, 7, 7)
    tensors["bn.weight"] = torch.ones(8)
    return tensors | {"fc.weight": torch.randn(8, 512), "fc.bias": torch.randn(8)}


def test_a_state_dict_of_the_public_ddamfn_code_converts_and_what_it_never_calls_is_dropped_by_name(tmp_path):
    tensors = upstream_ddamfn()
    torch.save({"iter": 3, "model_state_dict": tensors, "optimizer_state_dict": {}}, tmp_path / "anything.pth")
    report = convert_hsemotion(tmp_path / "anything.pth", tmp_path / "out", model="ddamfn_affectnet_8")
    dropped = {key.key for key in report.keys if key.fate == "dropped" and key.group == "unused"}
    assert dropped == {"features.2.conv_dw.bn.weight", "cat_head0.CoordAtt.Linear.conv.weight", "bn.weight"}
    encoder = FaceEncoder.load(tmp_path / "out" / "face.safetensors")
    assert encoder.config.labels[:2] == ("neutral", "happiness")  # AffectNet's order, not the alphabet's
    assert torch.equal(encoder.model.head.weight, tensors["fc.weight"])
    assert torch.equal(
        encoder.model.backbone.heads[1].down.conv.weight, tensors["cat_head1.CoordAtt.Linear_w.conv.weight"]
    )


def test_missing_unknown_and_misshapen_keys_are_named(tmp_path):
    tensors = upstream_ddamfn()
    del tensors["features.0.conv.weight"]
    tensors["features.0.extra"] = torch.ones(1)
    tensors["fc.weight"] = torch.randn(7, 512)
    torch.save(tensors, tmp_path / "ddamfnet_8.pt")
    with pytest.raises(CheckpointError) as caught:
        convert_hsemotion(tmp_path / "ddamfnet_8.pt", tmp_path / "out")
    for told in (
        "features.0.extra: no key",
        "fc.weight: shape [7, 512], expected [8, 512]",
        "stem.0.conv.weight: missing",
    ):
        assert told in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_file_whose_name_says_no_model_asks_for_one(published, tmp_path):
    with pytest.raises(InputError, match=r"--model, of: .*enet_b0_8_va_mtl"):
        convert_hsemotion(published.rename(published.with_name("x.pt")), tmp_path / "out")
    published.with_name("x.pt").rename(published)


# ---- hostile files ------------------------------------------------------------------------------------------------


class _Runs:
    """A pickle of it calls ``function`` with ``argument`` when an ordinary reader opens it."""

    def __init__(self, function: Any, argument: Any) -> None:
        self.call = function, argument

    def __reduce__(self) -> Any:
        function, argument = self.call
        return function, (argument,)


def torch_file(path: Path, document: bytes, **storages: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", document)
        for key, data in storages.items():
            archive.writestr(f"archive/data/{key.removeprefix('s')}", data)
    return path


@pytest.mark.parametrize(
    ("function", "argument", "named"),
    [(os.system, "touch {mark}", r"(posix|nt)\.system"), (eval, "open({mark!r}, 'w')", r"builtins\.eval")],
)
def test_code_in_a_file_is_refused_by_name_and_not_run(function, argument, named, efficient, tmp_path):
    mark = tmp_path / "ran"
    network = nn.Sequential(nn.Linear(2, 2))
    network.hook = _Runs(function, argument.format(mark=str(mark)))
    torch.save(network, tmp_path / "enet_b0_8.pt")
    with pytest.raises(CheckpointError, match=f"names {named}, which no face model needs"):
        convert_hsemotion(tmp_path / "enet_b0_8.pt", tmp_path / "out")
    assert not mark.exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name",
    ["torch load", "torch.hub load", "torch.serialization load", "torch._utils _import_dotted_name", "builtins getattr",
     "timm.models.os system", "functools reduce", "torch.nn.modules.os system", "copyreg __newobj__"],
)  # fmt: skip
def test_a_name_is_a_stand_in_or_an_error_but_never_what_it_says(name, tmp_path):
    module, _, function = name.partition(" ")
    document = f"c{module}\n{function}\n(Vanything\ntR.".encode()
    with pytest.raises(CheckpointError, match=r"which no face model needs|no module|is damaged"):
        read_module(torch_file(tmp_path / "x.pt", document))


class _Given:
    """Pickles as a call of a name that need not exist here, or as a reference beside the pickle."""

    def __init__(self, *persistent: Any) -> None:
        self.persistent = persistent


class _Writer(pickle.Pickler):
    def persistent_id(self, thing: Any) -> Any:
        return thing.persistent if isinstance(thing, _Given) else None


class _Tensor:
    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __reduce__(self) -> Any:
        return torch._utils._rebuild_tensor_v2, self.arguments


@pytest.mark.parametrize(
    ("size", "stride", "offset", "told"),
    [((8,), (1,), 0, "larger than its bytes"), ((2,), (1,), 3, "larger than its bytes"),
     ((1000, 1000), (0, 0), 0, "repeats its bytes"), ((2,), (-1,), 0, "larger than its bytes")],
)  # fmt: skip
def test_a_tensor_beyond_its_bytes_is_refused(size, stride, offset, told, tmp_path):
    storage = _Given("storage", torch.FloatStorage, "0", "cpu", 4)
    network = nn.Module()
    network.__dict__["_buffers"]["x"] = _Tensor(storage, offset, size, stride, False, {})
    buffer = io.BytesIO()
    _Writer(buffer, 2).dump(network)
    with pytest.raises(CheckpointError, match=told):
        read_module(torch_file(tmp_path / "x.pt", buffer.getvalue(), s0=bytes(16)))


def test_a_torn_or_foreign_file_is_said_to_be_damaged(published, tmp_path):
    whole = published.read_bytes()
    for name, data in {
        "torn.pt": whole[: len(whole) // 2],
        "text.pt": b"hello",
        "old.pt": pickle.dumps({"x": 1}, 2),
    }.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(CheckpointError, match=r"damaged|older than"):
            read_module(tmp_path / name)
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        read_module(tmp_path / "absent.pt")


def test_every_published_name_is_known():
    assert {
        "enet_b0_8_best_afew", "enet_b0_8_best_vgaf", "enet_b0_8_va_mtl", "enet_b0_7", "enet_b2_7", "enet_b2_8",
        "enet_b2_8_best", "mobilevit_va_mtl", "mbf_va_mtl",
    } <= set(FACE_MODELS)  # fmt: skip
