"""The events of a job as server-sent events: oldest first, then as they come, until the job has ended.

Each event's data is the event object, its id the event's id, so that a client that was cut off goes on after it; the
last message is ``[DONE]``. (Format: https://html.spec.whatwg.org/multipage/server-sent-events.html)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from server.records import jobs
from server.schemas.fine_tuning import EventOut
from server.store import Store

_PAGE = 100
_KEEP_ALIVE_SECONDS = 15.0


async def stream_events(
    store: Store, job_id: str, *, after: str | None, poll_seconds: float, is_stopping: Callable[[], bool]
) -> AsyncIterator[bytes]:
    """Yield the stream; it ends without ``[DONE]`` when the service stops."""
    quiet = 0.0
    while not is_stopping():
        # The job first: what is true of it when it has ended was written with its last events.
        job = await asyncio.to_thread(jobs.find, store, job_id)
        page = await asyncio.to_thread(jobs.events_page, store, job_id, after=after, limit=_PAGE, newest_first=False)
        for event in page.items:
            after, quiet = event.id, 0.0
            yield f"id: {event.id}\ndata: {EventOut.of(event).model_dump_json()}\n\n".encode()
        if page.has_more:
            continue
        if job is None or job.has_ended:
            yield b"data: [DONE]\n\n"
            return
        await asyncio.sleep(poll_seconds)
        quiet += poll_seconds
        if quiet >= _KEEP_ALIVE_SECONDS:
            quiet = 0.0
            yield b": the job goes on\n\n"
