"""The queue: which process runs which job, held by leases in the database.

A lease is a row's owner, number and end. It is taken in one transaction, renewed while its holder lives, and may be
taken over by any process once it has run out; each taking raises its number. Everything that a runner writes about a
job is written under its lease, in the same transaction that checks it: a process that slept through the end of its
lease can change nothing any more (`LeaseLostError`).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from server.jobs.names import checkpoint_name
from server.jobs.progress import News, Progress
from server.records import adapters, deliveries, jobs
from server.records.adapters import AdapterRecord
from server.records.deliveries import DeliveryRecord
from server.records.files import FileRecord
from server.records.jobs import EventRecord, JobRecord
from server.store import Store, job_checkpoints
from server.store import adapters as adapter_table
from server.store import files as file_table
from server.store import jobs as table

CLAIMABLE = ("validating_files", "queued", "running")


class LeaseLostError(Exception):
    """The job is another process's by now, or is gone; nothing was written."""


@dataclass(frozen=True, kw_only=True)
class Lease:
    """The right to run one job, as it was when it was taken."""

    job: JobRecord
    owner: str
    number: int


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a job ended, and everything that becomes true with it."""

    status: str
    events: tuple[EventRecord, ...]
    error: Mapping[str, Any] | None = None
    files: tuple[FileRecord, ...] = ()
    adapter: AdapterRecord | None = None
    deliveries: tuple[DeliveryRecord, ...] = ()
    at: float = field(default_factory=time.time)


def claim(store: Store, *, owner: str, seconds: float, now: float) -> Lease | None:
    """Take the oldest job that nobody runs, or return None."""
    with store.write() as connection:
        free = (
            select(table)
            .where(table.c.status.in_(CLAIMABLE), table.c.lease_until <= now)
            .order_by(table.c.seq)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        row = connection.execute(free).first()
        if row is None:
            return None
        number = row.lease_number + 1
        jobs.set_values_within(connection, row.id, lease_owner=owner, lease_number=number, lease_until=now + seconds)
        return Lease(job=jobs.of_row(connection, row), owner=owner, number=number)


def renew(store: Store, leases: Iterable[Lease], *, until: float) -> None:
    """Extend leases; one that was lost meanwhile stays lost."""
    with store.write() as connection:
        for lease in leases:
            connection.execute(update(table).where(*_held(lease)).values(lease_until=until))


def release(store: Store, lease: Lease, *, free_at: float) -> None:
    """Give a lease back: any process may take the job from ``free_at`` on."""
    with store.write() as connection:
        connection.execute(update(table).where(*_held(lease)).values(lease_until=free_at, lease_owner=None))


def wanted(store: Store, lease: Lease) -> str:
    """Return what the job's owner wants of it: run, pause or cancel."""
    with store.read() as connection:
        found = connection.execute(select(table.c.wanted).where(*_held(lease))).scalar()
    if found is None:
        raise LeaseLostError(lease.job.id)
    return str(found)


def record(store: Store, lease: Lease, news: News) -> None:
    """Write what a run's metrics say: events, checkpoints and how far it is."""
    values: dict[str, Any] = {"progress": news.progress.to_json()}
    if news.trained_tokens is not None:
        values["trained_tokens"] = news.trained_tokens
    if news.estimated_finish is not None:
        values["estimated_finish"] = news.estimated_finish
    job = lease.job
    with store.write() as connection:
        if news.hyperparameters:
            # A multiplier that nobody chose is the recipe's own rate.
            given = {name: 1.0 if value == "auto" else value for name, value in job.hyperparameters.items()}
            values["hyperparameters"] = {**given, **news.hyperparameters}
        _set(connection, lease, **values)
        jobs.add_events_within(connection, job.id, news.events)
        for checkpoint in news.checkpoints:
            connection.execute(insert(job_checkpoints).values(job_id=job.id, **vars(checkpoint)))
            adapter = AdapterRecord(
                name=checkpoint.model_name,
                base=job.base,
                folder=f"jobs/{job.id}/exports/step-{checkpoint.step}",
                job_id=job.id,
                is_checkpoint=True,
                created_at=checkpoint.created_at,
                owner=job.owner,
            )
            adapters.add_within(connection, adapter)


def drop_checkpoints(store: Store, lease: Lease, steps: Sequence[int]) -> None:
    """Forget checkpoints whose adapters the trainer has removed to make room for newer ones."""
    names = [checkpoint_name(lease.job.model_name, step) for step in steps]
    with store.write() as connection:
        _set(connection, lease, id=lease.job.id)
        mine = job_checkpoints.c.job_id == lease.job.id
        connection.execute(delete(job_checkpoints).where(mine, job_checkpoints.c.step.in_(steps)))
        connection.execute(delete(adapter_table).where(adapter_table.c.name.in_(names)))


def move(
    store: Store, lease: Lease, status: str, *, progress: Progress, events: tuple[EventRecord, ...], release: bool
) -> None:
    """Bring a job into a state in which it has not ended; ``release`` gives its lease back."""
    values: dict[str, Any] = {"status": status, "progress": progress.to_json(), "estimated_finish": None}
    if release:
        values |= {"lease_owner": None, "lease_until": 0.0}
    if status == "paused":
        values["wanted"] = "run"
    with store.write() as connection:
        _set(connection, lease, **values)
        jobs.add_events_within(connection, lease.job.id, events)


def end(store: Store, lease: Lease, ending: Ending) -> None:
    """End a job: its status, result files, adapter, events and webhooks become true together."""
    with store.write() as connection:
        _set(connection, lease, lease_owner=None, lease_until=0.0)
        end_within(connection, lease.job, ending)


def end_within(connection: Connection, job: JobRecord, ending: Ending) -> None:
    """The same within a transaction that has made sure that nobody runs the job."""
    jobs.set_values_within(
        connection,
        job.id,
        status=ending.status,
        finished_at=ending.at,
        estimated_finish=None,
        error=None if ending.error is None else dict(ending.error),
        result_files=[file.id for file in ending.files],
    )
    for file in ending.files:
        connection.execute(insert(file_table).values(**vars(file)))
    if ending.adapter is not None:
        adapters.add_within(connection, ending.adapter)
    for delivery in ending.deliveries:
        deliveries.add_within(connection, delivery)
    jobs.add_events_within(connection, job.id, ending.events)


def _held(lease: Lease) -> tuple[Any, ...]:
    return (table.c.id == lease.job.id, table.c.lease_owner == lease.owner, table.c.lease_number == lease.number)


def _set(connection: Connection, lease: Lease, **values: Any) -> None:
    if connection.execute(update(table).where(*_held(lease)).values(**values)).rowcount != 1:
        raise LeaseLostError(lease.job.id)
