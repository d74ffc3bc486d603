"""``emollama score``: a file of predictions against a file of truth, by a benchmark's own rules, without a model.

Every figure comes with a bootstrap interval. What is missing, doubled, unknown or unreadable stops the run with the
file, the line and what is allowed; it is counted instead only where the caller, or the benchmark, says so.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emollama.errors import DatasetError, EmoLlamaError, InputError, UnknownNameError
from eval.score_files import Table, read_table
from eval.score_rows import ScoreContext, ScoreOptions, Strictness, columns_of, read_synonyms, score_run
from eval.score_tasks import SCORE_TASKS, ScoreTask

if TYPE_CHECKING:
    import numpy as np

    from eval.score_figures import Scored

FORMAT = "emollama-score/1"
CLUSTER_COLUMNS = ("speaker", "video", "group")

app = typer.Typer(help="Score a file of predictions against a file of truth.", add_completion=False)


@app.command()
def main(
    task: Annotated[str | None, typer.Argument(help="Name of the task; without one the tasks are listed.")] = None,
    predictions: Annotated[Path | None, typer.Argument(help="CSV file: name and the task's columns.")] = None,
    gold: Annotated[Path | None, typer.Option(help="CSV file of the truth, the same columns.")] = None,
    against: Annotated[Path | None, typer.Option(help="Predictions of a second run: a paired test of the two.")] = None,
    synonyms: Annotated[
        Path | None, typer.Option(help="CSV file name,groups: the synonym groups of each clip.")
    ] = None,
    wheel: Annotated[Path | None, typer.Option(help="Folder with format.csv, synonym.xlsx, wheel1..5.xlsx.")] = None,
    missing: Annotated[str, typer.Option(help="A clip without a prediction: error, or wrong (counts as wrong).")] = (
        "error"
    ),
    unknown: Annotated[str, typer.Option(help="An answer outside the labels: error, or wrong (unparseable).")] = (
        "error"
    ),
    by: Annotated[str | None, typer.Option(help="Column of the truth whose clips are drawn together; clip: none.")] = (
        None
    ),
    labels: Annotated[str | None, typer.Option(help="Classes of the task 'classes', comma-separated.")] = None,
    resamples: Annotated[int, typer.Option(help="Bootstrap resamples.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the resampling.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    output: Annotated[Path | None, typer.Option(help="Also write the JSON here.")] = None,
) -> None:
    """Score predictions by a benchmark's own rules, with intervals."""
    from rich.console import Console

    from eval.report import print_rows, provenance, write_json

    console = Console()
    if task is None:
        print_rows(console, "tasks", {name: known.source for name, known in SCORE_TASKS.items()})
        return
    try:
        if predictions is None or gold is None:
            raise InputError("score wants a file of predictions and --gold FILE", field="gold")
        options = ScoreOptions(
            missing=_strictness("missing", missing),
            unknown=_strictness("unknown", unknown),
            by=by,
            num_resamples=resamples,
            seed=seed,
        )
        chosen = find_task(task, labels=labels)
        document = score(
            chosen, predictions, gold, name=task, synonyms=synonyms, wheel=wheel, against=against, options=options
        )
    except EmoLlamaError as error:
        Console(stderr=True, soft_wrap=True).print(f"error: {error}", style="red", markup=False, highlight=False)
        raise typer.Exit(2) from error
    if output is not None:
        write_json(output, {**document, "origin": provenance()})
    if as_json:
        typer.echo(json.dumps({**document, "origin": provenance()}, indent=2, ensure_ascii=False))
    else:
        print_rows(console, f"{task}: {chosen.source}", _table(document))
        for note in document["notes"]:
            console.print(f"note: {note}", markup=False, highlight=False)


def _strictness(name: str, value: str) -> Strictness:
    if value not in ("error", "wrong"):
        raise InputError(f"{name} {value!r} is not allowed; error or wrong", field=name)
    return value  # type: ignore[return-value]


