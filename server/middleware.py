"""The edge of the service: request ids, security headers, one log line a request, and the last catch of errors.

Plain ASGI, so that responses may stream and a disconnect reaches the handler.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
import uuid
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import ApiError

logger = logging.getLogger("server.requests")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

SECURITY_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
}

# A refused upload is still on its way. Closing at once would reset the connection and the client might never see the
# answer, so what arrives is thrown away for this long before the connection is closed.
LINGER_SECONDS = 2.0


class EdgeMiddleware:
    """Wraps every request."""

    def __init__(self, app: ASGIApp, *, linger_seconds: float = LINGER_SECONDS) -> None:
        self._app = app
        self._linger_seconds = linger_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send, linger_seconds=self._linger_seconds)
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except Exception as exc:  # the process's edge
            exchange.log["error_code"] = "internal_error"
            logger.error("unplanned error", extra={"fields": {"request_id": exchange.request_id}}, exc_info=exc)
            if not exchange.is_started:
                message = f"internal error; the log has the details under request id {exchange.request_id}"
                await ApiError("internal_error", message).response()(scope, exchange.receive, exchange.send)
        finally:
            exchange.write_log_line()


class _Exchange:
    """One request and its response as they pass the edge."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, *, linger_seconds: float) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._linger_seconds = linger_seconds
        self._started_at = time.perf_counter()
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        self.request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        self.log: dict[str, Any] = {}
        scope.setdefault("state", {}).update(request_id=self.request_id, log=self.log)
        self.is_started = False
        self._status = 0
        has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
        self._is_body_read = not has_body
        # Such a client waits for a word before it sends its body; refused, it sends none.
        self._awaits_continue = headers.get("expect", "").lower() == "100-continue"

    async def receive(self) -> Message:
        message = await self._receive()
        self._awaits_continue = False
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self._is_body_read = True
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.is_started = True
            self._status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self.request_id
            for name, value in SECURITY_HEADERS.items():
                headers.setdefault(name, value)
            if not self._is_body_read:
                headers["connection"] = "close"
        is_last = message["type"] == "http.response.body" and not message.get("more_body", False)
        if is_last and not self._is_body_read:
            await self._send({**message, "more_body": True})
            if not self._awaits_continue:
                await self._linger()
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self._send(message)

    async def _linger(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._linger_seconds):
                while not self._is_body_read:
                    await self.receive()

    def write_log_line(self) -> None:
        seconds = time.perf_counter() - self._started_at
        route = getattr(self._scope.get("route"), "path", None)
        metrics = getattr(getattr(self._scope.get("app"), "state", None), "metrics", None)
        if metrics is not None:
            metrics.observe_request(
                route=route,
                method=self._scope["method"],
                status=self._status,
                code=self.log.get("error_code"),
                seconds=seconds,
                num_bytes=self.log.get("bytes_in", 0),
            )
        fields = {
            "request_id": self.request_id,
            "method": self._scope["method"],
            # The template, not the path: a path may hold anything.
            "route": route,
            "status": self._status,
            "duration_ms": round(seconds * 1000, 1),
            **self.log,
        }
        logger.info("request", extra={"fields": fields})
