"""Leaks: found by bytes, by decoded content and by speaker; they stop a run unless they are allowed by name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from emollama.errors import DatasetError, InputError
from emollama.types import Audio, Clip
from eval.leaks import check_leaks, training_manifest_of
from eval.run import EvalOptions, evaluate
from eval.scoring import ScoreSettings
from eval.task import EvalTask, Item
from tests.eval.toy import ToyModel, toy_items, toy_task


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """A folder with two different files of the same size, and a copy of the first under another name."""
    (tmp_path / "a.wav").write_bytes(b"one" * 50)
    (tmp_path / "b.wav").write_bytes(b"two" * 50)
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "copy.wav").write_bytes(b"one" * 50)
    return tmp_path


def manifest(folder: Path, *rows: dict[str, object]) -> Path:
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def items(folder: Path) -> list[Item]:
    return [
        Item(id="a", gold="sad", clip=folder / "a.wav", group="ann"),
        Item(id="b", gold="sad", clip=folder / "b.wav", group="bob"),
    ]


def check(folder: Path, train: Path, *allow: str):  # type: ignore[no-untyped-def]
    return check_leaks(toy_task(), items(folder), data=folder, split="test", manifests=[train], allow=allow)


def test_the_same_bytes_under_another_name_are_found(clips: Path) -> None:
    train = manifest(clips, {"id": "t", "clip": "train/copy.wav", "label": "sad"})
    with pytest.raises(
        DatasetError, match=r"1 of 2 items share a clip with the training manifest train.jsonl: 'a'"
    ) as e:
        check(clips, train)
    assert "--allow-leak clip" in str(e.value)
    report = check(clips, train, "clip")
    assert [leak.names for leak in report.found] == [("a",)]
    assert any("LEAK, allowed by name" in note for note in report.notes)
    assert check(clips, train, "clip:a").found
    with pytest.raises(DatasetError):
        check(clips, train, "clip:b")


def test_files_that_differ_are_no_leak(clips: Path) -> None:
    train = manifest(clips, {"id": "t", "clip": "b.wav", "start": 0.0, "end": 1.0, "label": "sad", "split": "test"})
    assert check(clips, train).found == []  # a test row of the manifest was not trained on


def test_another_stretch_of_one_file_is_another_clip(clips: Path) -> None:
    train = manifest(clips, {"id": "t", "clip": "train/copy.wav", "start": 0.0, "end": 2.0, "label": "sad"})
    later = [replace(items(clips)[0], start=2.0, end=4.0)]
    assert check_leaks(toy_task(), later, data=clips, split="test", manifests=[train]).found == []
    same = [replace(items(clips)[0], start=1.0, end=4.0)]
    with pytest.raises(DatasetError, match="share a clip"):
        check_leaks(toy_task(), same, data=clips, split="test", manifests=[train])


def test_the_same_speaker_is_found_and_may_be_allowed_one_by_one(clips: Path) -> None:
    train = manifest(clips, {"id": "t", "clip": "gone.wav", "label": "sad", "speaker": "bob"})
    with pytest.raises(DatasetError, match=r"1 of 2 items share a speaker .* 'bob'"):
        check(clips, train)
    assert check(clips, train, "speaker:bob").found[0].kind == "speaker"


def test_an_unknown_kind_of_leak_cannot_be_allowed(clips: Path) -> None:
    train = manifest(clips, {"id": "t", "clip": "gone.wav", "label": "sad"})
    with pytest.raises(InputError, match="clip, speaker"):
        check(clips, train, "everything")


def leaking_task() -> EvalTask:
    """A test split whose second clip, and whose words, stand in its training split too."""

    def clip(level: float) -> Clip:
        return Clip(name="x", seconds=1.0, audio=Audio(samples=np.full(160, level, np.float32)))

    def read(data: Path, split: str) -> Iterator[Item]:
        first = 0 if split == "test" else 1
        for place in range(first, first + 2):
            yield Item(id=f"{split}{place}", gold="sad", load=lambda place=place: clip(0.1 * place))  # type: ignore[misc]
        yield Item(id=f"{split}-words", gold="sad", transcript="Thank you!" if first else "thank  you!")

    return toy_task(items=read, splits=("test", "train"), modalities=("audio", "text"))


def test_a_split_that_leaks_into_its_own_training_split_stops_the_run(tmp_path: Path) -> None:
    options = EvalOptions(score=ScoreSettings(num_resamples=10))
    with pytest.raises(DatasetError, match=r"share a clip with the split train of toy: 'test1'"):
        evaluate(leaking_task(), ToyModel(), tmp_path, tmp_path / "run", options)
    assert not (tmp_path / "run").exists()
    allowed = replace(options, allow_leaks=("clip",))
    document = evaluate(leaking_task(), ToyModel(), tmp_path, tmp_path / "run", allowed).document
    assert document["leaks"]["found"][0]["names"] == ["test1"]
    assert document["leaks"]["allowed"] == ["clip"]
    assert "LEAK" in (tmp_path / "run" / "report.md").read_text()
    assert any("1 of 1 texts stand word for word" in note for note in document["notes"])


def test_a_training_split_that_is_not_there_is_said(tmp_path: Path) -> None:
    def read(data: Path, split: str) -> list[Item]:
        if split == "train":
            raise DatasetError("train.csv is not there")
        return toy_items(4)

    report = check_leaks(toy_task(items=read, splits=("test", "train")), toy_items(4), data=tmp_path, split="test")
    assert any("train.csv is not there" in note for note in report.notes)


def test_one_file_is_not_compared_with_itself(tmp_path: Path) -> None:
    file = tmp_path / "table.parquet"
    file.write_bytes(b"x")
    task = toy_task(items=lambda data, split: toy_items(4), splits=("test", "train"))
    report = check_leaks(task, toy_items(4), data=file, split="test")
    assert report.found == []
    assert any("one file was given" in note for note in report.notes)


def test_the_manifest_of_an_adapter_is_found_in_its_run(tmp_path: Path) -> None:
    adapter = tmp_path / "run" / "exports" / "best"
    adapter.mkdir(parents=True)
    (adapter / "adapter_config.json").write_text("{}")
    assert training_manifest_of(str(adapter)) is None
    train = manifest(tmp_path, {"id": "t", "transcript": "x", "clip": None, "label": "sad"})
    (tmp_path / "run" / "config.json").write_text(json.dumps({"task": {"manifest": str(train)}}))
    assert training_manifest_of(str(adapter)) == train
    assert training_manifest_of("nano") is None
