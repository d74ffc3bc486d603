"""Readings over time -> smoothed segments of one face track, and their writers (JSON, CSV, SRT, WebVTT).

Smoothing is the mean over a centred window cut at the ends, as HSEmotion does for ABAW (box filter on class
probabilities; the mean is always better there than the median). A segment changes only when another expression
leads by a margin (hysteresis), and stretches shorter than ``min_seconds`` are given to a neighbour, so that a
timeline reads as a story and not as flicker. Where the face was lost for longer than ``max_gap_seconds`` there is
no segment: an unseen face has no expression.

This module knows nothing of models or pictures: it reads `FaceReadings` and writes `Segment`.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from emollama.errors import InputError
from emollama.labels import NANO_LABELS, adjective, canonical
from emollama.temporal import window_means
from emollama.types import FaceReadings, Segment


@dataclass(frozen=True, kw_only=True)
class TimelineOptions:
    """How readings become segments. All in seconds, but ``margin``: a difference of probabilities."""

    half_window_seconds: float = 0.5
    margin: float = 0.05
    min_seconds: float = 0.4
    max_gap_seconds: float = 1.0

    def __post_init__(self) -> None:
        for name in ("half_window_seconds", "margin", "min_seconds", "max_gap_seconds"):
            value = getattr(self, name)
            if not 0.0 <= value <= 60.0:
                raise InputError(f"{name} is {value}; allowed: 0 to 60", field=name)


def smooth(times: np.ndarray, values: np.ndarray, *, half_window_seconds: float) -> np.ndarray:
    """Return the mean of ``values`` [T, ...] over ``times`` [T] +- the half window; windows are cut at the ends."""
    if len(times) == 0:
        return np.asarray(values, dtype=np.float64)
    low = np.searchsorted(times, times - half_window_seconds - 1e-6, side="left")
    high = np.searchsorted(times, times + half_window_seconds + 1e-6, side="right")
    return window_means(values, low, high)


def restrict(
    probabilities: np.ndarray, labels: Sequence[str], asked: Sequence[str] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return probabilities [..., K'] over the asked labels in the asker's words.

    An asked set that names an emotion the readings do not have cannot be answered by them: then the readings' own
    labels stay.
    """
    if asked is None:
        return probabilities, tuple(labels)
    index = {canonical(name): i for i, name in enumerate(labels)}
    names = [canonical(name) for name in asked]
    if any(name not in index for name in names):
        return probabilities, tuple(labels)
    chosen = probabilities[..., [index[name] for name in names]] + 1e-9
    return chosen / chosen.sum(axis=-1, keepdims=True), tuple(asked)


def segments(
    readings: FaceReadings,
    *,
    labels: Sequence[str] | None = None,
    options: TimelineOptions | None = None,
    until: float | None = None,
) -> tuple[Segment, ...]:
    """Return the smoothed segments of one face track, in time order, that never overlap.

    ``labels`` restricts the expressions to a caller's set where the readings can answer it (see `restrict`). The last
    sample of a track stands for the time to the next one that would have been taken, but not beyond ``until`` seconds,
    the clip's end; without it the last segment ends at the last sample.
    """
    options = options or TimelineOptions()
    times = np.asarray(readings.times, dtype=np.float64)
    if len(times) == 0:
        return ()
    raw, names = restrict(np.asarray(readings.probabilities, dtype=np.float64), readings.labels, labels)
    step = _step(times)
    found: list[Segment] = []
    cuts = np.flatnonzero(np.diff(times) > max(options.max_gap_seconds, 1.5 * step)) + 1
    for part in np.split(np.arange(len(times)), cuts):
        width = 0.0 if readings.is_smooth else options.half_window_seconds
        smoothed = smooth(times[part], raw[part], half_window_seconds=width)
        path = _hysteresis(smoothed, margin=options.margin)
        runs = _absorb_short(_runs(path), times[part], smoothed, step=step, min_seconds=options.min_seconds)
        for first, last, label in runs:
            rows = part[first : last + 1]
            start = times[rows[0]] if first == 0 else (times[rows[0]] + times[rows[0] - 1]) / 2
            if last < len(part) - 1:
                end = (times[rows[-1]] + times[rows[-1] + 1]) / 2
            else:
                end = times[rows[-1]] if until is None else max(times[rows[-1]], min(times[rows[-1]] + step, until))
            mean = smoothed[first : last + 1].mean(axis=0)
            mean = mean / mean.sum()
            found.append(
                Segment(
                    start=round(float(start), 3),
                    end=round(float(end), 3),
                    label=names[label],
                    scores={name: round(float(p), 6) for name, p in zip(names, mean, strict=True)},
                    valence=_mean(readings.valence[rows]),
                    arousal=_mean(readings.arousal[rows]),
                    track=readings.track_id,
                    action_units=_units(readings, rows),
                    active_units=_active(readings, rows),
                )
            )
    return tuple(found)


def _mean(values: np.ndarray) -> float | None:
    """Return the mean of a stretch, or ``None`` where the model gives no such number."""
    mean = float(np.mean(values))
    return None if np.isnan(mean) else round(mean, 4)


def _units(readings: FaceReadings, rows: np.ndarray) -> dict[str, float]:
    if readings.units is None:
        return {}
    means = np.asarray(readings.units, np.float64)[rows].mean(axis=0)
    return {name: round(float(p), 4) for name, p in zip(readings.action_units, means, strict=True)}


