"""The engine: every item of a task is put to a model, the answers are kept as they come, and then they are scored.

An item that fails (a clip that cannot be read, an endpoint that does not answer) is written down with its error, counts
as wrong, and never stops the run. The same items, model and settings give the same figures to the last digit, run twice
or interrupted and resumed: figures are always computed from the files of the run, in the order of the items.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from emollama.endpoint import EndpointUnusableError, StoppedError
from emollama.errors import DatasetError, EmoLlamaError, InputError
from eval.ablation import Variant, shortcut, variants
from eval.ask import Answer, EvalModel, give, keep, modalities_of
from eval.leaks import LeakReport, check_leaks
from eval.predictions import PREDICTIONS, Record
from eval.report import write_json
from eval.run_dir import (
    ABLATION,
    ANSWERS,
    ENVIRONMENT,
    FORMAT,
    RESULT,
    EvalRunDir,
    by_id,
    changes_between,
    read_document,
)  # fmt: skip
from eval.score_tasks import SCORE_TASKS
from eval.scoring import (
    ScoreSettings,
    check_gold,
    counts_of,
    latency_of,
    score_records,
    selective_accuracy,
)
from eval.task import EvalTask, Item

Progress = Callable[[int, int], object]
# What may go wrong with one item without the others being worth less.
ITEM_ERRORS = (EmoLlamaError, OSError, ValueError, ArithmeticError, LookupError, TypeError, RuntimeError, MemoryError)
MOST_ERRORS_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """How a run is made. ``limit`` items are taken evenly spread over the split; ``ablate`` ``None``: where it applies.

    ``workers`` items are in flight at a time (their latencies then include waiting for each other); the answers do not
    depend on it.
    """

    split: str | None = None
    limit: int | None = None
    ablate: bool | None = None
    resume: bool = False
    retry_failed: bool = False
    workers: int = 1
    allow_leaks: tuple[str, ...] = ()
    train_manifests: tuple[Path, ...] = ()
    score: ScoreSettings = field(default_factory=ScoreSettings)

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise InputError(f"limit {self.limit} must be at least 1", field="limit")
        if not 1 <= self.workers <= 64:
            raise InputError(f"workers {self.workers} is not allowed; 1 to 64", field="workers")
        if self.score.num_resamples < 1:
            raise InputError(f"resamples {self.score.num_resamples} must be at least 1", field="resamples")


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """A finished run: its folder, and ``result.json``."""

    path: Path
    document: dict[str, Any]


def evaluate(
    task: EvalTask,
    model: EvalModel,
    data: Path,
    run_dir: Path,
    options: EvalOptions | None = None,
    *,
    progress: Progress | None = None,
) -> RunResult:
    """Run one task: answer what is not answered yet, score, and write the result and the reports into ``run_dir``."""
    options = options or EvalOptions()
    items = read_items(task, data, options)
    model.check(task)
    check_gold(items, task, options.score)
    split = options.split or task.split
    leaks = check_leaks(
        task, items, data=data, split=split, manifests=options.train_manifests, allow=options.allow_leaks
    )
    run = EvalRunDir(run_dir, _config(task, model, items, data, options), resume=options.resume)
    if options.resume and options.retry_failed:
        run.drop_failed()
    ask_all(task, model, items, run, options, progress=progress)
    document = finish(task, model, items, run, options, leaks)
    return RunResult(path=run.path, document=document)


def read_items(task: EvalTask, data: Path, options: EvalOptions) -> list[Item]:
    """Return the items of the split; names must be unique, and there must be some."""
    split = options.split or task.split
    if split not in task.splits:
        raise InputError(
            f"task {task.name!r} has no split {split!r}; there are: {', '.join(task.splits)}", field="split"
        )
    items = list(task.items(data, split))
    if not items:
        raise DatasetError(f"the split {split} of {task.name} holds no item in {data}", field="data")
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise DatasetError(f"task {task.name!r} names the item {item.id!r} twice", field="data")
        seen.add(item.id)
    if options.limit is not None and options.limit < len(items):
        items = [items[place * len(items) // options.limit] for place in range(options.limit)]
    return items


def _config(
    task: EvalTask, model: EvalModel, items: Sequence[Item], data: Path, options: EvalOptions
) -> dict[str, Any]:
    known = json.dumps([[item.id, item.gold] for item in items], ensure_ascii=False, sort_keys=True)
    return {
        "task": task.name,
        "score": task.score,
        "split": options.split or task.split,
        "limit": options.limit,
        "num_items": len(items),
        "items_sha256": hashlib.sha256(known.encode()).hexdigest(),
        "asks": task.asks,
        "labels": list(task.labels),
        "instruction": task.instruction,
        "model": model.describe(),
        "data": str(data),
        "ablate": options.ablate,
        "allow_leaks": list(options.allow_leaks),
        "train_manifests": [path.name for path in options.train_manifests],
        "resamples": options.score.num_resamples,
        "seed": options.score.seed,
        "workers": options.workers,
    }


# ---- asking -------------------------------------------------------------------------------------------------------


def ask_all(
    task: EvalTask,
    model: EvalModel,
    items: Sequence[Item],
    run: EvalRunDir,
    options: EvalOptions,
    *,
    progress: Progress | None = None,
) -> None:
    """Answer every item that the run's files do not hold; each answer is on the disk before the next is waited for."""
    whole = by_id(run.records(ANSWERS))
    ablated = {(record.id, record.given) for record in run.records(ABLATION)}
    planned = () if options.ablate is False else variants(task.modalities)
    waiting = [item for item in items if item.id not in whole or any((item.id, v.kept) not in ablated for v in planned)]
    done = len(items) - len(waiting)
    if progress is not None:
        progress(done, len(items))

    def work(item: Item) -> list[tuple[str, Record]]:
        missing = [variant for variant in planned if (item.id, variant.kept) not in ablated]
        return list(_ask_item(task, model, item, whole.get(item.id), missing))

    if options.workers == 1:
        for item in waiting:
            for name, record in work(item):
                run.append(record, name=name)
            done += 1
            if progress is not None:
                progress(done, len(items))
        return
    with ThreadPoolExecutor(options.workers) as pool:
        try:
            for found in pool.map(work, waiting):
                for name, record in found:
                    run.append(record, name=name)
                done += 1
                if progress is not None:
                    progress(done, len(items))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _ask_item(
    task: EvalTask, model: EvalModel, item: Item, whole: Record | None, missing: Sequence[Variant]
) -> Iterator[tuple[str, Record]]:
    """Yield (file, row) of an item: the whole clip's answer unless it is there already, then its ablations."""
    started = time.perf_counter()
    try:
        given = give(item)
    except ITEM_ERRORS as error:
        failed = _failed(item, error, time.perf_counter() - started)
        if whole is None:
            yield ANSWERS, failed
        for variant in missing:
            yield ABLATION, _as_variant(failed, variant)
        return
    read_seconds = time.perf_counter() - started
    if whole is None:
        whole = _ask(partial(model.answer, given, task), item, modalities_of(given.clip), before=read_seconds)
        yield ANSWERS, whole
    for variant in missing:
        record = shortcut(given, variant, whole)
        if record is None:
            ask = partial(model.answer, keep(given, variant.kept), task)
            record = _ask(ask, item, variant.kept, before=0.0)
        yield ABLATION, record


