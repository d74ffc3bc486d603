"""Fine-tuning jobs, their events and checkpoints, as the API reads them; `server.jobs.queue` is how they are run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from sqlalchemy import Connection, func, insert, select, update

from server.records.ids import new_id
from server.records.pages import Page, all_of, read_page
from server.store import Store, job_checkpoints, job_events, job_metadata
from server.store import jobs as table

Status = Literal["validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled"]
Wanted = Literal["run", "pause", "cancel"]
Level = Literal["info", "warn", "error"]
ENDED: frozenset[str] = frozenset({"succeeded", "failed", "cancelled"})


@dataclass(frozen=True, kw_only=True)
class JobRecord:
    """One job. ``model_name`` is the name its adapter gets, ``wanted`` what its owner last asked for.

    ``hyperparameters`` has n_epochs, batch_size and learning_rate_multiplier, each a number or "auto"; ``progress``
    is what the runner knows (`server.jobs.progress`). Times are Unix seconds.
    """

    id: str
    status: str
    base: str
    model_name: str
    training_file: str
    seed: int
    created_at: float
    hyperparameters: Mapping[str, Any]
    validation_file: str | None = None
    suffix: str | None = None
    wanted: str = "run"
    finished_at: float | None = None
    estimated_finish: float | None = None
    trained_tokens: int | None = None
    error: Mapping[str, Any] | None = None
    result_files: tuple[str, ...] = ()
    progress: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    owner: str = "local"

    @property
    def has_ended(self) -> bool:
        return self.status in ENDED


@dataclass(frozen=True, kw_only=True)
class EventRecord:
    """One event of a job; ``type`` is message or metrics."""

    message: str
    level: Level = "info"
    type: Literal["message", "metrics"] = "message"
    data: Mapping[str, Any] | None = None
    created_at: float = field(default_factory=time.time)
    id: str = field(default_factory=lambda: new_id("ftevent-"))


@dataclass(frozen=True, kw_only=True)
class CheckpointRecord:
    """One servable state of a job's adapter."""

    step: int
    model_name: str
    metrics: Mapping[str, Any]
    created_at: float = field(default_factory=time.time)
    id: str = field(default_factory=lambda: new_id("ftckpt_"))


_COLUMNS = tuple(name for name in JobRecord.__dataclass_fields__ if name != "metadata")


def of_row(connection: Connection, row: Any) -> JobRecord:
    values = {name: getattr(row, name) for name in _COLUMNS}
    values["result_files"] = tuple(values["result_files"])
    pairs = connection.execute(
        select(job_metadata.c.key, job_metadata.c.value).where(job_metadata.c.job_id == row.id)
    ).all()
    return JobRecord(**values, metadata={pair.key: pair.value for pair in pairs})


def add(
    store: Store,
    job: JobRecord,
    events: tuple[EventRecord, ...],
    *,
    also: Callable[[Connection], None] | None = None,
) -> None:
    """Add a job with its first events; ``also`` writes what becomes true with it."""
    values = {name: getattr(job, name) for name in _COLUMNS}
    values["result_files"] = list(job.result_files)
    with store.write() as connection:
        connection.execute(insert(table).values(**values))
        for key, value in job.metadata.items():
            connection.execute(insert(job_metadata).values(job_id=job.id, key=key, value=value))
        add_events_within(connection, job.id, events)
        if also is not None:
            also(connection)


def add_events_within(connection: Connection, job_id: str, events: tuple[EventRecord, ...]) -> None:
    if events:
        connection.execute(insert(job_events), [{"job_id": job_id, **vars(event)} for event in events])


def find(store: Store, job_id: str, *, owner: str | None = None) -> JobRecord | None:
    """Return a job (with ``owner``: of that one), or None when there is none."""
    query = select(table).where(table.c.id == job_id)
    with store.read() as connection:
        row = connection.execute(query if owner is None else query.where(table.c.owner == owner)).first()
        return None if row is None else of_row(connection, row)


def page(
    store: Store, *, metadata: Mapping[str, str], after: str | None, limit: int, owner: str | None = None
) -> Page[JobRecord]:
    """Return jobs (with ``owner``: of that one), newest first, that have all of these metadata."""
    query = all_of(table) if owner is None else all_of(table, table.c.owner == owner)
    for key, value in metadata.items():
        pairs = select(job_metadata.c.job_id).where(job_metadata.c.key == key, job_metadata.c.value == value)
        query = query.where(table.c.id.in_(pairs))
    with store.read() as connection:
        rows, has_more = read_page(connection, query, table, after=after, limit=limit, newest_first=True)
        return Page(items=tuple(of_row(connection, row) for row in rows), has_more=has_more)


def events_page(
    store: Store, job_id: str, *, after: str | None, limit: int, newest_first: bool = True
) -> Page[EventRecord]:
    query = all_of(job_events, job_events.c.job_id == job_id)
    with store.read() as connection:
        rows, has_more = read_page(connection, query, job_events, after=after, limit=limit, newest_first=newest_first)
    names = tuple(EventRecord.__dataclass_fields__)
    items = tuple(EventRecord(**{name: getattr(row, name) for name in names}) for row in rows)
    return Page(items=items, has_more=has_more)


def checkpoints_page(store: Store, job_id: str, *, after: str | None, limit: int) -> Page[CheckpointRecord]:
    query = all_of(job_checkpoints, job_checkpoints.c.job_id == job_id)
    with store.read() as connection:
        rows, has_more = read_page(connection, query, job_checkpoints, after=after, limit=limit, newest_first=True)
    names = tuple(CheckpointRecord.__dataclass_fields__)
    items = tuple(CheckpointRecord(**{name: getattr(row, name) for name in names}) for row in rows)
    return Page(items=items, has_more=has_more)


def known(store: Store) -> frozenset[str]:
    with store.read() as connection:
        return frozenset(connection.execute(select(table.c.id)).scalars())


def ended(store: Store) -> frozenset[str]:
    """Return the ids of the jobs that have ended."""
    with store.read() as connection:
        return frozenset(connection.execute(select(table.c.id).where(table.c.status.in_(ENDED))).scalars())


def set_values_within(connection: Connection, job_id: str, **values: Any) -> None:
    connection.execute(update(table).where(table.c.id == job_id).values(**values))


def count_by_status(store: Store) -> dict[str, int]:
    """Return how many jobs are in each status; every status is there, if with 0."""
    query = select(table.c.status, func.count()).group_by(table.c.status)
    with store.read() as connection:
        found = {row[0]: int(row[1]) for row in connection.execute(query)}
    return {status: found.get(status, 0) for status in get_args(Status)}
