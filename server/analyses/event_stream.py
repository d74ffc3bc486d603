"""An analysis as server-sent events: how far it is whenever that changes, then the whole of it.

Each event's data is the analysis as a list has it, the last one's has the result; then comes ``[DONE]``. It ends
without that when the service stops or the analysis was deleted. (Format:
https://html.spec.whatwg.org/multipage/server-sent-events.html)
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from server.records import analyses
from server.schemas.analyses import AnalysisSummaryOut, document_of
from server.store import Store
from server.streaming import sse

_KEEP_ALIVE_SECONDS = 15.0


async def stream_analysis(
    store: Store, analysis_id: str, *, poll_seconds: float, is_stopping: Callable[[], bool]
) -> AsyncIterator[bytes]:
    """Yield the stream."""
    told: dict[str, Any] = {}
    quiet = 0.0
    while not is_stopping():
        record = await asyncio.to_thread(analyses.find, store, analysis_id, now=time.time(), with_result=False)
        if record is None:
            return
        if record.has_ended:
            whole = await asyncio.to_thread(analyses.find, store, analysis_id, now=time.time())
            if whole is not None:
                yield sse.event(document_of(whole))
                yield sse.DONE
            return
        values = AnalysisSummaryOut.values_of(record)
        if values != told:
            told, quiet = values, 0.0
            yield sse.event(values)
        await asyncio.sleep(poll_seconds)
        quiet += poll_seconds
        if quiet >= _KEEP_ALIVE_SECONDS:
            quiet = 0.0
            yield sse.comment("the analysis goes on")
