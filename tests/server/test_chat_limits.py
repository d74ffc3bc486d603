"""Chats whose client goes away, clips that are forgotten, and whose they are; a stand-in says how far the work is."""

from __future__ import annotations

import base64
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from server.chat.cache import ClipCache, ClipKey

WAV = base64.b64encode(b"RIFF\x24\0\0\0WAVEfmt " + b"\0" * 64).decode()


class StandInConversation:
    """Reads and replies until it is told to stop; ``stage`` says where it waits, and ``ended`` that it was stopped."""

    def __init__(self, stage: str | None = None) -> None:
        self.stage, self.reads = stage, 0
        self.reached, self.ended = threading.Event(), threading.Event()

    def _wait(self, stage: str, cancelled: Callable[[], bool]) -> None:
        if self.stage != stage:
            return
        self.reached.set()
        end = time.monotonic() + 20
        while not cancelled():
            assert time.monotonic() < end
            time.sleep(0.005)
        self.ended.set()
        raise RuntimeError("stopped")

    def read(self, source: Path, *, cancelled: Callable[[], bool], **_: Any) -> Any:
        self.reads += 1
        self._wait("encoding", cancelled)
        seen = SimpleNamespace(warnings=())
        return SimpleNamespace(seen=seen, num_tokens=5, num_bytes=100, ms={"encoders": 2.0})

    def ask(self, reading: Any, question: str, **_: Any) -> Any:
        return SimpleNamespace(num_tokens=9, num_dropped=0, ms=0.5)

    def replies(self, asked: Any, options: Any, *, cancelled: Callable[[], bool]) -> Iterator[Any]:
        from emollama.conversation import Said

        yield Said(index=0, text="One", num_tokens=1)
        self._wait("generation", cancelled)
        yield Said(index=0, text=" two.", num_tokens=1, finish="stop")


@pytest.fixture
def stand_in(analyzer_type: Any) -> Callable[..., Any]:
    def make(stage: str | None = None) -> Any:
        analyzer = analyzer_type()
        analyzer.conversation = StandInConversation(stage)
        return analyzer

    return make


def body(**more: Any) -> dict[str, Any]:
    clip = {"type": "audio_url", "audio_url": {"url": f"data:audio/wav;base64,{WAV}"}, "uuid": "u"}
    content = [clip, {"type": "text", "text": "Why?"}]
    return {"model": "nano", "messages": [{"role": "user", "content": content}], **more}


