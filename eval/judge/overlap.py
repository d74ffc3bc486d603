"""Clue overlap and label overlap of two descriptions, 0 to 10, in two steps: extract from each, then compare.

The idea is EMER's (Lian et al., "Explainable Multimodal Emotion Reasoning", 2023), whose judge was a GPT-3.5 that no
longer exists and whose prompt was in Chinese and scored 1 to 10; figures of this module are not theirs. Each text is
extracted from by itself, so that the truth is read the same way for every model, and the comparison sees the two lists
and never who wrote which.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from emollama.errors import DatasetError, InputError
from eval.judge.judge import Judge, UnjudgedError
from eval.judge.prompts import load_prompt
from eval.judge.replies import MAX_SCORE, read_clues, read_labels, read_score

FORMAT = "emollama-judged/1"
Kind = Literal["clues", "labels"]
NEAR = 1.0  # two scores no further apart count as the same in `agreement`


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The true description of a clip and a model's; ``group`` is the speaker or video."""

    name: str
    gold: str
    prediction: str
    group: str | None = None


@dataclass(frozen=True, kw_only=True)
class PairScore:
    """The verdict on one pair; ``scores`` has one entry a repeat, ``gold`` and ``prediction`` are what was extracted in
    the first. ``unjudged`` says why there is no verdict."""

    name: str
    scores: tuple[float, ...] = ()
    gold: tuple[str, ...] = ()
    prediction: tuple[str, ...] = ()
    reason: str = ""
    requests: tuple[str, ...] = ()
    unjudged: str | None = None

    @property
    def score(self) -> float:
        return math.fsum(self.scores) / len(self.scores)


@dataclass(frozen=True, kw_only=True)
class OverlapResult:
    """All verdicts of a run.

    ``value`` is the mean over the judged pairs, ``None`` when there is no figure (``no_figure`` says why); ``spread``
    the standard deviation of the repeats' means.
    """

    kind: Kind
    pairs: tuple[PairScore, ...]
    value: float | None
    low: float | None
    high: float | None
    repeat_means: tuple[float, ...]
    spread: float | None
    mean_difference_of_repeats: float | None
    num_empty: int
    no_figure: str | None
    judge: dict[str, Any]

    @property
    def num_unjudged(self) -> int:
        return sum(pair.unjudged is not None for pair in self.pairs)

    def to_json_dict(self) -> dict[str, Any]:
        """Return the result as plain JSON; every pair with what was extracted, its scores and its requests."""
        return {
            "format": FORMAT,
            "figure": f"{self.kind}_overlap",
            "range": [0, MAX_SCORE],
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "no_figure": self.no_figure,
            "n": len(self.pairs),
            "judged": len(self.pairs) - self.num_unjudged,
            "unjudged": self.num_unjudged,
            "empty_predictions": self.num_empty,
            "repeats": {
                "means": list(self.repeat_means),
                "spread": self.spread,
                "mean_difference": self.mean_difference_of_repeats,
            },
            "judge": self.judge,
            "pairs": [
                {
                    "name": pair.name,
                    "score": None if pair.unjudged is not None else pair.score,
                    "scores": list(pair.scores),
                    "gold": list(pair.gold),
                    "prediction": list(pair.prediction),
                    "reason": pair.reason,
                    "requests": list(pair.requests),
                    "unjudged": pair.unjudged,
                }
                for pair in self.pairs
            ],
        }

    @classmethod
    def from_json_dict(cls, document: Mapping[str, Any]) -> OverlapResult:
        """Read back what `to_json_dict` gave; raises `InputError` for anything else."""
        try:
            if document["format"] != FORMAT:
                raise InputError(f"format is {document['format']!r}; {FORMAT!r} is wanted", field="format")
            pairs = tuple(
                PairScore(
                    name=row["name"], scores=tuple(row["scores"]), gold=tuple(row["gold"]),
                    prediction=tuple(row["prediction"]), reason=row["reason"], requests=tuple(row["requests"]),
                    unjudged=row["unjudged"],
                )
                for row in document["pairs"]
            )  # fmt: skip
            return cls(
                kind=document["figure"].removesuffix("_overlap"), pairs=pairs, value=document["value"],
                low=document["low"], high=document["high"], repeat_means=tuple(document["repeats"]["means"]),
                spread=document["repeats"]["spread"],
                mean_difference_of_repeats=document["repeats"]["mean_difference"],
                num_empty=document["empty_predictions"], no_figure=document["no_figure"], judge=document["judge"],
            )  # fmt: skip
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"the document is no result of a judge: {error!r}", field="format") from error


