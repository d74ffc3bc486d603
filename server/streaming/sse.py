"""Server-sent events: how they are written, and a response of them.

A stream says that it is still there by a comment, which clients skip, when nothing else came for a while. A client that
is connected and takes nothing is taken for gone: what was made for it waits in a bounded buffer
(`server.streaming.feed` bounds what comes before it), and not for ever.

Format: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

DONE = b"data: [DONE]\n\n"
# Of one event, as an OpenAPI document says it of a stream of them.
EVENT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"event": {"type": "string"}, "id": {"type": "string"}, "data": {"type": "string"}},
    "required": ["data"],
}
_STALL_SECONDS = 30.0
# Proxies hold answers back, or compress them, to send larger pieces; these are the ways to ask them not to.
_HEADERS = {"Cache-Control": "no-store, no-transform", "X-Accel-Buffering": "no"}


def event(data: Mapping[str, Any] | bytes, *, name: str | None = None, id: int | str | None = None) -> bytes:
    """Write one event. JSON has no line break outside of its strings, and none inside, so it is one line of data.

    Bytes are a document that was written already.
    """
    if not isinstance(data, bytes):
        data = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    head = b"" if name is None else b"event: " + name.encode() + b"\n"
    head += b"" if id is None else b"id: " + str(id).encode() + b"\n"
    return head + b"data: " + data + b"\n\n"


def comment(text: str) -> bytes:
    """Write a line that clients skip."""
    return b": " + text.encode() + b"\n\n"


async def with_heartbeats(events: AsyncIterator[bytes], *, seconds: float, text: str) -> AsyncIterator[bytes]:
    """Yield the events, and a comment whenever none came for so many seconds. Closing it closes them."""
    coming: asyncio.Future[bytes] | None = None
    try:
        while True:
            coming = coming or asyncio.ensure_future(anext(events))
            await asyncio.wait({coming}, timeout=seconds)
            if not coming.done():
                yield comment(text)
                continue
            ready, coming = coming, None
            try:
                item = ready.result()
            except StopAsyncIteration:
                return
            yield item
    finally:
        if coming is not None:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)
        await events.aclose()  # type: ignore[attr-defined]  # an async generator


class EventResponse(StreamingResponse):
    """A stream of events that were written by `event` and `comment`; it is given up when its reader takes nothing.

    That the reader has gone away is for who makes the events to see (`server.gate.Gate.run` does), and ends them.
    ``held`` is let go at the end, whatever the end is, and whether or not the events were begun.
    """

    def __init__(
        self,
        events: AsyncIterator[bytes],
        *,
        held: AsyncExitStack,
        heartbeat_seconds: float,
        stall_seconds: float = _STALL_SECONDS,
    ) -> None:
        beating = with_heartbeats(events, seconds=heartbeat_seconds, text="the work goes on")
        super().__init__(beating, media_type="text/event-stream", headers=_HEADERS)
        self._held, self._stall_seconds = held, stall_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._held:
            try:
                await self.stream_response(send)
            except (_StalledError, OSError):
                # Nobody reads what could be said about it; the server closes a connection whose answer is incomplete.
                scope.setdefault("state", {}).setdefault("log", {})["error_code"] = "client_closed_request"
            finally:
                await self.body_iterator.aclose()  # type: ignore[attr-defined]  # an async generator

    async def stream_response(self, send: Send) -> None:
        await self._send(send, {"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for chunk in self.body_iterator:
            await self._send(send, {"type": "http.response.body", "body": chunk, "more_body": True})
        await self._send(send, {"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, send: Send, message: dict[str, Any]) -> None:
        try:
            async with asyncio.timeout(self._stall_seconds):
                await send(message)
        except TimeoutError as exc:
            raise _StalledError from exc


class _StalledError(Exception):
    """The reader takes nothing."""
