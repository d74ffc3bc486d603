"""The rationales of a finished run beside the true descriptions of its task, as pairs for a judge."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from emollama.errors import DatasetError, InputError
from eval.judge.overlap import Pair
from eval.run_dir import ANSWERS, CONFIG, by_id, read_document, read_records
from eval.task import EvalTask

REASON = "reason"  # key of `Item.meta` under which a task keeps the true description


def pairs_of_run(folder: Path, data: Path, *, task: EvalTask | None = None) -> list[Pair]:
    """Join a run's texts with its items' true descriptions; an item that failed, or gave no text, has an empty one.

    Raises `InputError` for a task without descriptions, `DatasetError` for a run whose items are not those of the data.
    """
    from eval.tasks import load_task

    config = read_document(folder / CONFIG)
    task = task or load_task(str(config.get("task")))
    records = by_id(read_records(folder / ANSWERS))
    items = {item.id: item for item in task.items(data, str(config.get("split")))}
    if unknown := [name for name in records if name not in items]:
        raise DatasetError(f"{folder} holds {len(unknown)} items that {data} does not, first {unknown[0]!r}")
    if config.get("num_items") != len(records):
        raise DatasetError(f"{folder} holds {len(records)} of {config.get('num_items')} answers; finish the run first")
    pairs = []
    for name, record in records.items():
        gold = items[name].meta.get(REASON)
        if not isinstance(gold, str):
            raise InputError(f"task {task.name!r} has no true description of item {name!r}", field="task")
        said = record.prediction
        text = said.get("text") if isinstance(said, Mapping) else None
        pairs.append(Pair(name=name, gold=gold, prediction=str(text or record.text or ""), group=record.group))
    return pairs
