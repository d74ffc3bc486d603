"""Webhook deliveries: what is to be told, how often it was tried, and when it is tried next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from server.store import Store
from server.store import deliveries as table


@dataclass(frozen=True, kw_only=True)
class DeliveryRecord:
    """One webhook: ``body`` is sent as it is; ``next_at`` is None when it was delivered or given up.

    ``subject_id`` is what it tells of. Without a ``url`` it goes to the operator's address; with one, ``secret`` signs
    it, and is forgotten when nothing is to be sent any more.
    """

    id: str
    subject_id: str
    owner: str
    type: str
    body: str
    created_at: float
    next_at: float | None
    num_attempts: int = 0
    delivered_at: float | None = None
    last_status: int | None = None
    last_error: str | None = None
    url: str | None = None
    secret: str | None = None


def _of(row: Any) -> DeliveryRecord:
    return DeliveryRecord(**{name: getattr(row, name) for name in DeliveryRecord.__dataclass_fields__})


def add_within(connection: Connection, record: DeliveryRecord) -> None:
    connection.execute(insert(table).values(**vars(record)))


def claim_due(store: Store, *, now: float, hold_seconds: float, operators: bool = True) -> DeliveryRecord | None:
    """Return a delivery that is due, put off by ``hold_seconds`` so that no other process sends it meanwhile.

    What was not tried yet comes first. Without ``operators`` those to the operator's address are left alone.
    """
    due = select(table).where(table.c.next_at <= now).order_by(table.c.num_attempts, table.c.next_at).limit(1)
    if not operators:
        due = due.where(table.c.url.is_not(None))
    with store.read() as connection:
        if connection.execute(due.with_only_columns(table.c.seq)).first() is None:
            return None  # looking takes no lock from those who write
    with store.write() as connection:
        row = connection.execute(due.with_for_update(skip_locked=True)).first()
        if row is None:
            return None
        held = update(table).where(table.c.id == row.id)
        connection.execute(held.values(next_at=now + hold_seconds, num_attempts=row.num_attempts + 1))
        row = connection.execute(select(table).where(table.c.id == row.id)).one()
    return _of(row)


def settle(
    store: Store,
    delivery_id: str,
    *,
    next_at: float | None,
    delivered_at: float | None,
    status: int | None,
    error: str | None,
) -> None:
    """Record the outcome of an attempt; ``next_at`` None: the last one."""
    values: dict[str, Any] = {"last_status": status, "last_error": error and error[:255]}
    if next_at is None:
        values["secret"] = None
    with store.write() as connection:
        changed = update(table).where(table.c.id == delivery_id)
        connection.execute(changed.values(next_at=next_at, delivered_at=delivered_at, **values))


def about(store: Store, subject_id: str) -> tuple[DeliveryRecord, ...]:
    """Return the webhooks that tell of a job or an analysis."""
    with store.read() as connection:
        return tuple(_of(row) for row in connection.execute(select(table).where(table.c.subject_id == subject_id)))


def remove_settled(store: Store, *, before: float) -> int:
    """Forget the deliveries made before a time of which nothing is to be sent any more; return how many."""
    with store.write() as connection:
        return connection.execute(delete(table).where(table.c.next_at.is_(None), table.c.created_at < before)).rowcount
