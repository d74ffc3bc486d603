"""How fast an endpoint may be asked: requests and tokens in any 60 seconds, and pauses that the endpoint asks for.

The window slides: at no moment do more requests lie within the last minute than allowed, so there is no burst at its
turn. One limiter serves all threads of a run.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from emollama.errors import EmoLlamaError, InputError

WINDOW_SECONDS = 60.0


class StoppedError(EmoLlamaError):
    """The run was asked to stop while this piece of work waited."""


class Stop:
    """Says to waiting work that the run is being stopped."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        self._event.set()

    def is_set(self) -> bool:
        return self._event.is_set()

    def sleep(self, seconds: float) -> None:
        """Wait; raises `StoppedError` as soon as the run is asked to stop."""
        if self._event.wait(max(0.0, seconds)):
            raise StoppedError("the run was stopped")


class RateLimit:
    """At most ``requests`` and ``tokens`` in any minute; ``None`` is no limit."""

    def __init__(
        self,
        *,
        requests: int | None = None,
        tokens: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        for name, value in (("requests_per_minute", requests), ("tokens_per_minute", tokens)):
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}; allowed: from 1", field=name)
        self._requests, self._tokens = requests, tokens
        self._clock, self._sleep = clock, sleep
        self._lock = threading.Lock()
        self._sent: deque[tuple[float, int]] = deque()
        self._paused_until = float("-inf")

    def acquire(self, tokens: int) -> None:
        """Wait until a request of about ``tokens`` tokens may be sent, and count it as sent.

        Raises `InputError` for a request that is larger than a minute's allowance: it could never be sent.
        """
        if self._tokens is not None and tokens > self._tokens:
            raise InputError(
                f"a request of about {tokens} tokens can never be sent: tokens_per_minute is {self._tokens}",
                field="tokens_per_minute",
            )
        while (seconds := self._try(tokens)) > 0:
            self._sleep(seconds)

    def pause(self, seconds: float) -> None:
        """Send nothing for so long, in all threads: the endpoint asked for it."""
        with self._lock:
            self._paused_until = max(self._paused_until, self._clock() + seconds)

    def _try(self, tokens: int) -> float:
        """Count the request and return 0, or return how long to wait before the next try."""
        with self._lock:
            now = self._clock()
            if now < self._paused_until:
                return self._paused_until - now
            while self._sent and now - self._sent[0][0] >= WINDOW_SECONDS:
                self._sent.popleft()
            wait = 0.0
            if self._requests is not None and len(self._sent) >= self._requests:
                wait = self._sent[0][0] + WINDOW_SECONDS - now
            if self._tokens is not None:
                excess = sum(count for _, count in self._sent) + tokens - self._tokens
                for sent_at, count in self._sent:
                    if excess <= 0:
                        break
                    excess -= count
                    wait = max(wait, sent_at + WINDOW_SECONDS - now)
            if wait <= 0:
                self._sent.append((now, tokens))
                return 0.0
            return max(wait, 1e-3)
