"""Bounded admission: a fixed number of clips are analysed at once, some may wait, the rest are told when to come back.

The work is blocking and runs in threads of its own. A thread cannot be stopped from outside, so work is *asked* to
stop through `Stop` and keeps its place until it really ends: an abandoned clip never runs beside more work than the
machine was set up for. Work that nobody waits for has threads elsewhere and takes no place here; it begins in a lull.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from emollama.cores import CORES
from emollama.errors import BusyError
from server.deadline import Deadline
from server.errors import ApiError

T = TypeVar("T")

_FIRST_GUESS_SECONDS = 1.0
_LONGEST_RETRY_SECONDS = 120.0
_SMOOTHING = 0.2
_LOOK_SECONDS = 0.25  # how soon waiting for a lull ends when it is cancelled


class Stop:
    """Says to running work that nobody waits for it any more; call it to ask."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def __call__(self) -> bool:
        return self._event.is_set()

    def set(self) -> None:
        self._event.set()


@dataclass(frozen=True, kw_only=True)
class Outcome(Generic[T]):
    """What the work returned, how long it waited for a thread, and how long it ran."""

    value: T
    waited_seconds: float
    ran_seconds: float


class Gate:
    """Runs blocking work in ``concurrency`` threads with at most ``queue_size`` pieces waiting.

    ``doing`` is what a client is told of the work that takes the places.
    """

    def __init__(self, *, concurrency: int, queue_size: int, doing: str = "clips are being analysed") -> None:
        self._doing = doing
        self._concurrency = concurrency
        self._places = concurrency + queue_size
        self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix="analyze")
        self._lock = threading.Lock()
        self._left = threading.Condition(self._lock)
        self._stops: set[Stop] = set()
        self._num_running = 0
        self._mean_seconds = _FIRST_GUESS_SECONDS
        self._is_closing = False

    @property
    def num_running(self) -> int:
        return self._num_running

    @property
    def num_waiting(self) -> int:
        return len(self._stops) - self._num_running

    def retry_after_seconds(self) -> float:
        """Return about how long it takes until all that is here now has been done."""
        pending = max(1, len(self._stops))
        return min(_LONGEST_RETRY_SECONDS, max(1.0, self._mean_seconds * pending / self._concurrency))

    def require_room(self) -> None:
        """Raise `BusyError` when there is no place; asked before an upload is read, to spare the client the sending."""
        if len(self._stops) >= self._places:
            running, waiting = self.num_running, self.num_waiting
            seconds = self.retry_after_seconds()
            raise BusyError(
                f"{running} {self._doing} and {waiting} wait; try again in {seconds:.0f} s",
                retry_after_seconds=seconds,
            )

    async def run(
        self, work: Callable[[Stop], T], *, gone: Callable[[], Awaitable[None]], deadline: Deadline
    ) -> Outcome[T]:
        """Run ``work`` in a thread and return its outcome.

        ``gone`` returns when the client has gone away. Then, at the ``deadline``, and when this task is cancelled, the
        work is asked to stop and this call ends at once. Raises `BusyError`, and `ApiError` with the code
        ``client_closed_request``, ``deadline_exceeded`` or (after `close`) ``not_ready``.
        """
        self.require_room()
        stop = Stop()
        with self._lock:
            self._stops.add(stop)
        queued_at = time.perf_counter()
        future = self._pool.submit(self._timed, work, stop, queued_at)
        future.add_done_callback(lambda done: self._leave(stop, done))
        answer = asyncio.wrap_future(future)
        watch = asyncio.ensure_future(gone())
        either: list[asyncio.Future[Any]] = [answer, watch]
        try:
            await asyncio.wait(either, timeout=deadline.left_seconds(), return_when=asyncio.FIRST_COMPLETED)
            if self._is_closing:
                raise ApiError("not_ready", "the service is being stopped")
            if answer.done():
                return answer.result()
            if watch.done():
                raise ApiError("client_closed_request")
            raise deadline.exceeded()
        finally:
            stop.set()
            future.cancel()
            # What an abandoned thread still raises is of no interest to anyone.
            answer.cancel()
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)

    def await_lull(self, *, cancelled: Callable[[], bool], patience_seconds: float) -> None:
        """Block until a place is free that nobody waits for; for work in other threads that is in no hurry.

        Returns after ``patience_seconds`` in any case, so that a service that never rests does such work, too, and soon
        after ``cancelled`` says so.
        """
        deadline = time.monotonic() + patience_seconds
        with self._left:
            while len(self._stops) >= self._concurrency and not cancelled():
                left = deadline - time.monotonic()
                if left <= 0:
                    return
                self._left.wait(min(left, _LOOK_SECONDS))

    async def close(self) -> None:
        """Ask all work to stop, drop what waits, and return when the threads have ended."""
        with self._lock:
            self._is_closing = True
            stops = list(self._stops)
        for stop in stops:
            stop.set()
        await asyncio.to_thread(self._pool.shutdown, wait=True, cancel_futures=True)

    def _timed(self, work: Callable[[Stop], T], stop: Stop, queued_at: float) -> Outcome[T]:
        started_at = time.perf_counter()
        with self._lock:
            self._num_running += 1
        try:
            with CORES.working():  # from here on, not only when its clip has been decoded
                value = work(stop)
        finally:
            with self._lock:
                self._num_running -= 1
        ran = time.perf_counter() - started_at
        with self._lock:
            self._mean_seconds += _SMOOTHING * (ran - self._mean_seconds)
        return Outcome(value=value, waited_seconds=started_at - queued_at, ran_seconds=ran)

    def _leave(self, stop: Stop, done: Future[Outcome[T]]) -> None:
        with self._left:
            self._stops.discard(stop)
            self._left.notify_all()
