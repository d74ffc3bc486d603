"""`emollama jobs` against a running service."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from server.jobs.cli import app

pytest.importorskip("openai")


def run(*words: str, server: str | None = None) -> Result:
    options = ["--server", server] if server else []
    return CliRunner().invoke(app, [*words, *options], env={"COLUMNS": "200", "NO_COLOR": "1"})


def test_a_job_is_created_and_followed_to_its_end(
    fine_tuning: Callable[..., Any], manifest: Callable[..., bytes], tmp_path: Path
) -> None:
    t = fine_tuning()
    (tmp_path / "train.jsonl").write_bytes(manifest())
    result = run(
        "create", str(tmp_path / "train.jsonl"), "--suffix", "mine", "--epochs", "2", "--batch-size", "4",
        "--seed", "3", "--learning-rate-multiplier", "0.001", "--metadata", "who=ann", "--follow", server=t.url,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    job_id, *lines = result.output.splitlines()
    assert job_id.startswith("ftjob-")
    assert "The job has succeeded" in lines[-1]
    assert any("Step 8/8: training loss=0.1250" in line for line in lines)
    job = t.job(job_id)
    assert (job.seed, job.metadata) == (3, {"who": "ann"})

    shown = run("show", job_id, server=t.url).output
    assert job.fine_tuned_model in shown
    assert re.search(r"status +succeeded", shown)
    assert f"{job.fine_tuned_model}:ckpt-step-4" in shown
    listed = run("list", server=t.url).output
    assert job_id in listed
    narrow = CliRunner().invoke(app, ["list", "--server", t.url], env={"COLUMNS": "60", "NO_COLOR": "1"}).output
    assert job_id in narrow  # to be copied
    assert json.loads(run("list", "--json", server=t.url).output)[0]["id"] == job_id
    assert json.loads(run("show", job_id, "--json", server=t.url).output)["checkpoints"][0]["step_number"] == 8
    events = run("events", job_id, server=t.url).output.splitlines()
    assert [line[21:].removeprefix("warn: ") for line in events] == t.messages(job_id)
    documents = [json.loads(line) for line in run("events", job_id, "--json", server=t.url).output.splitlines()]
    assert [event["message"] for event in documents] == t.messages(job_id)


def test_a_job_that_fails_ends_the_following_command_with_1(fine_tuning: Callable[..., Any]) -> None:
    t = fine_tuning()
    job = t.create(suffix="diverge")
    result = run("events", job.id, "--follow", server=t.url)
    assert result.exit_code == 1
    assert "error: The job has failed: the loss is not finite at step 2" in result.output
    assert "loss_not_finite" in run("show", job.id, server=t.url).output


def test_a_job_is_paused_resumed_and_cancelled(queueing: Any, manifest: Callable[..., bytes], tmp_path: Path) -> None:
    file = queueing.upload()
    unheard = queueing.upload(manifest(rows=1, transcript="another word"))
    created = run("create", file, "--validation", unheard, server=queueing.url)
    assert created.exit_code == 0, created.output
    job_id = created.output.strip()
    for verb, status in (("pause", "paused"), ("resume", "queued"), ("cancel", "cancelled")):
        assert run(verb, job_id, server=queueing.url).output.strip() == status
    again = run("pause", job_id, server=queueing.url)
    assert again.exit_code == 2
    assert "it was cancelled" in again.output


def test_a_broken_data_set_is_told_line_by_line(queueing: Any, manifest: Callable[..., bytes], tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_bytes(manifest(valence=7.0))
    result = run("create", str(tmp_path / "bad.jsonl"), server=queueing.url)
    assert result.exit_code == 2
    lines = [line for line in result.output.splitlines() if ": error: valence: " in line]
    assert [line.split()[1] for line in lines] == [f"manifest.jsonl:{number}:" for number in (1, 2, 3, 4)]
    assert all(" -> " in line for line in lines)


def test_what_the_command_cannot_do_is_one_line(queueing: Any, free_port: Callable[[], int], tmp_path: Path) -> None:
    for words in (
        ("create", str(tmp_path / "none.jsonl")),
        ("create", "file-none"),
        ("create", "file-none", "--metadata", "x"),
        ("show", "ftjob-none"),
        ("events", "ftjob-none", "--follow"),
    ):
        result = run(*words, server=queueing.url)
        assert result.exit_code == 2, words
        assert len(result.output.splitlines()) == 1, result.output
    for words in (("list",), ("events", "ftjob-none", "--follow")):
        result = run(*words, server=f"http://127.0.0.1:{free_port()}")
        assert result.exit_code == 2
        assert "`emollama serve` starts one" in result.output


def test_the_command_module_costs_nothing_to_import() -> None:
    heavy = "('fastapi', 'uvicorn', 'torch', 'numpy', 'pydantic', 'httpx', 'sqlalchemy', 'rich.table')"
    code = f"import sys, server.jobs.cli; sys.exit(any(name in sys.modules for name in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
