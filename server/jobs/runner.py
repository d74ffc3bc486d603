"""The queue of jobs as `server.lease_runner` works through it: each job has a supervisor."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from server.jobs import queue
from server.jobs.housekeeping import Housekeeper
from server.jobs.supervisor import Supervisor
from server.jobs.surroundings import Surroundings
from server.lease_runner import LeaseRunner


class JobQueue:
    """Takes jobs for one process."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._housekeeper = Housekeeper(around.store, around.data)

    def take(self, owner: str, *, is_stopping: Callable[[], bool]) -> Supervisor | None:
        seconds = self._around.lease_seconds
        lease = queue.claim(self._around.store, owner=owner, seconds=seconds, now=time.time())
        return None if lease is None else Supervisor(lease, self._around, is_stopping=is_stopping)

    def renew(self, works: Sequence[Supervisor]) -> None:
        leases = [supervisor.lease for supervisor in works]
        queue.renew(self._around.store, leases, until=time.time() + self._around.lease_seconds)

    def look_after(self, works: Sequence[Supervisor]) -> None:
        """A supervisor looks for itself what its job's owner wants."""

    def clean(self) -> None:
        self._housekeeper.clean()


def job_runner(around: Surroundings, *, concurrency: int) -> LeaseRunner[Supervisor]:
    """Return what runs at most ``concurrency`` jobs at a time; their trainers outlive it."""
    return LeaseRunner(
        JobQueue(around),
        name="jobs",
        concurrency=concurrency,
        poll_seconds=around.poll_seconds,
        lease_seconds=around.lease_seconds,
    )
