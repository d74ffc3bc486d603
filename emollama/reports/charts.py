"""The course of a clip as a picture (matplotlib): a strip of expressions for each face, valence and arousal below.

Colours are never alone: every stretch wide enough carries its label, and all stand in a table beside the chart.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from emollama.labels import canonical

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from emollama.reports.content import Stretch

# After Okabe & Ito (2008), so that people with colour-blindness tell neighbours apart.
_COLOURS = {
    "neutral": "#9aa0a6", "happiness": "#e69f00", "surprise": "#56b4e9", "sadness": "#0072b2", "anger": "#c43a31",
    "disgust": "#009e73", "fear": "#8a5fbf", "contempt": "#a6761d",
}  # fmt: skip
_OTHERS = ("#cc79a7", "#66a61e", "#1b9e77", "#7570b3", "#d95f02", "#666666")
_WIDTH = 7.2  # inches: the width of the text on an A4 page
_RC: Any = {"svg.hashsalt": "emollama", "font.family": "DejaVu Sans", "font.size": 8, "text.parse_math": False}


def colour(label: str, labels: Sequence[str] = ()) -> str:
    """Return a label's colour as ``#rrggbb``; labels of a caller's own set get one by their place in it."""
    known = _COLOURS.get(canonical(label))
    return known or _OTHERS[(list(labels).index(label) if label in labels else 0) % len(_OTHERS)]


def course_svg(course: Sequence[Stretch], *, seconds: float, labels: Sequence[str]) -> str:
    """Draw the course as one ``<svg>`` element."""
    return _element(_drawn(course, seconds=seconds, labels=labels, kind="svg"))


def course_png(course: Sequence[Stretch], *, seconds: float, labels: Sequence[str]) -> bytes:
    """Draw the course as a PNG for print (200 dots an inch)."""
    return _drawn(course, seconds=seconds, labels=labels, kind="png")


def shares_svg(counts: Mapping[str, int]) -> str:
    """Draw how many clips have each label as bars, as one ``<svg>`` element."""
    return _element(_shares(counts, kind="svg"))


def shares_png(counts: Mapping[str, int]) -> bytes:
    """Draw the same for print."""
    return _shares(counts, kind="png")


def _shares(counts: Mapping[str, int], *, kind: str) -> bytes:
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    names = list(counts)
    with mpl.rc_context(_RC):
        figure = Figure(figsize=(_WIDTH, 0.5 + 0.26 * len(names)), layout="constrained")
        axes = figure.subplots()
        places = range(len(names))
        axes.barh(places, [counts[n] for n in names], color=[colour(n, names) for n in names], height=0.7)
        axes.set_yticks(list(places), names)
        axes.invert_yaxis()
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("clips")
        _plain(axes)
        return _saved(figure, kind)


def _element(svg: bytes) -> str:
    """Return the ``<svg>`` element of a file, as wide as what it stands in."""
    text = svg.decode()
    head, rest = text[text.index("<svg") :].split(">", 1)
    return re.sub(r' (?:width|height)="[^"]*"', "", head) + f' width="100%">{rest}'


def _drawn(course: Sequence[Stretch], *, seconds: float, labels: Sequence[str], kind: str) -> bytes:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    rows = list(dict.fromkeys(stretch.who for stretch in course))
    length = max(seconds, max((stretch.end for stretch in course), default=0.0), 0.4)
    with mpl.rc_context(_RC):
        strip = 0.32 * len(rows) + 0.1
        figure = Figure(figsize=(_WIDTH, strip + 1.75), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=[strip, 1.4])
        _strips(above, course, rows, length, labels)
        _affect(below, course, rows, length)
        return _saved(figure, kind)


def _strips(axes: Axes, course: Sequence[Stretch], rows: Sequence[str], length: float, labels: Sequence[str]) -> None:
    for stretch in course:
        row, span = rows.index(stretch.who), max(stretch.end - stretch.start, 0.004 * length)
        shade = colour(stretch.label, labels)
        axes.barh(row, span, left=stretch.start, height=0.86, color=shade, edgecolor="white", linewidth=0.6)
        if span / length > 0.011 * len(stretch.label) + 0.01:
            axes.text(
                stretch.start + span / 2, row, stretch.label, ha="center", va="center", color=_on(shade), fontsize=7.5
            )
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(0, length)
    axes.tick_params(axis="y", length=0)
    _plain(axes)


def _affect(axes: Axes, course: Sequence[Stretch], rows: Sequence[str], length: float) -> None:
    axes.axhline(0, color="#9aa0a6", linewidth=0.6)
    for row, who in enumerate(rows):
        own = [stretch for stretch in course if stretch.who == who]
        for name, shade in (("valence", "#0072b2"), ("arousal", "#d55e00")):
            read = [(s, getattr(s, name)) for s in own if getattr(s, name) is not None]
            points = [(at, value) for s, value in read for at in (s.start, s.end)]
            if points:
                axes.plot(
                    [at for at, _ in points], [value for _, value in points], color=shade, linewidth=1.4,
                    linestyle=("-", "--", ":", "-.")[row % 4], label=name if len(rows) == 1 else f"{name}, {who}",
                )  # fmt: skip
    axes.set_ylim(-1.05, 1.05)
    axes.set_xlabel("seconds")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper left", ncols=4, frameon=False, fontsize=7)
    _plain(axes)


def _plain(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _on(shade: str) -> str:
    """Return black or white, whichever is read more easily on a colour (WCAG 2.2, relative luminance)."""
    red, green, blue = (int(shade[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)]
    return "#000000" if 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] > 0.179 else "#ffffff"


def _saved(figure: Figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    metadata: dict[str, Any] = {"Date": None} if kind == "svg" else {"Software": None}
    figure.savefig(buffer, format=kind, dpi=200, metadata=metadata, transparent=False)
    return buffer.getvalue()
