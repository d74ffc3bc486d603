"""The microphone's sound while it comes: cut into stretches of some seconds, each measured and read once.

A stretch in which there is no voice leaves nothing; of the others their measures and tokens are kept until they leave
the window, and are pooled as the windows of a long clip are (`emollama.long_clip.pooling`). Sound that is not in a
whole stretch yet waits; nothing else of it is kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from emollama.errors import InputError
from emollama.long_clip.pooling import VoiceTokens, pooled_voice
from emollama.types import Audio, Features, VoiceReadings

SAMPLE_RATES = (8_000, 48_000)
_JITTER_SECONDS = 0.25  # a chunk that is so late or early follows the last one: clocks and buffers tremble

Hear = Callable[[Audio], tuple[VoiceReadings | None, Features | None]]


@dataclass(frozen=True, kw_only=True)
class VoiceStretch:
    """A stretch with a voice in it: what was read of it, from ``start`` to ``end`` seconds."""

    start: float
    end: float
    kept: VoiceTokens


class Listener:
    """Takes chunks of mono sound [S] at ``sample_rate`` Hz; ``hear`` reads one stretch."""

    def __init__(self, hear: Hear, *, sample_rate: int, stretch_seconds: float, window_seconds: float) -> None:
        low, high = SAMPLE_RATES
        if not low <= sample_rate <= high:
            raise InputError(f"sample_rate is {sample_rate}; allowed: {low} to {high} Hz", field="sample_rate")
        self._hear, self._rate = hear, sample_rate
        self._stretch, self._window = stretch_seconds, window_seconds
        self._waiting: list[np.ndarray] = []
        self._num_waiting = 0
        self._start = 0.0  # of what waits
        self._end: float | None = None
        self._stretches: deque[VoiceStretch] = deque()

    @property
    def end(self) -> float | None:
        """The time up to which there is sound; ``None`` before the first chunk."""
        return self._end

    def take(self, samples: np.ndarray, time: float) -> None:
        """Take a chunk, int16 or float32 in [-1, 1], whose first sample is of ``time``; whole stretches are read.

        After a gap (a microphone that was muted) the stretch before it is read as it is. Raises `InputError` for a
        chunk of an earlier time.
        """
        if samples.ndim != 1:
            raise InputError(f"sound has shape {samples.shape}; allowed: one channel, [S]", field="sound")
        if samples.dtype == np.int16:
            samples = samples.astype(np.float32) / 32_768
        if self._end is not None and time < self._end - max(_JITTER_SECONDS, self._stretch):
            raise InputError(f"time is {time:.3f}; allowed: from {self._end:.3f} on", field="time")
        if self._end is None or time > self._end + _JITTER_SECONDS:
            self._read_waiting()
            self._start = self._end = time
        self._waiting.append(samples)
        self._num_waiting += len(samples)
        self._end += len(samples) / self._rate
        wanted = round(self._stretch * self._rate)
        while self._num_waiting >= wanted:
            whole = np.concatenate(self._waiting)
            self._waiting, self._num_waiting = [whole[wanted:]], len(whole) - wanted
            self._read(whole[:wanted])

    def voice(self, time: float) -> tuple[np.ndarray, VoiceReadings] | None:
        """Return the token and the readings of the voice in the window before ``time``; ``None`` without a voice."""
        self.forget(time)
        return pooled_voice([stretch.kept for stretch in self._stretches])

    def forget(self, time: float) -> None:
        """Drop the stretches that have left the window."""
        while self._stretches and self._stretches[0].end < time - self._window:
            self._stretches.popleft()

    def _read_waiting(self) -> None:
        if self._num_waiting >= self._rate // 2:
            self._read(np.concatenate(self._waiting))
        self._waiting, self._num_waiting = [], 0

    def _read(self, samples: np.ndarray) -> None:
        start, end = self._start, self._start + len(samples) / self._rate
        self._start = end
        readings, features = self._hear(Audio(samples=samples, sample_rate=self._rate, start=start))
        if readings is not None and features is not None:
            kept = VoiceTokens(tokens=features.tokens, readings=readings)
            self._stretches.append(VoiceStretch(start=start, end=end, kept=kept))
