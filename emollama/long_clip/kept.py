"""What is kept of a long clip: some kilobytes for each window that was read, and all of them gathered.

A `KeptWindow` holds all that the rest of the walk, and the answer for the whole, need of a window, so it may be made in
one process, written down, and gone on with in another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from emollama.long_clip.analysis import WindowAnalysis
from emollama.long_clip.following import Ending
from emollama.long_clip.pooling import FaceTokens, SaidWords, VoiceTokens
from emollama.types import Box, FaceReadings, FaceTrack, Transcript, VoiceReadings


@dataclass(frozen=True, kw_only=True)
class LongQuestion:
    """What is asked of a long clip; the arguments of `emollama.long_clip.analyze_long`, checked and read."""

    name: str | None = None
    window_seconds: float
    transcript: Transcript | None = None
    labels: tuple[str, ...] | None = None
    language: str | None = None
    asr: str | None = None
    rationales: bool = True
    timeline: bool = True


@dataclass(frozen=True, kw_only=True)
class SeenFace:
    """A face of one window: in how many pictures, with one time and box for all of them."""

    track_id: int
    num_frames: int
    time: float
    box: Box
    is_main: bool
    chosen_because: str

    @classmethod
    def of(cls, track: FaceTrack) -> SeenFace:
        middle = len(track.times) // 2
        return cls(
            track_id=track.track_id,
            num_frames=len(track.times),
            time=round(float(track.times[middle]), 3),
            box=track.boxes[middle],
            is_main=track.is_main,
            chosen_because=track.chosen_because,
        )


@dataclass(frozen=True, kw_only=True)
class KeptWindow:
    """A window that was read. ``start`` and ``end`` are as the decoder cut them, and ``share`` as it told it.

    ``readings`` [R] holds the main face first; ``face_tokens`` and ``voice_tokens`` [T, D] are what the backbone was
    given. ``endings`` and ``num_tracks`` are `TrackIds` as they were after this window.
    """

    start: float
    end: float
    share: float
    is_last: bool
    name: str
    sha256: str | None
    file_warnings: tuple[str, ...]
    num_frames: int
    audio_seconds: float
    is_still: bool
    analysis: WindowAnalysis
    readings: tuple[FaceReadings, ...] = ()
    face_tokens: np.ndarray | None = None
    voice: VoiceReadings | None = None
    voice_tokens: np.ndarray | None = None
    words: SaidWords | None = None
    faces: tuple[SeenFace, ...] = ()
    endings: tuple[Ending, ...] = ()
    num_tracks: int = 0
    timings_ms: Mapping[str, float] = field(default_factory=dict)


@dataclass
class Presence:
    """Where a face was: how many pictures show it, in how many windows it led, and one box a window."""

    num_frames: int = 0
    num_led: int = 0
    reason: str = ""
    times: list[float] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)


class Presences:
    """The faces of a long clip by track id."""

    def __init__(self) -> None:
        self.by_track: dict[int, Presence] = {}

    def add(self, face: SeenFace) -> None:
        """Count a window's face in."""
        one = self.by_track.setdefault(face.track_id, Presence())
        one.num_frames += face.num_frames
        one.times.append(face.time)
        one.boxes.append(face.box)
        if face.is_main:
            one.num_led += 1
            one.reason = one.reason or face.chosen_because

    def main(self) -> int | None:
        """Return the face that led the most windows, and of those the most seen."""
        led = {track: (one.num_led, one.num_frames) for track, one in self.by_track.items() if one.num_led}
        return max(led, key=lambda track: led[track]) if led else None


@dataclass
class Gathered:
    """The windows side by side, as the whole is judged from them."""

    name: str = "clip"
    seconds: float = 0.0
    sha256: str | None = None
    num_frames: int = 0
    audio_seconds: float = 0.0
    is_still: bool = False
    windows: list[WindowAnalysis] = field(default_factory=list)
    readings: list[FaceReadings] = field(default_factory=list)  # of all faces that are read, in order of time
    mains: list[FaceReadings] = field(default_factory=list)  # of the face that led each window
    faces: list[FaceTokens] = field(default_factory=list)
    voices: list[VoiceTokens] = field(default_factory=list)
    words: list[SaidWords] = field(default_factory=list)
    presence: Presences = field(default_factory=Presences)
    file_warnings: list[str] = field(default_factory=list)
    timings_ms: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, windows: Iterable[KeptWindow]) -> Gathered:
        """Gather windows, in order."""
        gathered = cls()
        for window in windows:
            gathered._add(window)
        return gathered

    def _add(self, window: KeptWindow) -> None:
        self.name, self.seconds, self.is_still = window.name, window.end, window.is_still
        self.sha256 = window.sha256 or self.sha256
        self.num_frames += window.num_frames
        self.audio_seconds += window.audio_seconds
        self.windows.append(window.analysis)
        self.readings.extend(window.readings)
        if window.readings:
            self.mains.append(window.readings[0])
            if window.face_tokens is not None:
                self.faces.append(FaceTokens(tokens=window.face_tokens, readings=window.readings[0]))
        if window.voice is not None and window.voice_tokens is not None:
            self.voices.append(VoiceTokens(tokens=window.voice_tokens, readings=window.voice))
        if window.words is not None:
            self.words.append(window.words)
        for face in window.faces:
            self.presence.add(face)
        self.file_warnings.extend(window.file_warnings)
        for stage, milliseconds in window.timings_ms.items():
            self.timings_ms[stage] = self.timings_ms.get(stage, 0.0) + milliseconds
