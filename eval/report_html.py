"""A run's report as one HTML file that needs nothing else: tables, plots drawn inline, light and dark, printable."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from emollama.html_page import render_card, render_page
from eval.charts import confusion_svg, intervals_svg, reliability_svg
from eval.report_tables import name_of, sections, with_interval


def render_html(document: Mapping[str, Any], environment: Mapping[str, Any]) -> str:
    """Return the report of a run as one self-contained page."""
    primary = document["primary"]
    entry = document["figures"].get(primary, {})
    shown = "not defined" if entry.get("value") is None else f"{entry['value']:.4f}"
    interval = with_interval(entry).removeprefix(shown).strip()
    limited = f", {document['num_items']} items of it" if document["limit"] else ""
    body = [
        f"<h1>{escape(document['title'])}</h1>",
        f'<p class="sub">{escape(document["model"])} on {escape(document["task"])}, split '
        f"{escape(document['split'])}{limited}; {escape(document['source'])}</p>",
        f'<div class="card"><div>{escape(name_of(primary))}</div><div class="big">{shown}'
        f"<small>{escape(interval)} &nbsp; n = {document['n']}</small></div>",
        *(f'<p class="note">{escape(note)}</p>' for note in document["notes"]),
        "</div>",
    ]
    body += [render_card(section, _drawing(section.key, document)) for section in sections(document, environment)]
    return render_page(f"{document['title']}: {document['model']}", body)


def _drawing(key: str, document: Mapping[str, Any]) -> str:
    if key == "confusion":
        return confusion_svg(document["confusion"]["labels"], document["confusion"]["counts"])
    if key == "reliability":
        return reliability_svg(document["reliability"])
    if key == "classes":
        family = "recall" if "recall" in document["parts"] else "f1"
        rows = [(name, e["value"], e["low"], e["high"]) for name, e in document["parts"][family].items()]
        return intervals_svg("Recall by class" if family == "recall" else "F1 by class", rows)
    if key == "ablation":
        primary = document["primary"]
        whole = document["figures"][primary]
        rows = [("everything", whole["value"], whole["low"], whole["high"])]
        for row in document["ablation"]:
            entry = row["figures"][primary]
            rows.append((row["name"], entry["value"], entry["low"], entry["high"]))
        return intervals_svg(f"{name_of(primary)} by what is given", rows, mark=whole["value"])
    return ""
