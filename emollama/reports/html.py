"""An analysis as one HTML page that needs nothing else: it opens anywhere, asks nobody, and prints."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from emollama.html_page import Section, render_card, render_page
from emollama.reports.charts import course_svg
from emollama.reports.content import Content, content_of


def page(document: Mapping[str, Any]) -> str:
    """Return the page about an analysis in its wire form; raises `InputError` when it is not one."""
    content = content_of(document)
    return render_page(f"{content.title}: {content.verdict}", _body(content, document))


def _body(content: Content, document: Mapping[str, Any]) -> list[str]:
    doubt = "" if content.doubt is None else f'<p class="note">{escape(content.doubt)}</p>'
    label, *share = content.verdict.rsplit(", ", 1)
    sure = f"<small>confidence {escape(share[0])}</small>" if share else ""
    warnings = "".join(f'<p class="note">{escape(text)}</p>' for text in content.warnings)
    body = [
        f'<h1>{escape(content.title)}</h1><p class="sub">How the person in this clip appears</p>',
        f'<section class="card"><div class="big">{escape(label)}{sure}</div>{doubt}<p>{escape(content.rationale)}</p>'
        f"{warnings}</section>",
        render_card(Section(key="facts", title="At a glance", rows=content.facts)),
    ]
    if content.course:
        labels = [name for name, _ in content.scores]
        chart = course_svg(content.course, seconds=document["seconds"], labels=labels)
        described = f'<div role="img" aria-label="The course of the clip; the table below says the same">{chart}</div>'
        body.append(render_card(_course(content), described))
    if content.scores:
        rows = tuple((name, f"{score:.1%}") for name, score in content.scores)
        body.append(render_card(Section(key="scores", title="Scores", header=("Label", "Share"), rows=rows)))
    if content.evidence:
        body.append(render_card(_evidence(content)))
    if content.transcript:
        body.append(f'<section class="card"><h2>Words</h2><p>{escape(content.transcript)}</p></section>')
    notes = "".join(f'<p class="text">{escape(text)}</p>' for text in content.notes)
    body.append(f'<section class="card"><h2>What this is, and what it is not</h2>{notes}</section>')
    body.append(render_card(Section(key="made", title="How this was made", rows=content.made)))
    return body


def _course(content: Content) -> Section:
    rows = tuple(
        (span(row.start, row.end), row.who, row.label, f"{row.score:.0%}", signed(row.valence), signed(row.arousal))
        for row in content.course
    )
    header = ("Seconds", "Who", "Appears", "Share", "Valence", "Arousal")
    return Section(key="course", title="Over time", header=header, rows=rows)


def _evidence(content: Content) -> Section:
    rows = tuple((span(row.start, row.end), row.source, row.cue, row.value) for row in content.evidence)
    return Section(key="evidence", title="What this rests on", header=("Seconds", "Source", "Cue", "Value"), rows=rows)


def span(start: float, end: float) -> str:
    """Return a stretch of time as a report writes it, in seconds."""
    return f"{start:.1f} to {end:.1f}" if end > start else f"{start:.1f}"


def signed(value: float | None) -> str:
    """Return a valence or an arousal with its sign; nothing where none was read."""
    return "" if value is None else f"{value:+.2f}"
