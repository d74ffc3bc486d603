"""The queue of analyses: whose turn it is, what is written while one is worked on, how one ends.

`server.leases` says who works on which. Turns go around the owners: the one who was served longest ago is next, with
the oldest of that one's clips. So one who sends a thousand clips does not keep the others waiting.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, select, update

from server.leases import Hold, LeasedTable
from server.records import analyses, audit, deliveries
from server.records.analyses import AnalysisRecord
from server.records.audit import Event
from server.store import Store
from server.store import analyses as table
from server.webhooks import delivery_of

_LEASES = LeasedTable(table, claimable=("queued", "running"))
_SIBLINGS = table.alias("siblings")
_SERVED_AT = (
    select(func.coalesce(func.max(_SIBLINGS.c.started_at), 0.0))
    .where(_SIBLINGS.c.owner == table.c.owner)
    .correlate(table)
    .scalar_subquery()
)


@dataclass(frozen=True, kw_only=True)
class Lease:
    """The right to work on one analysis, and the analysis as it was when the lease was taken."""

    record: AnalysisRecord
    hold: Hold


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How an analysis ended; ``tells_operator`` makes a webhook to the operator's address of it.

    ``audited_model`` makes a row of the audit log of it, which names that model.
    """

    status: str
    at: float
    result: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None
    tells_operator: bool = False
    audited_model: str | None = None


def claim(store: Store, *, owner: str, seconds: float, now: float) -> Lease | None:
    """Take the analysis whose turn it is, or return None. It is running from then on."""
    with store.write() as connection:
        hold = _LEASES.claim_within(connection, owner=owner, seconds=seconds, now=now, order=(_SERVED_AT,))
        if hold is None:
            return None
        values = {"status": "running", "num_starts": table.c.num_starts + 1, "stage": None, "progress": 0.0}
        connection.execute(update(table).where(table.c.id == hold.id).values(**values, started_at=now))
        return Lease(record=_row(connection, hold.id), hold=hold)


def renew(store: Store, leases: Sequence[Lease], *, until: float) -> None:
    """Extend leases; one that was lost meanwhile stays lost."""
    _LEASES.renew(store, [lease.hold for lease in leases], until=until)


def wishes(store: Store, leases: Sequence[Lease]) -> dict[str, str]:
    """Return what is wanted of each (run, cancel); one whose lease is lost, or that was deleted, is not there."""
    holds = {lease.hold.id: lease.hold for lease in leases}
    query = select(table.c.id, table.c.wanted, table.c.lease_owner, table.c.lease_number)
    with store.read() as connection:
        rows = connection.execute(query.where(table.c.id.in_(holds))).all()
    return {
        row.id: row.wanted
        for row in rows
        if (row.lease_owner, row.lease_number) == (holds[row.id].owner, holds[row.id].number)
    }


def advance(store: Store, lease: Lease, *, stage: str, progress: float) -> None:
    """Write how far it is."""
    with store.write() as connection:
        _LEASES.set_within(connection, lease.hold, stage=stage, progress=progress)


def give_back(store: Store, lease: Lease, *, free_at: float = 0.0, counts: bool = False) -> None:
    """Put it back into its place in the queue; what was begun ``counts`` as a start only when the clip was at fault."""
    values: dict[str, Any] = {"status": "queued", "stage": None, "progress": 0.0}
    values |= {"lease_owner": None, "lease_until": free_at}
    if not counts:
        values["num_starts"] = table.c.num_starts - 1
    with store.write() as connection:
        _LEASES.set_within(connection, lease.hold, **values)


def end(store: Store, lease: Lease, ending: Ending) -> None:
    """End it under its lease: status, result and webhook become true together."""
    with store.write() as connection:
        _LEASES.set_within(connection, lease.hold, lease_owner=None, lease_until=0.0)
        end_within(connection, lease.record, ending)
        if ending.audited_model is not None:
            audit.append_within(connection, store.database_id, [_event(lease.record, ending)])


def _event(record: AnalysisRecord, ending: Ending) -> Event:
    return Event(
        action=f"analysis.{ending.status}", owner=record.owner, model=ending.audited_model, purpose=record.purpose,
        consent_reference=record.consent_reference, subject_id=record.id,
        code=None if ending.error is None else str(ending.error["code"]),
    )  # fmt: skip


def end_within(connection: Connection, record: AnalysisRecord, ending: Ending) -> None:
    """The same within a transaction that has made sure that nobody works on it."""
    # What it was to be analysed with was the clip's, and goes with the clip.
    options = {name: value for name, value in record.options.items() if name != "transcript"}
    values: dict[str, Any] = {
        "status": ending.status,
        "finished_at": ending.at,
        "expires_at": ending.at + record.retention_seconds,
        "result": None
        if ending.result is None
        else json.dumps(ending.result, ensure_ascii=False, allow_nan=False, separators=(",", ":")),
        "error": None if ending.error is None else dict(ending.error),
        "options": options,
        "webhook_secret": None,
        "lease_owner": None,  # also of one that slept through the end of its lease
    }
    if ending.status == "succeeded":
        values |= {"stage": None, "progress": 1.0}
    connection.execute(update(table).where(table.c.id == record.id).values(**values))
    if record.webhook_url is not None or ending.tells_operator:
        delivery = delivery_of(
            f"analysis.{ending.status}", record.id, owner=record.owner, at=ending.at, url=record.webhook_url,
            secret=record.webhook_secret,
        )  # fmt: skip
        deliveries.add_within(connection, delivery)


def cancel(store: Store, analysis_id: str, *, now: float, tells_operator: bool) -> AnalysisRecord | None:
    """Ask one to end: at once when nobody works on it, else its worker is asked. None: there is no such one.

    One that has ended already stays as it is.
    """
    with store.write() as connection:
        query = select(table.c.lease_until).where(table.c.id == analysis_id).with_for_update()
        lease_until = connection.execute(query).scalar()
        if lease_until is None:
            return None
        record = _row(connection, analysis_id)
        if record.has_ended:
            return record
        if lease_until <= now:
            end_within(connection, record, Ending(status="cancelled", at=now, tells_operator=tells_operator))
        else:
            connection.execute(update(table).where(table.c.id == analysis_id).values(wanted="cancel"))
        return _row(connection, analysis_id)


def _row(connection: Connection, analysis_id: str) -> AnalysisRecord:
    columns = tuple(table.c[name] for name in AnalysisRecord.__dataclass_fields__)
    return analyses.of_row(connection.execute(select(*columns).where(table.c.id == analysis_id)).one())
