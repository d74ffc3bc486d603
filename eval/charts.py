"""Plots as SVG text, drawn here so that a report needs no plotting library; colours come from the page's own variables.

Every plot has a title and a description for those who do not see it; every number in it stands in a table beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

_FONT = 12


def confusion_svg(labels: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """Draw a confusion matrix: a row for each true class, shaded by the share of the row; last, no answer."""
    columns = [*labels, "no answer"]
    if not any(row[-1] for row in counts):
        columns, counts = columns[:-1], [row[:-1] for row in counts]
    cell = 46 if len(columns) <= 12 else 24
    left, top = 8 + 7 * max(len(label) for label in labels), 8 + 6 * max(len(name) for name in columns)
    width, height = left + cell * len(columns) + 8, top + cell * len(labels) + 8
    parts = []
    for row, (label, line) in enumerate(zip(labels, counts, strict=True)):
        total = sum(line)
        y = top + row * cell
        parts.append(_text(left - 6, y + cell / 2 + 4, label, anchor="end"))
        for column, count in enumerate(line):
            share = count / total if total else 0.0
            x = left + column * cell
            kind = "hit" if column == row else "miss"
            said = f"{label} answered as {columns[column]}: {count} of {total}"
            parts.append(
                f'<rect x="{x}" y="{y}" width="{cell - 1}" height="{cell - 1}" class="{kind}" '
                f'fill-opacity="{0.06 + 0.94 * share:.3f}"><title>{escape(said)}</title></rect>'
            )
            if count and cell > 30:
                strong = ' class="on"' if share > 0.55 else ""
                parts.append(_text(x + cell / 2 - 0.5, y + cell / 2 + 4, str(count), anchor="middle", extra=strong))
    for column, name in enumerate(columns):
        place = left + column * cell + cell / 2 + 4
        turned = f' transform="rotate(-50 {place:.0f} {top - 6})"'
        parts.append(_text(place, top - 6, name, extra=turned))
    return _svg(width + 60, height, "Confusion matrix", "Rows are the true classes, columns the answers.", parts)


def reliability_svg(rows: Sequence[Sequence[float]]) -> str:
    """Draw how often an answer is right against how sure the model was; bars below show how many answers that are."""
    size, left, top, foot = 260, 44, 12, 46
    total = sum(row[2] for row in rows)
    parts = [
        f'<rect x="{left}" y="{top}" width="{size}" height="{size}" class="frame"/>',
        f'<line x1="{left}" y1="{top + size}" x2="{left + size}" y2="{top}" class="ideal"/>',
    ]
    for place in range(0, 11, 2):
        share = place / 10
        parts.append(_text(left + share * size, top + size + 16, f"{share:g}", anchor="middle"))
        parts.append(_text(left - 6, top + size - share * size + 4, f"{share:g}", anchor="end"))
    points = [(row[0], row[1], row[2]) for row in rows if row[2] > 0]
    path = " ".join(f"{left + c * size:.1f},{top + size - a * size:.1f}" for c, a, _ in points)
    parts.append(f'<polyline points="{path}" class="curve"/>')
    most = max((count for *_, count in points), default=1)
    base = top + size + foot + 44
    for confidence, right, count in points:
        x, y = left + confidence * size, top + size - right * size
        said = f"confidence {confidence:.2f}: {right:.2f} right, {count:.0f} of {total:.0f} answers"
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" class="dot"><title>{escape(said)}</title></circle>')
        tall = 40 * count / most
        parts.append(f'<rect x="{x - 5:.1f}" y="{base - tall:.1f}" width="10" height="{tall:.1f}" class="bar"/>')
    parts.append(_text(left + size / 2, top + size + 34, "confidence", anchor="middle"))
    parts.append(_text(left + size / 2, base + 16, "answers", anchor="middle"))
    x, y = 12, top + size / 2
    parts.append(_text(x, y, "share right", anchor="middle", extra=f' transform="rotate(-90 {x} {y:.0f})"'))
    return _svg(
        left + size + 20, base + 24, "Reliability", "On the diagonal the model is as right as it is sure.", parts
    )


def intervals_svg(
    title: str, rows: Sequence[tuple[str, float | None, float | None, float | None]], *, mark: float | None = None
) -> str:
    """Draw a line a row (name, value, low, high): a dot with its interval; ``mark`` is a value to compare with."""
    line, left, width, top = 26, 12 + 7 * max((len(row[0]) for row in rows), default=1), 360, 10
    known = [x for row in rows for x in row[1:] if x is not None] + ([] if mark is None else [mark])
    low, high = min([0.0, *known]), max([1.0, *known]) if max([0.0, *known]) > 0.5 else max([0.1, *known]) * 1.15
    span = (high - low) or 1.0

    def at(value: float) -> float:
        return left + (value - low) / span * width

    bottom = top + line * len(rows)
    parts = []
    for tick in (low + span * place / 5 for place in range(6)):
        parts.append(f'<line x1="{at(tick):.1f}" y1="{top}" x2="{at(tick):.1f}" y2="{bottom}" class="grid"/>')
        parts.append(_text(at(tick), bottom + 16, f"{tick:.2f}", anchor="middle"))
    if mark is not None:
        parts.append(f'<line x1="{at(mark):.1f}" y1="{top}" x2="{at(mark):.1f}" y2="{bottom}" class="ideal"/>')
    for place, (name, value, below, above) in enumerate(rows):
        y = top + line * place + line / 2
        parts.append(_text(left - 8, y + 4, name, anchor="end"))
        if value is None:
            parts.append(_text(left + 6, y + 4, "not defined"))
            continue
        if below is not None and above is not None:
            parts.append(f'<line x1="{at(below):.1f}" y1="{y}" x2="{at(above):.1f}" y2="{y}" class="whisker"/>')
        parts.append(
            f'<circle cx="{at(value):.1f}" cy="{y}" r="4.5" class="dot">'
            f"<title>{escape(name)}: {value:.4f}</title></circle>"
        )
    return _svg(left + width + 24, bottom + 26, title, "A dot is the value, the line its interval.", parts)


def _text(x: float, y: float, text: str, *, anchor: str = "start", extra: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{extra}>{escape(text)}</text>'


def _svg(width: float, height: float, title: str, description: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}" role="img" '
        f'font-size="{_FONT}"><title>{escape(title)}</title><desc>{escape(description)}</desc>{"".join(parts)}</svg>'
    )
