"""Clients that leave nano in the middle of its work: what they asked for ends, and nothing of it is left."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import emollama
from server.media_worker import MediaPool

pytestmark = pytest.mark.in_process(reason="the model is slowed down where a test wants to meet it")

SAMPLE = Path(emollama.__file__).parent / "assets" / "sample" / "sample.mp4"
WAYS = ("plain", "stream", "chat")
# How soon everything is free; machines that run the tests may be busy with others.
_SECONDS, _GENEROUS = 0.5, 20


class Nano:
    """The service with the real model and a process that decodes, slowed down where a test wants to meet it."""

    def __init__(self, service: Any, analyzer: Any, pool: MediaPool) -> None:
        from emollama.conversation import conversation_of

        self.service, self.app, self.analyzer, self.pool = service, service.app, analyzer, pool
        self.engines = (analyzer.parts.engine.replies, conversation_of(analyzer)._engine)

    def is_idle(self) -> bool:
        """Whether nothing is received, waits, runs, lies on the disk, or is held for a reply."""
        state = self.app.state
        return (
            (state.gate.num_running, state.gate.num_waiting) == (0, 0)
            and (state.inbox._num_uploads, state.chat._num_bodies) == (0, 0)
            and self.service.uploads() == []
            and all(engine.num_running + engine.num_waiting == 0 for engine in self.engines)
            and len(self.pool.pids()) == 1
        )

    def send(self, way: str, *, cut: int = 0) -> socket.socket:
        """Send a request, all but its last ``cut`` bytes, and leave the connection open."""
        if way == "chat":
            url = f"data:video/mp4;base64,{base64.b64encode(SAMPLE.read_bytes()).decode()}"
            content = [{"type": "video_url", "video_url": {"url": url}}, {"type": "text", "text": "Why?"}]
            body = json.dumps({"model": "nano", "messages": [{"role": "user", "content": content}]}).encode()
            path, kind = "/v1/chat/completions", "application/json"
        else:
            head = b'--B\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n'
            body = head + SAMPLE.read_bytes() + b"\r\n--B--\r\n"
            path, kind = f"/analyze?stream={str(way == 'stream').lower()}", "multipart/form-data; boundary=B"
        connection = socket.create_connection(("127.0.0.1", self.service.port), timeout=60)
        lines = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(lines.encode() + body[: len(body) - cut])
        return connection

    def answer(self) -> dict[str, Any]:
        """What is said of the clip, without what differs from time to time."""
        import httpx

        with SAMPLE.open("rb") as clip:
            reply = httpx.post(f"{self.service.url}/analyze", files={"file": ("a.mp4", clip)}, timeout=60)
        assert reply.status_code == 200, reply.text
        return {name: value for name, value in reply.json().items() if name not in ("id", "created", "timings_ms")}


@pytest.fixture(scope="module")
def nano(module_live: Callable[..., Any]) -> Iterator[Nano]:
    from emollama.analyze import Analyzer

    analyzer, pool = Analyzer.load("nano"), MediaPool(1)
    service = module_live(analyzer, concurrency=1, chat_cache_seconds=0.001)
    service.app.state.decoder = pool
    running = Nano(service, analyzer, pool)
    running.answer()
    yield running
    pool.close()


def hold_upload(nano: Nano, monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    state = nano.app.state
    return lambda: state.inbox._num_uploads + state.chat._num_bodies == 1


def hold_decoding(nano: Nano, monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    nano.pool.length(SAMPLE)  # so that it is ready: one that still starts is not ended with its clip
    (pid,) = nano.pool.pids()
    os.kill(pid, signal.SIGSTOP)  # it takes the clip and never answers
    return lambda: nano.app.state.gate.num_running == 1 and nano.pool.pids() == []


def hold_encoding(nano: Nano, monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    reached, face = threading.Event(), nano.analyzer.parts.face
    read = face.read

    def at_length(*track: Any, **options: Any) -> Any:
        reached.set()
        for _ in range(500):  # as for a clip of an hour
            found = read(*track, **options)
        return found

    monkeypatch.setattr(face, "read", at_length)
    return reached.is_set


def hold_generation(nano: Nano, monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    for engine in nano.engines:

        def slowly(step: Any = engine.step) -> Any:
            time.sleep(0.1)
            return step()

        monkeypatch.setattr(engine, "step", slowly)
    return lambda: any(engine.num_running for engine in nano.engines)


HOLDS = {
    "upload": hold_upload, "decoding": hold_decoding, "encoding": hold_encoding, "generation": hold_generation,
}  # fmt: skip


def leave(nano: Nano, monkeypatch: pytest.MonkeyPatch, wait_until: Any, *, stage: str, way: str) -> float:
    """Leave at a stage and return after how many seconds nothing was left."""
    wait_until(nano.is_idle)
    with monkeypatch.context() as patched:
        is_reached = HOLDS[stage](nano, patched)
        connection = nano.send(way, cut=1000 if stage == "upload" else 0)
        wait_until(is_reached)
        assert not nano.is_idle()
        began = time.monotonic()
        connection.close()
        wait_until(nano.is_idle, seconds=_SECONDS * _GENEROUS)
        return time.monotonic() - began


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("stage", HOLDS)
def test_what_a_client_left_ends_at_once(
    nano: Nano, monkeypatch: pytest.MonkeyPatch, wait_until: Any, stage: str, way: str
) -> None:
    leave(nano, monkeypatch, wait_until, stage=stage, way=way)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("stage", HOLDS)
def test_on_a_quiet_machine_it_has_ended_within_half_a_second(
    nano: Nano, monkeypatch: pytest.MonkeyPatch, wait_until: Any, stage: str, way: str
) -> None:
    seconds = [leave(nano, monkeypatch, wait_until, stage=stage, way=way) for _ in range(5)]
    assert max(seconds) <= _SECONDS, seconds
