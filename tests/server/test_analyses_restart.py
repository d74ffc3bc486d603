"""Servers that stop or are killed: a clip that was accepted is analysed, by one of them, once it can be."""

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

WAV = b"RIFF\x24\x00\x00\x00WAVEfmt " + b"\0" * 32


class Process:
    """A server in a process of its own, on a data folder that others may share."""

    def __init__(self, data: Path, port: int, **settings: Any) -> None:
        self.url = f"http://127.0.0.1:{port}/v1/analyses"
        self.data = data
        values = {"data_dir": data, "port": port, "job_poll_seconds": 0.05, "job_lease_seconds": 1, "jobs": False}
        names = {f"EMOLLAMA_{name.upper()}": str(value) for name, value in {**values, **settings}.items()}
        self.popen = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("fake_server.py"))],
            env={**os.environ, **names, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        end = time.monotonic() + 120
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"http://127.0.0.1:{port}/health", timeout=30).status_code == 200:
                    return
            assert self.popen.poll() is None, "the server did not start"
            assert time.monotonic() < end
            time.sleep(0.02)

    def send(self, name: str, **options: Any) -> httpx.Response:
        answer = httpx.post(self.url, files={"file": (name, WAV)}, timeout=30, **options)
        assert answer.status_code == 202, answer.text
        return answer

    def get(self, analysis_id: str) -> dict[str, Any]:
        return dict(httpx.get(f"{self.url}/{analysis_id}", timeout=30).json())

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


def begun(data: Path) -> list[str]:
    log = data / "begun.log"
    return [line.split()[1] for line in log.read_text().splitlines()] if log.is_file() else []


def test_a_killed_server_loses_no_clip_and_no_key(
    start: Callable[..., Process], wait_until: Callable[..., None]
) -> None:
    first = start()
    running = first.send("waits-1.wav", headers={"Idempotency-Key": "a"}).json()["id"]
    queued = first.send("second.wav").json()["id"]
    wait_until(lambda: begun(first.data) == ["waits-1.wav"])
    first.kill()
    assert len(list((first.data / "analyses").iterdir())) == 2
    (first.data / "go").touch()
    second = start()
    wait_until(lambda: second.get(queued)["status"] == "succeeded")
    wait_until(lambda: second.get(running)["status"] == "succeeded")
    assert second.get(running)["result"]["clip"] == "waits-1.wav"
    assert sorted(begun(first.data)) == ["second.wav", "waits-1.wav", "waits-1.wav"]
    wait_until(lambda: list((first.data / "analyses").iterdir()) == [])
    # The client that never had its answer sends the clip again.
    again = second.send("waits-1.wav", headers={"Idempotency-Key": "a"})
    assert again.headers["idempotent-replayed"] == "true"
    assert again.json()["id"] == running


def test_servers_share_the_queue_cancel_for_one_another_and_put_back_what_they_leave(
    start: Callable[..., Process], wait_until: Callable[..., None]
) -> None:
    # So long a lease that only one that was given back can be taken in time.
    working, other = start(job_lease_seconds=600), start(job_lease_seconds=600, analysis_workers=0)
    stuck = other.send("waits-1.wav").json()["id"]
    wait_until(lambda: working.get(stuck)["status"] == "running")
    assert httpx.post(f"{other.url}/{stuck}/cancel", timeout=30).status_code == 200
    wait_until(lambda: other.get(stuck)["status"] == "cancelled")
    ids = [other.send(f"{number}.wav").json()["id"] for number in range(4)]
    wait_until(lambda: all(other.get(each)["status"] == "succeeded" for each in ids))
    assert begun(working.data) == ["waits-1.wav", "0.wav", "1.wav", "2.wav", "3.wav"]
    left = other.send("waits-2.wav").json()["id"]
    wait_until(lambda: begun(working.data)[-1] == "waits-2.wav")
    working.popen.send_signal(signal.SIGTERM)
    assert working.popen.wait(60) in (0, -signal.SIGTERM)
    assert other.get(left)["status"] == "queued"
    third = start(job_lease_seconds=600)
    wait_until(lambda: len(begun(third.data)) == 7)
    (third.data / "go").touch()
    wait_until(lambda: third.get(left)["status"] == "succeeded")
