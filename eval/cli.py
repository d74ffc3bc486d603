"""``emollama eval``: score a model on a benchmark task.

Knows the names of the tasks and what to do with their answers; the tasks themselves are imported when asked for.
"""

from __future__ import annotations

import inspect
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emollama.errors import DatasetError, EmoLlamaError, InputError
from eval.tasks import TASKS, describe_task, load_task

if TYPE_CHECKING:
    from rich.console import Console

DATA_VARIABLE = "EMOLLAMA_DATA"
DEFAULT_DATA = Path("../shared/data")

app = typer.Typer(help="Score a model on a benchmark task.", add_completion=False)


@app.command()
def evaluate(
    task: Annotated[str | None, typer.Argument(help="Name of the task; without one the tasks are listed.")] = None,
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings of the task, e.g. limit=500.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help=f"Folder of the raw data, or the task's file. Default: ${DATA_VARIABLE}, then {DEFAULT_DATA}."
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Preset or checkpoint folder; default: the task's own.")] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Also write the result and its origin here.")] = None,
) -> None:
    """Score a model on a benchmark task, and say how the figure came about."""
    from rich.console import Console

    console = Console()
    if task is None:
        from eval.report import print_rows

        print_rows(console, "tasks", {name: describe_task(name) for name in TASKS})
        return
    try:
        options = {**read_settings(settings or ()), **({} if model is None else {"model": model})}
        run(console, task, load_task(task), data=find_data(data), options=options, json_path=json_path)
    except EmoLlamaError as error:
        Console(stderr=True).print(f"[red]error:[/red] {error}", highlight=False)
        raise typer.Exit(2) from error


def run(
    console: Console,
    task: str,
    function: Callable[..., dict[str, Any]],
    *,
    data: Path,
    options: Mapping[str, Any] = MappingProxyType({}),
    json_path: Path | None = None,
) -> dict[str, Any]:
    """Run one task, show its table, write its report; returns the report."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from eval.report import flatten, print_rows, provenance, write_json

    accepted = inspect.signature(function).parameters
    allowed = [name for name in list(accepted)[1:] if name != "progress"]
    for name, value in options.items():
        if name not in allowed:
            raise InputError(
                f"{name} {value!r} has no effect on task {task!r}; it takes: {', '.join(allowed) or 'no settings'}",
                field=name,
            )
    extra: dict[str, Any] = {}
    started = time.perf_counter()
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        line = bar.add_task(task, total=None)
        if "progress" in accepted:
            extra["progress"] = lambda done, total: bar.update(line, completed=done, total=total)
        result = function(data, **options, **extra)
    report = {"task": task, **provenance(), "seconds": round(time.perf_counter() - started, 2), "result": result}
    print_rows(console, task, flatten(result))
    if json_path is not None:
        write_json(json_path, report)
        console.print(f"written to {json_path}")
    return report


def read_settings(assignments: Iterable[str]) -> dict[str, Any]:
    """Read ``key=value`` pairs; a value is JSON and, failing that, text: ``["limit=500", "split=dev"]``."""
    settings: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key.isidentifier():
            raise InputError(f"setting {assignment!r} is not of the form key=value", field="settings")
        try:
            settings[key] = json.loads(text)
        except json.JSONDecodeError:
            settings[key] = text
    return settings


def find_data(given: Path | None) -> Path:
    """Return where the data lies: the option, then the environment, then the folder beside the checkout."""
    path = given or Path(os.environ.get(DATA_VARIABLE) or DEFAULT_DATA)
    if not path.exists():
        raise DatasetError(
            f"data {str(path)!r} does not exist; name the folder with --data or {DATA_VARIABLE}", field="data"
        )
    return path
