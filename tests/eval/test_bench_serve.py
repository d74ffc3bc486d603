"""The load bench asks as it says, and its figures are those of the replies; no speed is asserted."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from emollama.errors import InputError
from emollama.media import read_clip
from eval.bench_serve import (
    Load,
    MemorySample,
    Reply,
    app,
    beginning_of,
    closed_loop,
    draw,
    in_turns,
    memory_growth,
    open_loop,
    percentile,
    resident_mib,
    started_service,
    summarise,
    table_of,
)


class Counting:
    """Answers after a few turns of the loop and remembers how many were asked at once."""

    def __init__(self) -> None:
        self.now = self.most = self.total = 0

    async def __call__(self, due: float) -> Reply:
        self.now += 1
        self.total += 1
        outcome = "429" if self.total == 1 else "200"
        self.most = max(self.most, self.now)
        for _ in range(3):
            await asyncio.sleep(0)
        self.now -= 1
        return Reply(seconds=time.perf_counter() - due, outcome=outcome)


def test_a_closed_loop_keeps_so_many_requests_under_way() -> None:
    ask = Counting()
    load = asyncio.run(closed_loop(ask, clients=4, requests=21))
    assert (ask.total, ask.most, len(load.replies)) == (21, 4, 21)
    figures = load.to_json_dict()
    assert (figures["answered"], figures["failed"]) == (20, {"429": 1})


def test_one_client_and_several_take_turns_and_nothing_is_asked_twice_or_left_out() -> None:
    now, seen = 0, []

    async def ask(due: float) -> Reply:
        nonlocal now
        now += 1
        await asyncio.sleep(0.001)  # until all that are asked at once have been
        seen.append(now)
        await asyncio.sleep(0.001)
        now -= 1
        return Reply(seconds=time.perf_counter() - due, outcome="200")

    alone, together = asyncio.run(in_turns(ask, [(1, 5), (4, 16)], turns=2))
    assert (alone.how, len(alone.replies), together.how, len(together.replies)) == ("one client", 5, "4 clients", 16)
    assert [number == 1 for number in seen].count(True) >= 5
    first = seen.index(next(number for number in seen if number > 1))
    assert (first, seen[first + 8 : first + 11]) == (2, [1, 1, 1])  # 2 alone, 8 together, 3 alone, 8 together
    assert alone.seconds + together.seconds >= 0.01


def test_turns_want_a_request_each() -> None:
    answer = CliRunner().invoke(app, ["--turns", "31"])
    assert (answer.exit_code, "allowed: 1 to 30" in answer.output) == (2, True)


def test_an_open_loop_does_not_wait_for_answers() -> None:
    answers: asyncio.Event | None = None
    waiting = 0

    async def ask(due: float) -> Reply:
        nonlocal waiting
        assert answers is not None
        waiting += 1
        if waiting == 6:  # all have been asked before the first is answered
            answers.set()
        await answers.wait()
        return Reply(seconds=time.perf_counter() - due, outcome="200")

    async def run() -> Load:
        nonlocal answers
        answers = asyncio.Event()
        return await asyncio.wait_for(open_loop(ask, rate=2000.0, requests=6, seed=1), timeout=20)

    assert len(asyncio.run(run()).replies) == 6


def test_figures_leave_failures_out_of_latency_and_compare_the_first_two_loads() -> None:
    good = [Reply(seconds=n / 100, outcome="200") for n in range(1, 101)]
    one = Load(how="one client", replies=tuple(good), seconds=50.0)
    many = Load(how="16 clients", replies=(*good, Reply(seconds=99.0, outcome="ReadError")), seconds=25.0)
    assert percentile([1.0], 99) == 1.0
    assert many.to_json_dict()["latency_ms"] == {"p50": 500.0, "p90": 900.0, "p99": 990.0, "slowest": 1000.0}
    figures = summarise(Path("a/b.mp4"), loads=[one, many], memory=[])
    assert figures["times_as_many_answers"] == 2.0
    assert figures["loads"][1]["failed"] == {"ReadError": 1}
    assert table_of([one, many], title="x").row_count == 2
    assert Load(how="x", replies=(), seconds=1.0).to_json_dict()["latency_ms"] == {}


def test_memory_growth_compares_the_settled_level_with_the_end() -> None:
    samples = [MemorySample(num_requests=n, mib=500.0 + (n if n < 100 else 100 + n / 10)) for n in range(0, 301, 5)]
    assert memory_growth(samples) == pytest.approx(18.0)
    assert memory_growth(samples[:22]) is None
    assert memory_growth([]) is None
    assert resident_mib(os.getpid()) > 10


def test_a_service_that_does_not_start_says_why() -> None:
    with pytest.raises(InputError, match="did not start"), started_service("no-such-model", places=0):
        pytest.fail("it cannot have started")


def test_a_cut_clip_is_the_beginning_of_the_clip(media, tmp_path: Path) -> None:
    path = tmp_path / "long.mp4"
    media.video(path, seconds=2.0, audio=media.tone(2.0))
    clip = read_clip(beginning_of(path, seconds=1.0))
    assert clip.seconds == pytest.approx(1.0, abs=0.15)
    assert clip.frames is not None
    assert clip.audio is not None


def test_sound_cannot_be_cut_and_a_plot_wants_a_name_that_can_be_drawn_to(media, tmp_path: Path) -> None:
    media.wav(tmp_path / "voice.wav", samples=media.tone(1.0))
    with pytest.raises(InputError, match="no picture"):
        beginning_of(tmp_path / "voice.wav", seconds=0.5)
    done = CliRunner().invoke(app, ["--plot", str(tmp_path / "load.txt")])
    assert done.exit_code == 2
    assert "load.txt" in done.output


def test_a_plot_shows_memory_and_latencies(tmp_path: Path) -> None:
    load = Load(how="one client", replies=(Reply(seconds=0.2, outcome="200"),), seconds=0.2)
    samples = [MemorySample(num_requests=1, mib=500.0)]
    draw(summarise(Path("clip.mp4"), loads=[load, load], memory=samples), tmp_path / "load.svg")
    assert "<svg" in (tmp_path / "load.svg").read_text()