def clue_overlap(judge: Judge, pairs: Sequence[Pair], *, num_resamples: int = 1000, seed: int = 0) -> OverlapResult:
    """Judge how far the cues of each prediction cover those of the truth; see `label_overlap`."""
    return _overlap(judge, pairs, "clues", num_resamples=num_resamples, seed=seed)


def label_overlap(judge: Judge, pairs: Sequence[Pair], *, num_resamples: int = 1000, seed: int = 0) -> OverlapResult:
    """Judge how far the emotion words of each prediction are those of the truth.

    An empty prediction, and one from which nothing can be extracted, scores 0; a truth from which nothing can be
    extracted leaves the pair unjudged. Raises `DatasetError` for an empty truth or a name that is there twice,
    `EndpointUnusableError` when the judge cannot be asked.
    """
    return _overlap(judge, pairs, "labels", num_resamples=num_resamples, seed=seed)


def _overlap(judge: Judge, pairs: Sequence[Pair], kind: Kind, *, num_resamples: int, seed: int) -> OverlapResult:
    names = [pair.name for pair in pairs]
    for pair in pairs:
        if not pair.gold.strip():
            raise DatasetError(f"{pair.name!r} has an empty true description; there is nothing to compare with")
    if len(set(names)) < len(names):
        doubled = next(name for name in names if names.count(name) > 1)
        raise DatasetError(f"{doubled!r} is there twice; one pair a name is wanted")
    found, no_figure = judge.judge_all(pairs, lambda pair: _judge_pair(judge, pair, kind))
    scored = tuple(
        PairScore(name=pair.name, unjudged=str(verdict)) if isinstance(verdict, UnjudgedError) else verdict
        for pair, verdict in zip(pairs, found, strict=True)
    )
    kept = [(pair, verdict) for pair, verdict in zip(pairs, scored, strict=True) if verdict.unjudged is None]
    has_figure = no_figure is None
    table = np.array([verdict.scores for _, verdict in kept], np.float64).reshape(len(kept), judge.options.repeats)
    means = table.mean(0) if has_figure else np.zeros(0)
    low, high = (
        _interval(table.mean(1), [pair for pair, _ in kept], num_resamples, seed) if has_figure else (None, None)
    )
    repeated = has_figure and table.shape[1] > 1
    return OverlapResult(
        kind=kind,
        pairs=scored,
        value=float(table.mean(1).mean()) if has_figure else None,
        low=low,
        high=high,
        repeat_means=tuple(float(mean) for mean in means),
        spread=float(means.std(ddof=1)) if repeated else None,
        mean_difference_of_repeats=_mean_difference(table) if repeated else None,
        num_empty=sum(not pair.prediction.strip() for pair in pairs),
        no_figure=no_figure,
        judge=judge.to_json_dict(),
    )


def _judge_pair(judge: Judge, pair: Pair, kind: Kind) -> PairScore:
    scores: list[float] = []
    first = PairScore(name=pair.name)
    for repeat in range(judge.options.repeats):
        one = _judge_once(judge, pair, kind, seed=repeat)
        scores.extend(one.scores)
        first = one if repeat == 0 else first
    return PairScore(
        name=pair.name, scores=tuple(scores), gold=first.gold, prediction=first.prediction, reason=first.reason,
        requests=first.requests,
    )  # fmt: skip


