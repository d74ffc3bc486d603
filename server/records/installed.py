"""Adapters that the operator installed by request: the names under which they answer, and where they lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete as sql_delete
from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError

from server.store import Store
from server.store import installed_adapters as table


@dataclass(frozen=True, kw_only=True)
class InstalledRecord:
    """An adapter on ``base`` (what the model is loaded from); ``folder`` is where it lies on this machine."""

    name: str
    base: str
    folder: str
    created_at: float


def _of(row: Any) -> InstalledRecord:
    return InstalledRecord(**{name: getattr(row, name) for name in InstalledRecord.__dataclass_fields__})


def add(store: Store, record: InstalledRecord) -> bool:
    """Add an adapter; false when the name is there already."""
    try:
        with store.write() as connection:
            connection.execute(insert(table).values(**vars(record)))
    except IntegrityError:
        return False
    return True


def find(store: Store, name: str) -> InstalledRecord | None:
    with store.read() as connection:
        row = connection.execute(select(table).where(table.c.name == name)).first()
    return None if row is None else _of(row)


def all_installed(store: Store) -> tuple[InstalledRecord, ...]:
    """Return every adapter in the order of their installation."""
    with store.read() as connection:
        return tuple(_of(row) for row in connection.execute(select(table).order_by(table.c.seq)))


def remove(store: Store, name: str) -> bool:
    """Forget an adapter; false when there was none of that name."""
    with store.write() as connection:
        return connection.execute(sql_delete(table).where(table.c.name == name)).rowcount > 0
