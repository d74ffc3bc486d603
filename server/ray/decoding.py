"""What a door decodes: windows of long clips, one after the other, and of whole clips nothing.

A clip of ordinary length goes to an encoder as it came and is decoded there. A long one may have gigabytes, so it stays
in the door's data folder, and a process of its own, as in a service without a cluster, decodes the window that is read
next; that travels.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from server.media_worker import IS_SUPPORTED, InProcess, MediaPool

if TYPE_CHECKING:
    from emollama.media import MediaLimits
    from emollama.media_windows import ClipWindow
    from server.media_worker import Decoding
    from server.settings import Settings


class DoorDecoding(InProcess):
    """The decoder of a door; ``start`` makes what decodes windows when the first clip is looked at."""

    def __init__(self, start: Callable[[], Decoding]) -> None:
        self._start = start
        self._started: Decoding | None = None
        self._lock = threading.Lock()

    @classmethod
    def of(cls, settings: Settings) -> DoorDecoding:
        """Decode in processes, or, where a service is set to have none, in the door itself."""
        if not settings.media_workers or not IS_SUPPORTED:
            return cls(InProcess)
        # One process tells how long clips are; each long one gets another.
        return cls(lambda: MediaPool(1, limits=settings.worker_limits()))

    def length(self, path: Path, *, cancelled: Callable[[], bool] | None = None) -> float | None:
        return self._windows().length(path, cancelled=cancelled)

    def windows(
        self,
        path: Path,
        *,
        name: str,
        seconds: float,
        fps: float,
        limits: MediaLimits,
        cancelled: Callable[[], bool] | None = None,
    ) -> Iterator[ClipWindow]:
        return self._windows().windows(path, name=name, seconds=seconds, fps=fps, limits=limits, cancelled=cancelled)

    def close(self) -> None:
        with self._lock:
            if self._started is not None:
                self._started.close()

    def _windows(self) -> Decoding:
        with self._lock:
            if self._started is None:
                self._started = self._start()
            return self._started