def find_task(name: str, *, labels: str | None = None) -> ScoreTask:
    """Return a task by name; ``classes`` is any data set, with the classes named in ``labels``."""
    if name == "classes":
        if labels is None:
            raise InputError("the task 'classes' wants --labels, e.g. --labels happy,sad,neutral", field="labels")
        names = tuple(part.strip() for part in labels.split(",") if part.strip())
        if len(set(names)) < len(names):
            raise InputError(f"labels {labels!r} names a class twice", field="labels")
        return ScoreTask(kind="classes", labels=names, primary="waf", source="classes named by the caller")
    if labels is not None:
        raise InputError(f"labels has no effect on task {name!r}, which has its own", field="labels")
    if name not in SCORE_TASKS:
        raise UnknownNameError("task", name, [*SCORE_TASKS, "classes"])
    return SCORE_TASKS[name]


def score(
    task: ScoreTask,
    predictions: Path,
    gold: Path,
    *,
    name: str = "",
    synonyms: Path | None = None,
    wheel: Path | None = None,
    against: Path | None = None,
    options: ScoreOptions | None = None,
) -> dict[str, Any]:
    """Score one file (and compare it with a second run); returns the document that ``--json`` prints.

    Raises `DatasetError` for whatever is wrong with a file, `InputError` for options that do not fit the task.
    """
    from emollama.metrics import paired_test

    options = options or ScoreOptions()
    files = {"predictions": predictions, "gold": gold}
    for label, path, kind in (("synonyms", synonyms, "set"), ("wheel", wheel, "wheel")):
        if path is not None and not task.kind.startswith(kind) and not (kind == "wheel" and task.kind == "hit"):
            raise InputError(f"{label} has no effect on a task of kind {task.kind}", field=label)
    if synonyms is not None:
        files["synonyms"] = synonyms
    truth = read_table(gold, columns=columns_of(task, is_gold=True))
    context = ScoreContext(task=task, options=options, truth=truth)
    if task.kind == "set":
        context.synonyms = read_synonyms(synonyms, truth, context)
    if task.kind in ("wheel", "hit"):
        if wheel is None:
            raise InputError("this task wants --wheel DIR, the folder of the emotion wheels' word lists", field="wheel")
        from emollama.metrics import load_wheels

        context.wheels = load_wheels(wheel)
        files["format"] = wheel / "format.csv"  # the one word list of which two generations are published
        context.notes.append(f"the word lists hold {len(context.wheels.forms)} forms (MER2025: 7386, MER2026: 7356)")
    first = read_table(predictions, columns=columns_of(task, is_gold=False))
    second = None if against is None else read_table(against, columns=columns_of(task, is_gold=False))
    context.with_confidence = task.kind == "classes" and all(t.has("confidence") for t in (first, second) if t)
    run = score_run(first, context)
    cluster_column, clusters = _clusters(truth, options.by)
    units = None if clusters is None else [clusters[place] for place in run.row_places]
    document: dict[str, Any] = {
        "format": FORMAT,
        "task": name,
        "source": task.source,
        "files": {key: {"name": path.name, "sha256": _sha256(path)} for key, path in files.items()},
        "primary": task.primary,
        "n": len(run.scored.sums),
        "counts": run.counts,
        "bootstrap": {
            "unit": cluster_column or "clip",
            "num_units": len(set(units)) if units is not None else len(run.scored.sums),
            "resamples": options.num_resamples,
            "level": options.level,
            "seed": options.seed,
        },
        **_figures(run.scored, units, options, context.notes),
        **run.scored.details,
    }
    if second is not None and against is not None:
        files["against"] = against
        document["files"]["against"] = {"name": against.name, "sha256": _sha256(against)}
        other = score_run(second, context)
        tests = paired_test(
            run.scored.sums,
            other.scored.sums,
            run.scored.of_totals,
            clusters=_array(units),
            num_resamples=options.num_resamples,
            level=options.level,
            seed=options.seed,
        ) if document["bootstrap"]["num_units"] > 1 else ()  # fmt: skip
        shared = list(run.scored.values)
        document["comparison"] = {
            "counts": other.counts,
            "figures": {
                key: {
                    "value": _plain(run.scored.values[key]),
                    "against": _plain(other.scored.values[key]),
                    "difference": _plain(test.difference),
                    "low": _rounded(test.interval.low),
                    "high": _rounded(test.interval.high),
                    "p_value": _rounded(test.p_value),
                }
                for key, test in zip(shared, tests)  # noqa: B905  (without tests there is nothing to show)
                if "." not in key and key in other.scored.values
            },
        }
    document["notes"] = list(dict.fromkeys(context.notes))
    return document


