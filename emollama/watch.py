"""Asking, between two chunks of work, whether somebody still waits for it.

Work that may be long takes a `Check` and calls it every few tenths of a second: it returns, or raises what ends the
work. Who checks need not know why: a client that went away, and a time that has passed, look alike from below.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from emollama.errors import CancelledError, DeadlineError

Check = Callable[[], None]


def unwatched() -> None:
    """Let the work go on; the check of work that nobody may stop."""


class Watch:
    """The check of one piece of work: ``cancelled`` is asked, and ``deadline`` is a reading of `time.monotonic`.

    Raises `CancelledError` or `DeadlineError` when it is called.
    """

    def __init__(self, cancelled: Callable[[], bool] | None = None, *, deadline: float | None = None) -> None:
        self._cancelled, self._deadline = cancelled, deadline

    def __call__(self) -> None:
        if self._cancelled is not None and self._cancelled():
            raise CancelledError("the analysis was cancelled")
        if self._deadline is not None and time.monotonic() >= self._deadline:
            raise DeadlineError("the analysis was not complete in time")
