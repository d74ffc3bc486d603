"""Webhook deliveries: what is to be told, how often it was tried, and when it is tried next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, select, update

from server.store import Store
from server.store import deliveries as table


@dataclass(frozen=True, kw_only=True)
class DeliveryRecord:
    """One webhook: ``body`` is sent as it is; ``next_at`` is None when it was delivered or given up."""

    id: str
    job_id: str
    type: str
    body: str
    created_at: float
    next_at: float | None
    num_attempts: int = 0
    delivered_at: float | None = None
    last_status: int | None = None
    last_error: str | None = None


def _of(row: Any) -> DeliveryRecord:
    return DeliveryRecord(**{name: getattr(row, name) for name in DeliveryRecord.__dataclass_fields__})


def add_within(connection: Connection, record: DeliveryRecord) -> None:
    connection.execute(insert(table).values(**vars(record)))


def claim_due(store: Store, *, now: float, hold_seconds: float) -> DeliveryRecord | None:
    """Return a delivery that is due, put off by ``hold_seconds`` so that no other process sends it meanwhile."""
    with store.write() as connection:
        due = select(table).where(table.c.next_at <= now).order_by(table.c.next_at).limit(1)
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
    """Record the outcome of an attempt."""
    with store.write() as connection:
        connection.execute(
            update(table)
            .where(table.c.id == delivery_id)
            .values(next_at=next_at, delivered_at=delivered_at, last_status=status, last_error=error and error[:255])
        )


def of_job(store: Store, job_id: str) -> tuple[DeliveryRecord, ...]:
    with store.read() as connection:
        return tuple(_of(row) for row in connection.execute(select(table).where(table.c.job_id == job_id)))
