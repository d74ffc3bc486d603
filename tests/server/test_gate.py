"""Bounded admission."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from emollama.errors import BusyError
from server.deadline import Deadline
from server.errors import ApiError
from server.gate import Gate, Stop

pytestmark = pytest.mark.anyio


async def never() -> None:
    await asyncio.Event().wait()


def waiting_for(release: threading.Event) -> Any:
    def work(stop: Stop) -> str:
        while not release.wait(0.005):
            if stop():
                raise RuntimeError("stopped")
        return "done"

    return work


async def test_work_returns_its_value_and_times() -> None:
    gate = Gate(concurrency=1, queue_size=0)
    outcome = await gate.run(lambda stop: 7, gone=never, deadline=Deadline(10))
    assert outcome.value == 7
    assert outcome.waited_seconds >= 0
    assert outcome.ran_seconds >= 0
    await gate.close()


async def test_work_runs_side_by_side_up_to_the_limit(eventually: Any) -> None:
    gate = Gate(concurrency=2, queue_size=1)
    release = threading.Event()
    tasks = [asyncio.create_task(gate.run(waiting_for(release), gone=never, deadline=Deadline(30))) for _ in range(3)]
    await eventually(lambda: (gate.num_running, gate.num_waiting) == (2, 1))
    with pytest.raises(BusyError, match="2 clips are being analysed and 1 wait") as caught:
        await gate.run(waiting_for(release), gone=never, deadline=Deadline(30))
    assert caught.value.retry_after_seconds >= 1
    release.set()
    assert [outcome.value for outcome in await asyncio.gather(*tasks)] == ["done"] * 3
    await eventually(lambda: (gate.num_running, gate.num_waiting) == (0, 0))
    await gate.close()


async def test_stopped_work_keeps_its_place_until_it_has_ended(eventually: Any) -> None:
    gate = Gate(concurrency=1, queue_size=0)
    release = threading.Event()

    def deaf(stop: Stop) -> None:
        release.wait(30)

    with pytest.raises(ApiError) as caught:
        await gate.run(deaf, gone=never, deadline=Deadline(0.05))
    assert caught.value.code == "deadline_exceeded"
    with pytest.raises(BusyError):
        gate.require_room()
    release.set()
    await eventually(lambda: gate.num_running == 0 and gate.num_waiting == 0)
    gate.require_room()
    await gate.close()


async def test_work_that_waits_is_dropped_when_its_client_leaves(eventually: Any) -> None:
    gate = Gate(concurrency=1, queue_size=1)
    release, ran = threading.Event(), []
    first = asyncio.create_task(gate.run(waiting_for(release), gone=never, deadline=Deadline(30)))
    await eventually(lambda: gate.num_running == 1)

    async def gone() -> None:
        return

    with pytest.raises(ApiError) as caught:
        await gate.run(lambda stop: ran.append(1), gone=gone, deadline=Deadline(30))
    assert caught.value.code == "client_closed_request"
    assert gate.num_waiting == 0
    release.set()
    await first
    await gate.close()
    assert ran == []


async def test_the_hint_follows_how_long_work_takes() -> None:
    gate = Gate(concurrency=1, queue_size=0)
    gate._mean_seconds = 40.0
    before = gate.retry_after_seconds()
    for _ in range(5):
        await gate.run(lambda stop: None, gone=never, deadline=Deadline(10))
    assert gate.retry_after_seconds() < before
    gate._mean_seconds = 1e6
    assert gate.retry_after_seconds() <= 120
    await gate.close()


async def test_closing_stops_what_runs_and_says_so(eventually: Any) -> None:
    gate = Gate(concurrency=1, queue_size=0)
    task = asyncio.create_task(gate.run(waiting_for(threading.Event()), gone=never, deadline=Deadline(30)))
    await eventually(lambda: gate.num_running == 1)
    await gate.close()
    with pytest.raises(ApiError) as caught:
        await task
    assert caught.value.code == "not_ready"


async def test_work_in_no_hurry_begins_in_a_lull_or_when_there_is_none_for_long(eventually: Any) -> None:
    gate = Gate(concurrency=1, queue_size=1)
    release, begun = threading.Event(), threading.Event()

    def wait(patience: float, cancelled: Any = lambda: False) -> asyncio.Task[None]:
        return asyncio.create_task(asyncio.to_thread(gate.await_lull, cancelled=cancelled, patience_seconds=patience))

    await wait(30)  # nobody is there
    tasks = [asyncio.create_task(gate.run(waiting_for(release), gone=never, deadline=Deadline(30))) for _ in range(2)]
    await eventually(lambda: gate.num_running == 1)
    await wait(0.05)  # patience ends
    patient, cancelled = wait(30), wait(30, cancelled=begun.is_set)
    begun.set()
    await cancelled
    assert not patient.done()
    release.set()
    await asyncio.gather(*tasks)
    await patient
    await gate.close()
