"""The messages of a live session, what is wrong with others, and pages of other places."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest

from server.errors import CODES, ApiError
from server.live.protocol import (
    End,
    Explain,
    Picture,
    Sound,
    Start,
    close_code,
    key_of,
    picture_message,
    read_binary,
    read_text,
    require_origin,
    sound_message,
)


def test_the_documented_bytes() -> None:
    header = bytes([1, 0, 0, 0]) + struct.pack("<d", 2.5)
    assert picture_message(b"\xff\xd8", time=2.5) == header + b"\xff\xd8"
    assert read_binary(header + b"\xff\xd8", max_bytes=100) == Picture(time=2.5, content=b"\xff\xd8")
    sound = read_binary(bytes([2, 0, 0, 0]) + struct.pack("<d", 0.1) + b"\x01\x00\xff\xff", max_bytes=100)
    assert isinstance(sound, Sound)
    assert (sound.time, sound.samples.tolist()) == (0.1, [1, -1])
    samples = np.array([-32768, 0, 32767], np.int16)
    again = read_binary(sound_message(samples, time=7.0), max_bytes=100)
    assert isinstance(again, Sound)
    assert again.samples.tolist() == samples.tolist()


@pytest.mark.parametrize(
    ("message", "code", "param", "allowed"),
    [
        (b"", "invalid_value", "message", "allowed: a header of 12 and a content"),
        (bytes(12), "invalid_value", "message", "has 12 bytes"),
        (bytes([3, 0, 0, 0]) + struct.pack("<d", 1.0) + b"x", "invalid_value", "kind", "allowed: 1 (picture) or 2"),
        (bytes([1, 9, 0, 0]) + struct.pack("<d", 1.0) + b"x", "invalid_value", "kind", "and 9, 0 follow"),
        (bytes([1, 0, 0, 0]) + struct.pack("<d", -1.0) + b"x", "invalid_value", "time", "time is -1; allowed"),
        (bytes([1, 0, 0, 0]) + struct.pack("<d", float("nan")) + b"x", "invalid_value", "time", "time is nan"),
        (bytes([2, 0, 0, 0]) + struct.pack("<d", 1.0) + b"x", "invalid_value", "sound", "odd number of bytes"),
        (bytes([1, 0, 0, 0]) + struct.pack("<d", 1.0) + bytes(101), "file_too_large", "file", "allowed: 112"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_bytes_is_named(message: bytes, code: str, param: str, allowed: str) -> None:
    with pytest.raises(ApiError) as refused:
        read_binary(message, max_bytes=100)
    assert refused.value.code == code
    assert allowed in refused.value.message
    assert refused.value.param == param or code == "file_too_large"


def test_text_messages() -> None:
    start = read_text('{"type": "start"}')
    assert isinstance(start, Start)
    assert (start.sample_rate, start.every_seconds, start.key, start.model) == (16_000, 0.4, None, None)
    assert read_text('{"type": "explain", "id": "a"}') == Explain(type="explain", id="a")
    assert isinstance(read_text('{"type": "stop"}'), End)
    secret = read_text('{"type": "start", "key": "emo_secret"}')
    assert "emo_secret" not in repr(secret)


@pytest.mark.parametrize(
    ("text", "param", "said"),
    [
        ("pictures", "type", "no JSON; allowed"),
        ("[" * 8000, "type", "no JSON; allowed"),
        ("[1]", "type", "allowed: start, explain, stop"),
        ('{"type": "begin"}', "type", "type is 'begin'; allowed"),
        ('{"type": ["start"]}', "type", "allowed: start"),
        ('{"type": "start", "sample_rate": 96000}', "sample_rate", "96000"),
        ('{"type": "start", "every_seconds": 0.01}', "every_seconds", "0.2"),
        ('{"type": "start", "language": "en"}', "language", "unknown field 'language'"),
    ],
)
def test_what_is_wrong_with_text_is_named(text: str, param: str, said: str) -> None:
    with pytest.raises(ApiError) as refused:
        read_text(text)
    assert refused.value.param == param
    assert said in refused.value.message


def test_a_long_text_is_refused_before_it_is_read() -> None:
    with pytest.raises(ApiError, match="allowed: 8192"):
        read_text(json.dumps({"type": "start", "labels": "x" * 9000}))


def test_every_error_has_a_code_to_close_with() -> None:
    codes = {close_code(ApiError(code)) for code in CODES}
    assert all(4400 <= code < 4600 for code in codes)
    assert close_code(ApiError("busy")) == 4429


def test_a_key_among_the_subprotocols() -> None:
    assert key_of(["emollama.live.v1", "emollama.key.emo_a_b"]) == "emo_a_b"
    assert key_of(["emollama.live.v1"]) is None


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        (None, ()),
        ("http://here:8000", ()),
        ("https://HERE:8000", ()),
        ("https://app.example", ("https://app.example",)),
    ],
)
def test_who_may_open_one(origin: str | None, allowed: tuple[str, ...]) -> None:
    require_origin(origin, host="here:8000", allowed=allowed)


@pytest.mark.parametrize("origin", ["https://elsewhere.example", "http://here:8001", "null", "", "file://here:8000"])
def test_a_page_of_another_place_may_not(origin: str) -> None:
    with pytest.raises(ApiError) as refused:
        require_origin(origin, host="here:8000", allowed=("https://app.example",))
    assert refused.value.code == "origin_not_allowed"
