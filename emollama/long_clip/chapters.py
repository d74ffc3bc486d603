"""Windows -> chapters and turning points: the story of a long clip, told by what lasts.

The windows' scores are smoothed over their neighbours and cut by the rules of `emollama.timeline`, so one odd window
makes no chapter. Where one chapter goes over into the next, the face is looked at in the two windows around the
border: when its readings go over from the one to the other there, the time is theirs, to the sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from emollama.labels import canonical
from emollama.long_clip.analysis import Chapter, TurningPoint, WindowAnalysis
from emollama.long_clip.clock import clock
from emollama.timeline import TimelineOptions, segments
from emollama.types import FaceReadings

_MOST_SECONDS = 60.0  # the widest that a timeline is smoothed
_FOLLOWS_SECONDS = 1.0  # chapters this near to each other follow each other
_CLEAR = 0.05  # difference of probabilities by which a face must lean to either side of a turning point


def chapters_of(windows: Sequence[WindowAnalysis], *, window_seconds: float) -> tuple[Chapter, ...]:
    """Return stretches of windows that say the same; where there was nothing to judge, there is no chapter."""
    judged = [window for window in windows if window.emotion.label is not None]
    if not judged:
        return ()
    names = tuple(judged[0].emotion.scores)
    affect = np.array([[w.affect.valence or 0.0, w.affect.arousal or 0.0] for w in judged])
    middles = np.array([(window.start + window.end) / 2 for window in judged])
    series = FaceReadings(
        track_id=0,
        times=middles,
        labels=names,
        probabilities=np.array([[window.emotion.scores[name] for name in names] for window in judged]),
        valence=affect[:, 0],
        arousal=affect[:, 1],
    )
    options = TimelineOptions(
        half_window_seconds=min(_MOST_SECONDS, window_seconds),
        margin=0.05,
        min_seconds=min(_MOST_SECONDS, 1.5 * window_seconds),
        max_gap_seconds=min(_MOST_SECONDS, 1.5 * window_seconds),
    )
    found = []
    for segment in segments(series, options=options):
        inside = [w for w, m in zip(judged, middles, strict=True) if segment.start - 1e-3 <= m <= segment.end + 1e-3]
        known = [w for w in inside if w.affect.valence is not None]
        found.append(
            Chapter(
                start=inside[0].start,
                end=inside[-1].end,
                label=segment.label,
                scores=segment.scores,
                valence=segment.valence if known else None,
                arousal=segment.arousal if known else None,
            )
        )
    return tuple(found)


def turned(
    chapters: Sequence[Chapter], face: FaceReadings | None, *, window_seconds: float
) -> tuple[tuple[Chapter, ...], tuple[TurningPoint, ...]]:
    """Return the chapters with their borders where the face turns, and the points where one goes over into the next."""
    found, points = list(chapters), []
    for index in range(len(found) - 1):
        before, after = found[index], found[index + 1]
        if before.label == after.label or after.start - before.end > _FOLLOWS_SECONDS:
            continue
        time = None if face is None else _change(face, before, after, within=window_seconds)
        at = round(after.start if time is None else time, 2)
        found[index], found[index + 1] = replace(before, end=at), replace(after, start=at)
        points.append(
            TurningPoint(
                time=at, before=before.label, after=after.label, found_in="windows" if time is None else "face"
            )
        )
    return tuple(found), tuple(points)


def _change(face: FaceReadings, before: Chapter, after: Chapter, *, within: float) -> float | None:
    """Return the time at which a face goes over from one expression to another, near the border of two chapters.

    It is where the lead of the first over the second, summed up to there, is greatest. The face must lean to the first
    before it and to the second behind it, or it is not the face that turned.
    """
    columns = {canonical(name): index for index, name in enumerate(face.labels)}
    if canonical(before.label) not in columns or canonical(after.label) not in columns:
        return None
    first, last = max(before.start, after.start - within), min(after.end, after.start + within)
    rows = np.flatnonzero((face.times >= first) & (face.times < last))
    if len(rows) < 4:
        return None
    table = face.probabilities[rows]
    lead = table[:, columns[canonical(before.label)]] - table[:, columns[canonical(after.label)]]
    at = int(np.cumsum(lead).argmax()) + 1
    if not 0 < at < len(rows) or lead[:at].mean() < _CLEAR or lead[at:].mean() > -_CLEAR:
        return None
    return float((face.times[rows[at - 1]] + face.times[rows[at]]) / 2)


def course_of(chapters: Sequence[Chapter]) -> str:
    """Tell chapters in words: ``sadness until 12:40, then happiness``; a chapter after a gap is told with its start."""
    told: list[str] = []
    for index, chapter in enumerate(chapters):
        opening = ""
        if index:
            follows = chapter.start - chapters[index - 1].end <= _FOLLOWS_SECONDS
            opening = "then " if follows else f"from {clock(chapter.start)} "
        ending = f" until {clock(chapter.end)}" if index < len(chapters) - 1 else ""
        told.append(f"{opening}{chapter.label}{ending}")
    return ", ".join(told)
