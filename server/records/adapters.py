"""Adapters that jobs made: the names under which they answer, and the folders they lie in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, select
from sqlalchemy import delete as sql_delete

from server.store import Store, job_checkpoints
from server.store import adapters as table


@dataclass(frozen=True, kw_only=True)
class AdapterRecord:
    """A fine-tuned model (or a checkpoint of one): ``folder`` is relative to the data folder."""

    name: str
    base: str
    folder: str
    job_id: str
    is_checkpoint: bool
    created_at: float
    owner: str = "local"


def _of(row: Any) -> AdapterRecord:
    return AdapterRecord(**{name: getattr(row, name) for name in AdapterRecord.__dataclass_fields__})


def add_within(connection: Connection, record: AdapterRecord) -> None:
    """Add an adapter within a transaction; a name that is there already is left alone."""
    known = connection.execute(select(table.c.seq).where(table.c.name == record.name)).first()
    if known is None:
        connection.execute(insert(table).values(**vars(record)))


def find(store: Store, name: str) -> AdapterRecord | None:
    with store.read() as connection:
        row = connection.execute(select(table).where(table.c.name == name)).first()
    return None if row is None else _of(row)


def all_adapters(store: Store) -> tuple[AdapterRecord, ...]:
    """Return every adapter in the order of their making."""
    with store.read() as connection:
        return tuple(_of(row) for row in connection.execute(select(table).order_by(table.c.seq)))


def remove(store: Store, name: str) -> tuple[AdapterRecord, ...]:
    """Forget an adapter, and with a finished model the checkpoints of its job; return what was forgotten."""
    with store.write() as connection:
        row = connection.execute(select(table).where(table.c.name == name)).first()
        if row is None:
            return ()
        condition = table.c.name == name if row.is_checkpoint else table.c.job_id == row.job_id
        gone = tuple(_of(each) for each in connection.execute(select(table).where(condition).order_by(table.c.seq)))
        connection.execute(sql_delete(table).where(condition))
        names = [each.name for each in gone]
        connection.execute(sql_delete(job_checkpoints).where(job_checkpoints.c.model_name.in_(names)))
    return gone


def has_any(store: Store, job_id: str) -> bool:
    """Whether a job still has an adapter."""
    with store.read() as connection:
        return connection.execute(select(table.c.seq).where(table.c.job_id == job_id).limit(1)).first() is not None
