"""What every score asks of its input: series of the same length, labels in range, probabilities in rows."""

from __future__ import annotations

import numpy as np

from emollama.errors import InputError


def same_length(a: np.ndarray, b: np.ndarray) -> None:
    """Refuse what is not two non-empty series [N]."""
    if a.ndim != 1 or a.shape != b.shape or not len(a):
        raise InputError(f"truth {a.shape} and prediction {b.shape} must be two non-empty series of the same length")


def class_labels(truth: np.ndarray, predicted: np.ndarray, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return labels as arrays [N]; raises `InputError` outside ``range(num_classes)`` (-1 is a prediction only)."""
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    same_length(truth, predicted)
    for name, values, low in (("truth", truth, 0), ("predicted", predicted, -1)):
        if not np.issubdtype(values.dtype, np.integer) or values.min() < low or values.max() >= num_classes:
            raise InputError(f"{name} holds values outside {low} to {num_classes - 1}", field=name)
    return truth, predicted


def two_series(truth: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both sides as float64 [N]."""
    x, y = np.asarray(truth, np.float64), np.asarray(predicted, np.float64)
    same_length(x, y)
    return x, y


def class_probabilities(probabilities: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return probabilities as float64 [N, C]."""
    probabilities = np.asarray(probabilities, np.float64)
    if probabilities.ndim != 2 or len(probabilities) != len(truth) or not len(truth):
        raise InputError(
            f"probabilities {probabilities.shape} must be [N, C] for {len(truth)} labels", field="probabilities"
        )
    return probabilities
