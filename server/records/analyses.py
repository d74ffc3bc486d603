"""Analyses that were asked for, as the API reads them; `server.analyses.queue` is how they are worked on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from sqlalchemy import Connection, Select, delete, func, insert, select

from server.records.audit import Event
from server.records.pages import Page, all_of, read_page
from server.store import Store
from server.store import analyses as table
from server.store import deliveries as delivery_table
from server.store import idempotency_keys as key_table

Status = Literal["queued", "running", "succeeded", "failed", "cancelled"]
STATUSES: tuple[str, ...] = get_args(Status)
WAITING: frozenset[str] = frozenset({"queued", "running"})
ENDED: frozenset[str] = frozenset({"succeeded", "failed", "cancelled"})


@dataclass(frozen=True, kw_only=True)
class AnalysisRecord:
    """One clip that is to be analysed, or was; the clip lies in the data folder under its id until it has ended.

    ``options`` are those of `/analyze`; ``result`` is the analysis as JSON, ``error`` an error's body, ``progress``
    goes from 0 to 1. The webhook is for this one alone. ``purpose`` is why it was asked for, ``consent_reference``
    where the consent to it is kept. Times are Unix seconds; ``expires_at`` is known when it ends.
    """

    id: str
    owner: str
    filename: str
    num_bytes: int
    options: Mapping[str, Any]
    retention_seconds: float
    created_at: float
    metadata: Mapping[str, str] = field(default_factory=dict)
    status: str = "queued"
    wanted: str = "run"
    webhook_url: str | None = None
    webhook_secret: str | None = None
    started_at: float | None = None
    finished_at: float | None = None
    expires_at: float | None = None
    stage: str | None = None
    progress: float = 0.0
    result: str | None = None
    error: Mapping[str, Any] | None = None
    num_starts: int = 0
    purpose: str | None = None
    consent_reference: str | None = None

    @property
    def has_ended(self) -> bool:
        return self.status in ENDED


_COLUMNS = tuple(table.c[name] for name in AnalysisRecord.__dataclass_fields__)
_WITHOUT_RESULT = tuple(column for column in _COLUMNS if column.name != "result")


def of_row(row: Any) -> AnalysisRecord:
    return AnalysisRecord(**row._mapping)


def add_within(connection: Connection, record: AnalysisRecord) -> None:
    connection.execute(insert(table).values(**vars(record)))


def find(
    store: Store, analysis_id: str, *, now: float, owner: str | None = None, with_result: bool = True
) -> AnalysisRecord | None:
    """Return an analysis (with ``owner``: of that one), or None when there is none or its time is over."""
    query = _kept(select(*(_COLUMNS if with_result else _WITHOUT_RESULT)).where(table.c.id == analysis_id), now=now)
    with store.read() as connection:
        row = connection.execute(query if owner is None else query.where(table.c.owner == owner)).first()
    return None if row is None else of_row(row)


def page(
    store: Store, *, now: float, after: str | None, limit: int, status: str | None = None, owner: str | None = None
) -> Page[AnalysisRecord]:
    """Return analyses without their results, newest first (with ``owner``: of that one)."""
    query = _kept(all_of(table), now=now)
    if owner is not None:
        query = query.where(table.c.owner == owner)
    if status is not None:
        query = query.where(table.c.status == status)
    query = query.with_only_columns(*_WITHOUT_RESULT)
    with store.read() as connection:
        rows, has_more = read_page(connection, query, table, after=after, limit=limit, newest_first=True)
    return Page(items=tuple(of_row(row) for row in rows), has_more=has_more)


def _kept(query: Select[Any], *, now: float) -> Select[Any]:
    """What is past its time is not there any more, also before it is cleared away."""
    return query.where(table.c.expires_at.is_(None) | (table.c.expires_at > now))


def num_waiting_within(connection: Connection, owner: str | None = None) -> int:
    """Return how many (with ``owner``: of that one) are queued or being worked on."""
    query = select(func.count()).select_from(table).where(table.c.status.in_(WAITING))
    return int(connection.execute(query if owner is None else query.where(table.c.owner == owner)).scalar_one())


def remove_within(connection: Connection, ids: list[str]) -> int:
    """Forget analyses, the webhooks that tell of them, and the idempotency keys that name them; returns how many."""
    connection.execute(delete(delivery_table).where(delivery_table.c.subject_id.in_(ids)))
    connection.execute(delete(key_table).where(key_table.c.resource_id.in_(ids)))
    return connection.execute(delete(table).where(table.c.id.in_(ids))).rowcount


def expiries_within(connection: Connection, ids: Sequence[str]) -> list[Event]:
    """Return what the audit log is to have of analyses that are removed because their time is over."""
    columns = (table.c.id, table.c.owner, table.c.purpose, table.c.consent_reference)
    return [
        Event(
            action="analysis.expired", owner=row.owner, purpose=row.purpose, consent_reference=row.consent_reference,
            subject_id=row.id,
        )
        for row in connection.execute(select(*columns).where(table.c.id.in_(ids)).order_by(table.c.seq))
    ]  # fmt: skip


def expired(store: Store, *, now: float, limit: int = 500) -> tuple[str, ...]:
    """Return ids whose time is over."""
    with store.read() as connection:
        found = select(table.c.id).where(table.c.expires_at <= now).limit(limit)
        return tuple(connection.execute(found).scalars())


def exists(store: Store, analysis_id: str) -> bool:
    """Tell whether there is such an analysis, whatever its time."""
    with store.read() as connection:
        return connection.execute(select(table.c.id).where(table.c.id == analysis_id)).first() is not None


def known(store: Store) -> Mapping[str, str]:
    """Return the status of every id."""
    with store.read() as connection:
        return {row.id: row.status for row in connection.execute(select(table.c.id, table.c.status))}


def count_by_status(store: Store) -> dict[str, int]:
    """Return how many analyses are in each status; every status is there, if with 0."""
    query = select(table.c.status, func.count()).group_by(table.c.status)
    with store.read() as connection:
        found = {row[0]: int(row[1]) for row in connection.execute(query)}
    return {status: found.get(status, 0) for status in STATUSES}


def mean_seconds(store: Store, *, last: int = 20) -> float | None:
    """Return how long the last ones that succeeded were worked on; None when there are none."""
    seconds = (table.c.finished_at - table.c.started_at).label("seconds")
    newest = select(seconds).where(table.c.status == "succeeded").order_by(table.c.seq.desc()).limit(last).subquery()
    with store.read() as connection:
        found = connection.execute(select(func.avg(newest.c.seconds))).scalar()
    return None if found is None else float(found)
