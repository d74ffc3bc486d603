"""Who works on which row: leases in the database, for every table whose rows are pieces of work.

A lease is a row's ``lease_owner``, ``lease_number`` and ``lease_until``. It is taken in one transaction, renewed while
its holder lives, and may be taken over by any process once it has run out; each taking raises its number. What a holder
writes about its row is written under the lease, in the same transaction that checks it: a process that slept through
the end of its lease can change nothing any more (`LeaseLostError`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, select, update

from server.store import Store


class LeaseLostError(Exception):
    """The row is another process's by now, or is gone; nothing was written."""


@dataclass(frozen=True, kw_only=True)
class Hold:
    """The right to work on one row, as it was when it was taken."""

    id: str
    owner: str
    number: int


class LeasedTable:
    """The leases of one table with the columns ``id``, ``status`` and the three of a lease."""

    def __init__(self, table: Table, *, claimable: Sequence[str]) -> None:
        self._table, self._claimable = table, tuple(claimable)

    def claim_within(
        self, connection: Connection, *, owner: str, seconds: float, now: float, order: Sequence[Any] = ()
    ) -> Hold | None:
        """Take the first row that is to be worked on and that nobody holds, or return None.

        ``order`` comes before the order of their making.
        """
        columns = self._table.c
        free = (
            select(columns.id, columns.lease_number)
            .where(columns.status.in_(self._claimable), columns.lease_until <= now)
            .order_by(*order, columns.seq)
            .limit(1)
            .with_for_update(skip_locked=True, of=self._table)
        )
        row = connection.execute(free).first()
        if row is None:
            return None
        hold = Hold(id=row.id, owner=owner, number=row.lease_number + 1)
        values = {"lease_owner": owner, "lease_number": hold.number, "lease_until": now + seconds}
        connection.execute(update(self._table).where(columns.id == row.id).values(**values))
        return hold

    def renew(self, store: Store, holds: Iterable[Hold], *, until: float) -> None:
        """Extend leases; one that was lost meanwhile stays lost."""
        with store.write() as connection:
            for hold in holds:
                connection.execute(update(self._table).where(*self.held(hold)).values(lease_until=until))

    def release(self, store: Store, hold: Hold, *, free_at: float) -> None:
        """Give a lease back: any process may take the row from ``free_at`` on."""
        with store.write() as connection:
            values = {"lease_until": free_at, "lease_owner": None}
            connection.execute(update(self._table).where(*self.held(hold)).values(**values))

    def set_within(self, connection: Connection, hold: Hold, **values: Any) -> None:
        """Change the row under its lease, or raise `LeaseLostError`."""
        if connection.execute(update(self._table).where(*self.held(hold)).values(**values)).rowcount != 1:
            raise LeaseLostError(hold.id)

    def held(self, hold: Hold) -> tuple[ColumnElement[bool], ...]:
        """Return the conditions under which the row is still its holder's."""
        columns = self._table.c
        return (columns.id == hold.id, columns.lease_owner == hold.owner, columns.lease_number == hold.number)
