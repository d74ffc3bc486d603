"""One row for each answered item, and the two CSV files that the rows are scored by.

The scoring is that of ``emollama score`` to the letter: a run writes ``predictions.csv`` and ``gold.csv`` and scores
these files, so that anybody can score them again without a model. An item that failed, or whose reply could not be
read, is ``unparseable`` there; one that the model has no opinion on is ``abstained``. Where numbers are wanted there
is no such word: the item is answered by what is worth nothing, the middle of the scale or the wrong sign, and the
report says how many were.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from emollama.errors import DatasetError
from eval.score_tasks import SCORE_TASKS, ScoreTask
from eval.task import EvalTask

PREDICTIONS, GOLD = "predictions.csv", "gold.csv"
_QUOTES = str.maketrans({"'": "’", '"': "”", ",": " ", "[": "(", "]": ")"})


@dataclass(frozen=True, kw_only=True)
class Record:
    """A line of ``predictions.jsonl``: what was asked, what was true, what came back, how long it took."""

    id: str
    gold: Any
    prediction: Any = None
    probabilities: Mapping[str, float] | None = None
    abstained: bool = False
    unparseable: bool = False
    seconds: float = 0.0
    error: str | None = None
    group: str | None = None
    given: tuple[str, ...] = ()
    sha256: str | None = None
    text: str | None = None
    notes: Mapping[str, int] = field(default_factory=dict)

    def to_json_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json_dict(cls, document: Mapping[str, Any]) -> Record:
        return cls(**{**document, "given": tuple(document["given"])})

    @property
    def has_answer(self) -> bool:
        return self.prediction is not None and not self.unparseable and self.error is None


def write_tables(records: Sequence[Record], task: EvalTask, folder: Path) -> dict[str, int]:
    """Write both files into ``folder`` and return what the notes must say (rows that were filled in)."""
    rules = SCORE_TASKS[task.score]
    filled = 0
    gold_rows, answer_rows = [], []
    with_groups = any(record.group is not None for record in records)
    with_confidence = _has_confidence(records, task, rules)
    for record in records:
        group = {"group": record.group or f"alone: {record.id}"} if with_groups else {}
        for name, gold, answer in _entries(record, task):
            gold_rows.append({"name": name, **gold_cells(gold, rules), **group})
            cells, was_filled = answer_cells(answer, record, gold, rules)
            filled += was_filled
            if with_confidence:
                cells["confidence"] = repr(_confidence(record))
            answer_rows.append({"name": name, **cells})
    _write(folder / GOLD, gold_rows)
    _write(folder / PREDICTIONS, answer_rows)
    return {"filled": filled} if filled else {}


def _entries(record: Record, task: EvalTask) -> Iterable[tuple[str, Any, Any]]:
    """Yield (name, truth, answer) of an item: one, or one for each frame of a series."""
    if task.asks != "series":
        yield record.id, record.gold, record.prediction if record.has_answer else None
        return
    frames, values = record.gold["frames"], record.gold["values"]
    answers = record.prediction if record.has_answer else [None] * len(frames)
    if not len(frames) == len(values) == len(answers):
        raise DatasetError(
            f"{record.id}: {len(frames)} frames, {len(values)} values and {len(answers)} answers; as many are wanted"
        )
    yield from zip(frames, values, answers, strict=True)


def gold_cells(gold: Any, rules: ScoreTask) -> dict[str, str]:
    """Return the cells of a truth, by the kind of its task."""
    if rules.kind == "classes":
        if rules.with_valence:
            return {"label": str(gold["label"]), "valence": repr(float(gold["valence"]))}
        return {"label": str(gold["label"] if isinstance(gold, Mapping) else gold)}
    if rules.kind == "hit":
        return {"label": str(gold)}
    if rules.kind in ("multilabel", "set", "wheel"):
        return {"labels": _list(gold)}
    return _numbers(gold, rules)


def answer_cells(answer: Any, record: Record, gold: Any, rules: ScoreTask) -> tuple[dict[str, str], bool]:
    """Return the cells of an answer, and whether a number had to be filled in for want of one."""
    absent = "abstained" if record.error is None and not record.unparseable else "unparseable"
    if rules.kind == "classes":
        if rules.with_valence:
            if answer is None:
                return {"label": absent, "valence": "0.0"}, True
            return {"label": str(answer["label"]), "valence": repr(float(answer["valence"]))}, False
        return {"label": absent if answer is None else str(answer)}, False
    if rules.kind in ("multilabel", "set", "wheel", "hit"):
        words = answer["labels"] if isinstance(answer, Mapping) else answer
        return {"labels": absent if words is None else _list(words)}, False
    if answer is not None:
        return _numbers(answer, rules), False
    if rules.kind == "sentiment":
        return {"valence": repr(-float(gold["valence"] if isinstance(gold, Mapping) else gold))}, True
    columns = ("valence", "arousal") if rules.kind == "valence_arousal" else rules.labels
    return dict.fromkeys(columns, "0"), True


def _numbers(value: Any, rules: ScoreTask) -> dict[str, str]:
    if rules.kind == "sentiment":
        return {"valence": repr(float(value["valence"] if isinstance(value, Mapping) else value))}
    if rules.kind == "action_units":
        return {name: str(int(flag)) for name, flag in zip(rules.labels, value, strict=True)}
    columns = ("valence", "arousal") if rules.kind == "valence_arousal" else rules.labels
    return {name: repr(float(value[name])) for name in columns}


def _list(words: Sequence[str]) -> str:
    """A list as the benchmarks' files write it; what would end a word there is written otherwise, on both sides."""
    return "[" + ", ".join(f"'{word.translate(_QUOTES).strip()}'" for word in words) + "]"


def _has_confidence(records: Sequence[Record], task: EvalTask, rules: ScoreTask) -> bool:
    answered = [record for record in records if record.has_answer]
    return (
        rules.kind == "classes"
        and task.asks in ("label", "choice")
        and bool(answered)
        and all(record.probabilities is not None for record in answered)
    )


def _confidence(record: Record) -> float:
    if not record.has_answer or record.probabilities is None:
        return 0.0
    label = record.prediction["label"] if isinstance(record.prediction, Mapping) else record.prediction
    return min(1.0, max(0.0, float(record.probabilities.get(label, 0.0))))


def _write(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    partial = path.with_name(path.name + ".part")
    with partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    partial.replace(path)
