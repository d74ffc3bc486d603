"""The runner of one process: takes jobs from the queue, supervises each in a thread, renews their leases, cleans up."""

from __future__ import annotations

import logging
import os
import platform
import threading
import time
from dataclasses import dataclass

from server.jobs import queue
from server.jobs.housekeeping import Housekeeper
from server.jobs.supervisor import Supervisor
from server.jobs.surroundings import Surroundings
from server.records.ids import random_text

logger = logging.getLogger("server.jobs")

_HOUSEKEEPING_SECONDS = 60.0


@dataclass(frozen=True)
class _Running:
    supervisor: Supervisor
    thread: threading.Thread


class Runner:
    """Runs at most ``concurrency`` jobs at a time, from `start` to `stop`."""

    def __init__(self, around: Surroundings, *, concurrency: int) -> None:
        self.name = f"{platform.node()[:32]}-{os.getpid()}-{random_text(6)}"
        self._around = around
        self._concurrency = concurrency
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._lock = threading.Lock()
        self._running: list[_Running] = []
        self._threads = [
            threading.Thread(target=self._take_jobs, name="jobs", daemon=True),
            threading.Thread(target=self._renew_leases, name="job-leases", daemon=True),
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def wake(self) -> None:
        """Look at the queue now."""
        self._wake.set()

    def stop(self) -> None:
        """Leave the trainers running, give the jobs back to the queue, and return when nothing of this runs."""
        self._stopping.set()
        self._wake.set()
        self._threads[0].join()
        for running in list(self._running):
            running.thread.join()
        self._threads[1].join()

    def _take_jobs(self) -> None:
        housekeeper, cleaned_at = Housekeeper(self._around.store, self._around.data), float("-inf")
        while not self._stopping.is_set():
            try:
                self._fill()
                if time.monotonic() - cleaned_at > _HOUSEKEEPING_SECONDS:
                    cleaned_at = time.monotonic()
                    housekeeper.clean()
            except Exception as exc:  # the thread's edge: the database may be away for a while
                logger.error("the queue could not be looked at", exc_info=exc)
            self._wake.wait(self._around.poll_seconds)
            self._wake.clear()

    def _fill(self) -> None:
        with self._lock:
            self._running = [running for running in self._running if running.thread.is_alive()]
        while len(self._running) < self._concurrency and not self._stopping.is_set():
            seconds = self._around.lease_seconds
            lease = queue.claim(self._around.store, owner=self.name, seconds=seconds, now=time.time())
            if lease is None:
                return
            supervisor = Supervisor(lease, self._around, is_stopping=self._stopping.is_set)
            thread = threading.Thread(target=supervisor.run, name=lease.job.id, daemon=True)
            with self._lock:
                self._running.append(_Running(supervisor, thread))
            thread.start()

    def _renew_leases(self) -> None:
        while not (self._stopping.is_set() and not any(running.thread.is_alive() for running in self._running)):
            # While stopping, threads end within moments; do not sleep through that.
            pause = 0.02 if self._stopping.is_set() else self._around.lease_seconds / 3
            try:
                with self._lock:
                    leases = [running.supervisor.lease for running in self._running if running.thread.is_alive()]
                if leases:
                    queue.renew(self._around.store, leases, until=time.time() + self._around.lease_seconds)
            except Exception as exc:  # the thread's edge
                logger.error("leases could not be renewed", exc_info=exc)
            self._stopping.wait(pause) if not self._stopping.is_set() else time.sleep(pause)