def _ask(ask: Callable[[], Answer], item: Item, given: tuple[str, ...], *, before: float) -> Record:
    started = time.perf_counter()
    try:
        answer = ask()
    except (EndpointUnusableError, StoppedError):
        raise
    except ITEM_ERRORS as error:
        return _failed(item, error, before + time.perf_counter() - started, given=given)
    return Record(
        id=item.id,
        gold=item.gold,
        prediction=answer.prediction,
        probabilities=None if answer.probabilities is None else dict(answer.probabilities),
        abstained=answer.abstained,
        unparseable=answer.unparseable,
        seconds=round(before + time.perf_counter() - started, 4),
        group=item.group,
        given=given,
        text=answer.text,
        notes=dict(answer.notes),
    )


def _failed(item: Item, error: BaseException, seconds: float, *, given: tuple[str, ...] = ()) -> Record:
    message = " ".join(str(error).split()) or "no message"
    return Record(
        id=item.id, gold=item.gold, error=f"{type(error).__name__}: {message}", seconds=round(seconds, 4),
        group=item.group, given=given,
    )  # fmt: skip


def _as_variant(record: Record, variant: Variant) -> Record:
    return replace(record, given=variant.kept, seconds=0.0)


# ---- scoring ------------------------------------------------------------------------------------------------------


