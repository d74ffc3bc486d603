"""Open-vocabulary answers as sets of words: how they are read, and the set metric of MER2024-OV.

Formulas of MERTools (``MER2024/main-ov.py``; the readers are those of its ``toolkit/utils/functions.py`` of 2024 and
of 2025/2026, which differ). The synonym groups come from a model, so a score is exactly reproducible only with
stored groups. The score is the mean of set accuracy and set recall, not an F score.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from emollama.errors import InputError


@dataclass(frozen=True, kw_only=True)
class OpenSetScore:
    """Means over clips; ``score`` = (accuracy + recall) / 2. ``accuracies`` and ``recalls`` [N] are the clips'."""

    accuracy: float
    recall: float
    score: float
    accuracies: np.ndarray
    recalls: np.ndarray


def parse_labels_2024(text: str) -> list[str]:
    """Read a list as MER2024 does: between the first ``[`` and the first ``]``, split on quotes, not stripped.

    Without quotes the whole inside is one piece: ``"[happy, sad]"`` gives ``["happy, sad"]``. Raises `InputError`
    where there is no ``[`` (upstream crashes there).
    """
    if text == "":
        return []
    if "[" not in text:
        raise InputError(f"labels {text[:80]!r} are not a list such as ['happy', 'at ease']", field="labels")
    inside = text.split("[")[1].split("]")[0]
    return [piece for piece in re.split(r"['\"]", inside) if piece.strip() not in ("", ",")]


def parse_labels_2025(text: str | Sequence[str]) -> list[str]:
    """Read a list as MER2025 and MER2026 do: one ``[`` and one ``]`` stripped, split on quotes and commas."""
    if not isinstance(text, str):
        return list(text)
    if text == "":
        return []
    inside = text.removeprefix("[").removesuffix("]")
    return [piece.strip() for piece in re.split(r"['\",]", inside) if piece.strip()]


def parse_synonym_groups(text: str) -> list[list[str]]:
    """Read groups of synonyms as MER2024 does: ``"[['glad', 'happy'], ['sad']]"``; split on brackets, then quotes."""
    groups = [part for part in re.split(r"[\[\]]", text) if part.strip() not in ("", ",")]
    return [[word for word in re.split(r"['\"]", group) if word.strip() not in ("", ",")] for group in groups]


def synonym_map(groups: Iterable[Sequence[str]]) -> dict[str, str]:
    """Return word -> first word of its group; a later group overwrites an earlier one."""
    return {word: group[0] for group in groups for word in group}


def set_accuracy_recall(
    gold: Iterable[str], predicted: Iterable[str], synonyms: Mapping[str, str]
) -> tuple[float, float]:
    """Return set accuracy and recall of one clip; an empty prediction scores 0, an empty gold set is an error."""
    gold_set = {synonyms.get(word.lower(), word.lower()) for word in gold}
    predicted_set = {synonyms.get(word.lower(), word.lower()) for word in predicted}
    if not gold_set:
        raise InputError("the gold set is empty; the metric is not defined there", field="gold")
    if not predicted_set:
        return 0.0, 0.0
    hits = len(gold_set & predicted_set)
    return hits / len(predicted_set), hits / len(gold_set)


def set_score(
    gold: Sequence[Iterable[str]], predicted: Sequence[Iterable[str]], synonyms: Sequence[Mapping[str, str]]
) -> OpenSetScore:
    """Return the MER2024-OV score; one entry a clip, ``synonyms`` as `synonym_map` gives them."""
    if not gold or not len(gold) == len(predicted) == len(synonyms):
        raise InputError(
            f"{len(gold)} gold, {len(predicted)} predicted, {len(synonyms)} synonym entries; one each is wanted"
        )
    pairs = np.array([set_accuracy_recall(g, p, s) for g, p, s in zip(gold, predicted, synonyms, strict=True)])
    accuracy, recall = float(pairs[:, 0].mean()), float(pairs[:, 1].mean())
    return OpenSetScore(
        accuracy=accuracy,
        recall=recall,
        score=(accuracy + recall) / 2,
        accuracies=pairs[:, 0],
        recalls=pairs[:, 1],
    )


def hit_counts(gold: Sequence[frozenset[str]], predicted: Sequence[frozenset[str]]) -> np.ndarray:
    """Return how many gold words [N] each clip's prediction holds; NaN for a clip without a gold word (skipped)."""
    return np.array([len(g & p) if g else np.nan for g, p in zip(gold, predicted, strict=True)], np.float64)