def _active(readings: FaceReadings, rows: np.ndarray) -> tuple[str, ...] | None:
    """Return the action units that exceed their thresholds in at least half of the readings of a stretch."""
    if readings.units is None or not readings.unit_thresholds:
        return None
    share = (np.asarray(readings.units)[rows] > np.asarray(readings.unit_thresholds)).mean(axis=0)
    return tuple(name for name, part in zip(readings.action_units, share, strict=True) if part >= 0.5)


def _step(times: np.ndarray) -> float:
    return float(np.median(np.diff(times))) if len(times) > 1 else 0.0


def _hysteresis(smoothed: np.ndarray, *, margin: float) -> list[int]:
    current = int(smoothed[0].argmax())
    path = []
    for row in smoothed:
        best = int(row.argmax())
        if row[best] > row[current] + margin:
            current = best
        path.append(current)
    return path


def _runs(path: Sequence[int]) -> list[tuple[int, int, int]]:
    """Return (first index, last index, label) of every stretch of equal labels."""
    starts = [0] + [i for i in range(1, len(path)) if path[i] != path[i - 1]]
    return [(a, b - 1, path[a]) for a, b in zip(starts, [*starts[1:], len(path)], strict=True)]


def _absorb_short(
    runs: list[tuple[int, int, int]], times: np.ndarray, smoothed: np.ndarray, *, step: float, min_seconds: float
) -> list[tuple[int, int, int]]:
    """Give every stretch shorter than ``min_seconds`` to the neighbour whose label was likelier meanwhile."""
    runs = list(runs)
    while len(runs) > 1:
        spans = [times[b] - times[a] + step for a, b, _ in runs]
        shortest = int(np.argmin(spans))
        if spans[shortest] >= min_seconds - 1e-6:
            break
        first, last, _ = runs[shortest]
        neighbours = [i for i in (shortest - 1, shortest + 1) if 0 <= i < len(runs)]
        heir = max(neighbours, key=lambda i: smoothed[first : last + 1, runs[i][2]].mean())
        runs[shortest] = (first, last, runs[heir][2])
        merged: list[tuple[int, int, int]] = []
        for run in runs:
            if merged and merged[-1][2] == run[2]:
                merged[-1] = (merged[-1][0], run[1], run[2])
            else:
                merged.append(run)
        runs = merged
    return runs


# ---- writers ------------------------------------------------------------------------------------------------------


def to_json(timeline: Sequence[Segment]) -> str:
    """Return a JSON array of segments."""
    rows = [
        {
            "start": s.start, "end": s.end, "label": s.label, "scores": dict(s.scores),
            "valence": s.valence, "arousal": s.arousal, "track": s.track, "action_units": dict(s.action_units),
            "active_units": None if s.active_units is None else list(s.active_units),
        }
        for s in timeline
    ]  # fmt: skip
    return json.dumps(rows, ensure_ascii=False, indent=2)


def to_csv(timeline: Sequence[Segment]) -> str:
    """Return one row a segment: start, end, track, label, valence, arousal, a column for each label's score, and one
    for each action unit that was read; where thresholds were tuned, the names of those that are there, too."""
    names = list(dict.fromkeys(name for segment in timeline for name in segment.scores))
    units = list(dict.fromkeys(name for segment in timeline for name in segment.action_units))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    columns = [*(f"score_{name}" for name in names), *(f"unit_{name}" for name in units)]
    decided = any(segment.active_units is not None for segment in timeline)
    columns += ["active_units"] if decided else []
    writer.writerow(["start", "end", "track", "label", "valence", "arousal", *columns])
    for s in timeline:
        read = [*(s.scores.get(name, "") for name in names), *(s.action_units.get(name, "") for name in units)]
        read += [" ".join(s.active_units or ())] if decided else []
        writer.writerow([s.start, s.end, s.track, s.label, s.valence, s.arousal, *read])
    return buffer.getvalue()


def to_srt(timeline: Sequence[Segment]) -> str:
    """Return SubRip subtitles that show the expression while it lasts."""
    return "".join(
        f"{number}\n{_clock(s.start, ',')} --> {_clock(_visible_end(s), ',')}\n{_caption(s)}\n\n"
        for number, s in enumerate(timeline, start=1)
    )


def to_vtt(timeline: Sequence[Segment]) -> str:
    """Return WebVTT subtitles that show the expression while it lasts."""
    cues = "".join(f"{_clock(s.start, '.')} --> {_clock(_visible_end(s), '.')}\n{_caption(s)}\n\n" for s in timeline)
    return f"WEBVTT\n\n{cues}"


WRITERS = {"json": to_json, "csv": to_csv, "srt": to_srt, "vtt": to_vtt}


def _visible_end(segment: Segment) -> float:
    # A picture's only segment starts and ends at 0 s; a subtitle must last to be seen.
    return max(segment.end, segment.start + 0.4)


def _caption(segment: Segment) -> str:
    word = adjective(segment.label) if segment.label in NANO_LABELS else segment.label
    text = f"face {segment.track}: appears {word} ({segment.scores.get(segment.label, 0.0):.0%})"
    return text.replace("-->", "->").replace("&", "&amp;").replace("<", "&lt;")


def _clock(seconds: float, point: str) -> str:
    milliseconds = round(seconds * 1000)
    hours, rest = divmod(milliseconds, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    whole, fraction = divmod(rest, 1000)
    return f"{hours:02d}:{minutes:02d}:{whole:02d}{point}{fraction:03d}"
