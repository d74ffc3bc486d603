"""A clip of any length -> stretches of it, one after the other, in memory that does not grow with the clip.

The file is passed over once. Pictures and sound of a stretch are handed over when both tracks have gone past its end,
and then let go of. Tracks of different length are no matter: one that has fallen `_LARGEST_LAG_SECONDS` behind the
other is not waited for, and what of it comes later than its stretch is dropped, with a warning. The sha256 is taken
along the way. Decoding, limits and the handling of damage are those of `emollama.media.read_clip`.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from emollama import sniff
from emollama.collectors import DAMAGE, SAMPLE_RATE, Plan
from emollama.demux import Reading, damage, declared_seconds, open_container, open_source
from emollama.errors import CancelledError, InputError
from emollama.media import MediaLimits, read_clip, seekable, sniff_source
from emollama.types import Clip

LONG_LIMITS = MediaLimits(max_bytes=8 * 10**9, max_seconds=4 * 3600.0, max_frames=900_000)
WINDOW_SECONDS = 30.0
LONG_FPS = 2.0
_LARGEST_LAG_SECONDS = 10.0
_SHORTEST_LAST_SECONDS = 1.0  # what would be shorter is a part of the stretch before it
_FRAME_BYTES = 96 * 2**20  # of RGB for one stretch and what may lag behind it; larger pictures are kept smaller


@dataclass(frozen=True, kw_only=True)
class ClipWindow:
    """A decoded stretch: ``start`` and ``end`` in seconds of the file; the times in ``clip`` count from ``start``.

    ``share`` is how much of the file has been passed, in [0, 1]. The last window has ``is_last`` set, carries what is
    wrong with the file as a whole among the warnings of its clip, and the sha256 of the whole file.
    """

    index: int
    start: float
    end: float
    clip: Clip
    share: float
    is_last: bool = False


def read_windows(
    source: Path | str | bytes | BinaryIO,
    *,
    name: str | None = None,
    seconds: float = WINDOW_SECONDS,
    fps: float = LONG_FPS,
    max_long_side: int = 1280,
    limits: MediaLimits = LONG_LIMITS,
    threads: int | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Iterator[ClipWindow]:
    """Decode a clip as stretches of ``seconds``; the last one may be up to a second longer, or shorter.

    ``source`` is a path, bytes, or an open file that can be sought; ``fps`` the rate at which pictures are kept.
    ``cancelled`` is asked between packets. A picture is one stretch.
    Raises what `read_clip` raises, when it is met: stretches before it have been given by then; and `CancelledError`.
    """
    if not 0.1 <= fps <= 60:
        raise InputError(f"fps is {fps}; allowed: 0.1 to 60", field="fps")
    if not 2.0 <= seconds <= 300.0:
        raise InputError(f"seconds is {seconds}; allowed: 2 to 300", field="seconds")
    if max_long_side < 16:
        raise InputError(f"max_long_side is {max_long_side}; allowed: from 16", field="max_long_side")
    file = open_source(source) if isinstance(source, (str, Path)) else source
    if isinstance(source, (str, Path)):
        name = name or Path(source).name
    options = _Options(
        name=name or "clip", seconds=seconds, fps=fps, max_long_side=max_long_side, limits=limits, threads=threads,
        cancelled=cancelled or (lambda: False),
    )  # fmt: skip
    return _windows(file, options, is_ours=file is not source)


def clip_seconds(source: Path | str | bytes | BinaryIO) -> float | None:
    """Return the length that a file declares, without decoding it; ``None`` where it declares none.

    Raises `UnsupportedMediaError` for what is not media. A file that cannot be opened declares nothing.
    """
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(open_source(source)) if isinstance(source, (str, Path)) else source
        opened = seekable(file, limits=LONG_LIMITS)
        media_type, _ = sniff_source(opened, limits=LONG_LIMITS)
        try:
            with open_container(sniff.mended(opened, media_type), media_type, LONG_LIMITS) as container:
                return declared_seconds(container, media_type) or None
        except DAMAGE:
            return None
        finally:
            opened.seek(0)


@dataclass(frozen=True, kw_only=True)
class _Options:
    name: str
    seconds: float
    fps: float
    max_long_side: int
    limits: MediaLimits
    threads: int | None
    cancelled: Callable[[], bool]


def _windows(source: bytes | BinaryIO, options: _Options, *, is_ours: bool) -> Iterator[ClipWindow]:
    with contextlib.ExitStack() as stack:
        if is_ours:
            assert not isinstance(source, bytes)
            stack.enter_context(source)
        file = seekable(source, limits=options.limits)
        media_type, head = sniff_source(file, limits=options.limits)
        if media_type.family == "image":
            clip = read_clip(file, name=options.name, max_long_side=options.max_long_side, limits=options.limits)
            yield ClipWindow(index=0, start=0.0, end=clip.seconds, clip=clip, share=1.0, is_last=True)
            return
        plan = Plan(
            interval=1.0 / options.fps,
            max_samples=1,
            max_long_side=options.max_long_side,
            limits=options.limits,
            threads=options.threads or 1,
            exif_orientation=sniff.exif_orientation(head),
            held_seconds=options.seconds + _LARGEST_LAG_SECONDS + _SHORTEST_LAST_SECONDS,
            frame_bytes=_FRAME_BYTES,
        )
        yield from _Cutter(Reading(file, media_type, plan), _Digest(file), options).windows()


class _Digest:
    """The sha256 of a file that somebody else is reading: taken a part at a time, the file's place put back."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._sha, self._done = file, hashlib.sha256(), 0

    def advance(self, end: float = math.inf) -> None:
        """Take what lies before byte ``end``."""
        place = self._file.tell()
        self._file.seek(self._done)
        while self._done < end:
            block = self._file.read(1 << 20)
            if not block:
                break
            self._sha.update(block)
            self._done += len(block)
        self._file.seek(place)

    def hexdigest(self) -> str:
        self.advance()
        return self._sha.hexdigest()


