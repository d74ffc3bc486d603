"""The places for live sessions: how many there may be, the threads they work in, and the eyes that look for them."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from emollama.errors import BusyError
from server.errors import ApiError

if TYPE_CHECKING:
    from emollama.glance import Eye, Glance, Look, PictureLimits

logger = logging.getLogger("server.live")

_KNOCKING = 4  # connections that did not say yet who they are, for every place
_RETRY_SECONDS = 10.0


class Looking(Protocol):
    """Looks at pictures in processes of their own: `server.media_worker.MediaPool`."""

    def glance(
        self, picture: bytes, look: Look, *, limits: PictureLimits, cancelled: Callable[[], bool] | None = None
    ) -> Glance: ...

    def close(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class LiveLimits:
    """What one session may cost. ``seconds`` is how long it may last, ``idle_seconds`` how long nothing may come.

    ``picture_bytes`` and ``picture_pixels`` bound one picture, ``messages_per_second`` pictures and sounds together.
    """

    seconds: float = 1800.0
    idle_seconds: float = 30.0
    start_seconds: float = 10.0
    send_seconds: float = 20.0
    picture_bytes: int = 512 * 1024
    picture_pixels: int = 1280 * 720
    messages_per_second: int = 60

    def pictures(self) -> PictureLimits:
        """Return the limits of one picture as who decodes it takes them."""
        from emollama.glance import PictureLimits

        return PictureLimits(max_bytes=self.picture_bytes, max_pixels=self.picture_pixels)


class LiveRoom:
    """Lets in at most ``max_sessions``; without ``looking``, pictures are decoded in this process."""

    def __init__(
        self, *, max_sessions: int, limits: LiveLimits, looking: Looking | None, stopping: threading.Event
    ) -> None:
        self.max_sessions, self.limits, self.stopping = max_sessions, limits, stopping
        self._looking = looking
        self._num_knocking = 0
        self._num_sessions = 0
        # A thread reads for each session, another one writes down its reasons.
        self.threads = ThreadPoolExecutor(max(1, 2 * max_sessions), thread_name_prefix="live")

    @property
    def num_sessions(self) -> int:
        """How many sessions there are."""
        return self._num_sessions

    @contextlib.contextmanager
    def knock(self) -> Iterator[None]:
        """Hold one of the few places of those who did not say yet who they are."""
        if self._num_knocking >= max(1, self.max_sessions) * _KNOCKING:
            raise self._full("connections wait to begin a live session", self._num_knocking)
        self._num_knocking += 1
        try:
            yield
        finally:
            self._num_knocking -= 1

    @contextlib.contextmanager
    def session(self) -> Iterator[None]:
        """Hold one of the places for sessions; raises `BusyError` where there is none."""
        if not self.max_sessions:
            raise ApiError("live_unsupported", "this service takes no live sessions; allowed: clips, POST /analyze")
        if self._num_sessions >= self.max_sessions:
            raise self._full("live sessions are open", self._num_sessions)
        self._num_sessions += 1
        try:
            yield
        finally:
            self._num_sessions -= 1

    def eye(self, cancelled: Callable[[], bool]) -> Eye:
        """Return what looks at the pictures of one session."""
        from emollama.glance import OwnEye

        pictures = self.limits.pictures()
        return OwnEye(limits=pictures) if self._looking is None else _LentEye(self._looking, pictures, cancelled)

    def close(self) -> None:
        """End the threads and processes; blocks until the last step of each session is done."""
        self.threads.shutdown(wait=True, cancel_futures=True)
        if self._looking is not None:
            self._looking.close()

    def _full(self, what: str, number: int) -> BusyError:
        return BusyError(f"{number} {what}; try again in {_RETRY_SECONDS:.0f} s", retry_after_seconds=_RETRY_SECONDS)


class _LentEye:
    def __init__(self, looking: Looking, limits: PictureLimits, cancelled: Callable[[], bool]) -> None:
        self._looking, self._limits, self._cancelled = looking, limits, cancelled

    def look(self, picture: bytes, look: Look) -> Glance:
        return self._looking.glance(picture, look, limits=self._limits, cancelled=self._cancelled)
