"""Where chat requests are received: how many at once, how large, their folders, and the clips held for them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

from emollama.errors import BusyError
from server.chat.cache import ClipCache
from server.scratch import Scratch

_RETRY_SECONDS = 2.0
_TEXT_BYTES = 4 * 1024 * 1024


class Desk:
    """A body may hold one clip of the largest size in base64, or several smaller ones, and their texts."""

    def __init__(self, scratch: Scratch, cache: ClipCache, *, max_clip_bytes: int, max_bodies: int) -> None:
        self.cache = cache
        self.max_body_bytes = max_clip_bytes * 4 // 3 + _TEXT_BYTES
        self._scratch, self._max_bodies = scratch, max_bodies
        self._num_bodies = 0

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """Hold one of the places for receiving a body."""
        if self._num_bodies >= self._max_bodies:
            raise BusyError(
                f"{self._num_bodies} uploads are being received; try again in {_RETRY_SECONDS:.0f} s",
                retry_after_seconds=_RETRY_SECONDS,
            )
        self._num_bodies += 1
        try:
            yield
        finally:
            self._num_bodies -= 1

    @contextlib.contextmanager
    def folder(self) -> Iterator[Path]:
        """Make a folder for one request's clips; it is removed on the way out."""
        folder = self._scratch.new_folder()
        try:
            yield folder
        finally:
            self._scratch.discard(folder)

    def forget_later(self) -> None:
        """See to it that clips are forgotten when their time is over, also when nobody asks any more."""
        asyncio.get_running_loop().call_later(self.cache.seconds + 1.0, self.cache.expire)
