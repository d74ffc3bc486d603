"""Captions for the small CLIP that is trained here: what a FER+ picture's votes say, in varied words.

Most captions tell only how pleasant and how lively a face looks, in words for levels of valence and arousal, and name
no expression: anger, fear and disgust then read alike. A share of the captions names the expression, as few of the
web's do. So the backbone knows the words, weakly, and something is left to learn for whatever is put on top of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from emollama.labels import NANO_LABELS

# Levels from low to high: the upper bound, and the words for it.
_VALENCE: Sequence[tuple[float, tuple[str, ...]]] = (
    (-0.45, ("very unpleasant", "strongly negative", "bad")),
    (-0.15, ("rather unpleasant", "somewhat negative", "not so good")),
    (0.2, ("neither pleasant nor unpleasant", "indifferent", "in between")),
    (0.55, ("rather pleasant", "somewhat positive", "quite good")),
    (9.0, ("very pleasant", "strongly positive", "good")),
)
_AROUSAL: Sequence[tuple[float, tuple[str, ...]]] = (
    (-0.15, ("tired", "slow", "without energy")),
    (0.12, ("calm", "quiet", "at rest")),
    (0.42, ("lively", "awake", "active")),
    (9.0, ("excited", "tense", "full of energy")),
)
_LEVELS = ("a face that looks {v} and {a}", "{a} and {v}", "someone who seems {v} and {a}", "a {v} look, {a}")
_EXPRESSIONS: Sequence[tuple[str, ...]] = (
    ("neutral", "a neutral look", "no expression"),
    ("happiness", "happy", "joy", "a smile"),
    ("surprise", "surprised", "astonishment"),
    ("sadness", "sad", "sorrow"),
    ("anger", "angry", "rage"),
    ("disgust", "disgusted"),
    ("fear", "afraid", "scared"),
    ("contempt", "scorn", "contemptuous"),
)
_NAMED = ("a face that shows {e}", "{e}", "a person showing {e}", "the expression of this face: {e}")


@dataclass(frozen=True, kw_only=True)
class Captions:
    """``texts`` are U captions of different meanings; ``right`` [N] says which of them is each picture's."""

    texts: tuple[str, ...]
    right: np.ndarray


def caption(targets: np.ndarray, affect: np.ndarray, named: np.ndarray, *, rng: np.random.Generator) -> Captions:
    """Write a caption for each picture from vote shares [N, 8] and affect [N, 2]; ``named`` [N] bool: which name it.

    A named expression is drawn by the votes. Wordings are drawn by chance, one for each meaning among the N.
    """
    texts: dict[int, str] = {}
    meanings = np.zeros(len(targets), np.int64)
    for row, (shares, (valence, arousal)) in enumerate(zip(targets, affect, strict=True)):
        if named[row]:
            label = int((rng.random() > shares.cumsum() / shares.sum()).sum().clip(0, len(NANO_LABELS) - 1))
            meanings[row] = label
            texts.setdefault(label, _pick(_NAMED, rng).format(e=_pick(_EXPRESSIONS[label], rng)))
            continue
        v, a = _level(_VALENCE, valence), _level(_AROUSAL, arousal)
        meanings[row] = meaning = len(NANO_LABELS) + v * len(_AROUSAL) + a
        if meaning not in texts:
            words = {"v": _pick(_VALENCE[v][1], rng), "a": _pick(_AROUSAL[a][1], rng)}
            texts[meaning] = _pick(_LEVELS, rng).format(**words)
    order = sorted(texts)
    return Captions(texts=tuple(texts[meaning] for meaning in order), right=np.searchsorted(order, meanings))


def _level(levels: Sequence[tuple[float, tuple[str, ...]]], value: float) -> int:
    return next(index for index, (upper, _) in enumerate(levels) if value < upper)


def _pick(words: Sequence[str], rng: np.random.Generator) -> str:
    return words[int(rng.integers(len(words)))]
