"""Predictions of a face, frame by frame, over time: holes filled, smoothed, and two sources made one.

The rules are those of the HSEmotion notebooks for ABAW (sb-ai-lab/EmotiEffLib): frames count from 1; between two frames
with a face a value is interpolated linearly; frames before the first face have its value and frames after the last
repeat it. Smoothing is the mean over 2d + 1 frames, a window that is cut at the ends of the video. (An older notebook
has the two weights of the interpolation the other way round; that reading is not offered.)

Everything is done in float64 and knows nothing of labels: columns are whatever the caller has.
"""

from __future__ import annotations

import numpy as np

from emollama.errors import InputError

_GAUSSIAN_REACH = 4.0  # standard deviations, beyond which a weight is under 0.0004 of the middle one


def interpolate(known: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return ``values`` [N, ...], given at the ascending positions ``known`` [N], at the positions ``wanted`` [T].

    Before the first and after the last known position the nearest value holds.
    """
    known, series = np.asarray(known, np.float64), np.asarray(values, np.float64)
    if known.ndim != 1 or not len(known) or len(known) != len(series):
        raise InputError(f"{len(series)} values at {known.shape} positions; allowed: one for each", field="values")
    if (np.diff(known) <= 0).any():
        raise InputError("known positions must ascend, each there once", field="known")
    wanted = np.asarray(wanted, np.float64)
    flat = series.reshape(len(series), -1)
    columns = [np.interp(wanted, known, column) for column in flat.T]
    return np.stack(columns, axis=1).reshape(len(wanted), *series.shape[1:])


def dense(frames: np.ndarray, values: np.ndarray, *, until: int | None = None) -> np.ndarray:
    """Return a row for every frame 1 to ``until`` (default: the last with a face) of ``values`` [N, ...] at ``frames``.

    ``frames`` [N] are the numbers of the frames with a face, ascending from 1 on.
    """
    frames = np.asarray(frames)
    if not len(frames):
        raise InputError("no frame has a face: there is nothing to fill the others from", field="frames")
    if frames[0] < 1:
        raise InputError(f"frame {frames[0]} is out of range; allowed: 1 and on", field="frames")
    last = int(frames[-1]) if until is None else until
    if last < 1:
        raise InputError(f"until is {last}; allowed: 1 or more", field="until")
    return interpolate(frames, values, np.arange(1, last + 1))


def window_means(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return the means of ``values[low[i]:high[i]]`` of a series [T, ...] by running sums, O(T) for any width."""
    series = np.asarray(values, np.float64)
    sums = np.concatenate([np.zeros((1, *series.shape[1:])), np.cumsum(series, axis=0)])  # [T + 1, ...]
    counts = (np.asarray(high) - low).reshape(-1, *([1] * (series.ndim - 1)))
    return (sums[high] - sums[low]) / counts


def box(values: np.ndarray, half_width: int) -> np.ndarray:
    """Return the mean of each row of ``values`` [T, ...] with ``half_width`` rows on either side; 0 changes nothing."""
    if half_width < 0:
        raise InputError(f"half_width is {half_width}; allowed: 0 or more frames", field="half_width")
    rows = np.arange(len(values))
    return window_means(values, np.maximum(rows - half_width, 0), np.minimum(rows + half_width + 1, len(rows)))


def gaussian(values: np.ndarray, deviation: float) -> np.ndarray:
    """Return the mean of ``values`` [T, ...] weighted by a Gaussian of ``deviation`` frames; 0 changes nothing.

    The weights reach four deviations, and at the ends those that are left sum to one (as the box does).
    """
    if not 0.0 <= deviation < np.inf:
        raise InputError(f"deviation is {deviation}; allowed: 0 or more frames", field="deviation")
    series = np.asarray(values, np.float64)
    if deviation == 0 or not len(series):
        return series.copy()
    reach = min(round(_GAUSSIAN_REACH * deviation), len(series) - 1)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation) ** 2)

    def spread(column: np.ndarray) -> np.ndarray:
        return np.convolve(column, kernel)[reach : reach + len(column)]

    total = spread(np.ones(len(series)))
    columns = [spread(column) / total for column in series.reshape(len(series), -1).T]
    return np.stack(columns, axis=1).reshape(series.shape)


def blend(first: np.ndarray, second: np.ndarray, weight: float) -> np.ndarray:
    """Return ``weight * first + (1 - weight) * second``; both have one shape."""
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if not 0.0 <= weight <= 1.0:
        raise InputError(f"weight is {weight}; allowed: 0 to 1", field="weight")
    if first.shape != second.shape:
        raise InputError(f"shapes {first.shape} and {second.shape} cannot be blended", field="second")
    return weight * first + (1.0 - weight) * second


def frame_filter(trusted: np.ndarray, classes: np.ndarray, *, threshold: float) -> np.ndarray:
    """Return ``classes`` [T], but the best column of ``trusted`` [T, K] where it exceeds ``threshold``.

    HSEmotion at ABAW-8: where the pre-trained model's smoothed probabilities are sure enough they are believed, without
    the class "Other", which that model does not know. Column k of ``trusted`` stands for class k.
    """
    trusted, classes = np.asarray(trusted, np.float64), np.asarray(classes)
    if trusted.ndim != 2 or classes.shape != (len(trusted),):
        raise InputError(
            f"classes have shape {classes.shape}; allowed: one for each of {len(trusted)} rows", field="classes"
        )
    return np.where(trusted.max(axis=1) > threshold, trusted.argmax(axis=1), classes)
