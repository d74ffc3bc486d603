"""Weights are found, fetched only when asked, checked, and never opened as pickles."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch

from emollama import checkpoint
from emollama.checkpoint import (
    MODELS,
    HuggingFaceHub,
    load_assets,
    resolve_weights,
    verify_manifest,
    write_manifest,
)
from emollama.config import PRESETS
from emollama.errors import CheckpointError, DependencyError, UnknownNameError
from emollama.tensors import load_into, read_folder, read_tensors, write_json, write_tensors


class FakeHub:
    """A hub whose files are bytes; counts what is fetched."""

    def __init__(self, folder: Path, *, wrong: str | None = None) -> None:
        self.folder, self.wrong, self.fetched = folder, wrong, list[str]()

    def fetch(self, repo: str, filename: str, *, revision: str, is_local: bool) -> Path | None:
        path = self.folder / filename
        if is_local:
            return path if path.is_file() else None
        assert len(revision) == 40 or revision == "main"
        self.fetched.append(filename)
        path.write_bytes(filename.encode())
        return path

    def stated_sha256(self, repo: str, filenames: Sequence[str], *, revision: str) -> Mapping[str, str]:
        return {name: hashlib.sha256((self.wrong or name).encode()).hexdigest() for name in filenames}


def test_nothing_is_fetched_unless_asked(tmp_path: Path) -> None:
    hub = FakeHub(tmp_path)
    with pytest.raises(DependencyError, match=r"not here \(2 of 2 files.*download=True"):
        resolve_weights("clip-vit-l-14", hub=hub)
    assert hub.fetched == []
    assert resolve_weights("clip-vit-l-14", hub=hub, download=True) == tmp_path
    assert len(hub.fetched) == 2
    assert resolve_weights("clip-vit-l-14", hub=hub) == tmp_path
    assert len(hub.fetched) == 2


def test_a_half_fetched_model_goes_on_where_it_stopped(tmp_path: Path) -> None:
    hub = FakeHub(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(DependencyError, match="after its licence is accepted"):
        resolve_weights("llama-2-7b-chat", hub=hub)
    resolve_weights("llama-2-7b-chat", hub=hub, download=True)
    assert "config.json" not in hub.fetched
    assert "model-00002-of-00002.safetensors" in hub.fetched


def test_a_damaged_download_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="sha256"):
        resolve_weights("clip-vit-l-14", hub=FakeHub(tmp_path, wrong="other"), download=True)


@pytest.mark.parametrize("name", [name for name, entry in MODELS.items() if entry.pickle_note])
def test_pickles_are_explained_not_fetched(name: str) -> None:
    with pytest.raises(DependencyError, match="published as a pickle"):
        resolve_weights(name, download=True)


def test_only_safetensors_and_json_are_in_the_table() -> None:
    for entry in MODELS.values():
        assert all(name.endswith((".safetensors", ".json")) for name in entry.files)
        assert entry.repo is None or entry.revision
    named = {encoder.weights for config in PRESETS.values() for encoder in config.encoders}
    named |= {config.backbone_weights for config in PRESETS.values()}
    assert named <= set(MODELS)
    with pytest.raises(CheckpointError, match="not fetched"):
        checkpoint._fetch(FakeHub(Path()), MODELS["clip-vit-l-14"], "pytorch_model.bin")


def test_a_folder_of_ones_own_wins_and_must_be_there(tmp_path: Path) -> None:
    assert resolve_weights("eva-clip-g", folder=tmp_path) == tmp_path
    with pytest.raises(CheckpointError, match="there is no"):
        resolve_weights("eva-clip-g", folder=tmp_path / "nowhere")
    (tmp_path / "eva.pth").write_bytes(b"")
    with pytest.raises(CheckpointError, match="is a pickle"):
        resolve_weights("eva-clip-g", folder=tmp_path / "eva.pth")
    with pytest.raises(UnknownNameError, match="clip-vit-l-14"):
        resolve_weights("gpt-5")
    assert resolve_weights("nano").name == "nano"


@pytest.mark.parametrize(
    ("raised", "words"),
    [("OfflineModeIsEnabled", "HF_HUB_OFFLINE"), ("LocalEntryNotFoundError", "could not be fetched")],
)
def test_the_hubs_errors_say_what_to_do(monkeypatch: pytest.MonkeyPatch, raised: str, words: str) -> None:
    import huggingface_hub
    from huggingface_hub import errors

    def fail(*args: object, **kwargs: object) -> str:
        raise getattr(errors, raised)("no")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(DependencyError, match=words):
        HuggingFaceHub().fetch("a/b", "c.json", revision="main", is_local=False)
    if raised == "LocalEntryNotFoundError":
        assert HuggingFaceHub().fetch("a/b", "c.json", revision="main", is_local=True) is None


def test_a_gated_model_says_where_its_licence_is(monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError

    def fail(*args: object, **kwargs: object) -> str:
        request = httpx.Request("GET", "https://huggingface.co/a/b")
        raise GatedRepoError("gated", response=httpx.Response(403, request=request))

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(DependencyError, match="licence to be accepted"):
        HuggingFaceHub().fetch("a/b", "c.json", revision="main", is_local=False)


def make_folder(folder: Path) -> Path:
    (folder / "backbone").mkdir(parents=True)
    (folder / "adapter").mkdir()
    names = ("tokenizer.json", "projectors.safetensors", "face.safetensors", "voice.safetensors", "calibration.json")
    for name in (*names, "adapter/adapter_config.json"):
        (folder / name).write_text(name)
    return folder


def test_assets_are_found_or_the_missing_one_is_named(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "mine")
    assets = load_assets(folder)
    assert (assets.name, assets.adapter) == ("mine", folder / "adapter")
    assert assets.projectors == folder / "projectors.safetensors"
    (folder / "voice.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"lacks voice\.safetensors"):
        load_assets(folder)
    with pytest.raises(UnknownNameError, match="nano"):
        load_assets(tmp_path / "nowhere")


def test_an_adapter_of_ones_own_may_bring_its_projectors(tmp_path: Path) -> None:
    folder, own = make_folder(tmp_path / "mine"), tmp_path / "own"
    own.mkdir()
    with pytest.raises(CheckpointError, match=r"adapter_config\.json is missing"):
        load_assets(folder, adapter=own)
    for name in ("adapter_config.json", "projectors.safetensors"):
        (own / name).write_text(name)
    assets = load_assets(folder, adapter=own)
    assert assets.adapter == own
    assert assets.projectors.parent == own
    assert assets.calibration.parent == folder


def test_a_changed_file_does_not_pass_the_manifest(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "mine")
    with pytest.raises(CheckpointError, match=r"holds no sha256\.json"):
        verify_manifest(folder)
    write_manifest(folder)
    assert verify_manifest(folder) == 6
    assert load_assets(folder, verify=True).name == "mine"
    (folder / "face.safetensors").write_text("other")
    with pytest.raises(CheckpointError, match="damaged or changed"):
        load_assets(folder, verify=True)
    (folder / "face.safetensors").unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        verify_manifest(folder)
    (folder / "optimizer.pt").write_text("")
    with pytest.raises(CheckpointError, match="pickle"):
        write_manifest(folder)


def test_tensors_are_stored_small_and_read_wide(tmp_path: Path) -> None:
    stored = {"weight": torch.tensor([[1.0, 2.0]]), "count": torch.tensor([3])}
    write_tensors(tmp_path / "a.safetensors", stored, dtype=torch.bfloat16)
    assert read_tensors(tmp_path / "a.safetensors")["weight"].dtype == torch.bfloat16
    wide = read_tensors(tmp_path / "a.safetensors", dtype=torch.float32)
    assert wide["weight"].dtype == torch.float32
    assert wide["count"].dtype == torch.int64
    layer = torch.nn.Linear(2, 1, bias=False)
    load_into(layer, {"weight": wide["weight"]}, what="a")
    assert layer(torch.ones(1, 2)).item() == 3.0
    with pytest.raises(CheckpointError, match="1 unexpected: count"):
        load_into(layer, wide, what="a")
    with pytest.raises(CheckpointError, match=r"wrong shape: weight is \[1, 2\], the model has \[2, 1\]"):
        load_into(torch.nn.Linear(1, 2, bias=False), {"weight": wide["weight"]}, what="a")


def test_shards_are_read_as_one_and_must_be_whole(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_tensors(tmp_path / f"{name}.safetensors", {name: torch.ones(1)})
    index = tmp_path / "model.safetensors.index.json"
    write_json(index, {"weight_map": {"one": "one.safetensors", "two": "two.safetensors"}})
    assert set(read_folder(tmp_path)) == {"one", "two"}
    write_json(index, {"weight_map": {"one": "one.safetensors", "three": "two.safetensors"}})
    with pytest.raises(CheckpointError, match="1 missing: three; 1 unexpected: two"):
        read_folder(tmp_path)
    index.write_text(json.dumps({"weight_map": {"one": "../one.safetensors"}}))
    with pytest.raises(CheckpointError, match="outside its folder"):
        read_folder(tmp_path)


@pytest.mark.parametrize("name", ["model.pt", "pytorch_model.bin", "x.pth"])
def test_a_pickle_is_refused_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"not opened")
    with pytest.raises(CheckpointError, match=f"{name} is a pickle.*safetensors"):
        read_tensors(tmp_path / name)
    with pytest.raises(CheckpointError, match="is a pickle"):
        read_folder(tmp_path)


def test_what_is_missing_or_damaged_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is missing"):
        read_tensors(tmp_path / "no.safetensors")
    with pytest.raises(CheckpointError, match=r"holds no model\.safetensors"):
        read_folder(tmp_path)
    (tmp_path / "bad.safetensors").write_bytes(b"12345678")
    with pytest.raises(CheckpointError, match="is damaged"):
        read_tensors(tmp_path / "bad.safetensors")
    (tmp_path / "text.txt").write_text("")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        read_tensors(tmp_path / "text.txt")
