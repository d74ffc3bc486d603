"""SIGTERM while a process is under load: what was accepted is answered, and nothing stays behind."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx

HEAD = b'--B\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n'
TAIL = b"\r\n--B--\r\n"
NUM_CLIENTS = 10

SERVER = """
import sys, time, uvicorn
sys.path.insert(0, sys.argv[1])
from tests.server.conftest import make_analysis
from server.app import create_app
from server.cli import run_server
from server.settings import Settings

class Analyzer:
    def analyze(self, source, **options):
        time.sleep(0.15)
        return make_analysis(clip=options["name"])

settings = Settings()
config = uvicorn.Config(
    create_app(settings, Analyzer()), port=settings.port, log_level="warning", timeout_graceful_shutdown=60
)
run_server(config)
"""


def test_every_accepted_request_is_answered(root: Path, tmp_path: Path, free_port: Any, wait_until: Any) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(root)],
        env={**os.environ, "EMOLLAMA_TEMP_DIR": str(tmp_path), "EMOLLAMA_PORT": str(port), "EMOLLAMA_JOBS": "false"},
        cwd=root,
    )

    def answers() -> bool:
        assert process.poll() is None
        try:
            return httpx.get(f"{url}/ready", timeout=30).status_code == 200
        except httpx.TransportError:
            time.sleep(0.05)
            return False

    def places() -> float:
        lines = httpx.get(f"{url}/metrics", timeout=30).text.splitlines()
        wanted = ("emollama_requests_running ", "emollama_requests_waiting ")
        return sum(float(line.split()[1]) for line in lines if line.startswith(wanted))

    results: list[tuple[int, str]] = []

    def ask(number: int) -> None:
        answer = httpx.post(f"{url}/analyze", files={"file": (f"{number}.mp4", b"clip")}, timeout=120)
        results.append((answer.status_code, answer.json().get("clip", "")))

    try:
        wait_until(answers, seconds=120)
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(NUM_CLIENTS)]
        # One more is in the middle of its upload.
        slow = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        slow.putrequest("POST", "/analyze")
        slow.putheader("Content-Type", "multipart/form-data; boundary=B")
        slow.putheader("Content-Length", str(len(HEAD) + 4 + len(TAIL)))
        slow.endheaders()
        slow.send(HEAD)
        for thread in threads:
            thread.start()
        wait_until(lambda: len(results) + places() >= NUM_CLIENTS)
        assert len(results) < NUM_CLIENTS, "there is nothing left to drain"
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        slow.send(b"clip" + TAIL)
        late = slow.getresponse()
        assert (late.status, b"a.mp4" in late.read()) == (200, True)
        slow.close()
        for thread in threads:
            thread.join(120)
        assert process.wait(60) in (0, -signal.SIGTERM)
    finally:
        process.kill()
        process.wait()
    assert sorted(results) == sorted((200, f"{number}.mp4") for number in range(NUM_CLIENTS))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
