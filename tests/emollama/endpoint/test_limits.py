import threading

import pytest

from emollama.endpoint import RateLimit, Stop, StoppedError
from emollama.errors import InputError


class Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def sent_times(limit: RateLimit, clock: Clock, costs: list[int]) -> list[float]:
    times = []
    for cost in costs:
        limit.acquire(cost)
        times.append(clock.now - 1000.0)
    return times


def test_no_minute_holds_more_requests_than_allowed() -> None:
    clock = Clock()
    limit = RateLimit(requests=3, clock=clock, sleep=clock.sleep)
    times = sent_times(limit, clock, [1] * 8)
    assert times == pytest.approx([0, 0, 0, 60, 60, 60, 120, 120])


def test_no_minute_holds_more_tokens_than_allowed() -> None:
    clock = Clock()
    limit = RateLimit(tokens=100, clock=clock, sleep=clock.sleep)
    times: list[float] = []
    for cost in (60, 40, 50, 30, 20):
        limit.acquire(cost)
        times.append(clock.now - 1000.0)
        clock.now += 10
    # the third waits for the first to leave the window, which frees 60 tokens; the fourth for the second
    assert times == pytest.approx([0, 10, 60, 70, 80])


def test_a_request_that_never_fits_is_refused() -> None:
    with pytest.raises(InputError, match="about 200 tokens can never be sent: tokens_per_minute is 100"):
        RateLimit(tokens=100).acquire(200)
    with pytest.raises(InputError, match="requests_per_minute is 0"):
        RateLimit(requests=0)


def test_a_pause_holds_for_every_request() -> None:
    clock = Clock()
    limit = RateLimit(clock=clock, sleep=clock.sleep)
    limit.pause(7)
    limit.pause(3)
    assert sent_times(limit, clock, [1, 1]) == pytest.approx([7, 7])


def test_a_stop_wakes_the_waiting() -> None:
    stop = Stop()
    limit = RateLimit(requests=1, sleep=stop.sleep)
    limit.acquire(1)
    ended: list[str] = []

    def wait() -> None:
        try:
            limit.acquire(1)
        except StoppedError:
            ended.append("stopped")

    thread = threading.Thread(target=wait)
    thread.start()
    stop.set()
    thread.join(timeout=30)
    assert ended == ["stopped"]
