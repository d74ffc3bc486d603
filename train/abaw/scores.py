"""The challenge's own figure of each task, over all frames or clips at once."""

from __future__ import annotations

import numpy as np

from emollama.metrics import macro_f1, mean_pearson, multilabel_f1, pearson, per_class_f1, valence_arousal_score
from emollama.metrics.series import concordance

NAMES = {"expr": "macro_f1", "va": "ccc", "au": "au_f1", "ce": "macro_f1", "emi": "pearson"}
NUM_CLASSES = {"expr": 8, "ce": 7}


def score(task: str, truth: np.ndarray, answers: np.ndarray) -> float:
    """Return the figure of decided ``answers`` [N] or [N, K]."""
    if task in NUM_CLASSES:
        return macro_f1(truth, answers, num_classes=NUM_CLASSES[task])
    if task == "va":
        return valence_arousal_score(truth, answers)
    if task == "au":
        return float(multilabel_f1(truth, answers).mean())
    return mean_pearson(truth, answers)


def columns(task: str, truth: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the figure of each column [K] of a task that is the mean over its columns; ``au`` wants flags."""
    if task == "au":
        return multilabel_f1(truth, values)
    measure = concordance if task == "va" else pearson
    return np.array([measure(truth[:, k], values[:, k]) for k in range(truth.shape[1])])


def six_part_f1(truth: np.ndarray, answers: np.ndarray, parts: tuple[int, ...]) -> float:
    """Return the mean F1 of some of the classes alone, on the rows that ``truth`` gives one of them."""
    found = per_class_f1(truth, answers, num_classes=NUM_CLASSES["expr"])
    return float(found[list(parts)].mean())
