"""One self-contained HTML page: tables as cards, drawings inline, light and dark, printable; it fetches nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5d6877; --line: #d9dfe7; --page: #f6f8fb; --card: #ffffff;
  --accent: #2563a8; --miss: #c2563a; --on: #ffffff; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e9f0; --soft: #9aa6b6; --line: #323b49; --page: #12161d;
  --card: #1a2029; --accent: #6fb0f2; --miss: #ef8d6c; --on: #10151c; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 24px; margin: 0 0 4px; } h2 { font-size: 17px; margin: 0 0 10px; }
.sub { color: var(--soft); margin: 0 0 18px; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 18px 20px;
  margin: 0 0 16px; }
.big { font-size: 34px; font-weight: 650; font-variant-numeric: tabular-nums; }
.big small { font-size: 15px; font-weight: 400; color: var(--soft); margin-left: 8px; }
.note { border-left: 3px solid var(--miss); padding: 2px 0 2px 12px; margin: 8px 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 6px 14px 6px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 550; font-size: 13px; }
td.n, th.n { text-align: right; } td.n { white-space: nowrap; }
p.text { color: var(--soft); margin: 0 0 10px; }
svg { max-width: 100%; height: auto; display: block; margin: 4px 0 14px; }
svg text { fill: var(--ink); font-family: system-ui, sans-serif; } svg text.on { fill: var(--on); }
.hit { fill: var(--accent); } .miss { fill: var(--miss); } .frame { fill: none; stroke: var(--line); }
.ideal { stroke: var(--soft); stroke-dasharray: 4 4; } .grid { stroke: var(--line); }
.curve { fill: none; stroke: var(--accent); stroke-width: 1.5; opacity: .6; } .dot, .bar { fill: var(--accent); }
.whisker { stroke: var(--accent); stroke-width: 2.5; opacity: .55; }
@media print { body { background: none; } .card { break-inside: avoid; border-color: #bbb; } }
"""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A titled table; ``text`` stands above it. ``key`` names it for what is drawn beside it."""

    key: str
    title: str
    header: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    text: str = ""


def render_page(title: str, body: Sequence[str]) -> str:
    """Wrap parts into a page with the reports' style."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body><main>\n"
        + "\n".join(body)
        + "\n</main></body></html>\n"
    )


def render_card(section: Section, drawing: str = "") -> str:
    """Return one table under its heading, with a drawing above it."""
    parts = [f'<section class="card" id="{section.key}"><h2>{escape(section.title)}</h2>']
    if section.text:
        parts.append(f'<p class="text">{escape(section.text)}</p>')
    parts.append(drawing)
    if section.rows:
        numeric = [_is_numeric([row[place] for row in section.rows]) for place in range(len(section.rows[0]))]
        parts.append('<div class="scroll"><table>')
        if any(section.header):
            cells = (f"<th{_class(n)}>{escape(cell)}</th>" for cell, n in zip(section.header, numeric, strict=True))
            parts.append(f"<thead><tr>{''.join(cells)}</tr></thead>")
        parts.append("<tbody>")
        for row in section.rows:
            cells = (f"<td{_class(n)}>{escape(cell)}</td>" for cell, n in zip(row, numeric, strict=True))
            parts.append(f"<tr>{''.join(cells)}</tr>")
        parts.append("</tbody></table></div>")
    parts.append("</section>")
    return "".join(parts)


def _is_numeric(cells: Sequence[str]) -> bool:
    filled = [cell for cell in cells if cell]
    return bool(filled) and all(cell[0] in "+-[0123456789" or cell == "not defined" for cell in filled)


def _class(numeric: bool) -> str:
    return ' class="n"' if numeric else ""
