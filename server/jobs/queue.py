"""The queue: which process runs which job, held by leases in the database.

`server.leases` says what a lease is; everything that a runner writes about a job is written under its own.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, delete, insert, select

from server.jobs.names import checkpoint_name
from server.jobs.progress import News, Progress
from server.leases import Hold, LeasedTable, LeaseLostError
from server.records import adapters, deliveries, jobs
from server.records.adapters import AdapterRecord
from server.records.deliveries import DeliveryRecord
from server.records.files import FileRecord
from server.records.jobs import EventRecord, JobRecord
from server.store import Store, job_checkpoints
from server.store import adapters as adapter_table
from server.store import files as file_table
from server.store import jobs as table
from server.webhooks import delivery_of

CLAIMABLE = ("validating_files", "queued", "running")
_LEASES = LeasedTable(table, claimable=CLAIMABLE)


@dataclass(frozen=True, kw_only=True)
class Lease:
    """The right to run one job, and the job as it was when the lease was taken."""

    job: JobRecord
    hold: Hold


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


def job_ended(job: JobRecord, status: str, *, at: float) -> DeliveryRecord:
    """Return the webhook that tells the operator how a job ended."""
    return delivery_of(f"fine_tuning.job.{status}", job.id, owner=job.owner, at=at)


def claim(store: Store, *, owner: str, seconds: float, now: float) -> Lease | None:
    """Take the oldest job that nobody runs, or return None."""
    with store.write() as connection:
        hold = _LEASES.claim_within(connection, owner=owner, seconds=seconds, now=now)
        if hold is None:
            return None
        row = connection.execute(select(table).where(table.c.id == hold.id)).one()
        return Lease(job=jobs.of_row(connection, row), hold=hold)


def renew(store: Store, leases: Iterable[Lease], *, until: float) -> None:
    """Extend leases; one that was lost meanwhile stays lost."""
    _LEASES.renew(store, [lease.hold for lease in leases], until=until)


def release(store: Store, lease: Lease, *, free_at: float) -> None:
    """Give a lease back: any process may take the job from ``free_at`` on."""
    _LEASES.release(store, lease.hold, free_at=free_at)


def wanted(store: Store, lease: Lease) -> str:
    """Return what the job's owner wants of it: run, pause or cancel."""
    with store.read() as connection:
        found = connection.execute(select(table.c.wanted).where(*_LEASES.held(lease.hold))).scalar()
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
        _LEASES.set_within(connection, lease.hold, **values)
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
        _LEASES.set_within(connection, lease.hold, id=lease.job.id)
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
        _LEASES.set_within(connection, lease.hold, **values)
        jobs.add_events_within(connection, lease.job.id, events)


def end(store: Store, lease: Lease, ending: Ending) -> None:
    """End a job: its status, result files, adapter, events and webhooks become true together."""
    with store.write() as connection:
        _LEASES.set_within(connection, lease.hold, lease_owner=None, lease_until=0.0)
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
