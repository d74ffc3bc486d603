"""Subtitle files (SubRip, WebVTT) -> `Transcript` with times, so that a quoted word can be placed in the clip.

Only times and text are read: styling tags, positions, speaker tags and WebVTT notes are dropped.
"""

from __future__ import annotations

import html
import re

from emollama.errors import InputError
from emollama.types import Transcript, TranscriptSegment

_STAMP = r"(?:(\d{1,3}):)?([0-5]?\d):([0-5]?\d)[,.](\d{1,3})"
_TIMING = re.compile(rf"^\s*{_STAMP}\s*-->\s*{_STAMP}")
_TAG = re.compile(r"<[^>]*>|\{\\[^}]*\}")


def read_subtitles(text: str, *, language: str | None = None) -> Transcript:
    """Read the text of a ``.srt`` or ``.vtt`` file; raises `InputError` (field ``transcript``) when it holds no cue."""
    segments = []
    for block in re.split(r"\n\s*\n", text.replace("\r\n", "\n").replace("\r", "\n").lstrip("\ufeff")):
        lines = block.strip().split("\n")
        at = next((index for index, line in enumerate(lines[:2]) if _TIMING.match(line)), None)
        if at is None:
            continue
        match = _TIMING.match(lines[at])
        assert match is not None
        words = " ".join(html.unescape(_TAG.sub("", " ".join(lines[at + 1 :]))).split())
        start, end = _seconds(match.groups()[:4]), _seconds(match.groups()[4:])
        if words and end >= start:
            segments.append(TranscriptSegment(start=start, end=end, text=words))
    if not segments:
        raise InputError("the transcript is not a subtitle file: it holds no timed line", field="transcript")
    segments.sort(key=lambda segment: segment.start)
    joined = " ".join(segment.text for segment in segments)
    return Transcript(text=joined, language=language, segments=tuple(segments), source="given")


def _seconds(parts: tuple[str | None, ...]) -> float:
    hours, minutes, seconds, fraction = parts
    return (
        int(hours or 0) * 3600
        + int(minutes or 0) * 60
        + int(seconds or 0)
        + int((fraction or "0").ljust(3, "0")) / 1000
    )
