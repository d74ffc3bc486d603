"""Figures of a run from its rows: the scorer's document, and what a model's run knows beyond a file of predictions.

`score_records` writes the two CSV files and scores them as ``emollama score`` does. Beside its figures stand the counts
(failed, unparseable, abstained), the accuracy on what the model did not abstain from, and the latency.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from emollama.errors import DatasetError, EmoLlamaError
from emollama.metrics import bootstrap_totals
from eval.predictions import GOLD, PREDICTIONS, Record, write_tables
from eval.score import score
from eval.score_rows import ScoreOptions
from eval.score_tasks import SCORE_TASKS
from eval.task import EvalTask, Item


@dataclass(frozen=True, kw_only=True)
class ScoreSettings:
    """What scoring may be given besides the rows: word lists, synonym groups, and how intervals are drawn."""

    wheel: Path | None = None
    synonyms: Path | None = None
    num_resamples: int = 1000
    seed: int = 0


def score_records(
    records: Sequence[Record], task: EvalTask, folder: Path, settings: ScoreSettings, *, against: Path | None = None
) -> dict[str, Any]:
    """Write ``predictions.csv`` and ``gold.csv`` into ``folder`` and return the scorer's document.

    ``against`` is another run's ``predictions.csv`` over the same truth: the document then holds a paired comparison.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = write_tables(records, task, folder)
    has_groups = any(record.group is not None for record in records)
    document = score(
        SCORE_TASKS[task.score],
        folder / PREDICTIONS,
        folder / GOLD,
        name=task.score,
        synonyms=settings.synonyms,
        wheel=settings.wheel,
        against=against,
        options=ScoreOptions(
            unknown="wrong",
            by="group" if has_groups else "clip",
            num_resamples=settings.num_resamples,
            seed=settings.seed,
        ),
    )
    if written.get("filled"):
        document["notes"].append(
            f"{written['filled']} rows had no answer where a number is wanted and count as the middle of the scale "
            "(the wrong sign for sentiment)"
        )
    return document


def check_gold(items: Sequence[Item], task: EvalTask, settings: ScoreSettings) -> None:
    """Score the truth against itself, so that a truth that cannot be scored stops the run before it starts."""
    records = [Record(id=item.id, gold=item.gold, prediction=_perfect(item, task), group=item.group) for item in items]
    try:
        with tempfile.TemporaryDirectory() as folder:
            score_records(records, task, Path(folder), replace(settings, num_resamples=1))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, EmoLlamaError):
            raise
        raise DatasetError(
            f"the truth of task {task.name!r} has not the form that {task.score!r} scores: {error!r}", field="gold"
        ) from error


def _perfect(item: Item, task: EvalTask) -> Any:
    if task.asks == "series":
        return item.gold["values"]
    if SCORE_TASKS[task.score].kind == "hit":
        return [item.gold]
    return item.gold


def counts_of(records: Sequence[Record]) -> dict[str, Any]:
    """Count what did not go as wished, and sum what the answers noted of themselves."""
    noted: Counter[str] = Counter()
    for record in records:
        noted.update(record.notes)
    return {
        "items": len(records),
        "failed": sum(record.error is not None for record in records),
        "unparseable": sum(record.unparseable for record in records),
        "abstained": sum(record.abstained for record in records),
        "without_answer": sum(not record.has_answer for record in records),
        **dict(sorted(noted.items())),
    }


def latency_of(records: Sequence[Record]) -> dict[str, float | int | None]:
    """Return the median and the 95th percentile of the seconds an answered item took, decoding included."""
    seconds = [record.seconds for record in records if record.error is None]
    if not seconds:
        return {"num_items": 0, "median_seconds": None, "p95_seconds": None}
    return {
        "num_items": len(seconds),
        "median_seconds": round(float(np.median(seconds)), 4),
        "p95_seconds": round(float(np.quantile(seconds, 0.95)), 4),
    }


def selective_accuracy(
    records: Sequence[Record], task: EvalTask, settings: ScoreSettings
) -> dict[str, float | int | None] | None:
    """Return the accuracy on the items that the model did not abstain from, with its interval; ``None`` if it answers
    everything, or the task has no classes."""
    is_class = SCORE_TASKS[task.score].kind == "classes" and task.asks == "label"
    if not is_class or not any(record.abstained for record in records):
        return None
    answered = np.array([record.has_answer and not record.abstained for record in records], float)
    right = np.array([_label(record.prediction) == _label(record.gold) for record in records], float)
    result: dict[str, float | int | None] = {"num_items": int(answered.sum()), "value": None, "low": None, "high": None}
    if not answered.any():
        return result
    result["value"] = float((right * answered).sum() / answered.sum())
    groups = [record.group or record.id for record in records]
    if len(set(groups)) > 1:
        with np.errstate(invalid="ignore", divide="ignore"):
            (interval,) = bootstrap_totals(
                np.stack([right * answered, answered], 1),
                lambda totals: totals[:, 0] / totals[:, 1],
                clusters=np.array(groups),
                num_resamples=settings.num_resamples,
                seed=settings.seed,
            )
        result["low"], result["high"] = round(interval.low, 6), round(interval.high, 6)
    return result


def _label(value: Any) -> Any:
    return value.get("label") if isinstance(value, dict) else value