def finish(
    task: EvalTask, model: EvalModel, items: Sequence[Item], run: EvalRunDir, options: EvalOptions, leaks: LeakReport
) -> dict[str, Any]:
    """Score the rows of a run and write its result and reports."""
    from eval.report_html import render_html
    from eval.report_markdown import render_markdown

    rows = by_id(run.records(ANSWERS))
    records = [rows[item.id] for item in items]
    scored = score_records(records, task, run.path, options.score)
    counts = counts_of(records)
    environment = read_document(run.path / ENVIRONMENT)
    notes = [
        *changes_between(environment), *leaks.notes, *([task.notes] if task.notes else []), *scored["notes"]
    ]  # fmt: skip
    if counts["failed"]:
        notes.insert(0, f"{counts['failed']} of {len(records)} items failed and count as wrong")
    document: dict[str, Any] = {
        "format": FORMAT,
        "task": task.name,
        "title": task.title,
        "model": model.name,
        "model_details": model.describe(),
        "split": options.split or task.split,
        "limit": options.limit,
        "n": scored["n"],
        "num_items": len(items),
        "primary": scored["primary"],
        "source": scored["source"],
        "instruction": task.instruction,
        "asks": task.asks,
        "counts": counts,
        "read_as": scored["counts"]["read_as"],
        "bootstrap": scored["bootstrap"],
        **{key: scored[key] for key in ("figures", "parts", "confusion", "support", "reliability") if key in scored},
        "details": {key: scored[key] for key in ("clips_by_wheel", "dropped_words") if key in scored},
        "not_abstained": selective_accuracy(records, task, options.score),
        "ablation": _ablation(task, items, run, options),
        "published": [vars(figure) for figure in task.published],
        "leaks": leaks.to_json_dict(),
        "latency": latency_of(records),
        "errors": [{"id": record.id, "error": record.error} for record in records if record.error][:MOST_ERRORS_SHOWN],
        "licence": task.licence,
        "home": task.home,
        "notes": list(dict.fromkeys(notes)),
    }
    write_json(run.path / RESULT, document)
    (run.path / "report.md").write_text(render_markdown(document, environment), encoding="utf-8")
    (run.path / "report.html").write_text(render_html(document, environment), encoding="utf-8")
    return document


def _ablation(task: EvalTask, items: Sequence[Item], run: EvalRunDir, options: EvalOptions) -> list[dict[str, Any]]:
    """Return the rows of the ablation table: each variant's figures, and how far its primary one is from the whole's.

    Modalities that no item had are left out of it.
    """
    rows = {(record.id, record.given): record for record in run.records(ABLATION)}
    had = {name for record in run.records(ANSWERS) for name in record.given}
    table = []
    for variant in () if options.ablate is False else variants([name for name in task.modalities if name in had]):
        records = [rows[item.id, variant.kept] for item in items]
        scored = score_records(
            records, task, run.path / "ablation" / variant.key, options.score, against=run.path / PREDICTIONS
        )
        primary = SCORE_TASKS[task.score].primary
        compared = scored["comparison"]["figures"].get(primary, {})
        table.append(
            {
                "name": variant.name,
                "kept": list(variant.kept),
                "figures": scored["figures"],
                "difference": {key: compared.get(key) for key in ("difference", "low", "high", "p_value")},
                "failed": sum(record.error is not None for record in records),
                "without_answer": sum(not record.has_answer for record in records),
                "nothing_left": sum(record.notes.get("nothing_left", 0) for record in records),
            }
        )
    return table
