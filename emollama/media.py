"""Any clip -> `Clip`: upright RGB frames at a chosen rate and mono 16 kHz sound, through PyAV (FFmpeg).

The container is told from its bytes (`emollama.sniff`) and opened from memory or an open file with exactly that
demuxer (`emollama.demux`); nothing that the file names is ever opened. Limits hold before decoding, from what the file
declares, and again while decoding, from what it really holds. Frames that are not wanted are not converted, those that
nothing refers to are not decoded, and when samples lie far apart only key frames are (`emollama.collectors`). A damaged
file gives what could be read and a warning. Long clips are read stretch by stretch by `emollama.media_windows`. What it
does not do: subtitles, chapters, more than one video and one sound track, encryption.
"""

from __future__ import annotations

import hashlib
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from emollama import sniff
from emollama.collectors import SAMPLE_RATE, Plan
from emollama.demux import Reading, open_source
from emollama.errors import InputError, MediaLimitError
from emollama.types import Clip, Transcript

__all__ = ["DEFAULT_FPS", "SAMPLE_RATE", "MediaLimits", "read_clip"]

DEFAULT_FPS = 5.0


@dataclass(frozen=True, kw_only=True)
class MediaLimits:
    """What one clip may cost. ``max_frames`` counts all pictures in the video track, wanted or not.

    ``max_fps`` is above what any camera writes and holds from some hundred pictures on: a file that packs more of them
    into its seconds was made to be dear.
    """

    max_bytes: int = 200 * 10**6
    max_seconds: float = 600.0
    max_pixels_per_frame: int = 4096 * 2304
    max_frames: int = 72_000
    max_fps: float = 300.0
    max_streams: int = 16

    def __post_init__(self) -> None:
        for field in ("max_bytes", "max_seconds", "max_pixels_per_frame", "max_frames", "max_fps", "max_streams"):
            value = getattr(self, field)
            if not value > 0:
                raise InputError(f"{field} is {value!r}; it must be above 0", field=field)

    def check(self, limit: str, value: float, *, unit: str) -> None:
        """Raise `MediaLimitError` when ``value`` is over the limit called ``limit``."""
        allowed = getattr(self, limit)
        if value > allowed:
            raise MediaLimitError(
                f"the file has {value:,.10g} {unit}; {limit} is {allowed:,.10g}", field="file", limit=limit
            )


def read_clip(
    source: Path | str | bytes | BinaryIO,
    *,
    name: str | None = None,
    fps: float = DEFAULT_FPS,
    max_samples: int = 240,
    max_long_side: int = 1280,
    limits: MediaLimits = MediaLimits(),
    transcript: str | Transcript | None = None,
    threads: int | None = None,
    start: float | None = None,
    end: float | None = None,
) -> Clip:
    """Decode a clip from a path, its bytes, or an open binary file (read from its start, left open).

    ``fps`` is the rate at which frames are kept; over ``max_samples`` of them, the clip is sampled more thinly instead
    of cut. With ``start`` and ``end`` (seconds) only that stretch is decoded, its times count from ``start``, and
    ``max_seconds`` holds for the stretch. With several ``threads`` a long clip is decoded sooner, and which pictures
    are kept may depend on their number.
    Raises `UnsupportedMediaError` (not media), `UndecodableMediaError` (nothing to read), `MediaLimitError`
    (names the limit and the value), `InputError` (arguments, no such file).
    """
    if not 0.1 <= fps <= 60:
        raise InputError(f"fps is {fps}; allowed: 0.1 to 60", field="fps")
    if max_samples < 1 or max_long_side < 16:
        raise InputError(
            f"max_samples is {max_samples} and max_long_side {max_long_side}; allowed: from 1 and from 16",
            field="max_samples" if max_samples < 1 else "max_long_side",
        )
    window = None
    if start is not None or end is not None:
        window = (start or 0.0, math.inf if end is None else end)
        if not (0.0 <= window[0] < window[1]):
            raise InputError(f"start is {start} and end {end}; allowed: 0 or more, and an end after it", field="end")
    if isinstance(source, (str, Path)):
        with open_source(source) as opened:
            return read_clip(
                opened, name=name or Path(source).name, fps=fps, max_samples=max_samples, max_long_side=max_long_side,
                limits=limits, transcript=transcript, threads=threads, start=start, end=end,
            )  # fmt: skip
    file = seekable(source, limits=limits)
    media_type, head = sniff_source(file, limits=limits)
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    file.seek(0)
    plan = Plan(
        interval=1.0 / fps, max_samples=max_samples, max_long_side=max_long_side, limits=limits,
        threads=threads or 1, exif_orientation=sniff.exif_orientation(head),
        window=None if media_type.family == "image" else window,
    )  # fmt: skip
    reading = Reading(file, media_type, plan)
    for _ in reading.steps():
        pass
    video = reading.video
    frames = None if video is None else video.frames(alone=reading.audio is None)
    audio = None if reading.audio is None else reading.audio.audio()
    is_still = frames is not None and frames.is_still
    ends = [0.0]
    if frames is not None and video is not None and not is_still:
        ends.append(video.end)
    if audio is not None:
        ends.append(audio.start + audio.seconds)
    reading.finish(max(ends), is_still=is_still)
    if isinstance(transcript, str):
        transcript = Transcript(text=transcript.strip(), source="given") if transcript.strip() else None
    return Clip(
        name=name or "clip",
        seconds=max(ends),
        frames=frames,
        audio=audio,
        transcript=transcript,
        sha256=digest.hexdigest(),
        warnings=tuple(reading.warnings),
    )


def sniff_source(file: BinaryIO, *, limits: MediaLimits) -> tuple[sniff.MediaType, bytes]:
    """Tell what a file is from its first bytes, which are returned too; a picture too large is a `MediaLimitError`."""
    file.seek(0)
    head = file.read(sniff.HEAD_BYTES)
    media_type = sniff.sniff(head)
    declared = sniff.image_size(head)
    if declared is not None:
        limits.check("max_pixels_per_frame", declared[0] * declared[1], unit=f"pixels ({declared[0]}x{declared[1]})")
    file.seek(0)
    return media_type, head


def seekable(source: bytes | BinaryIO, *, limits: MediaLimits) -> BinaryIO:
    """Return ``source`` as a seekable file of an allowed size, without ever reading more than the limit allows."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        limits.check("max_bytes", len(source), unit="bytes")
        return io.BytesIO(source)
    if not source.seekable():
        content = source.read(limits.max_bytes + 1)
        limits.check("max_bytes", len(content), unit="bytes")
        return io.BytesIO(content)
    limits.check("max_bytes", source.seek(0, io.SEEK_END), unit="bytes")
    source.seek(0)
    return source
