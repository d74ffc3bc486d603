"""A sweep as part of a run: the same items under every condition, scored by the same rules, compared with the clean.

Into the run's folder go ``corruptions.csv`` (all that was drawn), ``corrupted/CONDITION/`` (answers and scored files of
each condition) and a table in ``result.json`` and the reports. A sweep that was interrupted goes on where it ended.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emollama.errors import InputError
from eval.ask import EvalModel
from eval.corruptions import CLEAN, find_corruption
from eval.corruptions.noise import NoiseFolder
from eval.predictions import PREDICTIONS
from eval.report import write_json
from eval.robustness import Condition, Draw, corrupt, draw, read_manifest, write_manifest
from eval.run import EvalOptions, Progress, RunResult, ask_all, read_items
from eval.run_dir import ANSWERS, ENVIRONMENT, RESULT, EvalRunDir, by_id, read_document, read_records
from eval.score_tasks import SCORE_TASKS
from eval.scoring import score_records
from eval.task import EvalTask

MANIFEST, FOLDER = "corruptions.csv", "corrupted"


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What a run is put through; ``noise`` is a folder of recordings (MUSAN), without one noise is made."""

    conditions: tuple[Condition, ...]
    seed: int = 0
    noise: Path | None = None

    def __post_init__(self) -> None:
        if not self.conditions:
            raise InputError("conditions are empty; name a corruption, e.g. noise=0,10", field="corrupt")
        if self.noise is not None and not any(condition.corruption == "noise" for condition in self.conditions):
            raise InputError("noise has no effect without the corruption 'noise'", field="noise")

    def check(self, task: EvalTask) -> None:
        """Raise `InputError` for a condition that spoils what the task's items do not have."""
        for condition in self.conditions:
            modality = find_corruption(condition.corruption).modality
            if modality not in task.modalities:
                raise InputError(
                    f"corrupt {condition} spoils {modality}, which the items of {task.name} do not have; they have: "
                    f"{', '.join(task.modalities)}",
                    field="corrupt",
                )


def run_sweep(
    task: EvalTask,
    model: EvalModel,
    data: Path,
    clean: RunResult,
    options: EvalOptions,
    sweep: Sweep,
    *,
    progress: Progress | None = None,
) -> RunResult:
    """Put a finished run's items through every condition; returns the run with the table ``robustness`` in its result.

    Raises `InputError` when the folder holds a sweep with another seed or other noise.
    """
    sweep.check(task)
    noises = None if sweep.noise is None else NoiseFolder(sweep.noise)
    items = read_items(task, data, options)
    draws = {
        condition: [draw(item.id, condition, seed=sweep.seed, noises=noises) for item in items]
        for condition in sweep.conditions
    }
    _keep_manifest(clean.path / MANIFEST, [row for rows in draws.values() for row in rows])
    without_ablation = dataclasses.replace(options, ablate=False)
    whole = by_id(read_records(clean.path / ANSWERS))
    table, total = [], len(items) * len(sweep.conditions)
    for place, condition in enumerate(sweep.conditions):
        spoiled = [corrupt(item, drawn, noises=noises) for item, drawn in zip(items, draws[condition], strict=True)]
        path = clean.path / FOLDER / _safe(condition)
        config = {
            "task": task.name,
            "condition": str(condition),
            "seed": sweep.seed,
            "draws_sha256": hashlib.sha256(repr([row.parameters for row in draws[condition]]).encode()).hexdigest(),
            "model": model.describe(),
        }
        run = EvalRunDir(path, config, resume=path.exists())
        if options.retry_failed:
            run.drop_failed()
        before = place * len(items)
        ask_all(
            task, model, spoiled, run, without_ablation,
            progress=None if progress is None else lambda done, _, before=before: progress(before + done, total),  # type: ignore[misc]
        )  # fmt: skip
        rows = by_id(run.records(ANSWERS))
        records = [rows[item.id] for item in items]
        scored = score_records(records, task, path, options.score, against=clean.path / PREDICTIONS)
        modality = find_corruption(condition.corruption).modality
        compared = scored["comparison"]["figures"].get(SCORE_TASKS[task.score].primary, {})
        table.append(
            {
                "corruption": condition.corruption,
                "level": condition.level,
                "unit": find_corruption(condition.corruption).unit,
                "modality": modality,
                "figures": scored["figures"],
                "difference": {key: compared.get(key) for key in ("difference", "low", "high", "p_value")},
                "failed": sum(record.error is not None for record in records),
                "without_answer": sum(not record.has_answer for record in records),
                "without_modality": sum(modality not in whole[item.id].given for item in items),
                "changed_answers": sum(rows[item.id].prediction != whole[item.id].prediction for item in items),
            }
        )
    document = {
        **clean.document,
        "robustness": {"seed": sweep.seed, "noise": _noise_said(sweep, noises), "rows": table},
    }
    _write_reports(clean.path, document)
    return RunResult(path=clean.path, document=document)


def _keep_manifest(path: Path, draws: Sequence[Draw]) -> None:
    """Write the manifest, or hold it against the one that an interrupted sweep left."""
    if path.exists():
        known = {(row.item, row.corruption, row.level): dict(row.parameters) for row in read_manifest(path)}
        for row in draws:
            before = known.get((row.item, row.corruption, row.level))
            if before is not None and before != dict(row.parameters):
                raise InputError(
                    f"{path} was drawn with another seed or other noise: {row.item!r} under "
                    f"{row.corruption}={row.level} differs; name the same, or another run folder",
                    field="corrupt_seed",
                )
        old = [row for row in read_manifest(path) if (row.item, row.corruption, row.level) not in _keys(draws)]
        draws = [*old, *draws]
    write_manifest(path, draws)


def _keys(draws: Sequence[Draw]) -> set[tuple[str, str, str]]:
    return {(row.item, row.corruption, row.level) for row in draws}


def _safe(condition: Condition) -> str:
    """A folder's name: ``noise-5..10``; what a file system may not like is replaced."""
    return f"{condition.corruption}-{condition.level.replace('|', '_or_')}"


def _noise_said(sweep: Sweep, noises: NoiseFolder | None) -> str | None:
    """Say which noise was added, because figures with made noise are not those of a set of recordings."""
    used = {condition.corruption for condition in sweep.conditions if condition.level != CLEAN}
    kinds = []
    if "noise" in used:
        kinds.append(
            "babble made by rule (no noise folder was named; figures with it are not those of MUSAN)"
            if noises is None
            else f"{len(noises.names)} recordings of the folder {noises.folder.name!r}"
        )
    made = {"noise_white": "white", "noise_speech": "speech-shaped", "noise_babble": "babble"}
    kinds += [f"{kind} noise made by rule" for name, kind in made.items() if name in used]
    return "; ".join(kinds) or None


def _write_reports(path: Path, document: dict[str, Any]) -> None:
    from eval.report_html import render_html
    from eval.report_markdown import render_markdown

    write_json(path / RESULT, document)
    environment = read_document(path / ENVIRONMENT)
    (path / "report.md").write_text(render_markdown(document, environment), encoding="utf-8")
    (path / "report.html").write_text(render_html(document, environment), encoding="utf-8")
