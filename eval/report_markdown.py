"""A run's report in Markdown: the same tables as the HTML report, for a diff, a pull request or a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from emollama.html_page import Section
from eval.report_tables import headline, sections


def render_markdown(document: Mapping[str, Any], environment: Mapping[str, Any]) -> str:
    """Return the report of a run as Markdown."""
    lines = [f"# {document['title']}: {document['model']}", "", f"**{headline(document)}** ({document['split']})", ""]
    if document["limit"]:
        lines += [f"Only {document['num_items']} items, evenly spread over the split, were asked (`--limit`).", ""]
    for note in document["notes"]:
        lines.append(f"- {note}")
    if document["notes"]:
        lines.append("")
    for section in sections(document, environment):
        lines += render_section(section)
    return "\n".join(lines).rstrip() + "\n"


def render_section(section: Section, *, level: int = 2) -> list[str]:
    """Return the lines of one table under its heading."""
    lines = [f"{'#' * level} {section.title}", ""]
    if section.text:
        lines += [section.text, ""]
    if section.rows:
        lines.append("| " + " | ".join(_cell(cell) for cell in section.header) + " |")
        lines.append("|" + "---|" * len(section.header))
        lines += ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in section.rows]
        lines.append("")
    return lines


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ") or " "
