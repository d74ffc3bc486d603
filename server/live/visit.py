"""One client of `WS /v1/live`, from its first message to the code that its connection is closed with.

Three things go on at once: messages are received into an inbox; a thread looks at what is there and reads, step by
step; and the reasons that were asked for are written down in another one. Whoever ends first ends the others. Nothing
that a client sent outlives its connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from emollama import errors as library
from emollama.cores import CORES
from server.auth import Principal, admit, require_rate
from server.errors import ApiError, note, told_of
from server.live.inbox import Arrived, LiveInbox
from server.live.protocol import (
    GOING_DOWN,
    SUBPROTOCOL,
    End,
    Explain,
    Picture,
    Sound,
    Start,
    close_code,
    key_of,
    read_binary,
    read_text,
    require_origin,
)
from server.live.room import LiveRoom
from server.records.ids import new_id
from server.streaming.analysis_events import told
from server.trust.auditing import about
from server.trust.declared import consent_of
from server.trust.gate import declare

if TYPE_CHECKING:
    from emollama.analyze import Understanding
    from emollama.live import LiveReading, LiveSession, Pictures

logger = logging.getLogger("server.live")

_SCOPE = "analyze"
_LOOK_SECONDS = 0.25  # how soon it is seen that the service is being stopped
_SILENT_SECONDS = 0.5  # without a message for so long, the session's time goes on by itself
_FIRST_SECONDS = 0.25  # from the first picture or sound to the first reading: a face is believed at its second picture
_MAX_REFUSED = 10  # pictures in a row that cannot be read


class _Over(Exception):  # noqa: N818  (no error: how a session ends well)
    def __init__(self, reason: str, code: int) -> None:
        super().__init__(reason)
        self.reason, self.code = reason, code


class Visit:
    """One connection; `run` returns when it is closed."""

    def __init__(self, socket: WebSocket, room: LiveRoom) -> None:
        self._socket, self._room = socket, room
        self._sending = asyncio.Lock()
        self._gone = threading.Event()
        self.id = new_id("live_")
        self._log: dict[str, Any] = {"session": self.id}
        self._num_readings = 0
        self._pictures: Pictures | None = None
        socket.scope.setdefault("state", {})["request_id"] = self.id

    async def run(self) -> None:
        """Serve the client. What goes wrong is told to it, and closes the connection with a code that says so."""
        began = time.monotonic()
        code, reason = 1000, "stopped"
        try:
            await self._serve()
        except _Over as end:
            code, reason = end.code, end.reason
            await self._tell_last({"type": "ended", "reason": reason})
        except WebSocketDisconnect as end:
            code, reason = end.code, "disconnected"
        except Exception as exc:  # noqa: BLE001  (the edge of this connection: it is told, and closed)
            error = told_of(self._socket, exc)
            code, reason = close_code(error), error.code
            note(self._socket, error)  # for the audit log
            await self._tell_last(_envelope(error), error)
        finally:
            self._gone.set()
        with contextlib.suppress(RuntimeError, OSError, TimeoutError):
            if self._socket.application_state in (WebSocketState.CONNECTING, WebSocketState.CONNECTED):
                async with asyncio.timeout(self._room.limits.send_seconds):
                    await self._socket.close(code, reason)
        metrics = self._socket.app.state.metrics
        counts = {name: getattr(self._pictures, name, 0) for name in ("read", "dropped", "refused")}
        metrics.observe_live_end(code, **counts)
        self._log.update(readings=self._num_readings, **{f"pictures_{name}": count for name, count in counts.items()})
        fields = {**self._log, "code": code, "reason": reason, "seconds": round(time.monotonic() - began, 1)}
        logger.info("live session", extra={"fields": fields})

    # ---- the beginning -------------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        socket, room = self._socket, self._room
        settings = socket.app.state.settings
        host = socket.headers.get("host", "")
        require_origin(socket.headers.get("origin"), host=host, allowed=settings.cors_origins)
        with room.knock():
            offered = socket.scope.get("subprotocols", [])
            await socket.accept(SUBPROTOCOL if SUBPROTOCOL in offered else None)
            start = await self._first()
            principal = await self._who(start, key_of(offered))
        with room.session():
            if room.stopping.is_set():
                raise _Over("service_stopping", GOING_DOWN)
            models = socket.app.state.models
            models.require_ready()
            analyzer = await models.acquire(start.model, owner=principal.sees)
            about(socket, subject=self.id, model=start.model or models.default)
            session = self._open(analyzer, start)
            await _Sitting(self, session, start, principal).run()

    async def _first(self) -> Start:
        seconds = self._room.limits.start_seconds
        try:
            async with asyncio.timeout(seconds):
                message = await self.receive()
        except TimeoutError as exc:
            raise ApiError("live_session_over", f"nothing came within {seconds:g} s; allowed: start") from exc
        if not isinstance(message, Start):
            kind = type(message).__name__.lower()
            raise ApiError("invalid_value", f"the first message is {kind}; allowed: start", param="type")
        return message

    async def _who(self, start: Start, offered_key: str | None) -> Principal:
        """Return who asks: by a header, which was looked at before, by a subprotocol, or by the first message."""
        principal: Principal | None = self._socket.state.principal
        if principal is None:
            key = offered_key if start.key is None else start.key.get_secret_value()
            if not key:
                raise ApiError("missing_api_key", "the session has no API key; allowed: in a header or as start.key")
            principal = await admit(
                self._socket.app.state.keys, key, needed=_SCOPE, headers={}, state=self._socket.scope["state"]
            )
        self._log["key"] = principal.key_id
        self._socket.state.principal = principal
        declare(self._socket, principal)
        consent_of(self._socket, None, is_required=self._socket.app.state.settings.require_consent)
        self._log["purpose"] = self._socket.state.purpose
        return principal

    def _open(self, analyzer: Any, start: Start) -> LiveSession:
        from emollama.live import LiveOptions, LiveSession, reads_live

        if not reads_live(analyzer):
            raise ApiError(
                "live_unsupported", "this model is not read live; allowed: nano, its adapters, in the service itself",
                param="model",
            )  # fmt: skip
        options = LiveOptions(labels=start.labels, sample_rate=start.sample_rate)
        return LiveSession(analyzer, options, eye=self._room.eye(self._gone.is_set))

    # ---- messages ------------------------------------------------------------------------------------------------

    async def receive(self) -> Start | Explain | End | Picture | Sound:
        """Return the next message; raises `WebSocketDisconnect` when there is none any more."""
        message = await self._socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        if message.get("text") is not None:
            return read_text(message["text"])
        return read_binary(message["bytes"], max_bytes=self._room.limits.picture_bytes)

    async def tell(self, document: Mapping[str, Any]) -> None:
        """Send a message; a client that takes nothing for long is taken for gone."""
        text = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        async with self._sending:
            try:
                async with asyncio.timeout(self._room.limits.send_seconds):
                    await self._socket.send_text(text)
            except (TimeoutError, RuntimeError, OSError) as exc:
                raise WebSocketDisconnect(1006) from exc

    async def _tell_last(self, document: Mapping[str, Any], error: ApiError | None = None) -> None:
        """Say why it ends; a connection that was not taken up gets the answer that a request would get."""
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            if self._socket.application_state is WebSocketState.CONNECTED:
                await self.tell(document)
            elif error is not None and self._socket.application_state is WebSocketState.CONNECTING:
                await self._socket.send_denial_response(error.response())

    @property
    def room(self) -> LiveRoom:
        return self._room

    @property
    def app(self) -> Any:
        return self._socket.app

    def error_of(self, exc: Exception) -> ApiError:
        """Return what the client is told of an error."""
        return told_of(self._socket, exc)

    def note_reading(self, number: int, pictures: Pictures) -> None:
        """Remember for the log and the metrics how far the session has come."""
        self._num_readings, self._pictures = number, pictures

    def leave(self) -> None:
        """Let what still works for the connection know that nobody listens any more."""
        self._gone.set()

    def is_gone(self) -> bool:
        """Whether the connection has ended."""
        return self._gone.is_set()


class _Sitting:
    """A session that was let in."""

    def __init__(self, visit: Visit, session: LiveSession, start: Start, principal: Principal) -> None:
        self._visit, self._session, self._start, self._principal = visit, session, start, principal
        self._limits = visit.room.limits
        self._inbox = LiveInbox(sample_rate=start.sample_rate)
        self._began = self._heard_of = time.monotonic()
        self._asked: Explain | None = None  # waits for the next step, which knows what is read then
        self._writing: asyncio.Task[None] | None = None
        self._num_refused = 0  # pictures in a row
        self._last_time = 0.0  # of the client's clock, when something came last
        self._messages: deque[float] = deque(maxlen=self._limits.messages_per_second)

    async def run(self) -> None:
        session, visit = self._session, self._visit
        await visit.tell(
            {
                "type": "ready", "session": visit.id, "labels": list(session.labels),
                "window_seconds": session.options.window_seconds, "every_seconds": self._start.every_seconds,
                "limits": {
                    "session_seconds": self._limits.seconds, "idle_seconds": self._limits.idle_seconds,
                    "picture_bytes": self._limits.picture_bytes, "picture_pixels": self._limits.picture_pixels,
                    "messages_per_second": self._limits.messages_per_second,
                },
            }
        )  # fmt: skip
        tasks = {asyncio.create_task(self._receive()), asyncio.create_task(self._read())}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            visit.leave()  # what is looked at right now is given up
            if self._writing is not None:
                tasks.add(self._writing)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _receive(self) -> None:
        """Receive until the client ends the session or leaves."""
        while True:
            message = await self._visit.receive()
            now = self._heard_of = time.monotonic()
            if isinstance(message, (Picture, Sound)):
                full = len(self._messages) == self._messages.maxlen
                if full and now - self._messages[0] < 1.0:
                    allowed = self._limits.messages_per_second
                    raise ApiError("rate_limit_exceeded", f"more than {allowed} messages a second; allowed: {allowed}")
                self._messages.append(now)
                self._inbox.put(message)
            elif isinstance(message, End):
                raise _Over("stopped", 1000)
            elif isinstance(message, Start):
                raise ApiError("invalid_value", "type is 'start' again; allowed: explain, stop", param="type")
            else:
                await self._wish(message)

    async def _wish(self, asked: Explain) -> None:
        """Note that reasons are wanted; it is a request like another to the key's rate."""
        try:
            if self._asked is not None or (self._writing is not None and not self._writing.done()):
                raise library.BusyError("reasons are being written already; ask again then", retry_after_seconds=1.0)
            require_rate(self._visit.app.state.keys, self._principal, headers={})
        except (library.BusyError, ApiError) as exc:
            await self._visit.tell({**_envelope(self._visit.error_of(exc)), "id": asked.id})
            return
        self._asked = asked
        self._inbox.wake()

    async def _read(self) -> None:
        """Look at what is there and tell what is read, as often as was asked for, as long as anybody listens."""
        loop, due = asyncio.get_running_loop(), None
        while True:
            now = time.monotonic()
            self._require_time(now)
            await self._inbox.wait(_LOOK_SECONDS if due is None else min(_LOOK_SECONDS, due - now))
            arrived, now = self._inbox.take(), time.monotonic()
            if due is None:
                if not arrived and self._asked is None:
                    continue
                due = now + _FIRST_SECONDS
            is_due = now >= due
            if not (arrived or is_due or self._asked):
                continue
            step = await loop.run_in_executor(
                self._visit.room.threads, self._step, arrived, is_due, self._asked is not None
            )
            await self._follow(step, arrived)
            if is_due:  # what is late is not made up for
                due = max(due + self._start.every_seconds, time.monotonic() + 0.05)

    def _require_time(self, now: float) -> None:
        if self._visit.room.stopping.is_set():
            raise _Over("service_stopping", GOING_DOWN)
        if now - self._began > self._limits.seconds:
            raise ApiError("live_session_over", f"the session lasted {self._limits.seconds:g} s, as long as one may")
        if now - self._heard_of > self._limits.idle_seconds:
            raise ApiError("live_session_over", f"nothing came for {self._limits.idle_seconds:g} s")

    def _step(self, arrived: Arrived, is_due: bool, is_asked: bool) -> _Step:
        """Look, listen, and read where that is due; runs in a thread."""
        session, refused = self._session, None
        with CORES.working():
            CORES.divide()
            for sound in arrived.sounds:
                session.hear(sound.samples, time=sound.time)
            if arrived.picture is not None:
                try:
                    session.see(arrived.picture.content, time=arrived.picture.time)
                except library.MediaLimitError:
                    raise
                except library.MediaError as exc:
                    refused = exc
            if arrived:
                self._last_time = session.time
            reading = None
            if is_due:
                silent = time.monotonic() - self._heard_of
                now = self._last_time + silent if silent > _SILENT_SECONDS else None
                reading = session.read(now, dropped=self._inbox.num_dropped)
            return _Step(reading=reading, refused=refused, seen=session.understand() if is_asked else None)

    async def _follow(self, step: _Step, arrived: Arrived) -> None:
        """Tell what a step gave."""
        visit, metrics = self._visit, self._visit.app.state.metrics
        if arrived.picture is not None:
            self._num_refused = self._num_refused + 1 if step.refused is not None else 0
        if step.refused is not None:
            if self._num_refused >= _MAX_REFUSED:
                raise step.refused
            await visit.tell(_envelope(visit.error_of(step.refused)))
        if step.reading is not None:
            await visit.tell({"type": "reading", **step.reading.to_json_dict()})
            waited = None if arrived.waited_since is None else time.monotonic() - arrived.waited_since
            metrics.observe_live_reading(waited)
            visit.note_reading(step.reading.number, step.reading.pictures)
        if step.seen is not None and self._asked is not None:
            asked, self._asked = self._asked, None
            self._writing = asyncio.create_task(self._write(asked, step.seen))

    async def _write(self, asked: Explain, seen: Understanding) -> None:
        """Write down the reasons of what was read, piece by piece; what goes wrong there ends no session."""
        loop, visit = asyncio.get_running_loop(), self._visit
        pieces: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

        def put(piece: dict[str, Any] | None) -> None:
            loop.call_soon_threadsafe(pieces.put_nowait, piece)

        def work() -> dict[str, Any]:
            from emollama.watch import Watch

            explaining = self._session.explain(seen, check=Watch(visit.is_gone))
            try:
                with contextlib.closing(explaining):
                    while True:
                        try:
                            event = told(next(explaining))
                        except StopIteration as end:
                            return {"type": "explained", "text": end.value.text, "warnings": list(end.value.warnings)}
                        put({"type": event.name, **json.loads(event.data)})
            finally:
                put(None)

        working = loop.run_in_executor(visit.room.threads, work)
        working.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may wait for it any more
        with contextlib.suppress(WebSocketDisconnect):
            while (piece := await pieces.get()) is not None:
                await visit.tell({**piece, "id": asked.id})
            try:
                last = await working
            except Exception as exc:  # noqa: BLE001  (the edge of this answer)
                last = _envelope(visit.error_of(exc))
            await visit.tell({**last, "id": asked.id})


@dataclass(frozen=True, kw_only=True)
class _Step:
    """What a look at the inbox gave."""

    reading: LiveReading | None
    refused: library.MediaError | None
    seen: Understanding | None


def _envelope(error: ApiError) -> dict[str, Any]:
    return {"type": "error", **json.loads(bytes(error.response().body))}
