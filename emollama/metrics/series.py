"""Scores of numbers: correlation, concordance, error, and what challenges build from them.

CCC after Lin (Biometrics 45, 1989), valence/arousal and intensities as in the ABAW challenges, ``emoval`` as in
MER2023 (``MER2023/main-release.py`` of MERTools).
"""

from __future__ import annotations

import numpy as np

from emollama.errors import InputError
from emollama.metrics.checks import two_series


def pearson(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Return Pearson's r; 0 when one side is constant."""
    x, y = two_series(truth, predicted)
    dx, dy = x - x.mean(), y - y.mean()
    scale = float(np.sqrt((dx @ dx) * (dy @ dy)))
    return float(dx @ dy) / scale if scale > 0 else 0.0


def concordance(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Return Lin's concordance correlation (CCC) over all samples at once.

    Variance and covariance are biased (1/N), as ABAW has them. Two equal constants give 1, a constant
    against anything else 0.
    """
    x, y = two_series(truth, predicted)
    dx, dy = x - x.mean(), y - y.mean()
    scale = float((dx @ dx + dy @ dy) / len(x) + (x.mean() - y.mean()) ** 2)
    return 2.0 * float(dx @ dy) / len(x) / scale if scale > 0 else 1.0


def mean_squared_error(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Return the mean of squared differences."""
    x, y = two_series(truth, predicted)
    return float(((x - y) ** 2).mean())


def mean_pearson(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Return the mean of Pearson's r over the columns of [N, K] (P_EMI of ABAW)."""
    truth, predicted = np.asarray(truth, np.float64), np.asarray(predicted, np.float64)
    if truth.ndim != 2 or truth.shape != predicted.shape:
        raise InputError(f"truth {truth.shape} and prediction {predicted.shape} must be two matrices [N, K]")
    return float(np.mean([pearson(truth[:, k], predicted[:, k]) for k in range(truth.shape[1])]))


def valence_arousal_score(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Return the mean CCC of the two columns of [N, 2] (P_VA of ABAW), over all frames at once."""
    truth, predicted = np.asarray(truth, np.float64), np.asarray(predicted, np.float64)
    if truth.ndim != 2 or truth.shape[1] != 2 or truth.shape != predicted.shape:
        raise InputError(f"truth {truth.shape} and prediction {predicted.shape} must be two matrices [N, 2]")
    return (concordance(truth[:, 0], predicted[:, 0]) + concordance(truth[:, 1], predicted[:, 1])) / 2


def emoval(waf: float, mse: float) -> float:
    """Return the combined score of MER2023: WAF - 0.25 * MSE of the valence."""
    return waf - 0.25 * mse
