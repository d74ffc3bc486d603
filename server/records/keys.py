"""API keys: what is known of each, which is everything but the key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import insert, select, update

from server.store import Store
from server.store import api_keys as table


@dataclass(frozen=True, kw_only=True)
class KeyRecord:
    """One key: ``digest`` is made of its secret part, ``owner`` has what is made with it, which is
    for ``purpose``. Times are Unix seconds."""

    id: str
    owner: str
    digest: str
    scopes: tuple[str, ...]
    created_at: float
    note: str = ""
    per_minute: int | None = None
    expires_at: float | None = None
    revoked_at: float | None = None
    purpose: str | None = None

    def is_valid(self, *, now: float) -> bool:
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


def _of(row: Any) -> KeyRecord:
    values = {name: getattr(row, name) for name in KeyRecord.__dataclass_fields__}
    return KeyRecord(**{**values, "scopes": tuple(values["scopes"])})


def add(store: Store, record: KeyRecord) -> None:
    with store.write() as connection:
        connection.execute(insert(table).values(**{**vars(record), "scopes": list(record.scopes)}))


def find(store: Store, key_id: str) -> KeyRecord | None:
    with store.read() as connection:
        row = connection.execute(select(table).where(table.c.id == key_id)).first()
    return None if row is None else _of(row)


def all_keys(store: Store) -> tuple[KeyRecord, ...]:
    """Return every key, the oldest first."""
    with store.read() as connection:
        return tuple(_of(row) for row in connection.execute(select(table).order_by(table.c.seq)))


def revoke(store: Store, key_id: str, *, now: float) -> bool:
    """End a key and return whether there was one that was not ended before."""
    condition = (table.c.id == key_id) & table.c.revoked_at.is_(None)
    with store.write() as connection:
        return connection.execute(update(table).where(condition).values(revoked_at=now)).rowcount > 0
