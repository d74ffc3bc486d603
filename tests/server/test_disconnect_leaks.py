"""Two hundred clients leave `emollama serve` at random moments, and the process is what it was.

The service has its own process here, so that what is counted of it (memory, open files, threads, children) is its own.
"""

from __future__ import annotations

import base64
import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

import emollama

pytestmark = [
    pytest.mark.slow,
    pytest.mark.in_process(reason="a process is started that has its models in itself"),
    pytest.mark.skipif(sys.platform != "linux", reason="the allocator's settings are those of glibc"),
]

SAMPLE = Path(emollama.__file__).parent / "assets" / "sample" / "sample.mp4"
WAYS = ("plain", "stream", "chat", "later")
NUM_CLIENTS, ROUND = 200, 50
NUM_WORKERS = 2  # that decode clips
NUM_CHILDREN = NUM_WORKERS + 1  # and one that looks at cameras; beside them nothing is a child of the service
_KEPT = 6  # of files and threads: the pools of connections and of threads are filled when they are first needed
_ABOUT_SECONDS = 1.0  # that an answer takes; a client leaves within them
_MEMORY_BYTES = 16 * 2**20  # less than one decoded clip for every ten that were left


@dataclass(frozen=True, kw_only=True)
class Held:
    """What the process holds while it has nothing to do."""

    files: int
    threads: int
    children: int
    uploads: tuple[str, ...]
    places: float
    memory_bytes: int


class Served:
    """`emollama serve` with nano, seen from outside."""

    def __init__(self, folder: Path, root: Path, port: int) -> None:
        self.folder, self.port = folder, port
        (folder / "temp").mkdir()
        environment = os.environ | {
            "EMOLLAMA_TEMP_DIR": str(folder / "temp"),
            "EMOLLAMA_DATA_DIR": str(folder / "data"),
            "EMOLLAMA_PORT": str(port),
            "EMOLLAMA_CONCURRENCY": "2",
            "EMOLLAMA_MEDIA_WORKERS": str(NUM_WORKERS),
            "EMOLLAMA_LIVE_WORKERS": "1",
            # What is freed goes back to the system at once. By default glibc keeps some 200 MiB of it in pieces that
            # come and go by 40 MiB from one look to the next, in which a leak would not be seen.
            "MALLOC_MMAP_THRESHOLD_": str(2**20),
        }
        with (folder / "log").open("wb") as log:
            command = [sys.executable, "-m", "emollama.cli", "serve"]
            self.process = subprocess.Popen(command, cwd=root, env=environment, stdout=log, stderr=log)
        self.seen = psutil.Process(self.process.pid)
        self.client = httpx.Client(
            base_url=f"http://127.0.0.1:{port}", timeout=60, limits=httpx.Limits(max_keepalive_connections=0)
        )

    def is_ready(self) -> bool:
        assert self.process.poll() is None, (self.folder / "log").read_text()[-2000:]
        try:
            return self.client.get("/ready").status_code == 200
        except httpx.TransportError:
            return False

    def places(self) -> float:
        """How many requests run or wait."""
        lines = self.client.get("/metrics").raise_for_status().text.splitlines()
        wanted = ("emollama_requests_running ", "emollama_requests_waiting ")
        return sum(float(line.split()[1]) for line in lines if line.startswith(wanted))

    def held(self) -> Held:
        folders = (self.folder / "temp", self.folder / "data")
        files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
        kept = ("lock", "database-id", "emollama.sqlite3", "emollama.sqlite3-wal", "emollama.sqlite3-shm")
        return Held(
            places=self.places(),
            files=self.seen.num_fds(),
            threads=self.seen.num_threads(),
            children=len(self.seen.children(recursive=True)),
            uploads=tuple(sorted(path.name for path in files if path.name not in kept)),
            memory_bytes=self.seen.memory_info().rss,
        )

    def is_idle(self) -> bool:
        held = self.held()
        return (held.places, held.uploads, held.children) == (0, (), NUM_CHILDREN)

    def send(self, way: str, *, cut: int) -> socket.socket:
        """Send a request, all but its last ``cut`` bytes, and leave the connection open."""
        if way == "chat":
            url = f"data:video/mp4;base64,{base64.b64encode(SAMPLE.read_bytes()).decode()}"
            content = [{"type": "video_url", "video_url": {"url": url}}, {"type": "text", "text": "Why?"}]
            asked = {"model": "nano", "stream": True, "messages": [{"role": "user", "content": content}]}
            body, kind = json.dumps(asked).encode(), "application/json"
        else:
            head = b'--B\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n'
            body, kind = head + SAMPLE.read_bytes() + b"\r\n--B--\r\n", "multipart/form-data; boundary=B"
        path = {
            "plain": "/analyze", "stream": "/analyze?stream=true", "chat": "/v1/chat/completions",
            "later": "/v1/analyses",
        }[way]  # fmt: skip
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        lines = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(lines.encode() + body[: len(body) - cut])
        return connection

    def answer(self) -> dict[str, Any]:
        """What is said of the clip, without what differs from time to time."""
        with SAMPLE.open("rb") as clip:
            reply = self.client.post("/analyze", files={"file": ("a.mp4", clip)})
        assert reply.status_code == 200, reply.text
        return {name: value for name, value in reply.json().items() if name not in ("id", "created", "timings_ms")}

    def delete_analyses(self) -> None:
        """Those that were accepted are kept, whoever left: they are waited for later."""
        while found := self.client.get("/v1/analyses", params={"limit": 100}).raise_for_status().json()["data"]:
            for each in found:
                self.client.delete(f"/v1/analyses/{each['id']}").raise_for_status()
            time.sleep(0.05)  # one that runs is there until it has ended


@pytest.fixture
def served(tmp_path: Path, root: Path, free_port: Callable[[], int], wait_until: Any) -> Iterator[Served]:
    started = Served(tmp_path, root, free_port())
    try:
        wait_until(started.is_ready, seconds=300)
        yield started
    finally:
        started.client.close()
        started.process.kill()
        started.process.wait()


def test_two_hundred_clients_leave_at_random_moments_and_nothing_is_left(served: Served, wait_until: Any) -> None:
    draw = random.Random(11)

    def leave() -> None:
        connection = served.send(draw.choice(WAYS), cut=draw.choice((0, 0, 0, 1000)))
        time.sleep(draw.uniform(0.0, _ABOUT_SECONDS))
        if draw.random() < 0.5:  # as a program that is killed does
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
        wait_until(lambda: served.places() == 0)

    def rest() -> Held:
        """What is held once the last connection is closed and every process that was ended is replaced."""
        served.delete_analyses()
        wait_until(served.is_idle)
        time.sleep(1.0)
        wait_until(served.is_idle)
        return served.held()

    said, rests = served.answer(), []
    for _ in range(NUM_CLIENTS // ROUND):
        for _ in range(ROUND):
            leave()
        rests.append(rest())
    first, last = rests[0], rests[-1]
    assert last.files <= first.files + _KEPT, rests
    assert last.threads <= first.threads + _KEPT, rests
    assert last.memory_bytes <= first.memory_bytes + _MEMORY_BYTES, rests
    assert served.answer() == said
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(60) in (0, -signal.SIGTERM)
