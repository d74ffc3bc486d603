"""Everything of an owner: how much there is of it, and removing all of it, so that no byte is left on the disk.

Jobs are stopped first, trainers at once and without a last checkpoint. Then all rows go in one transaction, then the
files, then what is in this process's memory; at last the database is written anew, because rows that were deleted leave
their bytes in its free pages and in its write-ahead log.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Table, delete, func, select

from server.errors import ApiError
from server.jobs import process, requests
from server.jobs.process import ForeignTrainerError
from server.jobs.run_folder import RunFolder
from server.layout import DataFolder
from server.records.ids import new_id
from server.records.jobs import ENDED
from server.store import (
    Store,
    adapters,
    analyses,
    api_keys,
    deliveries,
    files,
    idempotency_keys,
    job_checkpoints,
    job_events,
    job_metadata,
    jobs,
)

logger = logging.getLogger("server.erasure")

_PATIENCE_SECONDS = 15.0
_LOOK_SECONDS = 0.05
# What is counted, by the name it has in a proof; keys are removed only when that is asked for.
_TABLES: dict[str, Table] = {
    "analyses": analyses,
    "files": files,
    "jobs": jobs,
    "adapters": adapters,
    "webhook_deliveries": deliveries,
    "idempotency_keys": idempotency_keys,
    "api_keys": api_keys,
}


@dataclass(frozen=True, kw_only=True)
class Erasure:
    """What was removed, by kind, and when. ``is_scrubbed`` says whether the database was written anew."""

    id: str
    owner: str
    erased_at: float
    counts: dict[str, int]
    num_bytes: int
    is_scrubbed: bool


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What a running service has in memory: forget the clips of an owner, an adapter by its name."""

    forget_clips: Callable[[str], int] = lambda owner: 0
    forget_adapter: Callable[[str], None] = lambda name: None
    forget_uploads: Callable[[], None] = lambda: None  # what killed processes left of their requests


@dataclass(frozen=True, kw_only=True)
class _Removed:
    counts: dict[str, int]
    file_ids: Sequence[str]
    job_ids: Sequence[str]
    analysis_ids: Sequence[str]
    adapter_names: Sequence[str]


def count(store: Store, owner: str) -> dict[str, int]:
    """Return how much of an owner the database has, by kind; blocks."""
    with store.read() as connection:
        return {
            kind: int(
                connection.execute(select(func.count()).select_from(table).where(table.c.owner == owner)).scalar_one()
            )
            for kind, table in _TABLES.items()
        }


def erase(
    store: Store,
    data: DataFolder,
    owner: str,
    *,
    with_keys: bool,
    memory: Memory = Memory(),
    patience_seconds: float = _PATIENCE_SECONDS,
) -> Erasure:
    """Remove everything of an owner; blocks. Asked again, it removes what a failure in the middle may have left.

    Raises `ApiError` ``erasure_incomplete`` when a trainer could not be stopped in time: then nothing was removed but,
    with ``with_keys``, the owner's API keys, so that nothing more is made meanwhile.
    """
    num_keys = 0
    if with_keys:
        with store.write() as connection:
            num_keys = connection.execute(delete(api_keys).where(api_keys.c.owner == owner)).rowcount
    _stop_jobs(store, data, owner, patience_seconds=patience_seconds)
    with store.write() as connection:
        removed = _remove_rows(connection, owner)
    num_bytes = 0
    for path in (
        *(data.file(each) for each in removed.file_ids),
        *(data.analysis(each) for each in removed.analysis_ids),
        *(data.windows(each) for each in removed.analysis_ids),
        *(data.job(each) for each in removed.job_ids),
    ):
        num_bytes += _size(path)
        data.remove_tree(path) if path.is_dir() else path.unlink(missing_ok=True)
    for name in removed.adapter_names:
        memory.forget_adapter(name)
    num_clips = memory.forget_clips(owner)
    memory.forget_uploads()
    counts = {**removed.counts, "api_keys": num_keys, "chat_clips": num_clips}
    erasure = Erasure(
        id=new_id("erasure-"), owner=owner, erased_at=time.time(), counts=counts, num_bytes=num_bytes,
        is_scrubbed=store.scrub(everything=True),
    )  # fmt: skip
    logger.info("an owner was erased", extra={"fields": {"erasure": erasure.id, "bytes": num_bytes, **counts}})
    return erasure


