"""How often a key may ask: a bucket a key that fills evenly, so that a minute's requests may come at once but once.

The buckets are this process's own: several processes on one database count apart.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

_MAX_BUCKETS = 10_000


@dataclass(frozen=True, kw_only=True)
class Allowance:
    """What a key has left: ``wait_seconds`` is 0 when this request may pass."""

    limit: int
    remaining: int
    wait_seconds: float
    reset_seconds: float

    def headers(self) -> dict[str, str]:
        """Return the headers of OpenAI's API that say so."""
        return {
            "x-ratelimit-limit-requests": str(self.limit),
            "x-ratelimit-remaining-requests": str(self.remaining),
            "x-ratelimit-reset-requests": f"{math.ceil(self.reset_seconds)}s",
        }


class Rates:
    """Counts the requests of every key."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # requests left, and when that was so

    def take(self, name: str, *, per_minute: int) -> Allowance:
        """Take one request out of a key's bucket, if there is one in it."""
        rate = per_minute / 60
        with self._lock:
            now = self._clock()
            left, at = self._buckets.pop(name, (float(per_minute), now))
            left = min(float(per_minute), left + (now - at) * rate)
            may_pass = left >= 1
            left -= 1 if may_pass else 0
            self._buckets[name] = (left, now)
            # The key that asked least recently has a bucket that is full again, or nearly.
            while len(self._buckets) > _MAX_BUCKETS:
                self._buckets.popitem(last=False)
        return Allowance(
            limit=per_minute,
            remaining=int(left),
            wait_seconds=0.0 if may_pass else (1 - left) / rate,
            reset_seconds=(per_minute - left) / rate,
        )
