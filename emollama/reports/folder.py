"""Many clips on one page: a folder that `emollama batch` filled, in numbers, with every clip in a row."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from emollama.batch.folder import ERRORS, RESULTS
from emollama.disclosure import NOTES
from emollama.errors import InputError
from emollama.html_page import Section, render_card, render_page
from emollama.reports.charts import shares_svg
from emollama.reports.content import verdict
from emollama.reports.html import signed


@dataclass
class _Totals:
    """Counts that grow clip by clip, so that a folder of any size fits into memory but for its rows' words."""

    seconds: float = 0.0
    abstained: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    used: Counter[str] = field(default_factory=Counter)
    valence: list[float] = field(default_factory=list)
    rows: list[tuple[str, ...]] = field(default_factory=list)
    failures: list[tuple[str, ...]] = field(default_factory=list)


def folder_page(folder: Path) -> str:
    """Return the page about a folder of `emollama batch`; raises `InputError` (field ``path``) when it is none."""
    if not (folder / RESULTS).is_file():
        raise InputError(f"{folder} holds no {RESULTS}: it is not a folder that `emollama batch` made", field="path")
    totals = _Totals()
    for line in _lines(folder / RESULTS):
        _count(totals, line)
    for line in _lines(folder / ERRORS):
        totals.failures.append((str(line.get("path") or line["id"]), line["error"]["type"], line["error"]["message"]))
    return render_page(f"{folder.name}: {len(totals.rows)} clips", list(_body(folder, totals)))


def _count(totals: _Totals, line: Mapping[str, Any]) -> None:
    emotion, used = line["emotion"], line.get("modalities") or {}
    totals.seconds += line.get("seconds") or 0.0
    totals.abstained += bool(emotion.get("abstained"))
    if emotion.get("label") is not None and not emotion.get("abstained"):
        totals.labels[emotion["label"]] += 1
    for name, title in (("visual", "face"), ("audio", "voice"), ("text", "words")):
        totals.used[title] += bool((used.get(name) or {}).get("used"))
    if line.get("valence") is not None:
        totals.valence.append(line["valence"])
    said = verdict(emotion) + (" (abstained)" if emotion.get("abstained") and emotion.get("label") else "")
    row = (str(line.get("path") or line["id"]), said, signed(line.get("valence")), signed(line.get("arousal")))
    totals.rows.append((*row, str(line.get("rationale") or "")))


def _body(folder: Path, totals: _Totals) -> Iterator[str]:
    count = len(totals.rows)
    yield (
        f'<h1>{escape(folder.name)}</h1><p class="sub">How the people in {count} clips appear; '
        f"{len(totals.failures)} more could not be read</p>"
    )
    facts = [
        ("Clips", str(count)),
        ("Together", f"{totals.seconds / 60:.1f} minutes"),
        ("Abstained", f"{totals.abstained} of {count}: too unsure to be claimed, and not counted below"),
        ("Used", ", ".join(f"{title} in {totals.used[title]}" for title in ("face", "voice", "words"))),
    ]
    if totals.valence:
        facts.append(("Mean valence", f"{sum(totals.valence) / len(totals.valence):+.2f} over {len(totals.valence)}"))
    yield render_card(Section(key="facts", title="At a glance", rows=tuple(facts)))
    if totals.labels:
        counts = dict(totals.labels.most_common())
        rows = tuple((name, str(n), f"{n / sum(counts.values()):.0%}") for name, n in counts.items())
        chart = f'<div role="img" aria-label="Clips by label; the table below says the same">{shares_svg(counts)}</div>'
        yield render_card(Section(key="labels", title="Labels", header=("Label", "Clips", "Share"), rows=rows), chart)
    header: tuple[str, ...] = ("Clip", "Appears", "Valence", "Arousal", "Why")
    yield render_card(Section(key="clips", title="Clips", header=header, rows=tuple(totals.rows)))
    if totals.failures:
        failed = tuple(totals.failures)
        yield render_card(Section(key="failures", title="Not read", header=("Clip", "Error", "What"), rows=failed))
    notes = "".join(f'<p class="text">{escape(text)}</p>' for text in NOTES)
    yield f'<section class="card"><h2>What this is, and what it is not</h2>{notes}</section>'


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith("\n"):  # a run that was cut is writing it, or was
                return
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(f"{path.name}, line {number}, is not JSON ({error.msg})", field="path") from error
