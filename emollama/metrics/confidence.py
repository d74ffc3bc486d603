"""Scores of confidence: is an answer right as often as it says, and do sure answers err less.

Calibration error after Guo et al. (ICML 2017), Brier (1950), risk and coverage after Geifman and El-Yaniv
(NeurIPS 2017).
"""

from __future__ import annotations

import numpy as np

from emollama.errors import InputError
from emollama.metrics.checks import class_probabilities, two_series


def expected_calibration_error(probabilities: np.ndarray, truth: np.ndarray, *, num_bins: int = 15) -> float:
    """Return ECE of the top class: equal-width bins (lower, upper] of the confidence, gaps weighted by samples.

    probabilities [N, C] with rows that sum to 1; truth [N].
    """
    probabilities = class_probabilities(probabilities, truth)
    confidence = probabilities.max(1)
    return calibration_error(confidence, probabilities.argmax(1) == np.asarray(truth), num_bins=num_bins)


def calibration_error(confidence: np.ndarray, is_right: np.ndarray, *, num_bins: int = 15) -> float:
    """Return ECE from the confidence [N] of each answer and whether it was right [N]."""
    confidence, is_right = two_series(confidence, is_right)
    bins = confidence_bins(confidence, num_bins=num_bins)
    gap = np.bincount(bins, weights=is_right - confidence, minlength=num_bins)
    return float(np.abs(gap).sum() / len(confidence))


def brier(probabilities: np.ndarray, truth: np.ndarray) -> float:
    """Return the multi-class Brier score: mean over samples of the squared distance to the one-hot truth, in [0, 2]."""
    probabilities = class_probabilities(probabilities, truth)
    onehot = np.eye(probabilities.shape[1])[np.asarray(truth)]
    return float(((probabilities - onehot) ** 2).sum(1).mean())


def confidence_bins(confidence: np.ndarray, *, num_bins: int = 15) -> np.ndarray:
    """Return the index [N] of the equal-width bin (lower, upper] that each confidence in [0, 1] falls into."""
    if not ((confidence >= -1e-6) & (confidence <= 1 + 1e-6)).all():  # rows of float32 may sum to a little over 1
        raise InputError("confidence holds values outside 0 to 1", field="confidence")
    # The edges themselves are compared, not confidence * num_bins, which rounds some edges into the next bin.
    edges = np.linspace(0, 1, num_bins + 1)[1:-1]
    return np.searchsorted(edges, confidence, side="left")


def reliability(confidence: np.ndarray, is_right: np.ndarray, *, num_bins: int = 15) -> np.ndarray:
    """Return the rows of a reliability plot [num_bins, 3]: mean confidence, share right (both NaN if empty), count."""
    confidence, is_right = two_series(confidence, is_right)
    bins = confidence_bins(confidence, num_bins=num_bins)
    count = np.bincount(bins, minlength=num_bins)
    rows = np.full((num_bins, 3), np.nan)
    for column, values in enumerate((confidence, is_right)):
        total = np.bincount(bins, weights=values, minlength=num_bins)
        np.divide(total, count, out=rows[:, column], where=count > 0)
    rows[:, 2] = count
    return rows


def risk_coverage(confidence: np.ndarray, is_right: np.ndarray) -> np.ndarray:
    """Return the error rate [N] among the k+1 surest answers, for k = 0 .. N-1.

    Answers of the same confidence share their mean error, so the curve does not depend on the order of the rows.
    """
    confidence, is_right = two_series(confidence, is_right)
    order = np.argsort(-confidence, kind="stable")
    _, group = np.unique(-confidence[order], return_inverse=True)
    wrong = 1.0 - is_right[order]
    shared = (np.bincount(group, weights=wrong) / np.bincount(group))[group]
    return np.cumsum(shared) / np.arange(1, len(shared) + 1)


def area_under_risk_coverage(confidence: np.ndarray, is_right: np.ndarray) -> float:
    """Return AURC, the mean of `risk_coverage`: 0 is perfect, a confidence that says nothing gives the error rate."""
    return float(risk_coverage(confidence, is_right).mean())
