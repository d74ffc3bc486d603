"""The stages of an analysis as server-sent events: their names and what each holds.

An event says what the whole answer will say in the same words and fields, so a client may show it at once. The last
event is the whole answer itself, or an error in the ordinary envelope.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastapi import Request

from server.errors import told_of
from server.gate import Outcome
from server.streaming import sse
from server.streaming.feed import Feed

if TYPE_CHECKING:
    from emollama.stages import StageEvent


@dataclass(frozen=True, kw_only=True)
class Told:
    """An event that was written where the work is done: its name, and its data as JSON."""

    name: str
    data: bytes


def told(event: StageEvent) -> Told:
    """Write a stage's event."""
    from emollama.stages import Decoded, Done, FacesFound, Labelled
    from emollama.types import plain

    if isinstance(event, Done):
        return _told("done", event.analysis.to_json_dict())
    document = plain(event)
    if isinstance(event, Decoded):
        return _told("decoded", document)
    if isinstance(event, FacesFound):
        return _told("faces", {"faces": document["tracks"]})
    if isinstance(event, Labelled):
        affect = document.pop("affect")
        document["valence"], document["arousal"] = affect["valence"], affect["arousal"]
        document["affect_source"] = affect["source"]
        return _told("label", document)
    return _told("rationale", document)


def _told(name: str, document: dict[str, Any]) -> Told:
    data = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    return Told(name=name, data=data)


async def stream_analysis(
    first: Told | None,
    feed: Feed[Told],
    *,
    request: Request,
    upload: AsyncExitStack,
    finished: Callable[[Outcome[Any]], None],
) -> AsyncIterator[bytes]:
    """Yield the events, numbered from 1: ``first``, when it is there already, then what the feed gives.

    ``upload`` is let go before the answer is sent.
    """
    number = 1
    if first is None:
        yield sse.comment("waiting")  # the headers go out with the first byte, and that is not to be waited for
    try:
        item = first or await feed.next()
        while item is not None:
            if item.name == "done":
                await upload.aclose()
            yield sse.event(item.data, name=item.name, id=number)
            number += 1
            item = await feed.next()
        finished(feed.outcome())
    except Exception as exc:  # noqa: BLE001  (the edge of this answer: what went wrong is its last event)
        error = told_of(request, exc)
        request.state.log["error_code"] = error.code
        if error.code != "client_closed_request":
            await upload.aclose()
            yield sse.event(bytes(error.response().body), name="error", id=number)
