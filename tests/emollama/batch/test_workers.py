"""Clips that end their process, hang, or cannot be answered by any: the run goes on, or says why not."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from emollama.batch.items import prepare
from emollama.batch.sources import read_source
from emollama.batch.workers import InProcess, PoolSize, ProcessPool
from emollama.errors import CheckpointError, DependencyError, EmoLlamaError, InputError
from tests.emollama.batch.fakes import worked_on

ROOT = str(Path(__file__).parents[3])


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)  # where the other processes find the fake


def run(labelling, folder, *, processes=1, threads=1, timeout=60.0, stopped=lambda: False):
    pool = ProcessPool(labelling, PoolSize(processes=processes, threads=threads, timeout_seconds=timeout))
    tasks = [prepare(item) for item in read_source(folder).items]
    try:
        return [json.loads(each.line) for each in pool.outcomes(iter(tasks), stopped=stopped)]
    finally:
        pids = pool.pids()
        pool.close()
        for pid in pids:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)


def by_id(lines):
    return {line["id"].removesuffix(".mp4"): line for line in lines}


def test_a_clip_that_ends_its_process_is_an_error_and_no_other_is(labelling, clips):
    folder = clips(a="slow", b="die", c="die-once", d="slow", e="slow", f="bug", g="bad")
    found = by_id(run(labelling, folder, processes=2))
    assert sorted(found) == list("abcdefg")
    assert {name for name, line in found.items() if "error" in line} == set("bfg")
    assert "ends the process that reads it (signal 9)" in found["b"]["error"]["message"]
    assert found["f"]["error"]["type"] == "ZeroDivisionError"
    assert "report" in found["f"]["error"]["remedy"]
    assert found["g"]["error"] == {
        "type": "UnsupportedMediaError", "message": "this looks like text", "field": "file",
        "remedy": "Convert the file to one of the kinds that are read, or leave it out.",
    }  # fmt: skip
    assert worked_on(labelling).count("b.mp4") == 2


def test_a_clip_that_was_beside_one_that_ends_its_process_is_not_blamed(labelling, clips):
    found = by_id(run(labelling, clips(a="die", b="die-once", c="die-once", d="slow"), threads=4))
    assert {name for name, line in found.items() if "error" in line} == {"a"}


def test_a_clip_that_hangs_is_given_up_and_what_waited_behind_it_is_done(labelling, clips):
    found = by_id(run(labelling, clips(a="hang", b="fine", c="fine"), timeout=0.5))
    assert "not done within 0.5 s" in found["a"]["error"]["message"]
    assert "error" not in found["b"]
    assert "error" not in found["c"]


def test_what_is_wrong_for_every_clip_ends_the_run(labelling, clips):
    with pytest.raises(DependencyError, match="a package is missing") as caught:
        run(labelling, clips(a="missing", b="slow"))
    assert caught.value.field == "asr"
    with pytest.raises(CheckpointError, match="the model is damaged"):
        run(replace(labelling, breaks="error"), clips())
    with pytest.raises(EmoLlamaError, match=r"ended while it loaded the model \(exit code 3\)"):
        run(replace(labelling, breaks="exit"), clips())


def test_a_stopped_run_ends_at_once(labelling, clips):
    folder = clips(**{f"c{number}": "slow" for number in range(50)})
    found = []
    assert len(run(labelling, folder, stopped=lambda: len(found.append(0) or found) > 2)) < 50


def test_here_is_the_same_as_there(labelling, clips):
    folder = clips(a="x", b="bad", c="y")
    tasks = [prepare(item) for item in read_source(folder).items]
    here = [json.loads(each.line) for each in InProcess(labelling).outcomes(iter(tasks), stopped=lambda: False)]
    assert here == sorted(run(labelling, folder), key=lambda line: line["id"])


@pytest.mark.parametrize(
    "wrong", [{"processes": 0}, {"processes": 1, "threads": 65}, {"processes": 1, "timeout_seconds": 0.0}]
)
def test_a_size_is_checked(wrong):
    with pytest.raises(InputError, match=r"allowed|above 0"):
        PoolSize(**wrong)
