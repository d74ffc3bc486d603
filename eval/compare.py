"""Two runs of one task on the same items: is the difference more than chance, and on which items do they differ?

Every figure is compared by a paired bootstrap interval and a randomisation test over the items (or their groups), as
``emollama score --against`` does; right or wrong answers also by McNemar's exact test (Psychometrika 12, 1947), which
counts only the items that one run got right and the other wrong.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emollama.errors import InputError
from emollama.html_page import Section
from eval.predictions import PREDICTIONS, Record
from eval.report_tables import name_of, number
from eval.run_dir import ANSWERS, CONFIG, RESULT, by_id, read_document, read_records
from eval.score_files import some
from eval.score_tasks import SCORE_TASKS
from eval.scoring import ScoreSettings, score_records
from eval.task import EvalTask

FORMAT = "emollama-compare/1"


def compare_runs(first: Path, second: Path, task: EvalTask, settings: ScoreSettings | None = None) -> dict[str, Any]:
    """Compare two finished runs on the items that both asked; differences are first - second."""
    settings = settings or ScoreSettings()
    results = [read_document(path / RESULT) for path in (first, second)]
    configs = [read_document(path / CONFIG) for path in (first, second)]
    for key in ("task", "score", "split"):
        if configs[0].get(key) != configs[1].get(key):
            raise InputError(
                f"the runs have another {key}: {configs[0].get(key)!r} and {configs[1].get(key)!r}; only runs of one "
                "task and split can be compared",
                field=key,
            )
    runs = [by_id(read_records(path / ANSWERS)) for path in (first, second)]
    shared = [name for name in runs[0] if name in runs[1]]
    if len(shared) < 2:
        raise InputError(f"{first} and {second} share {len(shared)} items; at least 2 are wanted", field="run")
    changed = [name for name in shared if runs[0][name].gold != runs[1][name].gold]
    if changed:
        raise InputError(f"the truth of {len(changed)} items differs between the runs: {some(changed)}", field="run")
    records = [[run[name] for name in shared] for run in runs]
    with tempfile.TemporaryDirectory() as folder:
        score_records(records[1], task, Path(folder) / "second", settings)
        against = Path(folder) / "second" / PREDICTIONS
        document = score_records(records[0], task, Path(folder) / "first", settings, against=against)
    answers = [[_answer(record) for record in side] for side in records]
    differing = [
        {"id": name, "gold": one.gold, "first": a, "second": b}
        for name, one, a, b in zip(shared, records[0], *answers, strict=True)
        if a != b
    ]
    is_class = SCORE_TASKS[task.score].kind == "classes" and task.asks in ("label", "choice")
    return {
        "format": FORMAT,
        "task": task.name,
        "split": configs[0]["split"],
        "primary": document["primary"],
        "first": _side(first, results[0]),
        "second": _side(second, results[1]),
        "n": len(shared),
        "only_first": len(runs[0]) - len(shared),
        "only_second": len(runs[1]) - len(shared),
        "bootstrap": document["bootstrap"],
        "figures": document["comparison"]["figures"],
        "mcnemar": mcnemar(records[0], records[1]) if is_class else None,
        "num_differing": len(differing),
        "differing": differing,
    }


def mcnemar(first: list[Record], second: list[Record]) -> dict[str, Any]:
    """Return McNemar's exact two-sided test on right and wrong answers of two runs over the same items."""
    pairs = [(_is_right(one), _is_right(two)) for one, two in zip(first, second, strict=True)]
    only_first, only_second = pairs.count((True, False)), pairs.count((False, True))
    discordant = only_first + only_second
    tail = sum(math.comb(discordant, k) for k in range(min(only_first, only_second) + 1))
    p_value = min(1.0, 2 * tail / 2**discordant)
    return {
        "both_right": pairs.count((True, True)),
        "only_first_right": only_first,
        "only_second_right": only_second,
        "both_wrong": pairs.count((False, False)),
        "p_value": p_value,
    }


def _is_right(record: Record) -> bool:
    return record.has_answer and _label(record.prediction) == _label(record.gold)


def _label(value: Any) -> Any:
    return value["label"] if isinstance(value, Mapping) and "label" in value else value


def _answer(record: Record) -> Any:
    if record.error is not None:
        return "failed"
    if record.unparseable:
        return "unparseable"
    return record.prediction


def _side(path: Path, result: Mapping[str, Any]) -> dict[str, Any]:
    return {"run": path.name, "model": result["model"], "num_items": result["num_items"], "counts": result["counts"]}


def comparison_sections(document: Mapping[str, Any], *, most: int = 20) -> list[Section]:
    """Return the tables of a comparison; ``most`` is how many differing items are listed."""
    first, second = document["first"], document["second"]
    rows = []
    for name, entry in sorted(document["figures"].items(), key=lambda pair: pair[0] != document["primary"]):
        interval = "" if entry["low"] is None else f"[{entry['low']:+.4f}, {entry['high']:+.4f}]"
        rows.append(
            (
                name_of(name) + (" (official)" if name == document["primary"] else ""),
                number(entry["value"]),
                number(entry["against"]),
                "" if entry["difference"] is None else f"{entry['difference']:+.4f}",
                interval,
                "" if entry["p_value"] is None else f"{entry['p_value']:.4f}",
            )
        )
    drawn = document["bootstrap"]
    text = (
        f"A is {first['model']} ({first['run']}), B is {second['model']} ({second['run']}); {document['n']} items that "
        f"both asked, {document['only_first']} only A, {document['only_second']} only B. Interval and p over "
        f"{drawn['num_units']} units ({drawn['unit']})."
    )
    found = [
        Section(
            key="comparison", title=f"{document['task']}: A - B", text=text, rows=tuple(rows),
            header=("figure", "A", "B", "A - B", "95 % interval", "p"),
        )
    ]  # fmt: skip
    test = document["mcnemar"]
    if test is not None:
        found.append(
            Section(
                key="mcnemar",
                title="Right and wrong",
                header=("", "items"),
                rows=(
                    ("both right", str(test["both_right"])),
                    ("only A right", str(test["only_first_right"])),
                    ("only B right", str(test["only_second_right"])),
                    ("both wrong", str(test["both_wrong"])),
                    ("McNemar, exact, p", f"{test['p_value']:.4g}"),
                ),
            )
        )
    if document["differing"]:
        shown = document["differing"][:most]
        left = document["num_differing"] - len(shown)
        found.append(
            Section(
                key="differing",
                title=f"Items that differ ({document['num_differing']})",
                header=("item", "truth", "A", "B"),
                rows=tuple((d["id"], _short(d["gold"]), _short(d["first"]), _short(d["second"])) for d in shown),
                text=f"and {left} more, in the JSON document" if left else "",
            )
        )
    return found


def _short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
