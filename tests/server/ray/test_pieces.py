"""What travels between the parts of a cluster, and what the command and its settings say. No cluster is started."""

from __future__ import annotations

import builtins
import errno
import pickle
import re
import types
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from emollama import errors as library
from emollama.media import MediaLimits
from server.cli import app
from server.errors import ApiError
from server.media_worker import InProcess, MediaPool
from server.ray.adapters import PackedAdapter
from server.ray.decoding import DoorDecoding
from server.ray.failures import TOLD, Failure
from server.ray.settings import RaySettings
from server.settings import Settings

EVERY_ERROR = [
    library.UnknownNameError("model", "x", ("nano",)),
    library.BusyError("full", retry_after_seconds=3.0),
    library.UndecodableMediaError("cannot be read", field="file"),
    library.MediaLimitError("too long", field="file", limit="max_seconds"),
    library.CancelledError("nobody waits"),
    ApiError("file_too_large", "too large", param="file"),
    OSError(errno.ENOSPC, "the disk is full"),
]


@pytest.mark.parametrize("error", EVERY_ERROR, ids=lambda error: type(error).__name__)
def test_an_error_is_the_same_on_the_other_side(error: Any) -> None:
    assert isinstance(error, TOLD)
    again: Any = pickle.loads(pickle.dumps(Failure.of(error))).error()
    assert type(again) is type(error)
    for name in ("field", "known", "retry_after_seconds", "limit", "code", "param", "status", "errno"):
        assert getattr(again, name, None) == getattr(error, name, None), name
    assert str(getattr(again, "message", again)) == str(getattr(error, "message", error))


def test_every_error_of_the_library_travels() -> None:
    for kind in vars(library).values():
        if isinstance(kind, type) and issubclass(kind, library.EmoLlamaError):
            error = kind.__new__(kind, "said")
            Exception.__init__(error, "said")
            error.field = "file"
            again = Failure.of(error).error()
            assert (type(again), str(again)) == (kind, "said")


def test_paths_of_a_replica_stay_there() -> None:
    error = library.UndecodableMediaError("cannot open '/tmp/scratch/r-1/upload.mp4': moov atom not found")
    assert Failure.of(error, root="/tmp/scratch").message == "cannot open 'the file': moov atom not found"


def test_a_door_opens_no_clip_in_its_own_process(media: Any, tmp_path: Path) -> None:
    """What is sent whole it does not look at, and starts nothing for it; what is long is decoded in a process."""
    clip, opened = media.wav(tmp_path / "a.wav", seconds=3.0), []

    class Noting(MediaPool):
        def __init__(self) -> None:
            super().__init__(1)
            opened.append(self)

    decoding = DoorDecoding(Noting)
    assert decoding.decode(tmp_path / "nowhere", name="a", limits=MediaLimits()) == tmp_path / "nowhere"
    assert opened == []
    try:
        assert decoding.length(clip) == pytest.approx(3.0, abs=0.1)
        windows = decoding.windows(clip, name="a", seconds=2.0, fps=2.0, limits=MediaLimits())
        assert [round(window.end) for window in windows] == [2, 3]
        assert len(opened) == 1
    finally:
        decoding.close()
    assert type(DoorDecoding.of(Settings(media_workers=0))._windows()) is InProcess


def test_an_adapter_is_packed_without_what_is_no_part_of_it(tmp_path: Path) -> None:
    folder, other = tmp_path / "a", tmp_path / "b"
    folder.mkdir()
    other.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    packed = PackedAdapter.of(folder)
    (folder / "training.py").write_text("print()")
    assert PackedAdapter.of(folder) == packed
    packed.unpack(other)
    assert {file.name for file in other.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    (folder / "adapter_model.safetensors").write_bytes(b"other weights")
    assert PackedAdapter.of(folder).digest != packed.digest
    evil = PackedAdapter(digest="", files={"../adapter_config.json": b"{}"})
    with pytest.raises(library.CheckpointError):
        evil.unpack(other)
    with pytest.raises(library.CheckpointError, match=r"adapter_config\.json is missing"):
        PackedAdapter.of(tmp_path)


def test_without_the_extra_the_command_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: Any, **options: Any) -> types.ModuleType:
        if name.split(".")[0] == "ray":
            raise ImportError(name)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    result = CliRunner().invoke(app, ["--ray"])
    assert result.exit_code == 2
    assert "pip install 'emollama[ray]'" in result.output


@pytest.mark.ray
def test_a_wrong_setting_is_told_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMOLLAMA_RAY_ENCODERS_AT_ONCE", "0")
    result = CliRunner().invoke(app, ["--ray"])
    assert result.exit_code == 2
    assert "ray_encoders_at_once is '0'" in result.output


def test_replicas_can_be_what_is_asked() -> None:
    with pytest.raises(ValueError, match="decoder_min is 3; allowed: at most decoder_max, which is 2"):
        RaySettings(decoder_min=3, decoder_max=2)
    with pytest.raises(ValueError, match="encoders_gpus is 0"):
        RaySettings(encoders_device="cuda")


def test_the_page_of_clusters_lists_every_setting(root: Path) -> None:
    text = (root / "docs" / "cluster.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `EMOLLAMA_RAY_(\w+)` \| (.*?) \| (.*?) \|$", text, re.MULTILINE)
    expected = []
    for name, field in RaySettings.model_fields.items():
        default = "unset" if field.default is None else f"`{field.default}`"
        expected.append((name.upper(), default, field.description))
    assert rows == expected


def test_the_commands_of_the_page_are_there(root: Path) -> None:
    from typer.main import get_command

    known = {name for option in get_command(app).params for name in option.opts}
    text = (root / "docs" / "cluster.md").read_text(encoding="utf-8")
    used = [line for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    served = [line for line in used if "emollama serve" in line]
    assert served
    for line in served:
        options = re.findall(r"(--[a-z-]+)", line.partition("emollama serve")[2])
        assert set(options) <= known, line
    for name in re.findall(r"deploy/[\w./-]+", text):
        assert (root / name).exists(), name
