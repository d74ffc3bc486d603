"""A batch on Ray leaves the folder that a batch without it leaves, whatever ends on the way."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from emollama.batch.run import run_batch
from emollama.batch.sources import read_source
from emollama.batch.workers import InProcess, PoolSize, ProcessPool
from tests.emollama.batch.fakes import FakeLabelling, worked_on
from tests.emollama.batch.test_cli import ROOT, start, wait_for_lines, without_run

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(autouse=True)
def _has_ray():
    pytest.importorskip("ray.data")


@pytest.fixture
def many(clips) -> Path:
    own = {2: "bad", 5: "die", 9: "kill-parent-once", 12: "bug"}
    return clips(**{f"c{number:02}": own.get(number, f"slow {number // 2}") for number in range(40)})


def test_a_lost_actor_is_replaced_and_the_folder_is_the_same(many, tmp_path, monkeypatch):
    process = start(tmp_path, many, "--out", tmp_path / "ray", "--ray", "--processes", 2)
    _, said = process.communicate(timeout=200)
    assert process.returncode == 1, said
    assert "37 of 40 clips labelled, 3 failed, 0 left" in said
    done = worked_on(FakeLabelling(log=str(tmp_path / "log")))
    assert done.count("c09.mp4") == 2
    assert not _left_behind(tmp_path / "log")
    monkeypatch.syspath_prepend(str(ROOT))
    # The clip has ended an actor once, and will not again.
    labelling = FakeLabelling(log=str(tmp_path / "log"))
    run_batch(
        read_source(many), tmp_path / "here", labelling, lambda: ProcessPool(labelling, PoolSize(processes=2))
    )  # fmt: skip
    assert without_run(tmp_path / "ray") == without_run(tmp_path / "here")


def test_what_ray_has_done_is_durable_and_can_be_continued_without_it(clips, tmp_path):
    folder = clips(**{f"c{number:03}": f"slow {number}" for number in range(200)})
    process = start(tmp_path, folder, "--out", tmp_path / "out", "--ray", "--processes", 1)
    wait_for_lines(tmp_path / "out" / "results.jsonl", 20, process)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=100)
    assert process.returncode == 130, said
    assert "go on with" in said
    num_done = (tmp_path / "out" / "results.jsonl").read_bytes().count(b"\n")
    assert 20 <= num_done < 200
    labelling = FakeLabelling(log=str(tmp_path / "log"))
    summary = run_batch(read_source(folder), tmp_path / "out", labelling, lambda: InProcess(labelling))
    assert (summary.num_new, summary.done) == (200 - num_done, 200)


def _left_behind(log: Path) -> list[int]:
    """Return the processes with the model, and the actors above them, that still run."""
    pids = {int(line) for line in Path(f"{log}.pids").read_text().split()}
    assert len(pids) >= 4  # two actors and what they started
    until = time.monotonic() + 20
    while (alive := [pid for pid in pids if psutil.pid_exists(pid)]) and time.monotonic() < until:
        time.sleep(0.1)
    return alive
