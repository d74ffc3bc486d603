"""The audit log: who had what done when, with which model, for what purpose and by whose consent; never what was in it.

Rows are only ever added. The database refuses to change or remove one (`server.store`), and each has a SHA-256 over
itself and the row before it, so that what was changed or removed all the same, past the database, is found by `verify`.
That the newest rows were cut off is found by whoever has noted the log's head (`Head`) elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, insert, select, text

from server.records.ids import new_id
from server.records.pages import Page, all_of, read_page
from server.store import Store
from server.store import audit_log as table

_LOCK = 0x656D6F61  # any number that is ours, for Postgres' advisory lock
_CHUNK = 1000


@dataclass(frozen=True, kw_only=True)
class Event:
    """What happened: ``action`` is a method and a route's template, or what the service did by itself.

    ``status`` is HTTP's (of a WebSocket the code it was closed with), ``code`` an error's. ``owner`` and ``key_id`` say
    who asked, None where that was not known. ``subject_id`` is that of an analysis, a job, a file, an erasure.
    """

    action: str
    owner: str | None = None
    key_id: str | None = None
    status: int | None = None
    code: str | None = None
    model: str | None = None
    purpose: str | None = None
    consent_reference: str | None = None
    subject_id: str | None = None
    at: float = field(default_factory=lambda: round(time.time(), 3))


@dataclass(frozen=True, kw_only=True)
class AuditRecord(Event):
    """An event as it stands in the log."""

    seq: int
    id: str
    hash: str


@dataclass(frozen=True, kw_only=True)
class Head:
    """The end of the log: how many rows it has, and the hash of the last."""

    num_rows: int
    hash: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What `verify` found: the log's head, and the first row that does not follow from those before it.

    ``has_known_head`` says whether the head that was to be in it is; None when there was none.
    """

    head: Head
    broken_at: int | None
    has_known_head: bool | None

    @property
    def is_whole(self) -> bool:
        return self.broken_at is None and self.has_known_head is not False


_HASHED = (
    "seq", "id", "at", "owner", "key_id", "action", "status", "code", "model", "purpose", "consent_reference",
    "subject_id",
)  # fmt: skip
_LENGTHS = {column.name: column.type.length for column in table.c if hasattr(column.type, "length")}


def _of(row: Any) -> AuditRecord:
    return AuditRecord(**row._mapping)


def _hash(previous: str, values: dict[str, Any]) -> str:
    told = json.dumps([values[name] for name in _HASHED], ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(f"{previous}\n{told}".encode()).hexdigest()


def first_hash(store_id: str) -> str:
    """Return what stands before the first row: another database's log does not fit."""
    return hashlib.sha256(store_id.encode()).hexdigest()


def append_within(connection: Connection, store_id: str, events: Sequence[Event]) -> None:
    """Add events at the end, in a transaction that writes; the last thing in it, since others wait for their turn."""
    if not events:
        return
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    last = connection.execute(select(table.c.seq, table.c.hash).order_by(table.c.seq.desc()).limit(1)).first()
    seq, previous = (0, first_hash(store_id)) if last is None else (last.seq, last.hash)
    rows = []
    for event in events:
        seq += 1
        values: dict[str, Any] = {"seq": seq, "id": new_id("audit-"), **vars(event)}
        for name, value in values.items():
            if isinstance(value, str):
                values[name] = value[: _LENGTHS[name]]
        previous = _hash(previous, values)
        rows.append({**values, "hash": previous})
    connection.execute(insert(table), rows)


def append(store: Store, events: Sequence[Event]) -> None:
    """Add events in a transaction of their own; blocks."""
    with store.write() as connection:
        append_within(connection, store.database_id, events)


def page(
    store: Store,
    *,
    after: str | None,
    limit: int,
    owner: str | None = None,
    key_id: str | None = None,
    action: str | None = None,
    purpose: str | None = None,
    subject_id: str | None = None,
    since: float | None = None,
    until: float | None = None,
) -> Page[AuditRecord]:
    """Return rows that fit all that is given, newest first; ``since`` is included, ``until`` is not."""
    wanted = {"owner": owner, "key_id": key_id, "action": action, "purpose": purpose, "subject_id": subject_id}
    conditions = [table.c[name] == value for name, value in wanted.items() if value is not None]
    if since is not None:
        conditions.append(table.c.at >= since)
    if until is not None:
        conditions.append(table.c.at < until)
    with store.read() as connection:
        rows, has_more = read_page(
            connection, all_of(table, *conditions), table, after=after, limit=limit, newest_first=True
        )
    return Page(items=tuple(_of(row) for row in rows), has_more=has_more)


def head(store: Store) -> Head:
    """Return the end of the log as it says itself."""
    with store.read() as connection:
        last = connection.execute(select(table.c.seq, table.c.hash).order_by(table.c.seq.desc()).limit(1)).first()
    return (
        Head(num_rows=0, hash=first_hash(store.database_id)) if last is None else Head(num_rows=last[0], hash=last[1])
    )


def verify(store: Store, *, known_head: str | None = None) -> Verdict:
    """Read the whole log and say whether every row follows from those before it; blocks.

    ``known_head`` is the hash of a row that was the last one once, noted elsewhere: it must still be there.
    """
    seq, previous = 0, first_hash(store.database_id)
    has_head = None if known_head is None else known_head == previous
    for record in _all(store):
        values = vars(record)
        if record.seq != seq + 1 or record.hash != _hash(previous, values):
            return Verdict(head=Head(num_rows=seq, hash=previous), broken_at=seq + 1, has_known_head=has_head)
        seq, previous = record.seq, record.hash
        has_head = has_head or (None if known_head is None else known_head == previous)
    return Verdict(head=Head(num_rows=seq, hash=previous), broken_at=None, has_known_head=has_head)


def _all(store: Store) -> Iterator[AuditRecord]:
    """Every row in order, some at a time: whoever writes meanwhile is not kept waiting."""
    seq = None
    while True:
        query = select(table).order_by(table.c.seq).limit(_CHUNK)
        with store.read() as connection:
            rows = connection.execute(query if seq is None else query.where(table.c.seq > seq)).all()
        yield from (_of(row) for row in rows)
        if len(rows) < _CHUNK:
            return
        seq = rows[-1].seq
