"""Who asks, and what they may: API keys, their scopes and rates, at the door of every route but `/health` and the page.

A key is ``emo_ID_SECRET``, sent as ``Authorization: Bearer`` the way OpenAI's clients do. The secret is 256 random
bits, so a plain SHA-256 of it (with the id as salt) is kept: a slow hash makes guessing dear where what is guessed is
short, as people's passwords are; nobody guesses 256 bits, and every request would pay. The door stands in front of the
routes and is closed for what it does not know: a route that `_ROUTES` does not name is the operator's alone.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import math
import re
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from emollama.errors import InputError
from server.errors import ApiError, note
from server.rates import Rates
from server.records import keys
from server.records.ids import random_text
from server.records.keys import KeyRecord
from server.store import Store
from server.trust.purposes import require_allowed, require_reason

LOCAL = "local"  # the owner of what is made without a key
ADMIN = "admin"
OPEN_PATHS = frozenset({"/health", "/", "/v1/notice"})
OPEN_FOLDER = "/web/"  # the page's files, which hold no data

# Scope -> what a key with it is for.
SCOPES: Mapping[str, str] = MappingProxyType(
    {
        "analyze": "Analyse clips.",
        "chat": "Chat about clips.",
        "files": "Upload, read and delete one's own files.",
        "jobs": "Run one's own fine-tuning jobs, and delete what came of them.",
        "models:read": "List the models.",
        "metrics": "Read /metrics.",
        "erase": "See how much is kept of one's owner, and erase all of it.",
        ADMIN: "Everything, for every owner; the operator's routes.",
    }
)
_ANY = ""  # any key will do
# Method (none: any), path and what lies below it, and the scope it needs; the first that fits counts.
_ROUTES: tuple[tuple[str | None, str, str], ...] = (
    (None, "/analyze", "analyze"),
    (None, "/v1/analyses", "analyze"),
    (None, "/v1/live", "analyze"),
    (None, "/v1/reports", "analyze"),
    (None, "/v1/chat", "chat"),
    (None, "/v1/files", "files"),
    (None, "/v1/fine_tuning", "jobs"),
    ("DELETE", "/v1/models", "jobs"),
    (None, "/v1/models", "models:read"),
    (None, "/v1/load_lora_adapter", ADMIN),
    (None, "/v1/unload_lora_adapter", ADMIN),
    (None, "/v1/owners", "erase"),
    (None, "/v1/audit", ADMIN),
    (None, "/v1/purposes", _ANY),
    (None, "/metrics", "metrics"),
    (None, "/ready", _ANY),
    (None, "/docs", _ANY),
    (None, "/openapi.json", _ANY),
)
_SAYS_LATER = "/v1/live"
_CHALLENGE = {"WWW-Authenticate": "Bearer"}
_KEY = re.compile(r"emo_([a-z0-9]{12})_([A-Za-z0-9_-]{43})", re.ASCII)
_OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Principal:
    """Who asks. ``owner`` gets what the request makes; ``key_id`` is None for the operator and without keys."""

    owner: str
    scopes: frozenset[str]
    key_id: str | None = None
    per_minute: int | None = None
    purpose: str | None = None

    @property
    def sees(self) -> str | None:
        """Whose files, jobs and adapters may be seen and touched; None: everybody's."""
        return None if ADMIN in self.scopes else self.owner

    def may(self, scope: str) -> bool:
        return scope == _ANY or scope in self.scopes or ADMIN in self.scopes


EVERYBODY = Principal(owner=LOCAL, scopes=frozenset({ADMIN}))


def is_open(path: str) -> bool:
    """Whether a path is answered without a key."""
    return path in OPEN_PATHS or path.startswith(OPEN_FOLDER)


def needed_scope(method: str, path: str) -> str:
    """Return the scope that a request needs; the operator's for a path that is not known."""
    for verb, prefix, scope in _ROUTES:
        if verb in (None, method) and (path == prefix or path.startswith(prefix + "/")):
            return scope
    return ADMIN


def known_prefix(path: str) -> str | None:
    """Return the routes that a path belongs to, by their common beginning; None for a path that is none."""
    return next((prefix for _, prefix, _ in _ROUTES if path == prefix or path.startswith(prefix + "/")), None)


