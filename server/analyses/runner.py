"""The queue of analyses as `server.lease_runner` works through it: each has a worker."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from server.analyses import queue
from server.analyses.janitor import Janitor
from server.analyses.worker import Around, Worker
from server.lease_runner import LeaseRunner


class AnalysisQueue:
    """Takes analyses for one process."""

    def __init__(self, around: Around, janitor: Janitor) -> None:
        self._around, self._janitor = around, janitor

    def take(self, owner: str, *, is_stopping: Callable[[], bool]) -> Worker | None:
        around = self._around
        lease = queue.claim(around.store, owner=owner, seconds=around.lease_seconds, now=around.clock())
        return None if lease is None else Worker(lease, around, is_stopping=is_stopping)

    def renew(self, works: Sequence[Worker]) -> None:
        until = self._around.clock() + self._around.lease_seconds
        queue.renew(self._around.store, [worker.lease for worker in works], until=until)

    def look_after(self, works: Sequence[Worker]) -> None:
        """Pass on what is wanted, also when it was asked for in another process."""
        if not works:
            return
        wishes = queue.wishes(self._around.store, [worker.lease for worker in works])
        for worker in works:
            wish = wishes.get(worker.id)
            if wish is None:
                worker.lose()
            elif wish == "cancel":
                worker.cancel()

    def clean(self) -> None:
        self._janitor.clean()


def analysis_runner(around: Around, janitor: Janitor, *, concurrency: int, poll_seconds: float) -> LeaseRunner[Worker]:
    """Return what works on at most ``concurrency`` analyses at a time."""
    return LeaseRunner(
        AnalysisQueue(around, janitor),
        name="analyses",
        concurrency=concurrency,
        poll_seconds=poll_seconds,
        lease_seconds=around.lease_seconds,
    )