def _stop_jobs(store: Store, data: DataFolder, owner: str, *, patience_seconds: float) -> None:
    """Return when nobody works on a job of the owner."""
    deadline = time.monotonic() + patience_seconds
    while busy := _unended(store, owner):
        job_id = ""
        for job_id in busy:
            try:
                requests.cancel(store, job_id, notify=False)
                trainer = process.find(RunFolder(data.job(job_id))) if process.IS_SUPPORTED else None
            except ForeignTrainerError as exc:
                raise _incomplete(job_id) from exc
            except ApiError:
                continue  # it has ended, or is gone, meanwhile
            if trainer is not None:
                trainer.kill()
        if not _worked_on(store, owner):
            return
        if time.monotonic() > deadline:
            raise _incomplete(job_id)
        time.sleep(_LOOK_SECONDS)


def _unended(store: Store, owner: str) -> list[str]:
    query = select(jobs.c.id).where(jobs.c.owner == owner, jobs.c.status.not_in(ENDED))
    with store.read() as connection:
        return list(connection.execute(query).scalars())


def _worked_on(store: Store, owner: str) -> list[str]:
    with store.read() as connection:
        return _worked_on_within(connection, owner)


def _worked_on_within(connection: Connection, owner: str) -> list[str]:
    """Return the jobs of an owner that a process works on; its supervisor would write to what is removed."""
    query = select(jobs.c.id).where(
        jobs.c.owner == owner, jobs.c.status.not_in(ENDED), jobs.c.lease_until > time.time()
    )
    return list(connection.execute(query).scalars())


def _incomplete(job_id: str) -> ApiError:
    message = f"job {job_id} is still being stopped; nothing was erased: ask again in 5 s"
    return ApiError("erasure_incomplete", message, param="owner", headers={"Retry-After": "5"})


def _remove_rows(connection: Connection, owner: str) -> _Removed:
    for job_id in _worked_on_within(connection, owner):
        raise _incomplete(job_id)  # a new one, since they were stopped

    def ids(table: Table, column: str = "id") -> list[str]:
        return list(connection.execute(select(table.c[column]).where(table.c.owner == owner)).scalars())

    def remove(table: Table, condition: Any = None) -> int:
        chosen = table.c.owner == owner if condition is None else condition
        return connection.execute(delete(table).where(chosen)).rowcount

    file_ids, job_ids, analysis_ids = ids(files), ids(jobs), ids(analyses)
    mine = select(jobs.c.id).where(jobs.c.owner == owner).scalar_subquery()
    names = list(connection.execute(select(adapters.c.name).where(adapters.c.job_id.in_(mine))).scalars())
    counts = {"webhook_deliveries": remove(deliveries), "idempotency_keys": remove(idempotency_keys)}
    counts["adapters"] = remove(adapters, adapters.c.job_id.in_(mine)) + remove(adapters)
    for table in (job_checkpoints, job_events, job_metadata):
        remove(table, table.c.job_id.in_(mine))
    counts |= {"jobs": remove(jobs), "files": remove(files), "analyses": remove(analyses)}
    return _Removed(counts=counts, file_ids=file_ids, job_ids=job_ids, analysis_ids=analysis_ids, adapter_names=names)


def _size(path: Path) -> int:
    """Return how many bytes lie there; what goes meanwhile counts nothing."""
    total = 0
    files = (Path(root) / name for root, _, names in os.walk(path) for name in names)
    for each in files if path.is_dir() else (path,):
        with contextlib.suppress(FileNotFoundError):
            total += each.lstat().st_size
    return total
