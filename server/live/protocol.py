"""The messages of `WS /v1/live`: how a client's are read, and what a connection is closed with.

Text messages are JSON objects with a ``type``. Binary ones begin with twelve bytes, little-endian: the kind (1 picture,
2 sound), three bytes of zero, and the time in seconds as a float of 64 bits; then the picture as it is, or samples of
16 bits. What is wrong is an `ApiError` as anywhere; the connection is closed with 4000 plus the status of the error.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from server.errors import ApiError, invalid_value

PATH = "/v1/live"
SUBPROTOCOL = "emollama.live.v1"
KEY_SUBPROTOCOL = "emollama.key."  # and the key, for browsers, which cannot send headers
GOING_DOWN = 1012  # what RFC 6455's registry calls a service that restarts
_HEADER = struct.Struct("<BBHd")
_PICTURE, _SOUND = 1, 2
_MAX_TEXT = 8 * 1024


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Start(_Message):
    """The first message: who asks, and what for."""

    type: Literal["start"]
    key: SecretStr | None = None
    model: str | None = Field(None, max_length=200)
    labels: str | None = Field(None, max_length=4096)
    sample_rate: int = Field(16_000, ge=8_000, le=48_000)
    every_seconds: float = Field(0.4, ge=0.2, le=5.0)


class Explain(_Message):
    """Asks for the reasons of what is read now."""

    type: Literal["explain"]
    id: str | None = Field(None, max_length=64)


class End(_Message):
    """Ends the session."""

    type: Literal["stop"]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture of a time: a JPEG, PNG or WebP as it came."""

    time: float
    content: bytes


@dataclass(frozen=True, kw_only=True)
class Sound:
    """Mono samples [S] int16 whose first one is of ``time``."""

    time: float
    samples: np.ndarray


_KINDS: dict[str, type[_Message]] = {"start": Start, "explain": Explain, "stop": End}


def read_text(text: str) -> Start | Explain | End:
    """Read a text message; raises `ApiError` that names field, value and what is allowed."""
    if len(text) > _MAX_TEXT:
        raise ApiError("body_too_large", f"a text message has {len(text)} characters; allowed: {_MAX_TEXT}")
    try:
        document: Any = json.loads(text)
    except (ValueError, RecursionError) as exc:  # the latter for brackets within brackets within brackets
        raise ApiError(
            "invalid_value", "a text message is no JSON; allowed: an object with a type", param="type"
        ) from exc
    kind = document.get("type") if isinstance(document, dict) else None
    model = _KINDS.get(kind) if isinstance(kind, str) else None
    if model is None:
        allowed = ", ".join(_KINDS)
        raise ApiError("invalid_value", f"type is {str(kind)[:60]!r}; allowed: {allowed}", param="type")
    try:
        return model.model_validate(document)  # type: ignore[return-value]
    except ValidationError as exc:
        raise invalid_value(exc.errors(include_url=False)) from exc


def read_binary(message: bytes, *, max_bytes: int) -> Picture | Sound:
    """Read a binary message; raises `ApiError`."""
    if len(message) > max_bytes + _HEADER.size:
        raise ApiError("file_too_large", f"a message has {len(message)} bytes; allowed: {max_bytes + _HEADER.size}")
    if len(message) <= _HEADER.size:
        raise ApiError(
            "invalid_value", f"a message has {len(message)} bytes; allowed: a header of {_HEADER.size} and a content",
            param="message",
        )  # fmt: skip
    kind, first, second, time = _HEADER.unpack_from(message)
    if not math.isfinite(time) or not 0 <= time <= 1e7:
        raise ApiError("invalid_value", f"time is {time:g}; allowed: seconds from 0 on", param="time")
    if kind not in (_PICTURE, _SOUND) or first or second:
        raise ApiError(
            "invalid_value", f"kind is {kind}, and {first}, {second} follow; allowed: 1 (picture) or 2 (sound), and 0",
            param="kind",
        )  # fmt: skip
    if kind == _PICTURE:
        return Picture(time=time, content=message[_HEADER.size :])
    if (len(message) - _HEADER.size) % 2:
        raise ApiError("invalid_value", "sound has an odd number of bytes; allowed: samples of 2", param="sound")
    return Sound(time=time, samples=np.frombuffer(message, "<i2", offset=_HEADER.size))


def picture_message(content: bytes, *, time: float) -> bytes:
    """Write a picture as a client sends it."""
    return _HEADER.pack(_PICTURE, 0, 0, time) + content


def sound_message(samples: np.ndarray, *, time: float) -> bytes:
    """Write samples [S] int16 as a client sends them."""
    return _HEADER.pack(_SOUND, 0, 0, time) + samples.astype("<i2", copy=False).tobytes()


def close_code(error: ApiError) -> int:
    """Return the code that a connection is closed with for an error: 4429 where a request would get 429."""
    return 4000 + error.status


def key_of(subprotocols: list[str]) -> str | None:
    """Return the key among the subprotocols that a client offers."""
    found = (each.removeprefix(KEY_SUBPROTOCOL) for each in subprotocols if each.startswith(KEY_SUBPROTOCOL))
    return next(found, None)


def require_origin(origin: str | None, *, host: str, allowed: tuple[str, ...]) -> None:
    """Let in programs, which name no origin, the service's own pages, and those that the operator named.

    A browser lets any page open a WebSocket to anywhere; that the page is of another place is for the service to see.
    """
    if origin is None or origin in allowed or "*" in allowed:
        return
    parts = urlsplit(origin)
    if parts.scheme in ("http", "https") and parts.netloc and parts.netloc.lower() == host.lower():
        return
    raise ApiError("origin_not_allowed", f"origin is {origin[:100]!r}; allowed: this service's own", param="Origin")
