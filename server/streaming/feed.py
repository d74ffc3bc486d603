"""Work in the gate whose products are taken one by one while it goes on.

The work runs in a thread of its own and is never more than a bounded number of products ahead of who takes them: then
it waits, asks whether it is still wanted, and gives up on a reader that takes nothing.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

from server.deadline import Deadline
from server.errors import ApiError
from server.gate import Gate, Outcome, Stop

T = TypeVar("T")
_MAX_AHEAD = 256
_PATIENCE_SECONDS = 30.0
_LOOK_SECONDS = 0.05


class Feed(Generic[T]):
    """Starts ``work(stop, put)`` in the gate; `next` gives what it puts, in its order, and raises what it raises.

    ``gone`` and ``deadline`` are those of `server.gate.Gate.run`. Belongs to the event loop it was made in.
    """

    def __init__(
        self,
        gate: Gate,
        work: Callable[[Stop, Callable[[T], None]], Any],
        *,
        gone: Callable[[], Awaitable[None]],
        deadline: Deadline,
        max_ahead: int = _MAX_AHEAD,
        patience_seconds: float = _PATIENCE_SECONDS,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Queue[T | None] = asyncio.Queue()
        self._room = threading.Semaphore(max_ahead)
        self._patience_seconds = patience_seconds

        def run(stop: Stop) -> Any:
            return work(stop, lambda item: self._put(item, stop))

        self._task = asyncio.create_task(gate.run(run, gone=gone, deadline=deadline))
        # In the loop's order: all that the work put is there before this is.
        self._task.add_done_callback(lambda _: self._loop.call_soon(self._ready.put_nowait, None))

    async def next(self) -> T | None:
        """Return the next product, or ``None`` when the work has ended well."""
        item = await self._ready.get()
        if item is None:
            self._ready.put_nowait(None)  # it stays ended
            self._task.result()  # raises what the work raised
            return None
        self._room.release()
        return item

    def outcome(self) -> Outcome[Any]:
        """Return what the work returned and how long it took, once `next` has said that it has ended."""
        return self._task.result()

    async def close(self) -> None:
        """Ask the work to stop, when it still runs."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def _put(self, item: T, stop: Stop) -> None:
        patient_until = time.monotonic() + self._patience_seconds
        while not self._room.acquire(timeout=_LOOK_SECONDS):
            if stop():
                raise ApiError("client_closed_request")
            if time.monotonic() >= patient_until:
                seconds = f"{self._patience_seconds:g} s"
                raise ApiError("client_closed_request", f"the client took nothing of its answer for {seconds}")
        self._loop.call_soon_threadsafe(self._ready.put_nowait, item)
