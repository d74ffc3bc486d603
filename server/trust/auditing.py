"""The audit log's place among the middleware: outside of both doors, so that what they refuse is written down, too.

Written is what is asked to be done (anything but GET), what hands out what is kept of somebody (a handler says so by
`handed_out`), and what is refused. Lists, progress, metrics and the page are not: they say nothing of anybody, and
clients ask for them every second. Nothing of a request gets into a row but words of our own, names of models that
there are, ids that we gave, and the reference to a consent.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import Any

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.auth import known_prefix
from server.rates import Rates
from server.records.audit import Event
from server.trust.declared import CONSENT_FIELD
from server.trust.gate import has_no_purpose
from server.trust.journal import Journal

_ID = re.compile(r"(analysis|file|ftjob)-[a-z0-9]{24}", re.ASCII)
_REFUSED = frozenset({401, 403, 429})
# Of one key, or of all who have none: a stranger must not be able to fill the disk with refusals.
_REFUSALS_PER_MINUTE = 60


@dataclass(kw_only=True)
class Entry:
    """What a handler knows of its request that the log is to have."""

    subject_id: str | None = None
    model: str | None = None
    is_handed_out: bool = False


def entry_of(connection: HTTPConnection) -> Entry:
    """Return the row of a request as far as it is known."""
    entry: Entry = connection.scope.setdefault("state", {}).setdefault("audit", Entry())
    return entry


def about(connection: HTTPConnection, *, subject: str | None = None, model: str | None = None) -> None:
    """Note what a request is about: an id that we gave, a model that there is."""
    entry = entry_of(connection)
    entry.subject_id, entry.model = subject or entry.subject_id, model or entry.model


def handed_out(connection: HTTPConnection, subject: str | None) -> None:
    """Note that what is kept of somebody is in the answer."""
    about(connection, subject=subject)
    entry_of(connection).is_handed_out = True


class AuditMiddleware:
    """Writes a row for each request that wants one, before the end of its answer is sent."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._refusals = Rates()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        journal: Journal | None = getattr(scope["app"].state, "journal", None) if "app" in scope else None
        if scope["type"] not in ("http", "websocket") or journal is None:
            await self._app(scope, receive, send)
            return
        entry_of(HTTPConnection(scope))
        status, is_written = 0, False

        async def write() -> None:
            nonlocal is_written
            if not is_written:
                is_written = True
                event = self._event(scope, status)
                if event is not None:
                    await journal.write(event)

        async def send_written(message: Message) -> None:
            nonlocal status
            kind = message["type"]
            if kind in ("http.response.start", "websocket.http.response.start"):
                status = message["status"]
            elif kind == "websocket.close":
                status = message.get("code", 1000)
            if kind.endswith("http.response.body") and not message.get("more_body", False):
                await write()
            await send(message)

        async def receive_watched() -> Message:
            nonlocal status
            message = await receive()
            if message["type"] == "websocket.disconnect":
                status = status or message.get("code", 1005)
            return message

        try:
            await self._app(scope, receive_watched, send_written)
        except Exception:
            # The edge, which is outside of this, answers it.
            status = status or 500
            scope["state"].setdefault("log", {}).setdefault("error_code", "internal_error")
            raise
        except asyncio.CancelledError:
            scope["state"].setdefault("log", {}).setdefault("error_code", "client_closed_request")
            raise
        finally:
            await write()

    def _event(self, scope: Scope, status: int) -> Event | None:
        """Return the row of a request, None when it gets none."""
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if has_no_purpose(path):
            return None
        state: dict[str, Any] = scope["state"]
        log, entry = state.get("log", {}), state["audit"]
        method = "WS" if scope["type"] == "websocket" else scope["method"]
        route = getattr(scope.get("route"), "path", None)
        # A live session that was let in has a subject. Whoever got no further, or left before, did nothing.
        knocked = method == "WS" and entry.subject_id is None and (route is not None or "error_code" in log)
        is_refused = status in _REFUSED or knocked
        if not is_refused:
            # What no route took has done nothing.
            if route is None or method == "OPTIONS":
                return None
            if method in ("GET", "HEAD") and not entry.is_handed_out:
                return None
        principal = state.get("principal") or state.get("known")
        key = None if principal is None else principal.key_id or log.get("key")
        if is_refused and self._refusals.take(key or "", per_minute=_REFUSALS_PER_MINUTE).wait_seconds:
            return None
        return Event(
            action=f"{method} {route or _template(path)}",
            owner=None if principal is None else principal.owner,
            key_id=key,
            status=status or None,
            code=log.get("error_code"),
            model=entry.model,
            purpose=state.get("purpose"),
            consent_reference=state.get(CONSENT_FIELD),
            subject_id=entry.subject_id or _named(scope),
        )


def _named(scope: Scope) -> str | None:
    """Return the id that a path names, in the form in which we give ids; what else stands there may be anything."""
    values = scope.get("path_params", {}).values()
    return next((value for value in values if isinstance(value, str) and _ID.fullmatch(value)), None)


def _template(path: str) -> str:
    """Return the first words of a path that was refused before a route was found; the rest may be anything."""
    return known_prefix(path) or "(unknown)"
