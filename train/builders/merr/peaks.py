"""The peak frame: the moment at which the face shows most.

With action units: those most often present are summed in each frame, `scipy.signal.find_peaks` finds the peaks of the
sum, and its maximum is the peak frame (the procedure of MERR; the defaults are MER-Factory's: height 0.8, distance 20
frames). Action units that talking moves are left out while there is a voice, because talking raises the sum.
Without them: the label's own expression, or how far the face is from neutral, or valence and arousal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import signal

from emollama.errors import InputError
from emollama.timeline import smooth
from emollama.types import FaceReadings
from train.builders.merr.action_units import ActionUnits
from train.builders.merr.rules import Rules

Basis = Literal["action_units", "expression", "not_neutral", "affect"]
Spans = Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class PeakOptions:
    """``height`` on OpenFace's scale; ``distance_frames`` between peaks of the sum; ``num_frequent`` units summed."""

    height: float = 0.8
    distance_frames: int = 20
    num_frequent: int = 5
    expression_height: float = 0.5
    distance_seconds: float = 1.0
    half_window_seconds: float = 0.3

    def __post_init__(self) -> None:
        for name, low, high in (
            ("height", 0.0, 25.0),
            ("distance_frames", 1, 10_000),
            ("num_frequent", 1, 40),
            ("expression_height", 0.0, 1.0),
            ("distance_seconds", 0.0, 600.0),
            ("half_window_seconds", 0.0, 60.0),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise InputError(f"{name} is {value}; allowed: {low:g} to {high:g}", field=name)


@dataclass(frozen=True, kw_only=True)
class Peak:
    """The peak frame's ``index`` in its series and ``time`` in seconds; ``reached`` is false when nothing rose enough.

    ``what`` names the reading that was followed, ``peaks`` are the times of all local peaks, and ``curve_times`` and
    ``curve`` are the series itself.
    """

    index: int
    time: float
    value: float
    basis: Basis
    what: str
    reached: bool
    peaks: tuple[float, ...]
    curve_times: np.ndarray
    curve: np.ndarray


def action_unit_peak(
    units: ActionUnits, *, rules: Rules, options: PeakOptions = PeakOptions(), speech: Spans = ()
) -> Peak | None:
    """Return the peak of the summed intensities of the most frequent action units, or ``None`` without any frame."""
    if len(units.times) == 0:
        return None
    talking = np.zeros(len(units.times), dtype=bool)
    for start, end in speech:
        talking |= (units.times >= start) & (units.times <= end)
    counts: dict[str, int] = {}
    for code in units.intensities:
        rule = rules.action_units[code]
        if rule.expressive:
            present = units.presence.get(code, units.intensities[code] >= rules.firing.mean_intensity)
            counts[code] = int(np.count_nonzero(present & ~(talking & rule.moved_by_speech)))
    frequent = sorted((code for code in counts if counts[code]), key=lambda code: (-counts[code], code))
    chosen = frequent[: options.num_frequent]
    total = np.zeros(len(units.times))
    for code in chosen:
        quiet = talking & rules.action_units[code].moved_by_speech
        total += np.where(quiet, 0.0, units.intensities[code])
    found, _ = signal.find_peaks(total, height=options.height, distance=options.distance_frames)
    index = int(total.argmax())
    return Peak(
        index=index,
        time=float(units.times[index]),
        value=float(total[index]),
        basis="action_units",
        what="sum of " + (" + ".join(chosen) or "no action unit"),
        reached=bool(total[index] >= options.height and chosen),
        peaks=tuple(float(t) for t in units.times[found]),
        curve_times=units.times,
        curve=total,
    )


def expression_peak(
    readings: FaceReadings, *, expressions: Sequence[str] = (), options: PeakOptions = PeakOptions()
) -> Peak | None:
    """Return the peak of one face's readings, or ``None`` without any frame.

    ``expressions`` are those that speak for the label; without one that the readings hold, the distance from neutral is
    followed, and without a neutral class the distance of valence and arousal from rest.
    """
    if len(readings.times) == 0:
        return None
    known = [name for name in expressions if name in readings.labels]
    basis: Basis
    if known:
        raw = readings.probabilities[:, [readings.labels.index(name) for name in known]].sum(axis=1)
        basis, what = "expression", "probability of " + " or ".join(known)
    elif "neutral" in readings.labels:
        raw = 1.0 - readings.probabilities[:, readings.labels.index("neutral")]
        basis, what = "not_neutral", "1 - probability of neutral"
    else:
        raw = np.hypot(readings.valence, readings.arousal) / np.sqrt(2.0)
        basis, what = "affect", "distance of valence and arousal from rest"
    times = np.asarray(readings.times, dtype=np.float64)
    curve = smooth(times, raw, half_window_seconds=options.half_window_seconds)
    step = float(np.median(np.diff(times))) if len(times) > 1 else 1.0
    distance = max(1, round(options.distance_seconds / max(step, 1e-6)))
    found, _ = signal.find_peaks(curve, height=options.expression_height, distance=distance)
    index = int(curve.argmax())
    return Peak(
        index=index,
        time=float(times[index]),
        value=float(curve[index]),
        basis=basis,
        what=what,
        reached=bool(curve[index] >= options.expression_height),
        peaks=tuple(float(t) for t in times[found]),
        curve_times=times,
        curve=curve,
    )
