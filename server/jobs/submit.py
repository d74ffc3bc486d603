"""Makes a job of a request: its files are checked before the request is answered, as far as the time allows.

What can be refused is refused here, with every problem that was found, and leaves nothing: no row, no folder. A check
that takes longer than ``submit_seconds`` is left to the process that will run the job, which is then
``validating_files`` for a while and may fail.
"""

from __future__ import annotations

import asyncio
import functools
import random
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from server.jobs.data_check import DataLimits, StoppedError, check_data
from server.jobs.names import model_name
from server.jobs.run_folder import RunFolder
from server.layout import DataFolder
from server.records import jobs
from server.records.ids import new_id
from server.records.jobs import EventRecord, JobRecord
from server.store import Store

# Checks read media and take processor time that requests want, too.
_MAX_CHECKS = 2

Also = Callable[[str, Connection], None]


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is asked for: the files by their ids, which are known to exist."""

    base: str
    training_file: str
    validation_file: str | None
    suffix: str | None
    seed: int | None
    hyperparameters: Mapping[str, Any]
    metadata: Mapping[str, str]
    owner: str = "local"


class Submitter:
    """Takes orders, and checks the files of a few of them at a time in threads of its own."""

    def __init__(self, store: Store, data: DataFolder, *, limits: DataLimits, submit_seconds: float, org: str) -> None:
        self._store, self._data, self._limits = store, data, limits
        self._submit_seconds, self._org = submit_seconds, org
        self._pool = ThreadPoolExecutor(_MAX_CHECKS, thread_name_prefix="check")
        self._is_closing = threading.Event()

    def close(self) -> None:
        """Cut the checks short that are going on: their jobs are checked by who runs them. Blocks."""
        self._is_closing.set()
        self._pool.shutdown(wait=True)

    async def submit(self, order: Order, *, also: Also = lambda job_id, connection: None) -> JobRecord:
        """Check the files and queue the job; raises `BadDataError`, after which nothing is left.

        ``also`` writes what becomes true with the job, whose id it is told.
        """
        deadline = time.monotonic() + self._submit_seconds
        return await asyncio.wrap_future(self._pool.submit(self._submit, order, deadline, also))

    def _submit(self, order: Order, deadline: float, also: Also) -> JobRecord:
        job_id = new_id("ftjob-")
        folder = RunFolder(self._data.job(job_id))
        folder.path.mkdir(mode=0o700)
        try:
            events = self._check(order, folder, deadline)
            if events is None:
                folder.prune()
            job = JobRecord(
                id=job_id,
                status="validating_files" if events is None else "queued",
                base=order.base,
                model_name=model_name(order.base, org=self._org, suffix=order.suffix),
                training_file=order.training_file,
                validation_file=order.validation_file,
                suffix=order.suffix,
                seed=random.SystemRandom().randrange(2**31) if order.seed is None else order.seed,
                created_at=time.time(),
                hyperparameters=order.hyperparameters,
                metadata=order.metadata,
                owner=order.owner,
            )
            created = EventRecord(message=f"Created fine-tuning job: {job_id}")
            then = (EventRecord(message="The files are being checked"),) if events is None else events
            jobs.add(self._store, job, (created, *then), also=functools.partial(also, job_id))
        except BaseException:
            self._data.remove_tree(folder.path)
            raise
        return job

    def _check(self, order: Order, folder: RunFolder, deadline: float) -> tuple[EventRecord, ...] | None:
        """Return what the check has to tell; None when it did not end in time."""
        try:
            checked = check_data(
                folder,
                training=self._data.file(order.training_file),
                validation=None if order.validation_file is None else self._data.file(order.validation_file),
                limits=self._limits,
                stop=lambda: time.monotonic() >= deadline or self._is_closing.is_set(),
            )
        except StoppedError:
            return None
        return (*checked.events, EventRecord(message="The files are valid; the job is queued"))
