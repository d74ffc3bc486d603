"""Folds of cross-validation that no pseudo-label can touch.

With pseudo-labelled clips inside the folds, a published system's cross-validation rose from 79.3 to 88.7 while the test
score rose by 0.4 (`WooyoohL/MER2024-SEMI`). So a validation fold holds labelled clips alone, everything that is scored
on it (teachers too) is trained without it, and an unlabelled clip of a group that is in the fold (the same speaker) is
not used there either.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np

from emollama.errors import InputError
from emollama.fusion.utterances import Utterances


@dataclass(frozen=True, kw_only=True)
class Fold:
    """Rows of the labelled clips to learn from and to score, and of the unlabelled ones that may be used."""

    train: np.ndarray
    valid: np.ndarray
    unlabelled: np.ndarray


def make_folds(labelled: Utterances, unlabelled: Utterances, *, num_folds: int, seed: int) -> tuple[Fold, ...]:
    """Divide labelled clips by group into folds with like classes; raises `InputError` where groups do not allow it.

    Groups go one after another, the largest first (ties by the seed), to the fold in which their classes are rarest.
    """
    if any(label is None for label in labelled.labels):
        raise InputError("a labelled clip has no label", field="labels")
    if shared := set(labelled.names) & set(unlabelled.names):
        raise InputError(f"{sorted(shared)[0]!r} is among the labelled and the unlabelled clips", field="names")
    members: dict[str, list[int]] = defaultdict(list)
    for row, group in enumerate(labelled.groups):
        members[group].append(row)
    if not 2 <= num_folds <= len(members):
        raise InputError(
            f"num_folds is {num_folds}; allowed: 2 to {len(members)}, the number of groups", field="num_folds"
        )
    order = np.random.default_rng(seed).permutation(sorted(members)).tolist()
    order.sort(key=lambda group: -len(members[group]))
    classes: list[Counter[str | None]] = [Counter() for _ in range(num_folds)]
    held: list[list[int]] = [[] for _ in range(num_folds)]
    groups: list[set[str]] = [set() for _ in range(num_folds)]
    for group in order:
        own = Counter(labelled.labels[row] for row in members[group])
        cost = [
            (sum(have[label] * count for label, count in own.items()), len(held[n])) for n, have in enumerate(classes)
        ]
        best = min(range(num_folds), key=cost.__getitem__)
        classes[best] += own
        held[best] += members[group]
        groups[best].add(group)
    everything = np.arange(len(labelled))
    return tuple(
        Fold(
            train=np.setdiff1d(everything, rows),
            valid=np.sort(np.array(rows, np.int64)),
            unlabelled=np.array([n for n, group in enumerate(unlabelled.groups) if group not in banned], np.int64),
        )
        for rows, banned in zip(held, groups, strict=True)
    )