class _Cutter:
    """Cuts what a pass collects into windows, as soon as they are complete."""

    def __init__(self, reading: Reading, digest: _Digest, options: _Options) -> None:
        self._reading, self._digest, self._options = reading, digest, options
        self._index, self._start, self._told = 0, 0.0, 0

    def windows(self) -> Iterator[ClipWindow]:
        reading, seconds = self._reading, self._options.seconds
        for _ in reading.steps():
            if self._options.cancelled():
                raise CancelledError("the reading of the clip was cancelled")
            while self._reached(self._start + seconds + _SHORTEST_LAST_SECONDS):
                yield self._window(self._start + seconds)
                self._digest.advance(reading.share * reading.size)
        end = max(
            0.0 if reading.video is None or not reading.video.has_picture else reading.video.end,
            0.0 if reading.audio is None else reading.audio.end,
        )
        while end - self._start > seconds + _SHORTEST_LAST_SECONDS:
            yield self._window(self._start + seconds)
        yield self._last(max(end, self._start))

    def _reached(self, time: float) -> bool:
        """Tell whether both tracks have passed a time, or one is so far beyond it that the other is not waited for."""
        video, audio = self._reading.video, self._reading.audio
        passed = [track.passed for track in (video, audio) if track is not None]
        if min(passed) >= time:
            return True
        if max(passed) < time + _LARGEST_LAG_SECONDS:
            return False
        if video is not None and video.passed < time:
            with contextlib.suppress(*DAMAGE):
                video.drain()  # a track that has ended leaves its last pictures in the decoder
        return True

    def _window(self, end: float, *, until: float | None = None) -> ClipWindow:
        reading, start = self._reading, self._start
        until = end if until is None else until
        frames = None if reading.video is None else reading.video.take(start, until)
        audio = None if reading.audio is None else reading.audio.take(start, until)
        window = ClipWindow(
            index=self._index,
            start=start,
            end=end,
            clip=Clip(
                name=self._options.name, seconds=end - start, frames=frames, audio=audio, warnings=self._warnings(end)
            ),
            share=reading.share,
        )
        self._index, self._start = self._index + 1, end
        return window

    def _last(self, end: float) -> ClipWindow:
        reading = self._reading
        is_still = reading.audio is None and reading.video is not None and reading.video.is_still
        first = self._index == 0
        stills = reading.video.frames(alone=True) if is_still and reading.video is not None else None
        window = self._window(end, until=math.inf)
        reading.warnings.extend(self._holes_told())
        reading.finish(end, is_still=is_still, damage_is_told=True)
        clip = replace(
            window.clip,
            frames=stills if first and is_still else window.clip.frames,
            sha256=self._digest.hexdigest(),
            warnings=(*window.clip.warnings, *reading.warnings),
        )
        return replace(window, clip=clip, share=1.0, is_last=True)

    def _warnings(self, end: float) -> tuple[str, ...]:
        """What was found to be damaged while this window was read; decoders are a few pictures behind the file."""
        count, self._told = self._reading.num_damaged - self._told, self._reading.num_damaged
        return (damage(count, of=f"the stretch from {self._start:.0f} s to {end:.0f} s"),) if count else ()

    def _holes_told(self) -> list[str]:
        told = []
        # The last picture of a track that ends early may come only at the end of the file: its parser waits for more.
        if self._reading.video is not None and self._reading.video.num_late > 1:
            told.append(f"{self._reading.video.num_late} pictures lie too far behind the sound in the file to be used")
        if self._reading.audio is not None and self._reading.audio.num_late > SAMPLE_RATE // 10:
            late = self._reading.audio.num_late / SAMPLE_RATE
            told.append(f"{late:.1f} s of sound lie too far behind the picture in the file to be used")
        if self._reading.audio is not None and self._reading.audio.missing_seconds > 0:
            missing = self._reading.audio.missing_seconds
            told.append(f"{missing:.1f} s of sound are missing in the middle of the file; they count as silence")
        return told
