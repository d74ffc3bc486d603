"""What came of one client and was not looked at yet: the newest picture, and the sound of some seconds.

A picture that comes while another waits takes its place, and is counted; so a machine that is slower than the camera
sees fewer pictures, never old ones. Belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass

from server.live.protocol import Picture, Sound

_MAX_SOUND_SECONDS = 8.0


@dataclass(frozen=True, kw_only=True)
class Arrived:
    """What came since the last look. ``waited_since`` is the reading of `time.monotonic` at which the picture came."""

    picture: Picture | None
    sounds: tuple[Sound, ...]
    waited_since: float | None

    def __bool__(self) -> bool:
        return self.picture is not None or bool(self.sounds)


class LiveInbox:
    """Takes messages and hands them out; ``sample_rate`` is the sound's in Hz."""

    def __init__(self, *, sample_rate: int) -> None:
        self._rate = sample_rate
        self._picture: Picture | None = None
        self._came: float | None = None
        self._sounds: deque[Sound] = deque()
        self._num_samples = 0
        self._ready = asyncio.Event()
        self.num_dropped = 0  # pictures
        self.num_sounds_dropped = 0

    def put(self, message: Picture | Sound) -> None:
        """Take a message; what there is no room for is dropped, the oldest first."""
        if isinstance(message, Picture):
            self.num_dropped += self._picture is not None
            self._picture, self._came = message, time.monotonic()
        else:
            self._sounds.append(message)
            self._num_samples += len(message.samples)
            while len(self._sounds) > 1 and self._num_samples > _MAX_SOUND_SECONDS * self._rate:
                self._num_samples -= len(self._sounds.popleft().samples)
                self.num_sounds_dropped += 1
        self._ready.set()

    def wake(self) -> None:
        """Let whoever waits look."""
        self._ready.set()

    async def wait(self, seconds: float) -> None:
        """Return when something is there, at the latest after so many seconds."""
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._ready.wait()
        except TimeoutError:
            return

    def take(self) -> Arrived:
        """Hand out all that is there."""
        arrived = Arrived(picture=self._picture, sounds=tuple(self._sounds), waited_since=self._came)
        self._picture = self._came = None
        self._sounds.clear()
        self._num_samples = 0
        self._ready.clear()
        return arrived