# ---- the document -------------------------------------------------------------------------------------------------


def _clusters(truth: Table, by: str | None) -> tuple[str | None, list[str] | None]:
    if by == "clip":
        return None, None
    column = by or next((name for name in CLUSTER_COLUMNS if truth.has(name)), None)
    if column is None:
        return None, None
    if not truth.has(column):
        raise DatasetError(f"{truth.path} has no column {column!r} to draw by; found: {', '.join(truth.header)}")
    for row in truth.rows.values():
        if not row.text(column):
            raise DatasetError(f"{row.where(column)} is empty; --by clip draws clips on their own")
    return column, [row.text(column) for row in truth.rows.values()]


def _figures(scored: Scored, units: list[str] | None, options: ScoreOptions, notes: list[str]) -> dict[str, Any]:
    from emollama.metrics import Interval, bootstrap_interval, bootstrap_totals

    settings: dict[str, Any] = {
        "clusters": _array(units),
        "num_resamples": options.num_resamples,
        "level": options.level,
        "seed": options.seed,
    }
    values = {**scored.values, **{name: statistic(_range(scored)) for name, statistic in scored.by_index.items()}}
    intervals: dict[str, Interval] = {}
    if (len(set(units)) if units is not None else len(scored.sums)) > 1:
        intervals = dict(zip(scored.values, bootstrap_totals(scored.sums, scored.of_totals, **settings), strict=True))
        for name, statistic in scored.by_index.items():
            intervals[name] = bootstrap_interval(statistic, len(scored.sums), **settings)
    else:
        notes.append("one unit only: an interval cannot be given")
    figures: dict[str, Any] = {}
    parts: dict[str, Any] = {}
    for name, value in values.items():
        interval = intervals.get(name)
        entry = {
            "value": _plain(value),
            "low": _rounded(interval.low) if interval else None,
            "high": _rounded(interval.high) if interval else None,
        }
        family, _, part = name.partition(".")
        if part:
            parts.setdefault(family, {})[part] = entry
        else:
            figures[name] = entry
    return {"figures": figures, **({"parts": parts} if parts else {})}


def _range(scored: Scored) -> np.ndarray:
    import numpy as np

    return np.arange(len(scored.sums))


def _array(units: list[str] | None) -> np.ndarray | None:
    import numpy as np

    return None if units is None else np.array(units)


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _rounded(value: float) -> float | None:
    return round(float(value), 6) if math.isfinite(value) else None


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _table(document: Mapping[str, Any]) -> dict[str, str]:
    rows = {"n": str(document["n"])}
    for key, value in document["counts"].items():
        if isinstance(value, int) and (value or key in ("unparseable", "abstained")):
            rows[key] = str(value)
    for key, value in document["counts"]["read_as"].items():
        rows[f"read as: {key}"] = str(value)
    drawn = document["bootstrap"]
    rows["interval"] = f"{drawn['level']:.0%}, {drawn['resamples']} resamples of {drawn['num_units']} ({drawn['unit']})"
    figures = {**document["figures"]}
    for family, parts in document.get("parts", {}).items():
        figures |= {f"{family} {part}": entry for part, entry in parts.items()}
    for key, entry in figures.items():
        star = " (official)" if key == document["primary"] else ""
        rows[key + star] = _shown(entry)
    for key, entry in document.get("comparison", {}).get("figures", {}).items():
        rows[f"{key}: difference"] = f"{_shown({**entry, 'value': entry['difference']})}  p = {entry['p_value']:.4f}"
    return rows


def _shown(entry: Mapping[str, float | None]) -> str:
    if entry["value"] is None:
        return "not defined"
    if entry["low"] is None or entry["high"] is None:
        return f"{entry['value']:.4f}"
    return f"{entry['value']:.4f} [{entry['low']:.4f}, {entry['high']:.4f}]"
