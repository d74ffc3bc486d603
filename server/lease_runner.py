"""Works through a queue of leased rows: takes what is free, works on each in a thread, renews their leases, cleans up.

What the rows are is the queue's to say (`server.jobs.runner`, `server.analyses.runner`): it takes one, and hands out
the work on it.
"""

from __future__ import annotations

import logging
import os
import platform
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from server.records.ids import random_text

logger = logging.getLogger("server.lease_runner")

_HOUSEKEEPING_SECONDS = 60.0


class Work(Protocol):
    """What is to be done on one row; `run` blocks until it is done, or belongs to another process."""

    @property
    def id(self) -> str: ...

    def run(self) -> None: ...


W = TypeVar("W", bound=Work)


class Queue(Protocol[W]):
    """The rows of one kind; every method blocks."""

    def take(self, owner: str, *, is_stopping: Callable[[], bool]) -> W | None:
        """Take the lease of a free row, or return None."""

    def renew(self, works: Sequence[W]) -> None:
        """Extend the leases of what is being worked on."""

    def look_after(self, works: Sequence[W]) -> None:
        """Called every time the queue is looked at, with what is being worked on."""

    def clean(self) -> None:
        """Clear away what time and crashes have left; called about once a minute."""


@dataclass(frozen=True)
class _Running(Generic[W]):
    work: W
    thread: threading.Thread


class LeaseRunner(Generic[W]):
    """Works on at most ``concurrency`` rows at a time, from `start` to `stop`; ``name`` is that of its threads."""

    def __init__(
        self, queue: Queue[W], *, name: str, concurrency: int, poll_seconds: float, lease_seconds: float
    ) -> None:
        self.owner = f"{platform.node()[:32]}-{os.getpid()}-{random_text(6)}"
        self._queue, self._name = queue, name
        self._concurrency, self._poll_seconds, self._lease_seconds = concurrency, poll_seconds, lease_seconds
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._lock = threading.Lock()
        self._running: list[_Running[W]] = []
        self._threads = [
            threading.Thread(target=self._take_rows, name=name, daemon=True),
            threading.Thread(target=self._renew_leases, name=f"{name}-leases", daemon=True),
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def wake(self) -> None:
        """Look at the queue now."""
        self._wake.set()

    def stop(self) -> None:
        """Say that it is over, which work sees by ``is_stopping``, and return when nothing of this runs."""
        self._stopping.set()
        self._wake.set()
        self._threads[0].join()
        for running in list(self._running):
            running.thread.join()
        self._threads[1].join()

    def working(self) -> list[W]:
        """Return what is being worked on."""
        with self._lock:
            return [running.work for running in self._running]

    def _take_rows(self) -> None:
        cleaned_at = float("-inf")
        while not self._stopping.is_set():
            try:
                self._queue.look_after(self.working())
                self._fill()
                if time.monotonic() - cleaned_at > _HOUSEKEEPING_SECONDS:
                    cleaned_at = time.monotonic()
                    self._queue.clean()
            except Exception as exc:  # the thread's edge: the database may be away for a while
                logger.error("the queue could not be looked at", extra={"fields": {"queue": self._name}}, exc_info=exc)
            self._wake.wait(self._poll_seconds)
            self._wake.clear()

    def _fill(self) -> None:
        while len(self._running) < self._concurrency and not self._stopping.is_set():
            work = self._queue.take(self.owner, is_stopping=self._stopping.is_set)
            if work is None:
                return
            thread = threading.Thread(target=self._run, args=(work,), name=work.id, daemon=True)
            with self._lock:
                self._running.append(_Running(work, thread))
            thread.start()

    def _run(self, work: W) -> None:
        try:
            work.run()
        finally:
            with self._lock:
                self._running = [running for running in self._running if running.work is not work]
            self._wake.set()  # there is a place for the next one

    def _renew_leases(self) -> None:
        while not self._stopping.is_set() or self.working():
            # While stopping, threads end within moments; do not sleep through that.
            pause = 0.02 if self._stopping.is_set() else self._lease_seconds / 3
            try:
                works = self.working()
                if works:
                    self._queue.renew(works)
            except Exception as exc:  # the thread's edge
                logger.error("leases could not be renewed", extra={"fields": {"queue": self._name}}, exc_info=exc)
            self._stopping.wait(pause) if not self._stopping.is_set() else time.sleep(pause)