def _judge_once(judge: Judge, pair: Pair, kind: Kind, *, seed: int) -> PairScore:
    if not pair.prediction.strip():
        return PairScore(name=pair.name, scores=(0.0,), reason="the prediction is empty")
    read = read_clues if kind == "clues" else read_labels
    extract, compare = load_prompt(f"extract_{kind}"), load_prompt(f"compare_{kind}")
    gold = judge.ask(extract, {"text": pair.gold}, read, seed=seed)
    if not gold.value:
        raise UnjudgedError(f"the judge found no {kind} in the true description")
    given = judge.ask(extract, {"text": pair.prediction}, read, seed=seed)
    requests = (gold.request_sha256, given.request_sha256)
    if not given.value:
        return PairScore(
            name=pair.name, scores=(0.0,), gold=gold.value, requests=requests,
            reason=f"the judge found no {kind} in the prediction",
        )  # fmt: skip
    verdict = judge.ask(
        compare,
        {"gold": list(gold.value), "prediction": list(given.value)},
        lambda document: (read_score(document), str(document.get("reason", ""))),
        seed=seed,
    )
    return PairScore(
        name=pair.name, scores=(verdict.value[0],), gold=gold.value, prediction=given.value, reason=verdict.value[1],
        requests=(*requests, verdict.request_sha256),
    )  # fmt: skip


def _interval(
    scores: np.ndarray, pairs: Sequence[Pair], num_resamples: int, seed: int
) -> tuple[float | None, float | None]:
    from emollama.metrics import bootstrap_totals

    groups = np.array([pair.name if pair.group is None else pair.group for pair in pairs])
    if len(set(groups)) < 2:
        return None, None
    sums = np.stack([scores, np.ones_like(scores)], axis=1)
    (interval,) = bootstrap_totals(
        sums, lambda totals: totals[:, 0] / totals[:, 1], clusters=groups, num_resamples=num_resamples, seed=seed
    )
    return interval.low, interval.high


def _mean_difference(table: np.ndarray) -> float:
    """Return how far two repeats of one pair lie apart on average, over pairs and over pairs of repeats."""
    count = table.shape[1]
    gaps = [np.abs(table[:, i] - table[:, j]) for i in range(count) for j in range(i + 1, count)]
    return float(np.mean(gaps))


# ---- two judges ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How two judges agree on the pairs that both judged: mean difference first - second, mean distance, the share of
    pairs no more than `NEAR` apart, and Pearson's r (``None`` where a judge gave all pairs one score)."""

    n: int
    difference: float
    distance: float
    share_near: float
    pearson: float | None


def agreement(first: OverlapResult, second: OverlapResult) -> Agreement:
    """Compare two judges on the same pairs; raises `InputError` for different figures, names, or too few pairs."""
    if first.kind != second.kind:
        raise InputError(f"the judges judged {first.kind} and {second.kind}; the same is wanted", field="second")
    one, two = ({p.name: p.score for p in result.pairs if p.unjudged is None} for result in (first, second))
    if {p.name for p in first.pairs} != {p.name for p in second.pairs}:
        raise InputError("the judges were given different pairs; the same are wanted", field="second")
    both = [name for name in one if name in two]
    if len(both) < 2:
        raise InputError(f"both judges judged {len(both)} pairs; at least 2 are wanted", field="second")
    a, b = np.array([one[name] for name in both]), np.array([two[name] for name in both])
    steady = float(a.std()) == 0 or float(b.std()) == 0
    return Agreement(
        n=len(both),
        difference=float((a - b).mean()),
        distance=float(np.abs(a - b).mean()),
        share_near=float((np.abs(a - b) <= NEAR).mean()),
        pearson=None if steady else float(np.corrcoef(a, b)[0, 1]),
    )
