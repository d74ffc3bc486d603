"""The answer about a long clip: an ordinary `Analysis` of the whole, and beside it what each window said.

All times are seconds from the start of the clip. ``to_json_dict`` is the wire form (``docs/long-clips.md``): that of
an ordinary analysis with the fields of this one beside it, so that whoever reads the one can read the other.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from emollama import timeline
from emollama.types import Affect, Analysis, Emotion, Evidence, Modality, plain


@dataclass(frozen=True, kw_only=True)
class WindowAnalysis:
    """What one stretch of the clip said. ``track`` is the face that was followed.

    ``emotion.label`` is ``None`` where there was no face, no voice and no word; ``rationale``, when none was asked for.
    """

    index: int
    start: float
    end: float
    emotion: Emotion
    open_vocabulary: tuple[str, ...]
    affect: Affect
    evidence: Mapping[Modality, tuple[Evidence, ...]]
    used: tuple[Modality, ...]
    track: int | None
    rationale: str | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Chapter:
    """A stretch of the clip over which its windows, smoothed, say the same. ``scores`` are their mean."""

    start: float
    end: float
    label: str
    scores: Mapping[str, float]
    valence: float | None
    arousal: float | None


@dataclass(frozen=True, kw_only=True)
class TurningPoint:
    """Where one chapter goes over into the next: ``time`` by the face where it shows the change, else a border."""

    time: float
    before: str
    after: str
    found_in: Literal["face", "windows"]


@dataclass(frozen=True, kw_only=True)
class LongAnalysis:
    """The answer about a long clip. ``whole`` is an ordinary analysis, with the timeline of the whole clip.

    ``course`` tells the chapters in words ("sadness until 12:40, then happiness"); ``time_by_label`` are the seconds of
    the windows by their label.
    """

    whole: Analysis
    window_seconds: float
    windows: tuple[WindowAnalysis, ...]
    chapters: tuple[Chapter, ...] = ()
    turning_points: tuple[TurningPoint, ...] = ()
    course: str = ""
    time_by_label: Mapping[str, float] = field(default_factory=dict)
    sha256: str | None = None

    def to_json_dict(self) -> dict[str, Any]:
        """Return plain JSON types: the whole's fields at the top level, then those of this class."""
        own = {
            "window_seconds": self.window_seconds,
            "course": self.course,
            "chapters": plain(self.chapters),
            "turning_points": plain(self.turning_points),
            "time_by_label": plain(self.time_by_label),
            "windows": [_window(window) for window in self.windows],
            "sha256": self.sha256,
        }
        return {**self.whole.to_json_dict(), **own}


def _window(window: WindowAnalysis) -> dict[str, Any]:
    document: dict[str, Any] = plain(window)
    affect = document.pop("affect")
    document["valence"], document["arousal"], document["affect_source"] = (
        affect["valence"], affect["arousal"], affect["source"],
    )  # fmt: skip
    return document


def windows_to_csv(windows: Sequence[WindowAnalysis]) -> str:
    """Return one row a window: its times, label, confidence, valence, arousal, what was used, and a score a label."""
    names = list(dict.fromkeys(name for window in windows for name in window.emotion.scores))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    head = ["start", "end", "label", "confidence", "abstained", "valence", "arousal", "used", "track", "rationale"]
    writer.writerow([*head, *(f"score_{name}" for name in names)])
    for window in windows:
        emotion, affect = window.emotion, window.affect
        row = [
            window.start, window.end, emotion.label or "", emotion.confidence, emotion.abstained,
            "" if affect.valence is None else affect.valence, "" if affect.arousal is None else affect.arousal,
            " ".join(window.used), "" if window.track is None else window.track, window.rationale or "",
        ]  # fmt: skip
        writer.writerow([*row, *(emotion.scores.get(name, "") for name in names)])
    return buffer.getvalue()


def _timeline(write: Callable[[Any], str]) -> Callable[[LongAnalysis], str]:
    return lambda answer: write(answer.whole.timeline)


# What can be written of a long analysis: the timeline of its faces as an ordinary analysis writes it, and the windows.
WRITERS: Mapping[str, Callable[[LongAnalysis], str]] = MappingProxyType(
    {
        **{name: _timeline(write) for name, write in timeline.WRITERS.items()},
        "windows.csv": lambda answer: windows_to_csv(answer.windows),
    }
)
