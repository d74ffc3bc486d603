"""Runs a part of nano (`eval.parts`): its settings, its table, and the file that says how the figures came about."""

from __future__ import annotations

import inspect
import json
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from emollama.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console


def run_part(
    console: Console,
    part: str,
    function: Callable[..., dict[str, Any]],
    *,
    data: Path,
    options: Mapping[str, Any] = MappingProxyType({}),
    json_path: Path | None = None,
) -> dict[str, Any]:
    """Run one part, show its table, write its report; returns the report."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from eval.report import flatten, print_rows, provenance, write_json

    accepted = inspect.signature(function).parameters
    allowed = [name for name in list(accepted)[1:] if name != "progress"]
    for name, value in options.items():
        if name not in allowed:
            raise InputError(
                f"{name} {value!r} has no effect on part {part!r}; it takes: {', '.join(allowed) or 'no settings'}",
                field=name,
            )
    extra: dict[str, Any] = {}
    started = time.perf_counter()
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        line = bar.add_task(part, total=None)
        if "progress" in accepted:
            extra["progress"] = lambda done, total: bar.update(line, completed=done, total=total)
        result = function(data, **options, **extra)
    report = {"task": part, **provenance(), "seconds": round(time.perf_counter() - started, 2), "result": result}
    print_rows(console, part, flatten(result))
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
