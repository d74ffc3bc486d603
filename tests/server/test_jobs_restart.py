"""Servers that stop, are killed, or share a database: a job is run by exactly one of them, to its end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

LEASE_SECONDS = 1.0
# Postgres is tested where TEST_POSTGRES_URL names a database that may be emptied.
BACKENDS = ("sqlite", "postgresql") if "TEST_POSTGRES_URL" in os.environ else ("sqlite",)


class Process:
    """A server in a process of its own, on a data folder that others may share."""

    def __init__(self, data: Path, port: int, **settings: Any) -> None:
        self.url = f"http://127.0.0.1:{port}"
        values = {"data_dir": data, "port": port, "job_poll_seconds": 0.05, "job_lease_seconds": LEASE_SECONDS}
        names = {f"EMOLLAMA_{name.upper()}": str(value) for name, value in {**values, **settings}.items()}
        self.popen = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("fake_server.py"))],
            env={**os.environ, **names, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        end = time.monotonic() + 120
        while True:
            assert self.popen.poll() is None, "the server did not start"
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/health", timeout=30).status_code == 200:
                    return
            assert time.monotonic() < end
            time.sleep(0.05)

    def create(self, content: bytes, *, steps: int = 40, suffix: str | None = None) -> str:
        files = {"file": ("train.jsonl", content)}
        file = httpx.post(f"{self.url}/v1/files", files=files, data={"purpose": "fine-tune"}, timeout=30).json()
        chosen = {"n_epochs": 1, "batch_size": steps, "learning_rate_multiplier": 0.005}
        body = {"model": "nano", "training_file": file["id"], "hyperparameters": chosen, "suffix": suffix}
        answer = httpx.post(f"{self.url}/v1/fine_tuning/jobs", json=body, timeout=30)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    def job(self, job_id: str) -> dict[str, Any]:
        return dict(httpx.get(f"{self.url}/v1/fine_tuning/jobs/{job_id}", timeout=30).json())

    def messages(self, job_id: str) -> list[str]:
        url = f"{self.url}/v1/fine_tuning/jobs/{job_id}/events"
        events = httpx.get(url, params={"limit": 1000}, timeout=30).json()["data"]
        return [event["message"] for event in reversed(events)]

    def stop(self) -> None:
        self.popen.send_signal(signal.SIGTERM)
        assert self.popen.wait(60) in (0, -signal.SIGTERM)

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait(60)


@pytest.fixture
def start(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[Callable[..., Process]]:
    running: list[Process] = []

    def begin(**settings: Any) -> Process:
        running.append(Process(tmp_path / "data", free_port(), **settings))
        return running[-1]

    yield begin
    for process in running:
        process.kill()
    for log in (tmp_path / "data" / "jobs").glob("*/starts.log"):
        for line in log.read_text().splitlines():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(line.split()[1]), signal.SIGKILL)


def starts(tmp_path: Path, job_id: str) -> list[int]:
    log = tmp_path / "data" / "jobs" / job_id / "starts.log"
    return [int(line.split()[1]) for line in log.read_text().splitlines()] if log.is_file() else []


def go(tmp_path: Path, job_id: str) -> None:
    """Let a job go on that was created with the suffix "waits" and has done eleven steps."""
    (tmp_path / "data" / "jobs" / job_id / "go").touch()


def losses(messages: list[str]) -> list[str]:
    return [text.partition("loss=")[2] for text in messages if text.startswith("Step ")]


def has_step(server: Process, job_id: str, step: int) -> bool:
    return any(text.startswith(f"Step {step}/") for text in server.messages(job_id))


def test_a_server_that_is_killed_finds_its_trainer_again(
    start: Callable[..., Process],
    manifest: Callable[..., bytes],
    wait_until: Callable[..., None],
    is_alive: Callable[[int], bool],
    tmp_path: Path,
) -> None:
    first = start()
    job_id = first.create(manifest(), suffix="waits")
    wait_until(lambda: has_step(first, job_id, 11))
    (pid,) = starts(tmp_path, job_id)
    first.kill()
    assert is_alive(pid)
    second = start()
    assert second.job(job_id)["status"] == "running"
    go(tmp_path, job_id)
    wait_until(lambda: second.job(job_id)["status"] == "succeeded", seconds=60)
    # One trainer from the beginning to the end, and every step told once.
    assert starts(tmp_path, job_id) == [pid]
    assert losses(second.messages(job_id)) == [f"{1 / step:.4f}" for step in range(1, 41)]


def test_server_and_trainer_are_killed_and_the_job_goes_on_from_its_checkpoint(
    start: Callable[..., Process],
    manifest: Callable[..., bytes],
    wait_until: Callable[..., None],
    kill: Callable[[int], None],
    tmp_path: Path,
) -> None:
    first = start()
    job_id = first.create(manifest(), suffix="waits")
    wait_until(lambda: has_step(first, job_id, 11))
    first.kill()
    kill(starts(tmp_path, job_id)[0])
    go(tmp_path, job_id)
    second = start()
    wait_until(lambda: second.job(job_id)["status"] == "succeeded", seconds=60)
    assert len(starts(tmp_path, job_id)) == 2
    messages = second.messages(job_id)
    assert losses(messages) == [f"{1 / step:.4f}" for step in range(1, 41)]
    assert any(text.startswith("Training goes on from the checkpoint of step") for text in messages)


def test_a_server_that_stops_leaves_the_trainer_running_and_the_next_one_ends_the_job(
    start: Callable[..., Process],
    manifest: Callable[..., bytes],
    wait_until: Callable[..., None],
    is_alive: Callable[[int], bool],
    tmp_path: Path,
) -> None:
    # So long a lease that only one that was given back can be taken in time.
    first = start(job_lease_seconds=600)
    job_id = first.create(manifest(), suffix="waits")
    wait_until(lambda: has_step(first, job_id, 11))
    (pid,) = starts(tmp_path, job_id)
    first.stop()
    assert is_alive(pid)
    # The training ends while no server is there.
    go(tmp_path, job_id)
    wait_until(lambda: not is_alive(pid), seconds=60)
    second = start(job_lease_seconds=600)
    wait_until(lambda: second.job(job_id)["status"] == "succeeded", seconds=60)
    assert starts(tmp_path, job_id) == [pid]
    assert len(losses(second.messages(job_id))) == 40
    models = httpx.get(f"{second.url}/v1/models", timeout=30).json()["data"]
    assert second.job(job_id)["fine_tuned_model"] in {model["id"] for model in models}


def test_a_stream_of_events_ends_with_the_server(start: Callable[..., Process], manifest: Callable[..., bytes]) -> None:
    server = start(jobs=False)
    job_id = server.create(manifest(), steps=4)
    url = f"{server.url}/v1/fine_tuning/jobs/{job_id}/events"
    with httpx.stream("GET", url, params={"stream": "true"}, timeout=60) as response:
        lines = response.iter_lines()
        assert next(lines).startswith("id: ftevent-")
        server.popen.send_signal(signal.SIGTERM)
        # Cut off in the middle, it would raise.
        rest = list(lines)
    assert "data: [DONE]" not in rest
    server.stop()


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_servers_on_one_database_share_the_jobs_and_run_none_twice(
    start: Callable[..., Process],
    manifest: Callable[..., bytes],
    wait_until: Callable[..., None],
    tmp_path: Path,
    backend: str,
) -> None:
    settings = {}
    if backend == "postgresql":
        settings["database_url"] = os.environ["TEST_POSTGRES_URL"]
    servers = (start(**settings), start(**settings))
    made = [servers[index % 2].create(manifest(), steps=6) for index in range(6)]
    for job_id in made:
        wait_until(lambda job_id=job_id: servers[0].job(job_id)["status"] == "succeeded", seconds=60)
        assert servers[1].job(job_id) == servers[0].job(job_id)
        assert len(starts(tmp_path, job_id)) == 1
        assert len(losses(servers[1].messages(job_id))) == 6
    # A model that one of them made is the other's, too.
    name = servers[0].job(made[0])["fine_tuned_model"]
    for server in servers:
        assert httpx.get(f"{server.url}/v1/models/{name}", timeout=30).status_code == 200


def test_a_server_takes_over_when_the_lease_of_another_runs_out(
    start: Callable[..., Process], manifest: Callable[..., bytes], wait_until: Callable[..., None], tmp_path: Path
) -> None:
    first = start()
    job_id = first.create(manifest(), suffix="waits")
    wait_until(lambda: has_step(first, job_id, 11))
    second = start()
    first.popen.send_signal(signal.SIGSTOP)
    go(tmp_path, job_id)
    wait_until(lambda: has_step(second, job_id, 30), seconds=60)
    # The sleeper wakes up, finds that the job is another's, and changes nothing.
    first.popen.send_signal(signal.SIGCONT)
    wait_until(lambda: second.job(job_id)["status"] == "succeeded", seconds=60)
    assert len(starts(tmp_path, job_id)) == 1
    assert losses(second.messages(job_id)) == [f"{1 / step:.4f}" for step in range(1, 41)]
