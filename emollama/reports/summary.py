"""Many analyses as one report: what they say together, a row for each, and what could not be read.

They are lines of a folder that `emollama batch` filled, or results that a service keeps; both are in the wire form.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Any

from emollama.disclosure import NOTES
from emollama.errors import InputError
from emollama.html_page import Section, render_card, render_page
from emollama.reports.charts import shares_svg
from emollama.reports.content import verdict
from emollama.reports.html import signed

# How a spreadsheet knows a formula; a file's name, or words of a clip, must not become one (OWASP, "CSV Injection").
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
CLIPS, LABELS, FAILED = ("Clip", "Appears", "Valence", "Arousal", "Why"), ("Label", "Clips", "Share"), "Not read"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One clip that was read."""

    id: str
    clip: str
    said: str
    label: str | None
    confidence: float
    abstained: bool
    seconds: float
    valence: float | None
    arousal: float | None
    rationale: str


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One clip that was not."""

    id: str
    clip: str
    error: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Everything that stands in the report. ``counts`` are clips by label, without those that abstained."""

    title: str
    rows: tuple[Row, ...]
    failures: tuple[Failure, ...]
    counts: Mapping[str, int]
    facts: tuple[tuple[str, str], ...]
    created: int
    notes: tuple[str, ...] = field(default=NOTES)

    @property
    def subtitle(self) -> str:
        return f"How the people in {len(self.rows)} clips appear; {len(self.failures)} more could not be read"

    def clip_cells(self) -> tuple[tuple[str, ...], ...]:
        return tuple((r.clip, r.said, signed(r.valence), signed(r.arousal), r.rationale) for r in self.rows)

    def label_cells(self) -> tuple[tuple[str, ...], ...]:
        total = sum(self.counts.values())
        return tuple((name, str(count), f"{count / total:.0%}") for name, count in self.counts.items())

    def failure_cells(self) -> tuple[tuple[str, ...], ...]:
        return tuple((each.clip, each.error, each.message) for each in self.failures)


def summary_of(analyses: Iterable[Mapping[str, Any]], failures: Iterable[Failure] = (), *, title: str) -> Summary:
    """Return what a report of many analyses says; they are gone through once. Raises `InputError` for what is none."""
    used: Counter[str] = Counter()
    rows, created = [], 0
    for analysis in analyses:
        try:
            rows.append(_row(analysis))
        except KeyError as error:
            raise InputError(f"this is not an analysis: it lacks {error}", field="analysis") from error
        created = max(created, analysis.get("created") or 0)
        for name, said in (("visual", "face"), ("audio", "voice"), ("text", "words")):
            used[said] += bool(((analysis.get("modalities") or {}).get(name) or {}).get("used"))
    labels = Counter(row.label for row in rows if row.label is not None and not row.abstained)
    return Summary(
        title=title, rows=tuple(rows), failures=tuple(failures), counts=dict(labels.most_common()),
        facts=tuple(_facts(rows, used)), created=created,
    )  # fmt: skip


def summary_page(summary: Summary) -> str:
    """Return the report as one HTML page that needs nothing else."""
    return render_page(f"{summary.title}: {len(summary.rows)} clips", list(_body(summary)))


def summary_table(summary: Summary) -> str:
    """Return the rows as CSV, those that were not read with their error."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(
        ["id", "clip", "label", "confidence", "abstained", "seconds", "valence", "arousal", "rationale", "error"]
    )
    for row in summary.rows:
        cells: list[str | float] = [row.id, row.clip, row.label or "", row.confidence, str(row.abstained).lower()]
        cells += [row.seconds, *("" if value is None else value for value in (row.valence, row.arousal))]
        writer.writerow([_safe(cell) for cell in (*cells, row.rationale, "")])
    for each in summary.failures:
        writer.writerow([_safe(cell) for cell in (each.id, each.clip, *[""] * 7, f"{each.error}: {each.message}")])
    return buffer.getvalue()


def _row(line: Mapping[str, Any]) -> Row:
    emotion = line["emotion"]
    is_unsure = bool(emotion.get("abstained"))
    return Row(
        id=str(line.get("id") or ""), clip=str(line.get("path") or line.get("clip") or line["id"]),
        said=verdict(emotion) + (" (abstained)" if is_unsure and emotion.get("label") else ""),
        label=emotion.get("label"), confidence=emotion.get("confidence") or 0.0, abstained=is_unsure,
        seconds=line.get("seconds") or 0.0, valence=line.get("valence"), arousal=line.get("arousal"),
        rationale=str(line.get("rationale") or ""),
    )  # fmt: skip


def _facts(rows: list[Row], used: Counter[str]) -> Iterator[tuple[str, str]]:
    count = len(rows)
    yield "Clips", str(count)
    yield "Together", f"{sum(row.seconds for row in rows) / 60:.1f} minutes"
    unsure = sum(row.abstained for row in rows)
    yield "Abstained", f"{unsure} of {count}: too unsure to be claimed, and not counted below"
    yield "Used", ", ".join(f"{name} in {used[name]}" for name in ("face", "voice", "words"))
    for name in ("valence", "arousal"):
        values = [value for row in rows if (value := getattr(row, name)) is not None]
        if values:
            yield f"Mean {name}", f"{sum(values) / len(values):+.2f} over {len(values)}"


def _body(summary: Summary) -> Iterator[str]:
    yield f'<h1>{escape(summary.title)}</h1><p class="sub">{escape(summary.subtitle)}</p>'
    yield render_card(Section(key="facts", title="At a glance", rows=summary.facts))
    if summary.counts:
        chart = shares_svg(summary.counts)
        drawn = f'<div role="img" aria-label="Clips by label; the table below says the same">{chart}</div>'
        yield render_card(Section(key="labels", title="Labels", header=LABELS, rows=summary.label_cells()), drawn)
    yield render_card(Section(key="clips", title="Clips", header=CLIPS, rows=summary.clip_cells()))
    if summary.failures:
        header = ("Clip", "Error", "What")
        yield render_card(Section(key="failures", title=FAILED, header=header, rows=summary.failure_cells()))
    notes = "".join(f'<p class="text">{escape(text)}</p>' for text in summary.notes)
    yield f'<section class="card"><h2>What this is, and what it is not</h2>{notes}</section>'


def _safe(cell: str | float) -> str | float:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell
