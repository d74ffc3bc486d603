"""Readings of a face at sampled times -> an answer for every frame of a list.

Readings are taken a few times a second; the frames that a benchmark lists lie between them. A frame is answered from
the readings around it, linearly in time; before the first and after the last reading the nearest one holds. A frame
whose nearest reading is more than a sampling step away had no face, and is counted as interpolated. No smoothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from emollama.abaw.answers import compound_parts
from emollama.errors import InputError
from emollama.labels import canonical
from emollama.temporal import interpolate
from emollama.types import FaceReadings


def labels_at(
    readings: FaceReadings, times: np.ndarray, labels: Sequence[str], *, step: float
) -> tuple[list[Any], int]:
    """Return a label of ``labels`` at each of ``times`` [N] seconds, and how many of them had no face near."""
    columns = np.stack([_column(readings, label) for label in labels], axis=1)  # [T, L]
    table = interpolate(readings.times, columns, times)
    return [labels[index] for index in table.argmax(1)], _num_far(readings.times, times, step)


def affect_at(readings: FaceReadings, times: np.ndarray, *, step: float) -> tuple[list[Any], int]:
    """Return valence and arousal at each of ``times`` [N] seconds, and how many of them had no face near."""
    table = interpolate(readings.times, np.stack([readings.valence, readings.arousal], axis=1), times)
    answers = [{"valence": round(float(v), 6), "arousal": round(float(a), 6)} for v, a in np.clip(table, -1.0, 1.0)]
    return answers, _num_far(readings.times, times, step)


def units_at(readings: FaceReadings, times: np.ndarray, *, step: float) -> tuple[list[Any], int]:
    """Return 0 or 1 for each action unit at each of ``times`` [N] seconds, by the tuned thresholds, and as above."""
    if readings.units is None or not readings.unit_thresholds:
        raise InputError("the readings have no action units with thresholds", field="units")
    table = interpolate(readings.times, readings.units, times) > np.asarray(readings.unit_thresholds)
    return table.astype(int).tolist(), _num_far(readings.times, times, step)


def _column(readings: FaceReadings, label: str) -> np.ndarray:
    """The probability [T] of one label; of a compound such as "happily surprised" the mean of its two parts.

    A label that the face model does not have is never answered.
    """
    known = {canonical(name): index for index, name in enumerate(readings.labels)}
    if canonical(label) in known:
        return readings.probabilities[:, known[canonical(label)]]
    parts = compound_parts(label)
    if len(parts) == 2 and all(part in known for part in parts):
        return readings.probabilities[:, [known[part] for part in parts]].mean(1)
    return np.full(len(readings.times), -1.0)


def _num_far(known: np.ndarray, times: np.ndarray, step: float) -> int:
    nearest = np.abs(np.asarray(times)[:, None] - np.asarray(known)[None, :]).min(1)
    return int((nearest > step + 1e-6).sum())
