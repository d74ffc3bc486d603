"""Scores as pure numpy functions: classes, probabilities, and valence/arousal.

Class metrics take integer labels ``truth`` [N] and ``predicted`` [N] in ``range(num_classes)``. A prediction of -1
is one that could not be read (unparseable): it counts as wrong and belongs to no class. Undefined ratios (0/0) count
as 0 in F1, as in scikit-learn; classes without a true sample are left out of UAR. Formulas: UAR/WAR and WAF as in
MERTools, CCC after Lin (Biometrics 45, 1989), calibration error after Guo et al. (ICML 2017), Brier (1950).
"""

from __future__ import annotations

import numpy as np

from emollama.errors import InputError


def confusion_matrix(truth: np.ndarray, predicted: np.ndarray, *, num_classes: int) -> np.ndarray:
    """Return counts [num_classes, num_classes + 1]: rows true, columns predicted, the last column unparseable (-1)."""
    truth, predicted = _labels(truth, predicted, num_classes)
    column = np.where(predicted < 0, num_classes, predicted)
    flat = np.bincount(truth * (num_classes + 1) + column, minlength=num_classes * (num_classes + 1))
    return flat.reshape(num_classes, num_classes + 1)


def accuracy(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Return the share of right predictions: the weighted average recall (WAR)."""
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    _same_length(truth, predicted)
    return float((truth == predicted).mean())


def per_class_recall(truth: np.ndarray, predicted: np.ndarray, *, num_classes: int) -> np.ndarray:
    """Return recall [num_classes]; NaN for a class that has no true sample."""
    counts = confusion_matrix(truth, predicted, num_classes=num_classes)
    support = counts.sum(1)
    hits = np.diagonal(counts).astype(float)
    return np.divide(hits, support, out=np.full(num_classes, np.nan), where=support > 0)


def unweighted_average_recall(truth: np.ndarray, predicted: np.ndarray, *, num_classes: int) -> float:
    """Return the mean recall over the classes that occur (UAR, balanced accuracy)."""
    return float(np.nanmean(per_class_recall(truth, predicted, num_classes=num_classes)))


def per_class_f1(truth: np.ndarray, predicted: np.ndarray, *, num_classes: int) -> np.ndarray:
    """Return F1 [num_classes]; 0 for a class that is neither true nor predicted anywhere."""
    counts = confusion_matrix(truth, predicted, num_classes=num_classes)
    hits = np.diagonal(counts).astype(float)
    total = counts.sum(1) + counts[:, :num_classes].sum(0)  # true + predicted = 2 TP + FP + FN
    return np.divide(2 * hits, total, out=np.zeros(num_classes), where=total > 0)


def macro_f1(truth: np.ndarray, predicted: np.ndarray, *, num_classes: int) -> float:
    """Return the unweighted mean of F1 over all ``num_classes``."""
    return float(per_class_f1(truth, predicted, num_classes=num_classes).mean())


def weighted_f1(truth: np.ndarray, predicted: np.ndarray, *, num_classes: int) -> float:
    """Return F1 averaged with the true classes' frequencies as weights (WAF of the MER challenges)."""
    scores = per_class_f1(truth, predicted, num_classes=num_classes)
    support = np.bincount(np.asarray(truth), minlength=num_classes)
    return float((scores * support).sum() / support.sum())


def pearson(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Return Pearson's r; 0 when one side is constant."""
    x, y = _series(truth, predicted)
    dx, dy = x - x.mean(), y - y.mean()
    scale = float(np.sqrt((dx @ dx) * (dy @ dy)))
    return float(dx @ dy) / scale if scale > 0 else 0.0


def concordance(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Return Lin's concordance correlation (CCC) over all samples at once.

    Variance and covariance are biased (1/N), as ABAW has them. Two equal constants give 1, a constant
    against anything else 0.
    """
    x, y = _series(truth, predicted)
    dx, dy = x - x.mean(), y - y.mean()
    scale = float((dx @ dx + dy @ dy) / len(x) + (x.mean() - y.mean()) ** 2)
    return 2.0 * float(dx @ dy) / len(x) / scale if scale > 0 else 1.0


def expected_calibration_error(probabilities: np.ndarray, truth: np.ndarray, *, num_bins: int = 15) -> float:
    """Return ECE of the top class: equal-width bins (lower, upper] of the confidence, gaps weighted by samples.

    probabilities [N, C] with rows that sum to 1; truth [N].
    """
    probabilities = _probabilities(probabilities, truth)
    confidence = probabilities.max(1)
    return calibration_error(confidence, probabilities.argmax(1) == np.asarray(truth), num_bins=num_bins)


def calibration_error(confidence: np.ndarray, is_right: np.ndarray, *, num_bins: int = 15) -> float:
    """Return ECE from the confidence [N] of each answer and whether it was right [N]."""
    confidence, is_right = _series(confidence, is_right)
    bins = np.clip(np.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)
    gap = np.bincount(bins, weights=is_right - confidence, minlength=num_bins)
    return float(np.abs(gap).sum() / len(confidence))


def brier(probabilities: np.ndarray, truth: np.ndarray) -> float:
    """Return the multi-class Brier score: mean over samples of the squared distance to the one-hot truth, in [0, 2]."""
    probabilities = _probabilities(probabilities, truth)
    onehot = np.eye(probabilities.shape[1])[np.asarray(truth)]
    return float(((probabilities - onehot) ** 2).sum(1).mean())


def _same_length(a: np.ndarray, b: np.ndarray) -> None:
    if a.ndim != 1 or a.shape != b.shape or not len(a):
        raise InputError(f"truth {a.shape} and prediction {b.shape} must be two non-empty series of the same length")


def _labels(truth: np.ndarray, predicted: np.ndarray, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    _same_length(truth, predicted)
    for name, values, low in (("truth", truth, 0), ("predicted", predicted, -1)):
        if not np.issubdtype(values.dtype, np.integer) or values.min() < low or values.max() >= num_classes:
            raise InputError(f"{name} holds values outside {low} to {num_classes - 1}", field=name)
    return truth, predicted


def _series(truth: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(truth, np.float64), np.asarray(predicted, np.float64)
    _same_length(x, y)
    return x, y


def _probabilities(probabilities: np.ndarray, truth: np.ndarray) -> np.ndarray:
    probabilities = np.asarray(probabilities, np.float64)
    if probabilities.ndim != 2 or len(probabilities) != len(truth) or not len(truth):
        raise InputError(
            f"probabilities {probabilities.shape} must be [N, C] for {len(truth)} labels", field="probabilities"
        )
    return probabilities
