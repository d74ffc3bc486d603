"""A run directory on its own: checkpoints that are whole or not there, a log that tells one story, exports kept."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from emollama.errors import CheckpointError, InputError
from train.config import TrainConfig
from train.run_dir import Checkpoint, Position, RunDir, read_metrics


@dataclass(frozen=True, kw_only=True)
class Options:
    width: int = 4


def open_dir(folder: Path, *, resume: bool = False, writes: bool = True, **fields) -> RunDir:
    config = TrainConfig(recipe="toy", run_dir=str(folder), task=Options(), **fields)
    return RunDir(config, resume=resume, writes=writes)


def checkpoint(step: int, value: float = 0.0) -> Checkpoint:
    tensors = {"weight": torch.full((2,), value)}
    optimizer = {"exp_avg/weight": torch.full((2,), -value)}
    return Checkpoint(model=tensors, ema={}, optimizer=optimizer, position=Position(step=step, metrics={"loss": value}))


def save(run_dir: RunDir, step: int, value: float = 0.0, *, best: bool = False) -> None:
    run_dir.begin_checkpoint(step)
    run_dir.save(checkpoint(step, value), best=best)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_checkpoint_comes_back_as_it_was_saved(tmp_path):
    run_dir = open_dir(tmp_path)
    save(run_dir, 3, 1.5)
    loaded = run_dir.load("last")
    assert loaded.position.step == 3
    assert loaded.position.metrics == {"loss": 1.5}
    assert loaded.model["weight"].tolist() == [1.5, 1.5]
    assert loaded.optimizer["exp_avg/weight"].tolist() == [-1.5, -1.5]
    assert loaded.ema == {}
    assert names(tmp_path / "checkpoints" / "last") == ["model.safetensors", "optimizer.safetensors", "position.json"]


def test_the_last_and_the_best_are_kept_and_nothing_else(tmp_path):
    run_dir = open_dir(tmp_path)
    for step, value, best in [(1, 0.1, True), (2, 0.2, False), (3, 0.3, True), (4, 0.4, False), (5, 0.5, False)]:
        save(run_dir, step, value, best=best)
    assert names(tmp_path / "checkpoints") == ["best", "last", "step-00000003", "step-00000005"]
    assert run_dir.load("best").position.step == 3
    assert run_dir.load("last").position.step == 5


def test_the_same_step_saved_again_replaces_the_first(tmp_path):
    run_dir = open_dir(tmp_path)
    save(run_dir, 2, 0.1)
    save(run_dir, 2, 0.2, best=True)
    assert run_dir.load("last").model["weight"][0] == pytest.approx(0.2)
    assert len(list((tmp_path / "checkpoints").glob("step-*"))) == 1


@pytest.mark.parametrize("calls", range(1, 12))
def test_a_save_that_is_cut_short_leaves_the_checkpoint_before_it(tmp_path, monkeypatch, calls):
    """Wherever writing stops, the last checkpoint is the old one or the new one, whole."""
    run_dir = open_dir(tmp_path)
    save(run_dir, 1, 0.1)
    run_dir.log("step", step=2)
    made = 0

    class Cut(BaseException):
        pass

    def counted(function):
        def call(*arguments):
            nonlocal made
            made += 1
            if made == calls:
                raise Cut
            return function(*arguments)

        return call

    with monkeypatch.context() as patched:
        for name in ("replace", "fsync"):
            patched.setattr(os, name, counted(getattr(os, name)))
        with pytest.raises(Cut):
            save(run_dir, 2, 0.2, best=True)
    loaded = open_dir(tmp_path, resume=True).load("last")
    assert loaded.model["weight"][0] == pytest.approx(0.1 * loaded.position.step)
    save(run_dir, 2, 0.2)  # and the next one is saved over what is left
    assert run_dir.load("last").position.step == 2
    assert not list((tmp_path / "checkpoints").glob("*.partial"))


def test_lines_after_the_checkpoint_are_superseded_when_the_run_goes_on(tmp_path):
    run_dir = open_dir(tmp_path)
    run_dir.log("start", total_steps=9)
    run_dir.log("step", step=1, loss=3.0)
    save(run_dir, 1)
    run_dir.log("step", step=2, loss=2.5)
    run_dir.log("validate", step=2, loss=2.4)
    run_dir.log("features", done=1)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"event": "step", "st')  # killed while it wrote
    assert [line["event"] for line in read_metrics(tmp_path)] == ["start", "step", "step", "validate", "features"]

    again = open_dir(tmp_path, resume=True)
    again.log("resume", step=1, from_byte=again.load("last").position.log_bytes)
    again.log("step", step=2, loss=2.0)
    lines = read_metrics(tmp_path)
    assert [line["event"] for line in lines] == ["start", "step", "features", "resume", "step"]
    assert [(line["step"], line["loss"]) for line in read_metrics(tmp_path, events=["step"])] == [(1, 3.0), (2, 2.0)]
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        json.loads(line)  # no torn line is left in the middle of the file


def test_a_second_kill_before_any_new_checkpoint_supersedes_again(tmp_path):
    run_dir = open_dir(tmp_path)
    for loss in (3.0, 2.0, 1.0):
        run_dir.log("step", step=1, loss=loss)
        run_dir.log("resume", step=0, from_byte=0)
    run_dir.log("step", step=1, loss=0.5)
    assert [line["loss"] for line in read_metrics(tmp_path, events=["step"])] == [0.5]


def test_the_newest_exports_and_the_best_one_are_kept(tmp_path):
    run_dir = open_dir(tmp_path)
    for step in (10, 20, 30, 40):
        partial = run_dir.begin_export(step)
        (partial / "adapter.txt").write_text(str(step))
        name = run_dir.keep_export(partial, newest=2, best_step=10)
        assert name == f"exports/step-{step}"
        assert (tmp_path / name / "adapter.txt").read_text() == str(step)
    assert names(tmp_path / "exports") == ["step-10", "step-30", "step-40"]


def test_an_export_of_a_run_that_was_killed_is_made_anew(tmp_path):
    run_dir = open_dir(tmp_path)
    for text in ("old", "new"):
        partial = run_dir.begin_export(5)
        (partial / f"{text}.txt").write_text(text)
        run_dir.keep_export(partial, newest=1, best_step=None)
    assert names(tmp_path / "exports" / "step-5") == ["new.txt"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"run_dir .*file.* cannot be made \(.+\); name a folder"):
        open_dir(tmp_path / "file" / "run")


def test_another_run_is_neither_overwritten_nor_continued(tmp_path):
    first = open_dir(tmp_path)
    with pytest.raises(InputError, match="--resume"):
        open_dir(tmp_path)
    with pytest.raises(InputError, match=r"learning_rate \(was 0\.001, is 0\.5\).*name another") as caught:
        open_dir(tmp_path, resume=True, learning_rate=0.5)
    assert caught.value.field == "learning_rate"
    wider = TrainConfig(recipe="toy", run_dir=str(tmp_path), task=Options(width=5))
    with pytest.raises(InputError, match=r"task\.width \(was 4, is 5\)"):
        RunDir(wider, resume=True)
    again = open_dir(tmp_path, resume=True, keep_exports=3, accumulate_steps=2, trackers=("tensorboard",))
    assert again.run_id == first.run_id
    assert (first.is_new, again.is_new) == (True, False)


def test_a_process_that_is_not_the_main_one_writes_nothing(tmp_path):
    open_dir(tmp_path).log("start")
    before = (tmp_path / "metrics.jsonl").read_bytes()
    other = open_dir(tmp_path, writes=False)
    other.log("start")
    other.begin_checkpoint(1)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    assert names(tmp_path / "checkpoints") == []


def test_a_missing_checkpoint_is_said(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint 'best'"):
        open_dir(tmp_path).load("best")
