"""What a job's owner may ask of it: cancel, pause, resume.

A job that nobody runs changes at once. One that runs is asked by its column ``wanted``, which its runner reads; its
status changes when the trainer has really stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, select

from server.errors import ApiError
from server.jobs import queue
from server.records import jobs
from server.records.jobs import EventRecord, JobRecord
from server.store import Store
from server.store import jobs as table


def cancel(store: Store, job_id: str, *, notify: bool) -> JobRecord:
    """Ask a job to end; its checkpoints stay. ``notify`` makes a webhook of it."""

    def change(connection: Connection, job: JobRecord, is_free: bool) -> None:
        if is_free and job.status in ("validating_files", "queued", "paused"):
            told = (queue.job_ended(job, "cancelled", at=time.time()),) if notify else ()
            event = EventRecord(message="The job was cancelled")
            queue.end_within(connection, job, queue.Ending(status="cancelled", events=(event,), deliveries=told))
        elif job.wanted != "cancel":
            _want(connection, job, "cancel", "Cancellation was asked for")

    return _change(store, job_id, "cancel", change)


def pause(store: Store, job_id: str) -> JobRecord:
    """Ask a job to stop after a checkpoint, until it is resumed."""

    def change(connection: Connection, job: JobRecord, is_free: bool) -> None:
        if job.wanted == "cancel":
            raise _refused(job, "pause", "it is being cancelled")
        if job.status == "queued" and is_free:
            jobs.set_values_within(connection, job.id, status="paused")
            jobs.add_events_within(connection, job.id, (EventRecord(message="The job was paused"),))
        elif job.status != "paused" and job.wanted != "pause":
            _want(connection, job, "pause", "A pause was asked for")

    return _change(store, job_id, "pause", change)


def resume(store: Store, job_id: str) -> JobRecord:
    """Let a paused job go on."""

    def change(connection: Connection, job: JobRecord, is_free: bool) -> None:
        if job.wanted == "cancel":
            raise _refused(job, "resume", "it is being cancelled")
        if job.status == "paused":
            jobs.set_values_within(connection, job.id, status="queued", wanted="run")
            jobs.add_events_within(connection, job.id, (EventRecord(message="The job was resumed"),))
        elif job.wanted == "pause":
            _want(connection, job, "run", "The pause was called off")

    return _change(store, job_id, "resume", change)


_Change = Callable[[Connection, JobRecord, bool], None]


def _change(store: Store, job_id: str, verb: str, change: _Change) -> JobRecord:
    with store.write() as connection:
        query = select(table).where(table.c.id == job_id).with_for_update()
        row: Any = connection.execute(query).first()
        if row is None:
            raise unknown_job(job_id)
        job = jobs.of_row(connection, row)
        if job.has_ended:
            raise _refused(job, verb, f"it has {job.status}" if job.status != "cancelled" else "it was cancelled")
        change(connection, job, row.lease_until <= time.time())
        return jobs.of_row(connection, connection.execute(query).one())


def _want(connection: Connection, job: JobRecord, wanted: str, message: str) -> None:
    jobs.set_values_within(connection, job.id, wanted=wanted)
    jobs.add_events_within(connection, job.id, (EventRecord(message=message),))


def _refused(job: JobRecord, verb: str, reason: str) -> ApiError:
    return ApiError("invalid_job_state", f"job {job.id} cannot {verb}: {reason}", param="fine_tuning_job_id")


def unknown_job(job_id: str) -> ApiError:
    return ApiError("job_not_found", f"no fine-tuning job {job_id[:64]!r}", param="fine_tuning_job_id")
