"""The time that one request may take, from where its upload was accepted to its answer."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from server.errors import ApiError


class Deadline:
    """Begins when it is made. What is waited for in `within` ends at it, with the error ``deadline_exceeded``."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def left_seconds(self) -> float:
        """Return how much is left, never less than nothing."""
        return max(0.0, self._end - time.monotonic())

    def exceeded(self) -> ApiError:
        """Return what is told when it has passed."""
        return ApiError("deadline_exceeded", f"the analysis was not complete after {self.seconds:g} s")

    @contextlib.asynccontextmanager
    async def within(self) -> AsyncIterator[None]:
        """Cancel the block at the deadline."""
        try:
            async with asyncio.timeout(self.left_seconds()):
                yield
        except TimeoutError as exc:
            raise self.exceeded() from exc
