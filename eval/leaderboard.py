"""A leaderboard: finished runs of each task by its official figure, with what others published beside them.

Runs that asked only a part of a split, and published figures on another split, stand in the table and say so: the
rank is of figures, not of fairness.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from emollama.errors import InputError
from emollama.html_page import Section, render_card, render_page
from eval.report_markdown import render_section
from eval.report_tables import LOWER_IS_BETTER, name_of, number
from eval.run_dir import RESULT, read_document


def find_results(paths: Sequence[Path]) -> list[tuple[Path, dict[str, Any]]]:
    """Return (folder, result) of each run; a folder that holds none is searched for folders that do."""
    found = []
    for path in paths:
        if path.is_file():
            files = [path]
        elif (path / RESULT).is_file():
            files = [path / RESULT]
        else:
            files = sorted(path.rglob(RESULT)) if path.is_dir() else []
        if not files:
            raise InputError(f"{path} holds no finished run ({RESULT})", field="runs")
        for file in files:
            document = read_document(file)
            document = document.get("result", document)  # the file of --json has the run under "result"
            if "figures" not in document or "task" not in document:
                raise InputError(f"{file} is no result of `emollama eval`", field="runs")
            found.append((file.parent if file.name == RESULT else file, document))
    return found


def leaderboard(results: Sequence[tuple[Path, dict[str, Any]]]) -> list[Section]:
    """Return one table a task and split, best first."""
    tables: dict[tuple[str, str], list[tuple[Path, dict[str, Any]]]] = {}
    for path, document in results:
        tables.setdefault((document["task"], document["split"]), []).append((path, document))
    return [_table(task, split, runs) for (task, split), runs in sorted(tables.items())]


def _table(task: str, split: str, runs: Sequence[tuple[Path, dict[str, Any]]]) -> Section:
    first = runs[0][1]
    primary = first["primary"]
    lines: list[tuple[float | None, tuple[str, ...]]] = []
    for path, document in runs:
        entry = document["figures"].get(primary) or {"value": None, "low": None, "high": None}
        interval = "" if entry["low"] is None else f"[{number(entry['low'])}, {number(entry['high'])}]"
        median = document["latency"]["median_seconds"]
        time = "" if median is None else f"{1000 * median:.0f} ms"
        cells = (document["model"], number(entry["value"]), interval, str(document["n"]), time, _said(path, document))
        lines.append((entry["value"], cells))
    for figure in {(f["system"], f["figure"], f["source"]): f for _, d in runs for f in d["published"]}.values():
        if figure["figure"] == primary:
            cited = figure["source"] + (f"; {figure['note']}" if figure.get("note") else "")
            cells = (figure["system"], f"{figure['value']:.4g}", "", "", "", f"published: {cited}")
            lines.append((figure["value"], cells))
    sign = 1.0 if primary in LOWER_IS_BETTER else -1.0
    lines.sort(key=lambda line: (line[0] is None, sign * (line[0] or 0.0)))
    rows = tuple((str(place), *cells) for place, (_, cells) in enumerate(lines, start=1))
    return Section(
        key=f"{task}-{split}",
        title=f"{first['title']} ({task}, {split})",
        header=("", "system", name_of(primary), "95 % interval", "n", "median time an item", "where from"),
        rows=rows,
        text=first["source"],
    )


def _said(path: Path, document: dict[str, Any]) -> str:
    said = [f"run {path.name}"]
    if document["limit"]:
        said.append(f"{document['num_items']} items of the split")
    for kind in ("failed", "unparseable"):
        if document["counts"][kind]:
            said.append(f"{document['counts'][kind]} {kind}")
    if document["leaks"]["found"]:
        said.append("LEAK allowed: " + ", ".join(sorted({leak["kind"] for leak in document["leaks"]["found"]})))
    return ", ".join(said)


def leaderboard_html(tables: Sequence[Section]) -> str:
    """Return the leaderboard as one self-contained page."""
    body = [
        f"<h1>{escape('Leaderboard')}</h1>",
        '<p class="sub">Runs of emollama eval and published figures, by the official figure of each task. Published '
        "figures hold for the split and protocol of their source.</p>",
        *(render_card(table) for table in tables),
    ]
    return render_page("Leaderboard", body)


def leaderboard_markdown(tables: Sequence[Section]) -> str:
    """Return the leaderboard as Markdown."""
    lines = ["# Leaderboard", ""]
    for table in tables:
        lines += render_section(table)
    return "\n".join(lines).rstrip() + "\n"
