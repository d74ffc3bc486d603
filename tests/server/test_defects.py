"""Every kind of broken data set is refused when a job is made of it, with its line and its remedy; nothing is left."""

from __future__ import annotations

import importlib.util
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

openai = pytest.importorskip("openai")

_SOURCE = Path(__file__).resolve().parents[1] / "train" / "data" / "defects.py"
_SPEC = importlib.util.spec_from_file_location("defects_for_http", _SOURCE)
assert _SPEC is not None
assert _SPEC.loader is not None
_DEFECTS = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_DEFECTS)


def packed(path: Path, folder: Path) -> bytes:
    """What a person would upload: the archive, or a zip of the manifest and what lies beside it."""
    if path.suffix != ".jsonl":
        return path.read_bytes()
    target = folder / "packed.zip"
    with zipfile.ZipFile(target, "w") as archive:
        if path.is_file():
            archive.write(path, "manifest.jsonl")
        for file in sorted(path.parent.rglob("*")):
            if file.is_file() and file != path and file != target:
                archive.write(file, file.relative_to(path.parent).as_posix())
    return target.read_bytes()


def leftovers(data: Path) -> Iterator[Path]:
    yield from (data / "jobs").iterdir()
    yield from (path for path in (data / "incoming").rglob("*") if path.is_file() and path.name != "lock")


def test_there_are_as_many_kinds_as_were_promised() -> None:
    assert len(_DEFECTS.DEFECTS) >= 30


@pytest.mark.parametrize("name", sorted(_DEFECTS.DEFECTS))
def test_a_broken_upload_is_refused_at_submit(queueing: Any, tmp_path: Path, name: str) -> None:
    code, line = _DEFECTS.EXPECTED[name]
    folder = tmp_path / "set"
    folder.mkdir()
    content = packed(_DEFECTS.DEFECTS[name](folder), tmp_path)
    # What is no bundle at all is refused when it is uploaded, all else when a job is made of it.
    with pytest.raises(openai.APIStatusError) as caught:
        queueing.create(training_file=queueing.upload(content, name="set.zip"))
    error = caught.value
    if error.code not in ("unsupported_file", "empty_file"):
        assert (error.status_code, error.code, error.param) == (400, "invalid_training_file", "training_file")
        found = [each for each in error.body["problems"] if (each["code"], each["line"]) == (code, line)]
        assert found, error.body["problems"]
        first = next(each for each in error.body["problems"] if each["severity"] == "error")
        assert first["remedy"] in error.message
        assert first["line"] is None or f"line {first['line']}" in error.message
    assert str(queueing.data) not in str(error.body)
    assert list(leftovers(queueing.data)) == []
    for file in queueing.client.files.list():
        queueing.client.files.delete(file.id)
    assert list((queueing.data / "files").iterdir()) == []
    assert queueing.client.fine_tuning.jobs.list().data == []


def test_a_sound_one_is_taken(queueing: Any, tmp_path: Path) -> None:
    file = queueing.upload(packed(_DEFECTS.sound(tmp_path), tmp_path), name="set.zip")
    job = queueing.create(training_file=file)
    assert job.status == "queued"
    messages = queueing.messages(job.id)
    assert "Training file: 8 samples, 8 clips, 3.2 s" in messages
    assert messages[-1] == "The files are valid; the job is queued"
