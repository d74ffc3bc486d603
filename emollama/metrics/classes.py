"""Scores of class labels: recall, F1 and their averages.

UAR/WAR and WAF as in MERTools (scikit-learn's ``f1_score(average="weighted")``), action units and compound
expressions as in the ABAW challenges (means of binary, of class F1).
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from emollama.errors import InputError
from emollama.metrics.checks import class_labels, same_length


def confusion_matrix(truth: np.ndarray, predicted: np.ndarray, *, num_classes: int) -> np.ndarray:
    """Return counts [num_classes, num_classes + 1]: rows true, columns predicted, the last column unparseable (-1)."""
    truth, predicted = class_labels(truth, predicted, num_classes)
    column = np.where(predicted < 0, num_classes, predicted)
    flat = np.bincount(truth * (num_classes + 1) + column, minlength=num_classes * (num_classes + 1))
    return flat.reshape(num_classes, num_classes + 1)


def accuracy(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Return the share of right predictions: the weighted average recall (WAR)."""
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    same_length(truth, predicted)
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


def mean_recall(truth: np.ndarray, predicted: np.ndarray, *, num_classes: int) -> float:
    """Return the mean recall over all ``num_classes``; a class without a true sample counts as 0."""
    return float(np.nan_to_num(per_class_recall(truth, predicted, num_classes=num_classes)).mean())


def multilabel_f1(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return binary F1 [K] of each column of 0/1 matrices ``truth`` and ``predicted`` [N, K]; 0 where undefined."""
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    if truth.ndim != 2 or truth.shape != predicted.shape or not len(truth):
        raise InputError(f"truth {truth.shape} and prediction {predicted.shape} must be two matrices [N, K]")
    for name, values in (("truth", truth), ("predicted", predicted)):
        if not ((values == 0) | (values == 1)).all():
            raise InputError(f"{name} holds values other than 0 and 1", field=name)
    hits = (truth * predicted).sum(0).astype(float)
    total = truth.sum(0) + predicted.sum(0)
    return np.divide(2 * hits, total, out=np.zeros(len(hits)), where=total > 0)


def action_unit_f1(
    truth: np.ndarray, predicted: np.ndarray, *, average: Literal["macro", "none"] = "macro"
) -> float | np.ndarray:
    """Return the mean binary F1 over action units (P_AU of ABAW), or F1 [K] of each.

    ``truth`` [N, K] holds 0 and 1, and -1 for "not annotated": a frame with any -1 is left out, as ABAW does.
    """
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    if truth.ndim != 2 or truth.shape != predicted.shape:
        raise InputError(f"truth {truth.shape} and prediction {predicted.shape} must be two matrices [N, K]")
    is_kept = truth.min(1) >= 0
    scores = multilabel_f1(truth[is_kept], predicted[is_kept])
    return float(scores.mean()) if average == "macro" else scores
