"""Figures from paired rows: the point values by `emollama.metrics`, and the totals that intervals resample.

Every kind of task becomes one `Scored`: what each unit (clip, frame) adds to the totals, and the function from totals
to figures. `emollama.metrics.bootstrap_totals` and `paired_test` take it from there. Knows no files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from emollama import metrics
from emollama.metrics.confidence import confidence_bins

NUM_BINS = 15


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Figures of one run.

    ``values``: figure -> point value (NaN where not defined). ``sums`` [N, K] and ``of_totals`` ([B, K] -> [B, M], in
    the order of ``values``): what is resampled. ``units`` [N]: which of the paired rows the units are. ``by_index``:
    figures that are no function of totals, as functions of unit indices. ``details``: what the report shows besides.
    """

    values: Mapping[str, float]
    sums: np.ndarray
    of_totals: Callable[[np.ndarray], np.ndarray]
    units: np.ndarray
    by_index: Mapping[str, Callable[[np.ndarray], float]] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)


def _ratio(above: np.ndarray, below: np.ndarray, *, empty: float = np.nan) -> np.ndarray:
    above, below = np.broadcast_arrays(np.asarray(above, float), np.asarray(below, float))
    return np.divide(above, below, out=np.full(above.shape, empty), where=below > 0)


def _mean_of_defined(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis of what is not NaN."""
    is_defined = ~np.isnan(values)
    return _ratio(np.where(is_defined, values, 0.0).sum(-1), is_defined.sum(-1))


# ---- classes ------------------------------------------------------------------------------------------------------


def score_classes(
    truth: np.ndarray,
    predicted: np.ndarray,
    labels: Sequence[str],
    *,
    figures: Sequence[str],
    valence: tuple[np.ndarray, np.ndarray] | None = None,
    confidence: np.ndarray | None = None,
    units: np.ndarray | None = None,
) -> Scored:
    """Score class indices [N] (-1 = no answer that could be read), with valence and confidence [N] where given."""
    size = len(labels)
    cells = size * (size + 1)
    column = np.where(predicted < 0, size, predicted)
    blocks = [np.eye(cells)[truth * (size + 1) + column]]
    is_right = truth == predicted
    if valence is not None:
        blocks.append(((valence[0] - valence[1]) ** 2)[:, None])
    if confidence is not None:
        gaps = np.zeros((len(truth), NUM_BINS))
        gaps[np.arange(len(truth)), confidence_bins(confidence, num_bins=NUM_BINS)] = is_right - confidence
        blocks.append(gaps)

    def of_totals(totals: np.ndarray) -> np.ndarray:
        counts = totals[:, :cells].reshape(-1, size, size + 1)
        num, support = counts.sum((1, 2)), counts.sum(2)
        hits = np.diagonal(counts, axis1=1, axis2=2)
        recall = _ratio(hits, support)
        f1 = _ratio(2 * hits, support + counts[:, :, :size].sum(1), empty=0.0)
        found = {
            "waf": _ratio((f1 * support).sum(1), num),
            "macro_f1": f1.mean(1),
            "uar": _mean_of_defined(recall),
            "war": _ratio(hits.sum(1), num),
            "war_of_answered": _ratio(hits.sum(1), counts[:, :, :size].sum((1, 2))),
        }
        if valence is not None:
            found["mse"] = _ratio(totals[:, cells], num)
            found["emoval"] = found["waf"] - 0.25 * found["mse"]
        if confidence is not None:
            found["ece"] = _ratio(np.abs(totals[:, -NUM_BINS:]).sum(1), num)
        kept = [found[name] for name in names]
        return np.concatenate([np.stack(kept, 1), recall, f1], axis=1)

    names = [*figures, *(["war_of_answered"] if (predicted < 0).any() else [])]
    values = {
        "waf": metrics.weighted_f1(truth, predicted, num_classes=size),
        "macro_f1": metrics.macro_f1(truth, predicted, num_classes=size),
        "uar": metrics.unweighted_average_recall(truth, predicted, num_classes=size),
        "war": metrics.accuracy(truth, predicted),
        "war_of_answered": float(is_right[predicted >= 0].mean()) if (predicted >= 0).any() else np.nan,
    }
    by_index: dict[str, Callable[[np.ndarray], float]] = {}
    counts = metrics.confusion_matrix(truth, predicted, num_classes=size)
    details: dict[str, Any] = {"confusion": {"labels": list(labels), "counts": counts.tolist()}}
    details["support"] = dict(zip(labels, counts.sum(1).tolist(), strict=True))
    if valence is not None:
        values["mse"] = metrics.mean_squared_error(*valence)
        values["emoval"] = metrics.emoval(values["waf"], values["mse"])
        names += ["mse", "emoval"]
    if confidence is not None:
        values["ece"] = metrics.calibration_error(confidence, is_right, num_bins=NUM_BINS)
        names += ["ece"]
        by_index["aurc"] = lambda index: metrics.area_under_risk_coverage(confidence[index], is_right[index])
        rows = metrics.reliability(confidence, is_right, num_bins=NUM_BINS).tolist()
        details["reliability"] = [[None if np.isnan(value) else value for value in row] for row in rows]  # empty bins
    recall = metrics.per_class_recall(truth, predicted, num_classes=size)
    f1 = metrics.per_class_f1(truth, predicted, num_classes=size)
    return Scored(
        values={
            **{name: values[name] for name in names},
            **{f"recall.{label}": float(value) for label, value in zip(labels, recall, strict=True)},
            **{f"f1.{label}": float(value) for label, value in zip(labels, f1, strict=True)},
        },
        sums=np.concatenate(blocks, axis=1),
        of_totals=of_totals,
        units=np.arange(len(truth)) if units is None else units,
        by_index=by_index,
        details=details,
    )


def score_multilabel(truth: np.ndarray, predicted: np.ndarray, labels: Sequence[str]) -> Scored:
    """Score 0/1 matrices [N, K]: macro and micro F1, the share of clips with exactly the right set, F1 by label."""
    size = len(labels)
    f1 = metrics.multilabel_f1(truth, predicted)
    hits, total = float((truth * predicted).sum()), float(truth.sum() + predicted.sum())
    is_exact = (truth == predicted).all(1)

    def of_totals(totals: np.ndarray) -> np.ndarray:
        hit, size_of_both = totals[:, :size], totals[:, size : 2 * size]
        each = _ratio(2 * hit, size_of_both, empty=0.0)
        micro = _ratio(2 * hit.sum(1), size_of_both.sum(1), empty=0.0)
        return np.column_stack([each.mean(1), micro, _ratio(totals[:, -2], totals[:, -1]), each])

    values = {
        "macro_f1": float(f1.mean()),
        "micro_f1": 2 * hits / total if total else 0.0,
        "exact_match": float(is_exact.mean()),
        **{f"f1.{label}": float(value) for label, value in zip(labels, f1, strict=True)},
    }
    sums = np.column_stack([truth * predicted, truth + predicted, is_exact, np.ones(len(truth))]).astype(float)
    return Scored(values=values, sums=sums, of_totals=of_totals, units=np.arange(len(truth)))


def score_action_units(truth: np.ndarray, predicted: np.ndarray, names: Sequence[str], units: np.ndarray) -> Scored:
    """Score 0/1 matrices [N, 12] of the frames that are annotated: the mean binary F1, and each unit's."""
    size = len(names)
    each = metrics.multilabel_f1(truth, predicted)

    def of_totals(totals: np.ndarray) -> np.ndarray:
        f1 = _ratio(2 * totals[:, :size], totals[:, size:], empty=0.0)
        return np.column_stack([f1.mean(1), f1])

    return Scored(
        values={
            "au_f1": float(metrics.action_unit_f1(truth, predicted)),
            **{f"f1.{name}": float(value) for name, value in zip(names, each, strict=True)},
        },
        sums=np.column_stack([truth * predicted, truth + predicted]).astype(float),
        of_totals=of_totals,
        units=units,
    )


# ---- numbers ------------------------------------------------------------------------------------------------------


def score_series(
    truth: np.ndarray, predicted: np.ndarray, names: Sequence[str], units: np.ndarray, *, agreement: str
) -> Scored:
    """Score columns of numbers [N, K]: by CCC (``agreement="ccc"``) with Pearson beside it, or by Pearson alone."""
    size = len(names)
    centre = truth.mean(0)  # the same shift on both sides changes neither figure, and keeps the sums precise
    x, y = truth - centre, predicted - centre
    wanted = ("ccc", "pearson") if agreement == "ccc" else ("pearson",)
    by_name = {"ccc": metrics.concordance, "pearson": metrics.pearson}

    def of_totals(totals: np.ndarray) -> np.ndarray:
        num = totals[:, -1:]
        mx, my, mxx, myy, mxy = (totals[:, k * size : (k + 1) * size] / num for k in range(5))
        vx, vy, cxy = _variance(mxx, mx), _variance(myy, my), mxy - mx * my
        below = vx + vy + (mx - my) ** 2
        found = {
            "ccc": np.where(below > 0, _ratio(2 * cxy, below, empty=1.0), 1.0),
            "pearson": _ratio(cxy, np.sqrt(vx * vy), empty=0.0),
        }
        columns = [np.column_stack([found[name].mean(1), found[name]]) for name in wanted]
        error = (mxx + myy - 2 * mxy).mean(1)
        return np.column_stack([*columns, error])

    values: dict[str, float] = {}
    for name in wanted:
        each = [by_name[name](truth[:, k], predicted[:, k]) for k in range(size)]
        values[name] = float(np.mean(each))
        values |= {f"{name}.{column}": value for column, value in zip(names, each, strict=True)}
    values["mse"] = float(((truth - predicted) ** 2).mean())
    sums = np.column_stack([x, y, x * x, y * y, x * y, np.ones(len(x))])
    return Scored(values=values, sums=sums, of_totals=of_totals, units=units)


def _variance(mean_of_squares: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Biased variance; what is left of a constant after rounding is 0."""
    found = mean_of_squares - mean**2
    return np.where(found > 1e-13 * mean_of_squares, found, 0.0)


# ---- words --------------------------------------------------------------------------------------------------------


def score_sets(
    gold: Sequence[Sequence[str]],
    predicted: Sequence[Sequence[str]],
    synonyms: Sequence[Mapping[str, str]],
    units: np.ndarray,
) -> Scored:
    """Score word sets as MER2024-OV does."""
    found = metrics.set_score(gold, predicted, synonyms)

    def of_totals(totals: np.ndarray) -> np.ndarray:
        accuracy, recall = totals[:, 0] / totals[:, 2], totals[:, 1] / totals[:, 2]
        return np.column_stack([(accuracy + recall) / 2, accuracy, recall])

    return Scored(
        values={"score": found.score, "set_accuracy": found.accuracy, "set_recall": found.recall},
        sums=np.column_stack([found.accuracies, found.recalls, np.ones(len(gold))]),
        of_totals=of_totals,
        units=units,
    )


def score_wheels(
    gold: Sequence[Sequence[str]],
    predicted: Sequence[Sequence[str]],
    wheels: metrics.EmotionWheels,
    *,
    levels: Sequence[int],
) -> Scored:
    """Score word sets on five emotion wheels, at one level or at both (then ``ew`` is the mean of the two)."""
    found = [metrics.wheel_score(gold, predicted, wheels, level=level) for level in levels]
    blocks, values = [], {}
    if len(levels) > 1:
        values["ew"] = float(np.mean([score.score for score in found]))
    kept = {}
    for score in found:
        is_kept = ~np.isnan(score.recalls)
        blocks += [np.nan_to_num(score.precisions), np.nan_to_num(score.recalls), is_kept.astype(float)]
        name = f"level{score.level}"
        values[f"ew_{name}"] = score.score
        values[f"precision_{name}"] = float(score.precision.mean())
        values[f"recall_{name}"] = float(score.recall.mean())
        values |= {f"wheel{wheel}_{name}": float(f1) for wheel, f1 in zip(metrics.wheel.WHEELS, score.f1, strict=True)}
        kept[name] = score.num_kept.tolist()
    size = len(found[0].f1)

    def of_totals(totals: np.ndarray) -> np.ndarray:
        columns = []
        for place in range(len(found)):
            precision, recall, num = (
                totals[:, (3 * place + part) * size : (3 * place + part + 1) * size] for part in range(3)
            )
            precision, recall = _ratio(precision, num), _ratio(recall, num)
            f1 = metrics.wheel_f1(precision, recall)
            columns.append(np.column_stack([f1.mean(1), precision.mean(1), recall.mean(1), f1]))
        both = [np.mean([part[:, 0] for part in columns], axis=0)] if len(found) > 1 else []
        return np.column_stack([*both, *columns])

    return Scored(
        values=values,
        sums=np.concatenate(blocks, axis=1),
        of_totals=of_totals,
        units=np.arange(len(gold)),
        details={"clips_by_wheel": kept, "dropped_words": dropped_words(gold, predicted, wheels)},
    )


def score_hits(gold: Sequence[str], predicted: Sequence[Sequence[str]], wheels: metrics.EmotionWheels) -> Scored:
    """Score how often the gold label is among the predicted words, on five wheels (HIT of MER-UniBench)."""
    hits = metrics.wheel_hit(gold, predicted, wheels)
    is_kept = ~np.isnan(hits)
    size = hits.shape[1]

    def of_totals(totals: np.ndarray) -> np.ndarray:
        each = _ratio(totals[:, :size], totals[:, size:])
        return np.column_stack([_mean_of_defined(each), each])

    sums = np.concatenate([np.nan_to_num(hits), is_kept.astype(float)], axis=1)
    point = of_totals(sums.sum(0)[None])[0]
    names = ["hit", *(f"hit_wheel{wheel}" for wheel in metrics.wheel.WHEELS)]
    return Scored(
        values={name: float(value) for name, value in zip(names, point, strict=True)},
        sums=sums,
        of_totals=of_totals,
        units=np.arange(len(gold)),
        details={
            "clips_by_wheel": {"level1": is_kept.sum(0).tolist()},
            "dropped_words": dropped_words([[word] for word in gold], predicted, wheels),
        },
    )


def dropped_words(
    gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], wheels: metrics.EmotionWheels, *, most: int = 20
) -> dict[str, Any]:
    """Count the words that no form of the word lists covers: in all, and the most frequent ones, on each side."""
    report: dict[str, Any] = {}
    for side, clips in (("gold", gold), ("predicted", predicted)):
        words = Counter(word.strip().lower() for clip in clips for word in clip)
        dropped = {word: count for word, count in words.items() if not wheels.is_known(word)}
        ranked = sorted(dropped.items(), key=lambda item: (-item[1], item[0]))
        report[side] = {
            "num_words": words.total(),
            "num_dropped": sum(dropped.values()),
            "most_frequent": dict(ranked[:most]),
        }
    return report
