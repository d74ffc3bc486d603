"""SIGTERM while a process is under load: what was accepted is answered, and nothing stays behind."""

from __future__ import annotations

import http.client
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

HEAD = b'--B\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n'
TAIL = b"\r\n--B--\r\n"
NUM_CLIENTS = 10

SERVER = """
import sys, time, uvicorn
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from tests.server.conftest import make_analysis, stages_of
from server.app import create_app
from server.cli import run_server
from server.settings import Settings

log, go = Path(sys.argv[2]), Path(sys.argv[3])

class Analyzer:
    def analyze(self, source, **options):
        while not go.exists():
            time.sleep(0.01)
        time.sleep(0.05)
        return make_analysis(clip=options["name"])

    def stages(self, source, **options):
        yield from stages_of(self.analyze(source, **options))

class Accepted:
    # Writes the id of every request down when it is taken on, before anything is done with it.
    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http" and scope["path"] == "/analyze":
            with log.open("a") as file:
                file.write(dict(scope["headers"])[b"x-request-id"].decode() + "\\n")
        await self.app(scope, receive, send)

settings = Settings()
app = create_app(settings, Analyzer())
app.add_middleware(Accepted)
config = uvicorn.Config(app, port=settings.port, log_level="warning", timeout_graceful_shutdown=60)
run_server(config)
"""


class Service:
    """The process, whose model answers once it may; it writes the ids of the requests that it takes on into a file."""

    def __init__(self, root: Path, folder: Path, port: int) -> None:
        self.port, self.url = port, f"http://127.0.0.1:{port}"
        self._accepted, self._go, self._temp_dir = folder / "accepted", folder / "go", folder / "temp"
        self._temp_dir.mkdir()
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(root), str(self._accepted), str(self._go)],
            env=os.environ
            | {"EMOLLAMA_TEMP_DIR": str(self._temp_dir), "EMOLLAMA_PORT": str(port), "EMOLLAMA_JOBS": "false"},
            cwd=root,
        )

    def is_ready(self) -> bool:
        assert self.process.poll() is None
        try:
            return httpx.get(f"{self.url}/ready", timeout=30).status_code == 200
        except httpx.TransportError:
            time.sleep(0.05)
            return False

    def num_accepted(self) -> int:
        """How many requests are in their places, running or waiting."""
        lines = httpx.get(f"{self.url}/metrics", timeout=30).text.splitlines()
        wanted = ("emollama_requests_running ", "emollama_requests_waiting ")
        return int(sum(float(line.split()[1]) for line in lines if line.startswith(wanted)))

    def accepted(self) -> list[str]:
        return self._accepted.read_text().split()

    def let_answer(self) -> None:
        self._go.touch()

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def is_closed(self) -> bool:
        """Whether nobody gets in any more."""
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=30).close()
        except OSError:
            return True
        return False

    def has_ended_well(self) -> bool:
        """Wait for the end, and tell whether it was the one that was asked for, with nothing left behind."""
        code = self.process.wait(60)
        return code in (0, -signal.SIGTERM) and not [path for path in self._temp_dir.rglob("*") if path.is_file()]


@pytest.fixture
def service(root: Path, tmp_path: Path, free_port: Any, wait_until: Any) -> Iterator[Service]:
    started = Service(root, tmp_path, free_port())
    try:
        wait_until(started.is_ready, seconds=120)
        yield started
    finally:
        started.process.kill()
        started.process.wait()


def test_every_accepted_request_is_answered(service: Service, wait_until: Any) -> None:
    results: list[tuple[int, str]] = []

    def ask(number: int) -> None:
        answer = httpx.post(
            f"{service.url}/analyze", files={"file": (f"{number}.mp4", b"clip")}, headers={"X-Request-Id": str(number)},
            timeout=120,
        )  # fmt: skip
        results.append((answer.status_code, answer.json().get("clip", "")))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(NUM_CLIENTS)]
    # One more is in the middle of its upload.
    slow = http.client.HTTPConnection("127.0.0.1", service.port, timeout=120)
    slow.putrequest("POST", "/analyze")
    slow.putheader("Content-Type", "multipart/form-data; boundary=B")
    slow.putheader("Content-Length", str(len(HEAD) + 4 + len(TAIL)))
    slow.putheader("X-Request-Id", "slow")
    slow.endheaders()
    slow.send(HEAD)
    for thread in threads:
        thread.start()
    wait_until(lambda: service.num_accepted() == NUM_CLIENTS and len(service.accepted()) == NUM_CLIENTS + 1)
    service.terminate()
    wait_until(service.is_closed)
    assert results == []
    slow.send(b"clip" + TAIL)
    service.let_answer()
    late = slow.getresponse()
    assert (late.status, b"a.mp4" in late.read()) == (200, True)
    slow.close()
    for thread in threads:
        thread.join(120)
    assert sorted(results) == sorted((200, f"{number}.mp4") for number in range(NUM_CLIENTS))
    assert service.has_ended_well()


def test_whoever_goes_on_asking_is_answered_or_not_taken_on(service: Service, wait_until: Any) -> None:
    answered: list[str] = []
    others: list[str] = []

    def ask(number: int) -> None:
        """Ask, whole and in events by turns, until the service can no longer be reached."""
        with httpx.Client(base_url=service.url, timeout=120) as client:
            for turn in itertools.count():
                name, streams = f"{number}-{turn}", turn % 2 == 1
                try:
                    answer = client.post(
                        "/analyze", params={"stream": streams}, files={"file": (f"{name}.mp4", b"clip")},
                        headers={"X-Request-Id": name},
                    )  # fmt: skip
                except httpx.TransportError:
                    return
                is_whole = f"{name}.mp4" in answer.text and ("event: done" in answer.text) == streams
                (answered if answer.status_code == 200 and is_whole else others).append(name)

    service.let_answer()
    threads = [threading.Thread(target=ask, args=(number,)) for number in range(NUM_CLIENTS)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(answered) >= 2 * NUM_CLIENTS)
    service.terminate()
    for thread in threads:
        thread.join(120)
    assert (sorted(answered), others) == (sorted(service.accepted()), [])
    assert service.has_ended_well()
