"""Idempotency keys: which request of an owner made which resource, so that the same request does not make another.

A key is held while its first request is being answered, and names the resource afterwards. The two become true
together: the resource and its key are written in one transaction.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, delete, func, insert, select, update

from server.store import Store
from server.store import idempotency_keys as table


@dataclass(frozen=True, kw_only=True)
class Known:
    """A key that made a resource: the request's ``fingerprint``, and the resource's id."""

    fingerprint: str
    resource_id: str


def take(
    store: Store, *, owner: str, key: str, holder: str, now: float, hold_until: float, most: int
) -> Known | float | None:
    """Hold a key for a request: None when it is held now, what it made, or until when another request holds it.

    An owner has at most ``most`` keys; the oldest that made something make room.
    """
    mine = (table.c.owner == owner, table.c.key == key)
    with store.write() as connection:
        row = connection.execute(select(table).where(*mine).with_for_update()).first()
        if row is not None and row.expires_at > now:
            if row.resource_id is None:
                return float(row.expires_at)
            return Known(fingerprint=row.fingerprint, resource_id=row.resource_id)
        connection.execute(delete(table).where(*mine))
        count = select(func.count()).select_from(table).where(table.c.owner == owner)
        too_many = connection.execute(count).scalar_one() + 1 - most
        if too_many > 0:
            oldest = (
                select(table.c.seq)
                .where(table.c.owner == owner, table.c.resource_id.is_not(None))
                .order_by(table.c.seq)
                .limit(too_many)
            )
            seqs = list(connection.execute(oldest).scalars())
            connection.execute(delete(table).where(table.c.seq.in_(seqs)))
        connection.execute(
            insert(table).values(owner=owner, key=key, holder=holder, created_at=now, expires_at=hold_until)
        )
    return None


def complete_within(
    connection: Connection, *, owner: str, key: str, holder: str, fingerprint: str, resource_id: str, until: float
) -> bool:
    """Note what a held key has made; False when it is held no more."""
    held = (table.c.owner == owner, table.c.key == key, table.c.holder == holder)
    values = {"fingerprint": fingerprint, "resource_id": resource_id, "expires_at": until}
    return connection.execute(update(table).where(*held).values(**values)).rowcount == 1


def let_go(store: Store, *, owner: str, key: str, holder: str) -> None:
    """Free a key whose request has made nothing."""
    held = (table.c.owner == owner, table.c.key == key, table.c.holder == holder, table.c.resource_id.is_(None))
    with store.write() as connection:
        connection.execute(delete(table).where(*held))


def remove_expired(store: Store, *, now: float) -> int:
    """Forget keys whose time is over; returns how many."""
    with store.write() as connection:
        return connection.execute(delete(table).where(table.c.expires_at <= now)).rowcount