def send(port: int, document: bytes, *, announced: int | None = None) -> socket.socket:
    """Send a request (or, with a longer announced length, a part of one) and leave the connection open."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=20)
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {announced or len(document)}\r\n\r\n"
    )
    connection.sendall(head.encode() + document)
    return connection


@pytest.mark.parametrize(
    ("stage", "stream"), [("encoding", False), ("encoding", True), ("generation", False), ("generation", True)]
)
def test_a_client_that_goes_away_ends_the_work(
    live: Callable[..., Any], stand_in: Any, wait_until: Any, stage: str, stream: bool
) -> None:
    analyzer = stand_in(stage)
    service = live(analyzer)
    connection = send(service.port, json.dumps(body(stream=stream)).encode())
    wait_until(analyzer.conversation.reached.is_set)
    assert not analyzer.conversation.ended.is_set()
    connection.close()
    wait_until(analyzer.conversation.ended.is_set)
    wait_until(lambda: service.app.state.gate.num_running == 0)
    wait_until(lambda: service.uploads() == [])


def test_a_client_that_goes_away_in_mid_upload_frees_its_place(
    live: Callable[..., Any], stand_in: Any, wait_until: Any
) -> None:
    service = live(stand_in(), max_uploads=1)
    connection = send(service.port, b'{"model"', announced=1000)
    desk = service.app.state.chat
    wait_until(lambda: desk._num_bodies == 1)
    busy = httpx.post(f"{service.url}/v1/chat/completions", json=body())
    assert (busy.status_code, busy.json()["error"]["code"]) == (429, "busy")
    assert int(busy.headers["retry-after"]) >= 1
    connection.close()
    wait_until(lambda: desk._num_bodies == 0)
    assert httpx.post(f"{service.url}/v1/chat/completions", json=body()).status_code == 200


def test_the_same_clip_is_read_once(live: Callable[..., Any], stand_in: Any) -> None:
    analyzer = stand_in()
    service = live(analyzer)
    first, second = (httpx.post(f"{service.url}/v1/chat/completions", json=body()).json() for _ in range(2))
    assert analyzer.conversation.reads == 1
    assert first["metrics"]["encoder_ms"] == 2.0
    assert second["metrics"]["encoder_ms"] == 0
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] == 5
    assert second["choices"][0]["message"]["content"] == "One two."


def test_a_model_that_cannot_chat_says_so(live: Callable[..., Any]) -> None:
    reply = httpx.post(f"{live().url}/v1/chat/completions", json=body())
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "model")


class Model:
    pass


def reading(num_bytes: int = 10) -> Any:
    return SimpleNamespace(num_bytes=num_bytes)


def test_a_clip_is_its_owners_and_its_models_alone() -> None:
    cache, model = ClipCache(max_bytes=100, max_clips=9, seconds=10), Model()
    key = ClipKey("ann", "nano", "c")
    cache.put(key, reading(), made_by=model)
    cache.name(key, "u")
    assert cache.get(key, made_by=model) is not None
    assert cache.find("ann", "nano", "u") == key
    assert cache.find("bob", "nano", "u") is None
    assert cache.find("ann", "tuned", "u") is None
    assert cache.get(ClipKey("bob", "nano", "c"), made_by=model) is None
    assert cache.get(key, made_by=Model()) is None  # the name was loaded anew
    assert cache.forget("ann") == 1
    assert cache.find("ann", "nano", "u") is None


def test_the_cache_is_bounded_and_forgets() -> None:
    now = [0.0]
    cache, model = ClipCache(max_bytes=35, max_clips=3, seconds=10, clock=lambda: now[0]), Model()
    keys = [ClipKey("ann", "nano", str(index)) for index in range(4)]
    for key in keys[:3]:
        cache.put(key, reading(), made_by=model)
    cache.get(keys[0], made_by=model)
    cache.put(keys[3], reading(), made_by=model)  # the one that was used least recently makes room
    assert [cache.get(key, made_by=model) is not None for key in keys] == [True, False, True, True]
    cache.put(ClipKey("ann", "nano", "large"), reading(36), made_by=model)
    assert cache.num_clips == 3
    cache.put(ClipKey("ann", "nano", "wide"), reading(30), made_by=model)
    assert (cache.num_clips, cache.num_bytes) == (1, 30)
    now[0] = 10.5
    cache.expire()
    assert cache.num_clips == 0


def test_an_adapter_answers_by_its_name_and_reads_for_itself(
    live: Callable[..., Any], stand_in: Any, tmp_path: Path
) -> None:
    loaded: dict[str, Any] = {}

    def load(spec: Any) -> Any:
        return loaded.setdefault(spec.name, stand_in())

    service = live(load=load, adapters={"tuned": tmp_path})
    url = f"{service.url}/v1/chat/completions"
    for _ in range(500):
        if httpx.post(url, json=body(model="tuned")).status_code != 503:
            break
        time.sleep(0.01)
    replies = [httpx.post(url, json=body(model=name)).json() for name in ("nano", "tuned", "tuned")]
    assert [reply["model"] for reply in replies] == ["nano", "tuned", "tuned"]
    # what one model read is nothing to the other
    assert {name: analyzer.conversation.reads for name, analyzer in loaded.items()} == {"nano": 1, "tuned": 1}


def test_an_address_is_refused_with_the_way_to_allow_it(live: Callable[..., Any], stand_in: Any) -> None:
    document = body()
    document["messages"][0]["content"][0]["audio_url"]["url"] = "https://media.example/a.wav"
    error = httpx.post(f"{live(stand_in()).url}/v1/chat/completions", json=document).json()["error"]
    assert error["code"] == "url_not_allowed"
    assert "EMOLLAMA_MEDIA_DOMAINS" in error["message"]
