"""`emollama batch` as a user runs it: exit codes, what it says, Ctrl-C, and kill -9."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from emollama.batch.cli import app
from tests.emollama.batch.fakes import FakeLabelling

ROOT = Path(__file__).parents[3]
PROGRAM = """
import sys
from functools import partial
from emollama.batch.cli import app
from tests.emollama.batch.fakes import FakeLabelling
app(sys.argv[2:], obj=partial(FakeLabelling, log=sys.argv[1]))
"""


def invoke(tmp_path: Path, *args: object):
    return CliRunner().invoke(app, [str(arg) for arg in args], obj=partial(FakeLabelling, log=str(tmp_path / "log")))


def start(tmp_path: Path, *args: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "log"), *(str(arg) for arg in args)],
        cwd=ROOT, text=True, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def wait_for_lines(path: Path, count: int, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        if path.exists() and path.read_bytes().count(b"\n") >= count:
            return
        time.sleep(0.005)
    pytest.fail(f"no {count} lines in {path.name}")


@pytest.fixture
def many(clips):
    return clips(**{f"c{number:02}": "bad" if number == 7 else f"slow {number // 2}" for number in range(40)})


def without_run(folder: Path) -> dict[str, bytes]:
    names = ("results.jsonl", "errors.jsonl", "results.csv")
    return {name: (folder / name).read_bytes() for name in names}


def test_kill_9_loses_nothing_and_doubles_nothing(many, tmp_path):
    process = start(tmp_path, many, "--out", tmp_path / "whole", "--processes", 2)
    process.communicate()
    assert process.returncode == 1
    for count in (3, 12):
        process = start(tmp_path, many, "--out", tmp_path / "killed", "--processes", 2)
        wait_for_lines(tmp_path / "killed" / "results.jsonl", count, process)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert (tmp_path / "killed" / "results.jsonl").read_bytes().count(b"\n") < 39
    process = start(tmp_path, many, "--out", tmp_path / "killed", "--processes", 1)
    _, said = process.communicate()
    assert process.returncode == 1
    assert "39 of 40 clips labelled, 1 failed, 0 left" in said
    assert without_run(tmp_path / "killed") == without_run(tmp_path / "whole")
    sessions = json.loads((tmp_path / "killed" / "run.json").read_text())["sessions"]
    assert [session["ended"] is None for session in sessions] == [True, True, False]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_in_order_and_says_how_to_go_on(many, tmp_path, number):
    process = start(tmp_path, many, "--out", tmp_path / "out", "--processes", 1)
    wait_for_lines(tmp_path / "out" / "results.jsonl", 3, process)
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    _, said = process.communicate()
    assert process.returncode == 130
    assert "stopping; what is done is kept" in said
    assert "go on with: -c" in said
    assert "Traceback" not in said
    told = json.loads((tmp_path / "out" / "run.json").read_text())
    assert told["sessions"][0]["outcome"] == "interrupted"
    assert told["counts"]["left"] > 0
    assert (tmp_path / "out" / "results.csv").exists()


def test_exit_codes_and_words(clips, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    good = invoke(
        tmp_path, clips(a="one", b="one"), "--out", tmp_path / "out", "--processes", 1, "--table", "csv,parquet"
    )
    assert good.exit_code == 0
    assert "2 of 2 clips labelled, 0 failed, 0 left" in good.stderr
    assert "1 of them duplicates" in good.stderr
    assert (tmp_path / "out" / "results.parquet").exists()
    bad = invoke(tmp_path, clips(c="bad"), "--out", tmp_path / "bad", "--processes", 1, "--fail-fast", "--no-rationale")
    assert bad.exit_code == 1
    assert "1 UnsupportedMediaError; do them again with --retry-errors" in bad.stderr
    assert json.loads((tmp_path / "bad" / "run.json").read_text())["options"]["rationale"] is False


@pytest.mark.parametrize(
    ("args", "field"),
    [
        (["--timelines", "doc"], "timelines"), (["--table", "xlsx"], "table"), (["--shard", "3/2"], "shard"),
        (["--limit", "0"], "limit"), (["--processes", "0"], "processes"), (["--ray-address", "auto"], "ray_address"),
        (["--labels", ""], "labels"),
    ],
)  # fmt: skip
def test_wrong_options_are_told_before_anything_is_made(clips, tmp_path, args, field):
    result = invoke(tmp_path, clips(a="one"), "--out", tmp_path / "out", *args)
    assert getattr(result.exception, "field", None) == field
    assert not (tmp_path / "out").exists()
