"""Calls from a door into the cluster, which survive the death of whoever works on them.

Every call is a stream of items and a pure function of its arguments, so one that was lost with its replica or machine
is made again, by whichever replica takes it, until it is answered or nobody waits any more. Items that were passed on
already are skipped; that they are the same ones is compared, since an answer that goes on differently would be
nonsense. (They are: decoding is greedy or has a seed.)

A call is made in a thread that may block. Behind it, one thread with an event loop waits for all of a door's calls.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

from emollama.watch import Check, unwatched
from server.errors import ApiError
from server.ray.failures import Failure, Fault

logger = logging.getLogger("server.ray.calls")

_POLL_SECONDS = 0.05
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.1, 2.0
_END = object()


class InterruptedAnswerError(Exception):
    """An answer that was begun could not be gone on with; a fault of the service."""


class Calls:
    """A door's calls; `close` when there are no more."""

    def __init__(self, *, seconds: float) -> None:
        self._seconds = seconds
        self._lost = _lost_errors()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="cluster-calls", daemon=True)
        self._thread.start()
        self._counting = threading.Lock()
        self.num_made: Counter[str] = Counter()  # by what was called
        self.num_repeated = 0

    def stream(
        self,
        start: Callable[[], Any],
        *,
        what: str,
        watch: Check = unwatched,
        seconds: float | None = None,
    ) -> Iterator[Any]:
        """Yield the items of the call that ``start`` makes (it returns a response generator), whatever dies meanwhile.

        ``watch`` is asked all the while; what it raises ends the call. Raises what a `Failure` tells, and `ApiError`
        "not_ready" when a call is lost again after ``seconds`` (default: those of the constructor).
        """
        with self._counting:
            self.num_made[what] += 1
        deadline = time.monotonic() + (self._seconds if seconds is None else seconds)
        told: list[Any] = []
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                for place, item in enumerate(self._once(start, watch)):
                    if place < len(told):
                        _compare(told[place], item)
                        continue
                    told.append(item)
                    yield item
                return
            except _LostError as exc:
                with self._counting:
                    self.num_repeated += 1
                fields = {"call": what, "reason": exc.reason, "passed_on": len(told)}
                logger.warning("a call was lost and is made again", extra={"fields": fields})
                if time.monotonic() > deadline:
                    message = f"no replica could take the call {what!r}"
                    raise ApiError("not_ready", message, headers={"Retry-After": "5"}) from exc
            until = time.monotonic() + pause * random.uniform(0.5, 1.0)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
            while time.monotonic() < until:
                watch()
                time.sleep(_POLL_SECONDS)

    def one(self, start: Callable[[], Any], **options: Any) -> Any:
        """Return the only item of a call."""
        (item,) = self.stream(start, **options)
        return item

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _once(self, start: Callable[[], Any], watch: Check) -> Iterator[Any]:
        items: queue.SimpleQueue[Any] = queue.SimpleQueue()
        running: Future[None] = asyncio.run_coroutine_threadsafe(_follow(start, items, self._lost), self._loop)
        try:
            while True:
                try:
                    item = items.get(timeout=_POLL_SECONDS)
                except queue.Empty:
                    watch()
                    continue
                if item is _END:
                    running.result()  # raises what went wrong
                    return
                if isinstance(item, Fault):
                    logger.error("a replica failed", extra={"fields": {"exception": item.kind, "trace": item.trace}})
                if isinstance(item, (Failure, Fault)):
                    raise item.error()
                yield item
        finally:
            running.cancel()


class _LostError(Exception):
    """The call's replica is gone."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


async def _follow(
    start: Callable[[], Any], items: queue.SimpleQueue[Any], lost: tuple[type[BaseException], ...]
) -> None:
    """Put the items of one call into a queue, and its end; cancels the call when it is cancelled itself."""
    response = None
    try:
        response = start()
        async for item in response:
            items.put(item)
    except lost as exc:
        raise _LostError(type(exc).__name__) from exc
    except asyncio.CancelledError:
        if response is None or response.cancelled():
            raise
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            response.cancel()
            raise
        # Nobody here cancelled it: it went with its replica.
        raise _LostError("cancelled") from None
    finally:
        items.put(_END)


def _lost_errors() -> tuple[type[BaseException], ...]:
    """What Ray raises for a call whose replica, machine or arguments are gone, however far it had come."""
    from ray import exceptions
    from ray.serve.exceptions import ReplicaUnavailableError, RequestCancelledError

    return (
        exceptions.RayActorError,  # died, unavailable
        exceptions.WorkerCrashedError,
        exceptions.NodeDiedError,
        exceptions.LocalRayletDiedError,
        exceptions.ObjectLostError,
        exceptions.ObjectFetchTimedOutError,
        exceptions.OwnerDiedError,
        exceptions.RpcError,
        ReplicaUnavailableError,
        RequestCancelledError,
    )


def _compare(before: Any, now: Any) -> None:
    if type(before) is not type(now) or getattr(before, "text", None) != getattr(now, "text", None):
        raise InterruptedAnswerError("an answer that was begun goes on differently on another replica")
