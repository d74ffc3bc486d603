"""The page of results (``docs/results.md``), written from the logs of runs: a figure without a log cannot appear on it.

A log is what ``emollama eval TASK --json`` writes (a run of the shipped model), or ``emollama eval part NAME --json``
(one network of it on its own, or its voice out of fold); it stands beside the runs of the same data set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emollama.errors import InputError
from emollama.html_page import Section
from eval.report_markdown import render_section
from eval.report_tables import name_of, sections, with_interval
from eval.run_dir import FORMAT, read_document

_TABLES = ("published", "classes", "columns", "ablation", "errors")
# What a part's log is cited by, the most telling first.
_PART_FIGURES = ("uar", "war", "accuracy", "macro_f1", "weighted_f1", "valence_ccc", "arousal_ccc", "ece")
_PART_COUNTS = ("n", "majority_pictures", "recordings", "samples")


def render_results(logs: Sequence[Path]) -> str:
    """Return the page; raises `InputError` for a file that is no log, or when none of them is a run of a task."""
    runs: list[tuple[Path, dict[str, Any]]] = []
    parts: list[tuple[Path, dict[str, Any]]] = []
    for path in logs:
        document = read_document(path)
        result = document.get("result")
        if not isinstance(result, dict) or "command" not in document:
            raise InputError(f"{path} is no log of `emollama eval ... --json`", field="logs")
        (runs if result.get("format") == FORMAT else parts).append((path, document))
    if not runs:
        raise InputError("there is no log of a run among the files; write one with `emollama eval TASK --json FILE`")
    lines = [
        "# Results",
        "",
        "Written by `emollama eval results` from the logs in [logs](logs); each figure has the command that gave it.",
        "In brackets: 95 % bootstrap interval, over items, or over speakers or videos where the data set names them.",
        "",
        *render_section(_overview(runs, parts)),
    ]
    for path, document in runs:
        lines += _run(path, document, [part for part in parts if part[1].get("task") == document["result"]["task"]])
    left = [part for part in parts if part[1].get("task") not in {document["result"]["task"] for _, document in runs}]
    if left:
        lines += ["## Parts on their own", ""]
        for path, document in left:
            lines += _part(path, document)
    return "\n".join(lines).rstrip() + "\n"


def _overview(
    runs: Sequence[tuple[Path, Mapping[str, Any]]], parts: Sequence[tuple[Path, Mapping[str, Any]]]
) -> Section:
    rows = []
    for _, document in runs:
        result = document["result"]
        figure = result["primary"]
        median = result["latency"]["median_seconds"]
        rows.append(
            (
                f"[{result['task']}](#{_anchor(result)})",
                result["model"],
                result["split"] + (", evenly spread items" if result["limit"] else ""),
                name_of(figure),
                with_interval(result["figures"][figure]),
                str(result["n"]),
                "" if median is None else f"{1000 * median:.0f} ms",
            )
        )
        rows += [
            (f"{result['task']}, speakers not heard", "its voice networks, out of fold", "by speakers", name_of("uar"),
             f"{part['result']['uar']:.4f}", str(part["result"]["recordings"]), "")
            for _, part in parts
            if part.get("task") == result["task"] and "folds" in part["result"]
        ]  # fmt: skip
    header = ("task", "model", "split", "official figure", "value", "n", "median time an item")
    text = "What a model has seen of a set, and what else must be known, stands with each set below."
    return Section(key="overview", title="At a glance", header=header, rows=tuple(rows), text=text)


def _anchor(result: Mapping[str, Any]) -> str:
    """The anchor that GitHub gives the task's heading."""
    kept = "".join(char for char in result["title"].lower() if char.isalnum() or char in " -_")
    return kept.replace(" ", "-")


def _run(path: Path, document: Mapping[str, Any], parts: Sequence[tuple[Path, Mapping[str, Any]]]) -> list[str]:
    result = document["result"]
    lines = [f"## {result['title']}", ""]
    first = result["primary"]
    figures = [
        (name_of(name) + (" — the official figure" if name == first else ""), with_interval(entry))
        for name, entry in sorted(result["figures"].items(), key=lambda pair: pair[0] != first)
    ]
    counts = result["counts"]
    said = [f"{counts[name]} {name}" for name in ("failed", "unparseable", "abstained")]
    lines += [
        f"{result['model']}, split {result['split']}, {result['num_items']} items ({', '.join(said)}). "
        f"{result['source']}.",
        "",
        *[f"- {note}" for note in result["notes"]],
        *([""] if result["notes"] else []),
        "```sh",
        str(document["command"]),
        "```",
        "",
        *render_section(
            Section(key="figures", title="Figures", header=("figure", "value"), rows=tuple(figures)), level=3
        ),
    ]
    for section in sections(result, document):
        if section.key in _TABLES:
            lines += render_section(section, level=3)
    for part in parts:
        lines += _part(*part)
    lines += [_origin(path, document), ""]
    return lines


def _part(path: Path, document: Mapping[str, Any]) -> list[str]:
    result = document["result"]
    shown = [(name, result[name]) for name in _PART_FIGURES if isinstance(result.get(name), float)]
    rows = [(name_of("war" if name == "accuracy" else name), f"{value:.4f}") for name, value in shown]
    rows += [(name.replace("_", " "), str(result[name])) for name in _PART_COUNTS if name in result]
    rows += [(f"UAR of the speakers {fold}", f"{value:.4f}") for fold, value in result.get("folds", {}).items()]
    title = "Speakers that were not heard (out of fold)" if "folds" in result else f"{document['task']}, one part alone"
    section = Section(key="part", title=title, header=("figure", "value"), rows=tuple(rows))
    return [
        *render_section(section, level=3),
        "```sh",
        str(document["command"]),
        "```",
        "",
        _origin(path, document),
        "",
    ]


def _origin(path: Path, document: Mapping[str, Any]) -> str:
    machine, revision = document.get("machine", {}), str(document.get("git_revision"))[:12]
    return (
        f"Log: [{path.name}](logs/{path.name}), {document.get('date')}, revision {revision}, "
        f"{machine.get('usable_cores')} cores of {machine.get('cpu')}."
    )
