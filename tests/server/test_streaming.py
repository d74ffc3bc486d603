"""What streams are made of: the writer, the bounded buffer before it, and readers that take nothing or leave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from server.deadline import Deadline
from server.errors import ApiError
from server.gate import Gate, Stop
from server.streaming import sse
from server.streaming.feed import Feed

pytestmark = pytest.mark.anyio


async def never() -> None:
    await asyncio.Event().wait()


def test_an_event_is_one_line_of_data_whatever_is_in_it() -> None:
    written = sse.event({"text": "two\nlines\r\nand data: \u2028 ü"}, name="rationale", id=3)
    assert written.endswith(b"\n\n")
    name, number, data = written.decode().rstrip("\n").split("\n")
    assert (name, number) == ("event: rationale", "id: 3")
    assert json.loads(data.removeprefix("data: ")) == {"text": "two\nlines\r\nand data: \u2028 ü"}
    assert "ü".encode() in written
    assert sse.event(b"{}") == b"data: {}\n\n"
    assert sse.comment("waiting") == b": waiting\n\n"


async def events(*items: bytes, pause: float = 0.0, ended: list[str] | None = None) -> AsyncIterator[bytes]:
    try:
        for item in items:
            await asyncio.sleep(pause)
            yield item
    finally:
        if ended is not None:
            ended.append("ended")


async def test_heartbeats_fill_the_silence_and_nothing_else() -> None:
    beating = sse.with_heartbeats(events(b"a", b"b", pause=0.2), seconds=0.05, text="on")
    got = [item async for item in beating]
    assert [item for item in got if item != b": on\n\n"] == [b"a", b"b"]
    assert got.count(b": on\n\n") >= 2
    quick = sse.with_heartbeats(events(b"a", b"b"), seconds=5, text="on")
    assert [item async for item in quick] == [b"a", b"b"]


async def test_closing_the_heartbeats_closes_the_events() -> None:
    ended: list[str] = []
    beating = sse.with_heartbeats(events(b"a", b"b", pause=5, ended=ended), seconds=0.01, text="on")
    assert await anext(beating) == b": on\n\n"
    await beating.aclose()  # type: ignore[attr-defined]
    assert ended == ["ended"]


def response(stream: AsyncIterator[bytes], let_go: Callable[[], None], **options: Any) -> sse.EventResponse:
    held = AsyncExitStack()
    held.callback(let_go)
    return sse.EventResponse(stream, held=held, heartbeat_seconds=5, **options)


async def nothing() -> Any:
    return {"type": "http.disconnect"}


async def test_a_reader_that_takes_nothing_is_given_up() -> None:
    sent, ended, scope = [], [], {"type": "http"}  # type: ignore[var-annotated]

    async def send(message: Any) -> None:
        sent.append(message)
        if len(sent) == 2:
            await never()

    stream = events(b"a", b"b", ended=ended)
    await response(stream, lambda: ended.append("let go"), stall_seconds=0.05)(scope, nothing, send)
    assert [message.get("body") for message in sent] == [None, b"a"]
    assert ended == ["ended", "let go"]
    assert scope["state"]["log"]["error_code"] == "client_closed_request"  # type: ignore[index]


async def test_what_is_held_is_let_go_when_nothing_could_be_sent() -> None:
    async def send(message: Any) -> None:
        raise OSError("gone")

    let_go: list[int] = []
    await response(events(b"a"), lambda: let_go.append(1))({"type": "http"}, nothing, send)
    assert let_go == [1]


class Worker:
    """Puts numbers, and remembers how many it got rid of and whether it was told to stop."""

    def __init__(self, count: int) -> None:
        self.count, self.num_put, self.was_stopped = count, 0, False

    def __call__(self, stop: Stop, put: Callable[[int], None]) -> str:
        try:
            for number in range(self.count):
                put(number)
                self.num_put += 1
        finally:
            self.was_stopped = stop()
        return "done"


async def test_a_feed_gives_everything_in_order_and_then_the_outcome() -> None:
    gate = Gate(concurrency=1, queue_size=0)
    feed: Feed[int] = Feed(gate, Worker(1000), gone=never, deadline=Deadline(20), max_ahead=3)
    got = []
    while (item := await feed.next()) is not None:
        got.append(item)
    assert got == list(range(1000))
    assert await feed.next() is None
    assert feed.outcome().value == "done"
    await gate.close()


async def test_work_is_never_more_than_so_far_ahead_of_its_reader(eventually: Any) -> None:
    gate = Gate(concurrency=1, queue_size=0)
    worker = Worker(100)
    feed: Feed[int] = Feed(gate, worker, gone=never, deadline=Deadline(20), max_ahead=5)
    await eventually(lambda: worker.num_put == 5)
    await asyncio.sleep(0.15)
    assert worker.num_put == 5
    assert await feed.next() == 0
    await eventually(lambda: worker.num_put == 6)
    await feed.close()
    await eventually(lambda: gate.num_running == 0)
    assert worker.was_stopped
    await gate.close()


async def test_work_gives_up_on_a_reader_that_takes_nothing(eventually: Any) -> None:
    gate = Gate(concurrency=1, queue_size=0)
    feed: Feed[int] = Feed(
        gate, Worker(9), gone=never, deadline=Deadline(20), max_ahead=2, patience_seconds=0.1
    )  # fmt: skip
    await eventually(lambda: gate.num_running == 1)
    await eventually(lambda: gate.num_running == 0)  # its place is free again
    assert [await feed.next(), await feed.next()] == [0, 1]
    with pytest.raises(ApiError, match="took nothing") as caught:
        await feed.next()
    assert caught.value.code == "client_closed_request"
    await gate.close()


async def test_a_feed_raises_what_its_work_raises() -> None:
    def work(stop: Stop, put: Callable[[int], None]) -> None:
        put(7)
        raise ValueError("broken")

    gate = Gate(concurrency=1, queue_size=0)
    feed: Feed[int] = Feed(gate, work, gone=never, deadline=Deadline(20))
    assert await feed.next() == 7
    with pytest.raises(ValueError, match="broken"):
        await feed.next()
    with pytest.raises(ValueError, match="broken"):
        await feed.next()
    await gate.close()
