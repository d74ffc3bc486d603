"""The processor's cores, divided among the analyses that run at once in this process.

torch starts as many threads for every operation as there are cores. For one clip that is right; with several clips in
threads of their own it means more threads than cores, which wait for each other. So each analysis takes its share: all
cores while it is alone, fewer when others are under way. The share is looked at between stages, so an analysis whose
neighbours have ended gets their cores at its next stage. Nothing here imports torch: without it there is nothing to
divide.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager


def usable_cores() -> int:
    """Return how many cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Cores:
    """Counts the analyses under way; `CORES` is the process's, as the cores are."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_working = 0
        self._entered = threading.local()  # whether this thread's analysis is counted already
        self._num_threads: int | None = None  # what torch would use for a clip alone

    @property
    def num_working(self) -> int:
        return self._num_working

    @contextmanager
    def working(self) -> Iterator[None]:
        """Count this thread's analysis until the block ends; then the thread has the threads of one alone again.

        A block inside of another one changes nothing: who waits for a clip to be decoded elsewhere counts from then on.
        """
        mine = self._entered.__dict__  # this thread's, also where another one ends the block
        if mine.get("is_counted", False):
            yield
            return
        mine["is_counted"] = True
        with self._lock:
            self._num_working += 1
        try:
            yield
        finally:
            mine["is_counted"] = False
            with self._lock:
                self._num_working -= 1
            self._set(self._num_threads)

    def divide(self) -> None:
        """Give this thread's operations their share of the threads from here on."""
        torch = sys.modules.get("torch")
        if torch is None:
            return
        with self._lock:
            if self._num_threads is None:
                self._num_threads = torch.get_num_threads()
            share = max(1, self._num_threads // max(1, self._num_working))
        self._set(share)

    def _set(self, num_threads: int | None) -> None:
        torch = sys.modules.get("torch")
        if torch is not None and num_threads is not None and torch.get_num_threads() != num_threads:
            torch.set_num_threads(num_threads)  # of the calling thread, where torch computes with OpenMP


CORES = Cores()
