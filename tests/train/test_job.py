"""A job in a folder: what it leaves there, how it ends, and that it goes on after a stop or a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from emollama.adapter import AdapterInfo
from train.job import BAD_INPUT, DONE, STOPPED, main
from train.run_dir import read_metrics

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def make_job(make_manifest: Callable[..., Path], feature_cache: Path, tmp_path: Path) -> Callable[..., Path]:
    def make(name: str = "run", **changes: Any) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        document = {
            "model": "nano", "manifest": str(make_manifest()), "seed": 3, "cache": str(feature_cache), "n_epochs": 2,
            "batch_size": 4, "overrides": {"threads": 0, "checkpoint_every_steps": 1, "log_every_steps": 1}, **changes,
        }  # fmt: skip
        (folder / "job.json").write_text(json.dumps(document))
        return folder

    return make


def events(folder: Path, name: str) -> list[dict[str, Any]]:
    return [line for line in read_metrics(folder) if line["event"] == name]


def start(folder: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "train.job", str(folder)], cwd=ROOT, env=environment, stderr=subprocess.DEVNULL
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes], *, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the job ended too soon"
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def test_a_job_leaves_an_adapter_and_says_what_it_did(make_job: Callable[..., Path]) -> None:
    folder = make_job()
    assert main([str(folder)]) == DONE
    info = AdapterInfo.load(folder / "export")
    assert info is not None
    assert info.labels == ("boredom", "happiness")
    assert info.license == "CC0"
    assert events(folder, "features")[-1]["done"] == events(folder, "features")[-1]["total"] == 8
    steps = events(folder, "step")
    assert [line["step"] for line in steps] == list(range(1, len(steps) + 1))
    assert {"loss", "tokens_per_second", "seconds_left"} <= set(steps[0])
    (name,) = {line["export"] for line in events(folder, "checkpoint")[-1:]}
    assert AdapterInfo.load(folder / name) is not None
    assert not (folder / "error.json").exists()


@pytest.mark.parametrize(
    ("changes", "said", "param"),
    [
        ({"manifest": "gone.jsonl"}, "gone.jsonl", "manifest"),
        ({"recipe": "nano_face"}, "recipe is 'nano_face'", "recipe"),
        ({"recipe": "instrct"}, "unknown recipe", "recipe"),
        ({"n_epochs": 0}, "n_epochs is 0", "n_epochs"),
        ({"overrides": {"task.balanse": 1}}, "task.balanse", "config key"),
        ({"colour": "red"}, "is no job", "run_dir"),
    ],
)
def test_what_is_wrong_is_left_in_the_folder(
    make_job: Callable[..., Path], changes: dict[str, Any], said: str, param: str
) -> None:
    folder = make_job(**changes)
    assert main([str(folder)]) == BAD_INPUT
    error = json.loads((folder / "error.json").read_text())
    assert said in error["message"]
    assert error["param"] == param
    assert not (folder / "export").exists()


@pytest.mark.slow
def test_a_stopped_and_a_killed_job_follow_the_undisturbed_one(make_job: Callable[..., Path]) -> None:
    undisturbed = make_job("undisturbed", n_epochs=6)
    assert main([str(undisturbed)]) == DONE
    expected = {line["step"]: line["loss"] for line in events(undisturbed, "step")}
    folder = make_job("disturbed", n_epochs=6)
    killed = start(folder)
    wait_for(lambda: (folder / "metrics.jsonl").exists() and len(events(folder, "step")) >= 2, killed)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    before = len(events(folder, "step"))
    stopped = start(folder)
    wait_for(lambda: len(events(folder, "step")) > before, stopped)
    stopped.send_signal(signal.SIGTERM)
    assert stopped.wait(60) == STOPPED
    assert not (folder / "export").exists()
    assert main([str(folder)]) == DONE
    assert {line["step"]: line["loss"] for line in events(folder, "step")} == pytest.approx(expected, abs=1e-4)
    assert AdapterInfo.load(folder / "export") is not None
