"""Which pseudo-labels are believed: a threshold for each class, agreement of the ensemble, classes in balance.

Published thresholds differ by class (`WooyoohL/MER2024-SEMI`: 0.99 for the frequent four, 0.85 for worried and
surprise); `thresholds_for` finds them from predictions on clips that the model had not seen, as the lowest confidence
from which on a class was right often enough.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from emollama.errors import InputError

UNREACHED = 0.99  # for a class that is never right often enough


@dataclass(frozen=True, kw_only=True)
class PseudoLabels:
    """``rows`` [K] of the unlabelled clips, the label and the ensemble's confidence of each; ``passed`` [C] candidates
    of each class over its threshold, before balancing."""

    rows: np.ndarray
    labels: tuple[str, ...]
    confidence: np.ndarray
    passed: Mapping[str, int]

    def counts(self) -> dict[str, int]:
        return {label: self.labels.count(label) for label in self.passed}


def choose(
    probabilities: np.ndarray,
    labels: Sequence[str],
    thresholds: Mapping[str, float],
    *,
    shares: Mapping[str, float],
    agreement: float = 1.0,
    balance: float | None = 2.0,
) -> PseudoLabels:
    """Choose among clips judged by an ensemble, ``probabilities`` [members, N, C].

    A clip passes when the mean probability of its likeliest class reaches that class's threshold and at least the
    share ``agreement`` of the members name the same class. ``balance`` bounds a class, measured by its share among the
    labelled clips (``shares``), to so many times the class that is represented worst (of those that have a candidate
    at all); the surest are kept. ``None`` keeps all.
    """
    if probabilities.ndim != 3 or probabilities.shape[2] != len(labels):
        raise InputError(f"probabilities are {probabilities.shape}; allowed: [members, N, {len(labels)}]")
    if missing := [label for label in labels if label not in thresholds or label not in shares]:
        raise InputError(f"thresholds and shares lack {missing[0]!r}; allowed: one of each class", field="thresholds")
    if not 0.0 <= agreement <= 1.0:
        raise InputError(f"agreement is {agreement}; allowed: 0 to 1", field="agreement")
    if balance is not None and balance < 1.0:
        raise InputError(f"balance is {balance}; allowed: 1 or more, or null", field="balance")
    mean = probabilities.mean(0)
    winner, confidence = mean.argmax(1), mean.max(1)
    agreeing = (probabilities.argmax(2) == winner).mean(0)
    limits = np.array([thresholds[label] for label in labels])
    passes = (confidence >= limits[winner]) & (agreeing >= agreement - 1e-9)
    candidates = {
        column: rows[np.argsort(-confidence[rows], kind="stable")]
        for column in range(len(labels))
        if len(rows := np.flatnonzero(passes & (winner == column)))
    }
    if balance is not None and candidates:
        relative = {column: len(rows) / max(shares[labels[column]], 1e-9) for column, rows in candidates.items()}
        most = balance * min(relative.values())
        candidates = {
            column: rows[: max(1, round(most * shares[labels[column]]))] for column, rows in candidates.items()
        }
    rows = np.sort(np.concatenate(list(candidates.values()))) if candidates else np.zeros(0, np.int64)
    return PseudoLabels(
        rows=rows,
        labels=tuple(labels[column] for column in winner[rows]),
        confidence=confidence[rows],
        passed={label: int((passes & (winner == column)).sum()) for column, label in enumerate(labels)},
    )


def thresholds_for(
    probabilities: np.ndarray, truth: Sequence[str], labels: Sequence[str], *, precision: float, floor: float = 0.5
) -> dict[str, float]:
    """Return for each class the lowest confidence from which on it was right in ``precision`` of the clips [N, C].

    The clips must be ones that the model did not learn from. Never below ``floor``; a class that does not reach the
    precision at any confidence gets `UNREACHED`.
    """
    if not 0.0 < precision <= 1.0:
        raise InputError(f"precision is {precision}; allowed: above 0, up to 1", field="precision")
    winner, confidence = probabilities.argmax(1), probabilities.max(1)
    found = {}
    for column, label in enumerate(labels):
        rows = np.flatnonzero(winner == column)
        rows = rows[np.argsort(-confidence[rows], kind="stable")]
        right = np.array([truth[int(row)] == label for row in rows], dtype=np.float64)
        precise = np.flatnonzero(np.cumsum(right) / np.arange(1, len(rows) + 1) >= precision)
        found[label] = max(floor, float(confidence[rows[precise[-1]]])) if len(precise) else UNREACHED
    return found
