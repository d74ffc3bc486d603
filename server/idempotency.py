"""The header ``Idempotency-Key``: a request that is sent twice makes one resource, and the second time it is told so.

The meaning is that of the IETF's draft (draft-ietf-httpapi-idempotency-key-header): the same key with the same request
gives the same resource, with ``Idempotent-Replayed: true``; with another request 422; while the first request is still
being answered 409. A request that failed frees its key. Keys are an owner's own, and are kept for a day.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import math
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

from fastapi import Request
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from server.errors import ApiError
from server.records import idempotency
from server.records.idempotency import Known
from server.records.ids import random_text
from server.store import Store

logger = logging.getLogger("server.idempotency")

HEADER = "Idempotency-Key"
REPLAYED = {"Idempotent-Replayed": "true"}
KEPT_SECONDS = 86_400.0
MAX_KEYS = 10_000  # of one owner
_KEY = re.compile(r"[!-~]{1,255}")
_CHUNK_BYTES = 1 << 20
_RETRY_SECONDS = 5

PARAMETER: dict[str, Any] = {
    "name": HEADER,
    "in": "header",
    "required": False,
    "description": "Any text of 1 to 255 visible ASCII characters. Sent again with the same request within a day, it "
    "gives what the first one made, and nothing new is made.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": f"^{_KEY.pattern}$"},
}


def fingerprint(route: str, fields: Mapping[str, Any], *, file: Path | None = None) -> str:
    """Return what tells one request from another: its route, what it says, and its file's bytes. Blocks."""
    digest = hashlib.sha256(route.encode() + b"\0")
    digest.update(json.dumps(fields, sort_keys=True, ensure_ascii=True).encode() + b"\0")
    if file is not None:
        with file.open("rb") as content:
            while chunk := content.read(_CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()


class Claim:
    """One request's key, held until the request has been answered; a request without one has a claim to nothing."""

    def __init__(self, owner: str, key: str | None, known: Known | None, *, clock: Callable[[], float]) -> None:
        self.owner, self.key = owner, key
        self.holder = random_text(24)
        self._known, self._clock = known, clock
        self.is_complete = False

    @property
    def is_replay(self) -> bool:
        """Whether the key has made something before."""
        return self._known is not None

    def replays(self, fingerprint: str) -> str | None:
        """Return the id of what this same request made before; None: it is the first. Raises for another request."""
        if self._known is None:
            return None
        if self._known.fingerprint != fingerprint:
            message = f"the {HEADER} was used for another request; take another key for this one"
            raise ApiError("idempotency_key_reused", message, param=HEADER)
        return self._known.resource_id

    def completes(self, fingerprint: str, resource_id: str) -> Callable[[Connection], None]:
        """Return what notes the resource under the key, in the transaction that makes the resource."""

        def note(connection: Connection) -> None:
            if self.key is None:
                return
            if not idempotency.complete_within(
                connection,
                owner=self.owner,
                key=self.key,
                holder=self.holder,
                fingerprint=fingerprint,
                resource_id=resource_id,
                until=self._clock() + KEPT_SECONDS,
            ):
                # It took longer than keys are held, and another request with it was quicker.
                raise ApiError("idempotency_in_flight", headers={"Retry-After": "1"})
            self.is_complete = True

        return note


class Idempotency:
    """Holds the keys of the requests that are being answered, here and in other processes on the same database."""

    def __init__(self, store: Store, *, max_keys: int = MAX_KEYS, clock: Callable[[], float] = time.time) -> None:
        self._store, self._max_keys, self._clock = store, max_keys, clock

    @contextlib.asynccontextmanager
    async def claim(self, request: Request, owner: str, *, seconds: float) -> AsyncIterator[Claim]:
        """Hold the request's key, if it has one; on the way out it is free again unless it has made something.

        A process that is killed cannot free it: then it is free after ``seconds``, in which the request was to be
        answered.
        """
        keys = request.headers.getlist(HEADER)
        if not keys:
            yield Claim(owner, None, None, clock=self._clock)
            return
        if len(keys) > 1 or not _KEY.fullmatch(keys[0]):
            message = f"{HEADER} must be one text of 1 to 255 visible ASCII characters"
            raise ApiError("invalid_value", message, param=HEADER)
        claim = await asyncio.to_thread(self._take, owner, keys[0], seconds)
        try:
            yield claim
        finally:
            if not claim.is_complete and not claim.is_replay:
                # Shielded: a client that has gone away must not leave its key held.
                await asyncio.shield(asyncio.to_thread(self._let_go, claim))

    def _take(self, owner: str, key: str, seconds: float) -> Claim:
        claim = Claim(owner, key, None, clock=self._clock)
        now = self._clock()
        found = idempotency.take(
            self._store, owner=owner, key=key, holder=claim.holder, now=now,
            hold_until=now + seconds, most=self._max_keys,
        )  # fmt: skip
        if isinstance(found, float):
            wait = max(1, min(_RETRY_SECONDS, math.ceil(found - now)))
            message = f"a request with this {HEADER} is still being answered; try again in {wait} s"
            raise ApiError("idempotency_in_flight", message, param=HEADER, headers={"Retry-After": str(wait)})
        return claim if found is None else Claim(owner, key, found, clock=self._clock)

    def _let_go(self, claim: Claim) -> None:
        assert claim.key is not None
        try:
            idempotency.let_go(self._store, owner=claim.owner, key=claim.key, holder=claim.holder)
        except (SQLAlchemyError, OSError) as exc:
            # It frees itself when its time is over.
            logger.error("an idempotency key could not be freed", exc_info=exc)
