"""Live sessions over real sockets, read by nano: what is told, what is refused with which code, and how they end."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

import emollama
from emollama.media import read_clip
from emollama.types import Clip
from server.auth import new_key
from server.live.protocol import picture_message, sound_message
from server.records import audit, keys

pytestmark = pytest.mark.in_process(reason="a live session reads in the service itself")

SAMPLE = Path(emollama.__file__).parent / "assets" / "sample" / "sample.mp4"
ADMIN_KEY = "operator-" + "k" * 32


@pytest.fixture(scope="module")
def nano() -> emollama.Analyzer:
    return emollama.load("nano")


@pytest.fixture(scope="module")
def clip() -> Clip:
    return read_clip(SAMPLE)


@pytest.fixture(scope="module")
def pictures(clip: Clip) -> list[bytes]:
    assert clip.frames is not None
    return [bytes(cv2.imencode(".jpg", image[..., ::-1])[1].tobytes()) for image in clip.frames.images]


@pytest.fixture(scope="module")
def service(module_live: Callable[..., Any], nano: emollama.Analyzer) -> Any:
    return module_live(nano)


class Talk:
    """One client of a session."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.said: list[dict[str, Any]] = []

    def send(self, **message: Any) -> None:
        self.socket.send(json.dumps(message))

    def hear(self, kind: str, *, where: Callable[[dict[str, Any]], bool] = lambda message: True) -> dict[str, Any]:
        """Return the next message of a kind."""
        while True:
            message = json.loads(self.socket.recv(timeout=60))
            self.said.append(message)
            if message["type"] == kind and where(message):
                return message

    def end(self) -> tuple[int | None, str]:
        """Listen until the connection is closed; return its code and reason."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                self.said.append(json.loads(self.socket.recv(timeout=60)))
        return self.socket.close_code, self.socket.close_reason or ""

    def error(self) -> dict[str, Any]:
        return next(each["error"] for each in reversed(self.said) if each["type"] == "error")


@contextlib.contextmanager
def talk(service: Any, **options: Any) -> Iterator[Talk]:
    start = options.pop("start", {})
    with connect(f"ws://127.0.0.1:{service.port}/v1/live", open_timeout=60, **options) as socket:
        talking = Talk(socket)
        if start is not None:
            talking.send(type="start", **start)
        yield talking


def show(talking: Talk, clip: Clip, pictures: list[bytes], *, first: int = 0, last: int | None = None) -> None:
    """Send pictures with their sound, each when the service has taken the one before."""
    assert clip.frames is not None
    assert clip.audio is not None
    for at, content in list(zip(clip.frames.times, pictures, strict=True))[first:last]:
        talking.socket.send(picture_message(content, time=float(at)))
        begin = round(float(at) * 16_000)
        samples = (clip.audio.samples[begin : begin + 3200] * 32_767).astype(np.int16)
        talking.socket.send(sound_message(samples, time=float(at)))
        time.sleep(0.05)


def metrics(service: Any) -> str:
    return httpx.get(f"{service.url}/metrics").text


def test_readings_reasons_and_an_end(service: Any, clip: Clip, pictures: list[bytes]) -> None:
    with talk(service, start={"every_seconds": 0.2}, subprotocols=["emollama.live.v1"]) as client:
        assert client.socket.subprotocol == "emollama.live.v1"
        ready = client.hear("ready")
        assert ready["labels"][:2] == ["neutral", "happiness"]
        assert ready["limits"]["picture_bytes"] == 512 * 1024
        show(client, clip, pictures)
        reading = client.hear("reading", where=lambda message: message["used"] == ["face", "voice"])
        assert reading["picture"] == {"width": 480, "height": 360}
        (face,) = reading["faces"]
        assert {"track", "box", "label", "appears", "scores", "valence", "arousal", "is_main"} <= set(face)
        assert reading["appears"].startswith(("appears", "may appear"))
        assert sum(reading["emotion"]["scores"].values()) == pytest.approx(1.0)
        client.send(type="explain", id="why-1")
        label = client.hear("label")
        told = client.hear("explained")
        assert label["id"] == told["id"] == "why-1"
        assert set(label["evidence"]) == {"visual", "audio", "text"}
        pieces = [each["text"] for each in client.said if each["type"] == "rationale"]
        assert "".join(pieces) == told["text"]
        assert len(pieces) > 1
        client.send(type="stop")
        assert client.end() == (1000, "stopped")
        assert client.said[-1] == {"type": "ended", "reason": "stopped"}
    page = metrics(service)
    assert 'emollama_live_sessions_ended_total{code="1000"}' in page
    assert 'emollama_live_pictures_total{outcome="read"}' in page


def test_readings_go_on_while_nothing_comes_and_then_claim_nothing(
    service: Any, clip: Clip, pictures: list[bytes]
) -> None:
    with talk(service, start={"every_seconds": 0.2}) as client:
        show(client, clip, pictures, last=3)
        seen = client.hear("reading", where=lambda message: bool(message["faces"]))
        gone = client.hear("reading", where=lambda message: not message["faces"])
        assert gone["time"] - seen["time"] < 30
        assert gone["emotion"]["label"] is None
        assert gone["appears"] == "nobody is seen or heard"


def test_a_camera_that_is_faster_than_the_machine_has_pictures_dropped_and_counted(
    module_live: Callable[..., Any], nano: emollama.Analyzer, pictures: list[bytes]
) -> None:
    with talk(module_live(nano, live_messages_per_second=1000)) as client:
        client.hear("ready")
        for index in range(200):
            client.socket.send(picture_message(pictures[0], time=index / 1000))
        reading = client.hear("reading", where=lambda message: message["pictures"]["received"] == 200)
        counted = reading["pictures"]
        assert counted["dropped"] > 100
        assert counted["read"] + counted["dropped"] == 200


@pytest.mark.parametrize(
    ("messages", "code", "error"),
    [
        (["words"], 4400, "invalid_value"),
        ([json.dumps({"type": "explain"})], 4400, "invalid_value"),
        ([json.dumps({"type": "start", "model": "mega"})], 4404, "model_not_found"),
        ([json.dumps({"type": "start", "labels": "one"})], 4400, "invalid_value"),
        ([json.dumps({"type": "start"})] * 2, 4400, "invalid_value"),
        ([json.dumps({"type": "start"}), b"\x07" + bytes(20)], 4400, "invalid_value"),
        ([json.dumps({"type": "start"}), picture_message(b"no picture", time=0.0)], None, "unsupported_media"),
        (
            [
                json.dumps({"type": "start"}),
                picture_message(cv2.imencode(".png", np.zeros((1000, 1000), np.uint8))[1].tobytes(), time=0.0),
            ],
            4422,
            "media_limit_exceeded",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_and_closes_with_a_code_that_means_it(
    service: Any, messages: list[Any], code: int | None, error: str
) -> None:
    with talk(service, start=None) as client:
        for message in messages:
            client.socket.send(message)
        if code is None:  # one bad picture ends nothing
            assert client.hear("error")["error"]["code"] == error
            assert client.hear("reading")["pictures"]["refused"] == 1
            return
        assert client.end() == (code, error)
        assert client.error()["code"] == error
        assert "allowed" in client.error()["message"] or error == "model_not_found"


def test_picture_after_picture_that_cannot_be_read_ends_it(service: Any, pictures: list[bytes]) -> None:
    with talk(service) as client:
        client.hear("ready")
        for index in range(10):
            client.socket.send(picture_message(pictures[0][:300], time=index / 10))
            if index < 9:
                client.hear("error")
        assert client.end() == (4422, "undecodable_media")


def test_messages_that_come_too_fast_and_those_that_are_too_large(
    module_live: Callable[..., Any], nano: emollama.Analyzer, pictures: list[bytes]
) -> None:
    strict = module_live(nano, live_messages_per_second=20, live_picture_kb=64)
    with talk(strict) as client:
        client.hear("ready")
        with contextlib.suppress(ConnectionClosed):
            for index in range(60):
                client.socket.send(picture_message(pictures[0], time=index / 1000))
        assert client.end() == (4429, "rate_limit_exceeded")
        assert client.error()["message"].endswith("allowed: 20")
    with talk(strict) as client:
        client.hear("ready")
        client.socket.send(picture_message(bytes(65 * 1024), time=0.0))
        assert client.end() == (4413, "file_too_large")


def test_there_are_so_many_places(module_live: Callable[..., Any], nano: emollama.Analyzer) -> None:
    one = module_live(nano, live_sessions=1)
    with talk(one) as first:
        first.hear("ready")
        assert "emollama_live_sessions 1.0" in metrics(one)
        with talk(one) as second:
            assert second.end() == (4429, "busy")
            assert second.error()["type"] == "rate_limit_error"
    with talk(one) as third:  # the place is free again
        third.hear("ready")
    with talk(module_live(nano, live_sessions=0)) as none:
        assert none.end() == (4400, "live_unsupported")


def test_a_session_ends_in_time(module_live: Callable[..., Any], nano: emollama.Analyzer) -> None:
    with talk(module_live(nano, live_idle_seconds=0.5)) as client:
        assert client.end() == (4408, "live_session_over")
        assert client.error()["message"] == "nothing came for 0.5 s"
    with talk(module_live(nano, live_seconds=0.5)) as client:
        assert client.end() == (4408, "live_session_over")


def test_keys_by_header_by_subprotocol_and_by_the_first_message(
    module_live: Callable[..., Any], nano: emollama.Analyzer
) -> None:
    s = module_live(nano, auth="keys", admin_key=ADMIN_KEY)

    def key(scopes: str, **options: Any) -> str:
        text, record = new_key(owner="ann", scopes=scopes.split(","), **options)
        keys.add(s.app.state.store, record)
        return text

    mine, other = key("analyze"), key("files")
    for options in (
        {"additional_headers": {"Authorization": f"Bearer {mine}"}},
        {"subprotocols": ["emollama.live.v1", f"emollama.key.{mine}"]},
        {"start": {"key": mine}},
        {"start": {"key": ADMIN_KEY}},
    ):
        with talk(s, **options) as client:
            client.hear("ready")
            assert client.socket.subprotocol in (None, "emollama.live.v1")  # never the key
    for start, end in (
        ({}, (4401, "missing_api_key")),
        ({"key": "emo_aaaaaaaaaaaa_" + "a" * 43}, (4401, "invalid_api_key")),
        ({"key": other}, (4403, "insufficient_scope")),
    ):
        with talk(s, start=start) as client:
            assert client.end() == end
    for header, status in ((f"Bearer {other}", 403), ("Bearer emo_none", 401), ("Basic YTpi", 401)):
        with pytest.raises(InvalidStatus) as refused:
            connect(f"ws://127.0.0.1:{s.port}/v1/live", additional_headers={"Authorization": header})
        assert refused.value.response.status_code == status
        assert json.loads(refused.value.response.body)["error"]["code"]
    with pytest.raises(InvalidStatus):  # no other way in without a key
        connect(f"ws://127.0.0.1:{s.port}/v1/chat")
    slow = key("analyze", per_minute=2)
    for _ in range(2):
        with talk(s, start={"key": slow}) as client:
            client.hear("ready")
    with talk(s, start={"key": slow}) as client:
        assert client.end() == (4429, "rate_limit_exceeded")


def test_strangers_do_not_fill_the_log_and_what_was_let_in_is_always_in_it(
    module_live: Callable[..., Any],
    nano: emollama.Analyzer,
    pictures: list[bytes],
    monkeypatch: pytest.MonkeyPatch,
    wait_until: Callable[..., None],
) -> None:
    monkeypatch.setattr("server.trust.auditing._REFUSALS_PER_MINUTE", 3)
    s = module_live(nano, auth="keys")
    text, record = new_key(owner="ann", scopes=["analyze"])
    keys.add(s.app.state.store, record)

    def rows(**wanted: Any) -> list[Any]:
        return list(audit.page(s.app.state.store, after=None, limit=100, **wanted).items)

    for _ in range(10):
        with talk(s, start={"key": "emo_none"}) as client:
            assert client.end() == (4401, "invalid_api_key")
        with talk(s, start=None):
            pass  # and without a word
    assert {row.code for row in rows()} <= {"invalid_api_key", None}
    assert 3 <= len(rows()) <= 6
    for _ in range(8):  # refused, or ended badly after something was read: the latter is what was done
        with talk(s, start={"key": text, "model": "none"}) as client:
            assert client.end()[0] == 4404
    with talk(s, start={"key": text}) as client:
        client.hear("ready")
        client.socket.send(picture_message(pictures[0], time=0.0))
        client.hear("reading")
        client.send(type="begin")
        assert client.end() == (4400, "invalid_value")
    wait_until(lambda: bool(rows(owner="ann")) and rows(owner="ann")[0].code == "invalid_value")
    last = rows(owner="ann")[0]
    assert (last.status, last.model, last.subject_id[:5]) == (4400, "nano", "live_")
    assert len(rows(owner="ann")) <= 6


def test_reasons_count_for_the_rate_of_a_key_and_end_nothing(
    module_live: Callable[..., Any], nano: emollama.Analyzer
) -> None:
    s = module_live(nano, auth="keys", admin_key=ADMIN_KEY)
    text, record = new_key(owner="ann", scopes=["analyze"], per_minute=2)
    keys.add(s.app.state.store, record)
    with talk(s, start={"key": text}) as client:
        client.send(type="explain", id="a")
        assert "no face" in client.hear("explained")["text"].lower()
        client.send(type="explain", id="b")
        refused = client.hear("error")
        assert (refused["id"], refused["error"]["code"]) == ("b", "rate_limit_exceeded")
        client.send(type="stop")
        assert client.end() == (1000, "stopped")


def test_a_page_of_another_place_is_not_let_in(module_live: Callable[..., Any], nano: emollama.Analyzer) -> None:
    s = module_live(nano, cors_origins="https://app.example")
    for origin in (f"http://127.0.0.1:{s.port}", "https://app.example"):
        with talk(s, origin=origin) as client:
            client.hear("ready")
    with pytest.raises(InvalidStatus) as refused:
        connect(f"ws://127.0.0.1:{s.port}/v1/live", origin="https://elsewhere.example")
    assert refused.value.response.status_code == 403
    assert json.loads(refused.value.response.body)["error"]["code"] == "origin_not_allowed"


def test_a_service_that_is_stopped_says_so(module_live: Callable[..., Any], nano: emollama.Analyzer) -> None:
    s = module_live(nano)
    with talk(s) as client:
        client.hear("ready")
        s.app.state.stopping.set()
        assert client.end() == (1012, "service_stopping")
        assert client.said[-1] == {"type": "ended", "reason": "service_stopping"}


def test_a_client_that_leaves_frees_its_place_and_leaves_nothing(
    module_live: Callable[..., Any], nano: emollama.Analyzer, pictures: list[bytes], wait_until: Callable[..., None]
) -> None:
    s = module_live(nano, live_sessions=1)
    before = threading.active_count()
    for _ in range(3):
        with talk(s) as client:
            client.hear("ready")
            client.socket.send(picture_message(pictures[0], time=0.0))
            client.socket.socket.close()  # without a word
        wait_until(lambda: s.app.state.live.num_sessions == 0)
    assert threading.active_count() <= before + 3
    assert s.uploads() == []


def test_the_log_has_counts_and_nothing_of_what_was_seen(
    service: Any, pictures: list[bytes], caplog: pytest.LogCaptureFixture, wait_until: Callable[..., None]
) -> None:
    def lines() -> list[Any]:
        return [each for each in caplog.records if each.message == "live session"]

    with caplog.at_level(logging.INFO, logger="server.live"):
        with talk(service, start={"labels": "bliss, gloom"}) as client:
            client.socket.send(picture_message(pictures[0], time=0.0))
            client.hear("reading")
            client.send(type="stop")
            client.end()
        wait_until(lambda: bool(lines()))
    fields = lines()[-1].fields
    assert fields["session"].startswith("live_")
    assert (fields["code"], fields["readings"] >= 1) == (1000, True)
    assert "bliss" not in str(fields)


def test_a_model_that_reads_elsewhere_is_refused_by_name(module_live: Callable[..., Any]) -> None:
    with talk(module_live()) as client:  # a stand-in, as a model of a cluster is
        assert client.end() == (4400, "live_unsupported")
        assert client.error()["param"] == "model"
        assert "allowed: nano" in client.error()["message"]