def new_key(
    *,
    owner: str,
    scopes: Iterable[str],
    note: str = "",
    per_minute: int | None = None,
    expires_at: float | None = None,
    purpose: str | None = None,
) -> tuple[str, KeyRecord]:
    """Make a key: its text, which is shown once and kept nowhere, and its record. Raises `InputError`."""
    chosen = tuple(dict.fromkeys(scopes))
    for scope in chosen:
        if scope not in SCOPES:
            raise InputError(f"scope is {scope!r}; allowed: {', '.join(SCOPES)}", field="scopes")
    if not chosen:
        raise InputError(f"scopes is empty; allowed: {', '.join(SCOPES)}", field="scopes")
    if not _OWNER.fullmatch(owner):
        raise InputError(f"owner is {owner!r}; allowed: 1 to 64 letters, digits and . _ @ -", field="owner")
    if per_minute is not None and not 1 <= per_minute <= 1_000_000:
        raise InputError(f"per_minute is {per_minute}; allowed: 1 to 1000000", field="per_minute")
    if len(note) > 200:
        raise InputError(f"note has {len(note)} characters; allowed: 200", field="note")
    if purpose is not None:
        purpose = require_allowed(purpose).name
        require_reason((purpose,), note, field="note")
    key_id, secret = random_text(12), secrets.token_urlsafe(32)
    record = KeyRecord(
        id=key_id, owner=owner, digest=digest(key_id, secret), scopes=chosen, created_at=time.time(), note=note,
        per_minute=per_minute, expires_at=expires_at, purpose=purpose,
    )  # fmt: skip
    return f"emo_{key_id}_{secret}", record


def digest(key_id: str, secret: str) -> str:
    return hashlib.sha256(f"{key_id}:{secret}".encode()).hexdigest()


class KeyRing:
    """Tells who a key is. With ``is_required`` false everybody is the operator, as on one's own machine."""

    def __init__(
        self, store: Store, *, is_required: bool, admin_key: str | None, per_minute: int | None = None
    ) -> None:
        self._store, self.is_required, self._admin_key = store, is_required, admin_key
        self._per_minute = per_minute
        self.rates = Rates()

    def identify(self, token: str) -> Principal | None:
        """Return whose key this is, or None when it is nobody's, revoked or expired. Blocks."""
        if self._admin_key is not None and hmac.compare_digest(token.encode(), self._admin_key.encode()):
            return EVERYBODY
        match = _KEY.fullmatch(token)
        record = None if match is None else keys.find(self._store, match[1])
        if match is None or record is None or not record.is_valid(now=time.time()):
            return None
        if not hmac.compare_digest(digest(match[1], match[2]), record.digest):
            return None
        return Principal(
            owner=record.owner,
            scopes=frozenset(record.scopes),
            key_id=record.id,
            per_minute=record.per_minute or self._per_minute,
            purpose=record.purpose,
        )


async def admit(ring: KeyRing, token: str, *, needed: str, headers: dict[str, str], state: dict[str, Any]) -> Principal:
    """Return whose key this is, when it may ask now for what it needs; raises `ApiError`.

    ``headers`` get its rate, the connection's ``state`` gets who was refused (``known``).
    """
    principal = await asyncio.to_thread(ring.identify, token)
    if principal is None:
        raise ApiError("invalid_api_key", headers=_CHALLENGE)
    state["known"] = principal
    require_rate(ring, principal, headers=headers)
    if not principal.may(needed):
        raise ApiError("insufficient_scope", f"this key has not the scope {needed!r} that the request needs")
    return principal


def require_rate(ring: KeyRing, principal: Principal, *, headers: dict[str, str]) -> None:
    """Count a request of a key; raises `ApiError` for one too many. ``headers`` get what is left."""
    if principal.key_id is None or principal.per_minute is None:
        return
    allowance = ring.rates.take(principal.key_id, per_minute=principal.per_minute)
    headers.update(allowance.headers())
    if allowance.wait_seconds:
        seconds = math.ceil(allowance.wait_seconds)
        message = f"this key may ask {allowance.limit} times a minute; try again in {seconds} s"
        raise ApiError("rate_limit_exceeded", message, headers={"Retry-After": str(seconds)})


class AuthMiddleware:
    """Lets a request in, with ``state.principal`` set, or answers it.

    A browser cannot send a header with a WebSocket. So one of ``/v1/live`` without a header is let in with no principal
    (None), and tells in its first message who it is.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers: dict[str, str] = {}

        async def send_with_headers(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                MutableHeaders(scope=message).update(headers)
            await send(message)

        try:
            scope.setdefault("state", {})["principal"] = await self._admit(scope, headers)
        except ApiError as error:
            await note(HTTPConnection(scope), error)(scope, receive, send_with_headers)
            return
        await self._app(scope, receive, send_with_headers)

    async def _admit(self, scope: Scope, headers: dict[str, str]) -> Principal | None:
        ring: KeyRing = scope["app"].state.keys
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if not ring.is_required or is_open(path):
            return EVERYBODY
        given = Headers(scope=scope).get("authorization", "")
        if not given and scope["type"] == "websocket" and path == _SAYS_LATER:
            return None
        kind, _, token = given.partition(" ")
        if kind.lower() != "bearer" or not token.strip():
            raise ApiError("missing_api_key", headers=_CHALLENGE)
        needed = needed_scope(scope.get("method", "GET"), path)
        principal = await admit(ring, token.strip(), needed=needed, headers=headers, state=scope["state"])
        scope["state"].setdefault("log", {})["key"] = principal.key_id or ADMIN
        return principal
