"""Files: what was uploaded for fine-tuning, and the results of jobs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, insert, select
from sqlalchemy import delete as sql_delete

from server.records.pages import Page, all_of, read_page
from server.store import Store
from server.store import files as table
from server.store import idempotency_keys as key_table

Purpose = Literal["fine-tune", "fine-tune-results", "vision", "user_data"]


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """One file; its bytes lie in the data folder under its id. Times are Unix seconds."""

    id: str
    filename: str
    purpose: str
    kind: str
    num_bytes: int
    created_at: float
    expires_at: float | None = None
    owner: str = "local"


def _of(row: Any) -> FileRecord:
    return FileRecord(**{name: getattr(row, name) for name in FileRecord.__dataclass_fields__})


def add(store: Store, record: FileRecord, *, also: Callable[[Connection], None] | None = None) -> None:
    """Add a file; ``also`` writes what becomes true with it."""
    with store.write() as connection:
        connection.execute(insert(table).values(**vars(record)))
        if also is not None:
            also(connection)


def find(store: Store, file_id: str, *, now: float, owner: str | None = None) -> FileRecord | None:
    """Return a file (with ``owner``: of that one), or None when there is none or it has expired."""
    query = select(table).where(table.c.id == file_id)
    with store.read() as connection:
        row = connection.execute(query if owner is None else query.where(table.c.owner == owner)).first()
    record = None if row is None else _of(row)
    return None if record is None or (record.expires_at is not None and record.expires_at <= now) else record


def page(
    store: Store,
    *,
    now: float,
    purpose: str | None,
    after: str | None,
    limit: int,
    newest_first: bool,
    owner: str | None = None,
) -> Page[FileRecord]:
    query = all_of(table, (table.c.expires_at.is_(None)) | (table.c.expires_at > now))
    if owner is not None:
        query = query.where(table.c.owner == owner)
    if purpose is not None:
        query = query.where(table.c.purpose == purpose)
    with store.read() as connection:
        rows, has_more = read_page(connection, query, table, after=after, limit=limit, newest_first=newest_first)
    return Page(items=tuple(_of(row) for row in rows), has_more=has_more)


def remove(store: Store, file_id: str) -> bool:
    """Forget a file and return whether there was one; its bytes are the caller's to remove."""
    with store.write() as connection:
        connection.execute(sql_delete(key_table).where(key_table.c.resource_id == file_id))
        return connection.execute(sql_delete(table).where(table.c.id == file_id)).rowcount > 0


def expired(store: Store, *, now: float) -> tuple[str, ...]:
    """Return the ids of files that are past their time."""
    with store.read() as connection:
        return tuple(connection.execute(select(table.c.id).where(table.c.expires_at <= now)).scalars())


def known(store: Store) -> frozenset[str]:
    with store.read() as connection:
        return frozenset(connection.execute(select(table.c.id)).scalars())
