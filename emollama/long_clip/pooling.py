"""Which moments stand for a whole long clip: a few tokens and words, out of those of all its windows.

The backbone reads at most some eight face tokens, one voice token and a few hundred words of a clip. Averages over
equal parts, which serve for seconds, fail for an hour: everything averages to neutral. So the places are given to what
was read in proportion to how long it was read (largest remainders): a clip that is sad for three quarters gets six sad
tokens of eight. Within what was read alike, the stretch is divided into as many parts of equal duration as there are
places, and of each part the token nearest to the part's mean stands for it.

The nearest to the mean, not the most expressive one: the calibration was fitted on tokens as clips have them, and a
clip told by its extremes would look surer than it is. Strong short moments are not lost; they are in the windows, the
timeline and the evidence. A voice is one token of statistics; over windows they are averaged, weighted by the
seconds of voice, as the voice model does with its own windows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from emollama.types import FaceReadings, Transcript, VoiceReadings, VoiceSegment


@dataclass(frozen=True, kw_only=True)
class Moment:
    """Something that may stand for a part of the clip: what was read there, for how long, and its tokens [D]."""

    label: str
    weight: float
    vector: np.ndarray | None = None


def representatives(moments: Sequence[Moment], count: int) -> list[int]:
    """Return the places, in order, of at most ``count`` moments that stand for all, see above."""
    if len(moments) <= count:
        return list(range(len(moments)))
    weights: dict[str, float] = {}
    for moment in moments:
        weights[moment.label] = weights.get(moment.label, 0.0) + moment.weight
    chosen: list[int] = []
    for label, places in _shares(weights, count).items():
        own = [index for index, moment in enumerate(moments) if moment.label == label]
        chosen += [_nearest_to_mean(part, moments) for part in _parts(own, moments, places)]
    return sorted(chosen)


def _shares(weights: dict[str, float], count: int) -> dict[str, int]:
    """Give ``count`` places to labels in proportion to their weights, by largest remainders."""
    total = sum(weights.values())
    exact = {label: count * weight / total for label, weight in weights.items()}
    places = {label: int(share) for label, share in exact.items()}
    rest = sorted(exact, key=lambda label: places[label] - exact[label])
    for label in rest[: count - sum(places.values())]:
        places[label] += 1
    return places


def _parts(own: Sequence[int], moments: Sequence[Moment], places: int) -> list[list[int]]:
    """Divide moments of one label, in order of time, into ``places`` parts of about equal weight, none empty."""
    places = min(places, len(own))
    ends = np.cumsum([moments[index].weight for index in own])
    middles = ends - np.array([moments[index].weight for index in own]) / 2
    part = np.minimum((middles / ends[-1] * places).astype(int), places - 1) if places else np.zeros(0, int)
    groups = [[index for index, p in zip(own, part, strict=True) if p == number] for number in range(places)]
    return [group for group in groups if group]


def _nearest_to_mean(part: Sequence[int], moments: Sequence[Moment]) -> int:
    vectors = [vector for vector in (moments[index].vector for index in part) if vector is not None]
    if len(vectors) < len(part):
        return part[len(part) // 2]
    table = np.stack(vectors)
    return part[int(np.square(table - table.mean(axis=0)).sum(axis=1).argmin())]


# ---- face ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class FaceTokens:
    """A window's face: its tokens [T, D] and the readings that they are the means of."""

    tokens: np.ndarray
    readings: FaceReadings


def pooled_face(windows: Sequence[FaceTokens]) -> np.ndarray | None:
    """Return tokens [T, D] for the whole clip, in order of time, as many as its fullest window has."""
    if not windows:
        return None
    moments, rows = [], []
    for window in windows:
        parts = np.array_split(np.arange(len(window.readings.times)), len(window.tokens))
        for token, part in zip(window.tokens, parts, strict=True):
            if len(part):
                mean = window.readings.probabilities[part].mean(axis=0)
                label = window.readings.labels[int(mean.argmax())]
                moments.append(Moment(label=label, weight=float(len(part)), vector=token))
                rows.append(token)
    chosen = representatives(moments, max(len(window.tokens) for window in windows))
    return np.stack([rows[index] for index in chosen])


def joined_readings(parts: Sequence[FaceReadings], *, track_id: int) -> FaceReadings:
    """Return readings of several windows, in order of time and at least one, as those of one track."""
    units = [part.units for part in parts if part.units is not None]
    return FaceReadings(
        track_id=track_id,
        times=np.concatenate([part.times for part in parts]),
        labels=parts[0].labels,
        probabilities=np.concatenate([part.probabilities for part in parts]),
        valence=np.concatenate([part.valence for part in parts]),
        arousal=np.concatenate([part.arousal for part in parts]),
        action_units=parts[0].action_units,
        units=np.concatenate(units) if units else None,
        unit_thresholds=parts[0].unit_thresholds,
        is_smooth=parts[0].is_smooth,
    )


# ---- voice --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class VoiceTokens:
    """A window's voice: its tokens [T, D] and what was measured."""

    tokens: np.ndarray
    readings: VoiceReadings


def pooled_voice(windows: Sequence[VoiceTokens]) -> tuple[np.ndarray, VoiceReadings] | None:
    """Return the voice of the whole clip: tokens [T, D], and its readings with the segments of all windows.

    Where an encoder gives several tokens a window, those of the window nearest to the mean stand for all.
    """
    if not windows:
        return None
    weights = np.array([max(window.readings.voiced_seconds, 1e-3) for window in windows])
    weights = weights / weights.sum()
    means = np.stack([window.tokens.mean(axis=0) for window in windows])  # [W, D]
    mean = weights @ means
    if all(len(window.tokens) == 1 for window in windows):
        tokens = mean[None].astype(np.float32)
    else:
        tokens = windows[int(np.square(means - mean).sum(axis=1).argmin())].tokens
    opinions = [w.readings.probabilities for w in windows if w.readings.probabilities is not None]
    labels: tuple[str, ...] = ()
    probabilities = None
    if len(opinions) == len(windows):
        labels = windows[0].readings.labels
        pooled = np.exp(weights @ np.log(np.maximum(np.stack(opinions), 1e-7)))  # [C]
        probabilities = pooled / pooled.sum()
    segments: list[VoiceSegment] = [s for window in windows for s in window.readings.segments]
    return tokens, VoiceReadings(
        voiced_seconds=sum(window.readings.voiced_seconds for window in windows),
        segments=tuple(segments),
        labels=labels,
        probabilities=probabilities,
    )


# ---- words --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SaidWords:
    """The words of a window, what they alone point to, and the words that carry it, with how much (nats)."""

    transcript: Transcript
    label: str | None
    quote: str = ""
    drop: float = 0.0


def pooled_words(
    windows: Sequence[SaidWords], *, num_tokens: Callable[[str], int], max_tokens: int
) -> tuple[list[int], str] | None:
    """Return which windows' words stand for all within ``max_tokens``, and these words as one text."""
    if not windows:
        return None
    sizes = [max(1, num_tokens(window.transcript.text)) for window in windows]
    count = len(windows)
    if sum(sizes) > max_tokens:
        count = max(1, int(max_tokens / float(np.mean(sizes))))
    moments = [
        Moment(label=window.label or "", weight=float(len(window.transcript.text.split()))) for window in windows
    ]
    chosen = representatives(moments, count)
    while len(chosen) > 1 and sum(sizes[index] for index in chosen) > max_tokens:
        chosen.remove(max(chosen, key=lambda index: sizes[index]))
    return chosen, " ".join(windows[index].transcript.text for index in chosen)
