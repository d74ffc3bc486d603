"""An analysis as a PDF on A4 (fpdf2), with the same words as the HTML page.

The font is DejaVu Sans, which comes with matplotlib and has Latin, Greek, Cyrillic and Arabic letters; for other
scripts the machine's own fonts are looked through, and a letter that none of them has is printed as an empty box.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emollama.reports.charts import colour, course_png, shares_png
from emollama.reports.content import Content, content_of
from emollama.reports.html import signed, span
from emollama.reports.summary import CLIPS, FAILED, LABELS, Summary

if TYPE_CHECKING:
    from fpdf import FPDF

_INK, _SOFT, _LINE, _NOTE = (28, 36, 48), (93, 104, 119), (217, 223, 231), (194, 86, 58)
_MARGIN = 18.0  # mm


def pages(document: Mapping[str, Any]) -> bytes:
    """Return the document about an analysis in its wire form; raises `InputError` when it is not one."""
    content = content_of(document)
    pdf = _empty(content.title, content.verdict, letters=_letters(content), created=document.get("created") or 0)
    _opening(pdf, content)
    _table(pdf, "At a glance", (), content.facts, widths=(30, 70))
    labels = [name for name, _ in content.scores]
    if content.course:
        _heading(pdf, "Over time", room=90)
        picture = course_png(content.course, seconds=document["seconds"], labels=labels)
        pdf.image(io.BytesIO(picture), w=pdf.epw, alt_text="The course of the clip; the table below says the same.")
        _table(
            pdf, "", ("Seconds", "Who", "Appears", "Share", "Valence", "Arousal"),
            [
                (span(r.start, r.end), r.who, r.label, f"{r.score:.0%}", signed(r.valence), signed(r.arousal))
                for r in content.course
            ],
            widths=(22, 16, 26, 12, 12, 12),
        )  # fmt: skip
    if content.scores:
        _scores(pdf, content.scores, labels)
    if content.evidence:
        rows = [(span(row.start, row.end), row.source, row.cue, row.value) for row in content.evidence]
        _table(pdf, "What this rests on", ("Seconds", "Source", "Cue", "Value"), rows, widths=(16, 10, 66, 8))
    if content.transcript:
        _text(pdf, "Words", [content.transcript])
    _text(pdf, "What this is, and what it is not", content.notes, soft=True)
    _table(pdf, "How this was made", (), content.made, widths=(30, 70))
    return bytes(pdf.output())


def summary_pages(summary: Summary) -> bytes:
    """Return the document about many analyses, with the same words as their page."""
    words = [
        summary.title, *summary.counts, *(text for row in summary.clip_cells() for text in row),
        *(text for row in summary.failure_cells() for text in row),
    ]  # fmt: skip
    pdf = _empty(summary.title, f"{len(summary.rows)} clips", letters=_visible(words), created=summary.created)
    _write(pdf, summary.title, size=18, bold=True)
    _write(pdf, summary.subtitle, size=9, ink=_SOFT)
    _table(pdf, "At a glance", (), summary.facts, widths=(30, 70))
    if summary.counts:
        _heading(pdf, "Labels", room=20 + 6.6 * len(summary.counts))
        picture = shares_png(summary.counts)
        pdf.image(io.BytesIO(picture), w=pdf.epw, alt_text="Clips by label; the table below says the same.")
        _table(pdf, "", LABELS, summary.label_cells(), widths=(50, 25, 25))
    if summary.rows:
        _table(pdf, "Clips", CLIPS, summary.clip_cells(), widths=(22, 19, 9, 9, 41), size=7.5)
    if summary.failures:
        _table(pdf, FAILED, ("Clip", "Error", "What"), summary.failure_cells(), widths=(28, 22, 50), size=7.5)
    _text(pdf, "What this is, and what it is not", summary.notes, soft=True)
    return bytes(pdf.output())


def _empty(title: str, said: str, *, letters: set[str], created: int) -> FPDF:
    from fpdf import FPDF

    class Pages(FPDF):
        def footer(self) -> None:
            self.set_y(-14)
            self.set_font("body", size=8)
            self.set_text_color(*_SOFT)
            self.cell(0, 8, f"{title}   {self.page_no()}/{{nb}}", align="R")

    pdf = Pages(format="A4", unit="mm")
    pdf.set_margin(_MARGIN)
    pdf.set_auto_page_break(True, margin=_MARGIN)
    pdf.set_creation_date(datetime.fromtimestamp(created, UTC))
    pdf.set_title(f"{title}: {said}")
    pdf.set_producer("EmoLLaMA")
    pdf.set_lang("en")
    folder = _fonts()
    pdf.add_font("body", "", folder / "DejaVuSans.ttf")
    pdf.add_font("body", "B", folder / "DejaVuSans-Bold.ttf")
    others = _fallbacks(frozenset(letters))
    for place, file in enumerate(others):
        pdf.add_font(f"other{place}", "", file)
    if others:
        pdf.set_fallback_fonts([f"other{place}" for place in range(len(others))], exact_match=False)
    pdf.add_page()
    return pdf


def _opening(pdf: FPDF, content: Content) -> None:
    _write(pdf, content.title, size=18, bold=True)
    _write(pdf, "How the person in this clip appears", size=9, ink=_SOFT)
    pdf.ln(3)
    _write(pdf, content.verdict, size=20, bold=True)
    if content.doubt:
        _write(pdf, content.doubt, ink=_NOTE)
    pdf.ln(1)
    _write(pdf, content.rationale)
    for warning in content.warnings:
        _write(pdf, warning, ink=_NOTE, size=9)


def _scores(pdf: FPDF, scores: Sequence[tuple[str, float]], labels: Sequence[str]) -> None:
    _heading(pdf, "Scores", room=8.0 * min(len(scores), 8))
    before = pdf.fill_color
    for name, score in scores:
        if pdf.will_page_break(6):
            pdf.add_page()
        _font(pdf, size=9)
        pdf.cell(pdf.epw * 0.25, 6, name)
        left, top, width = pdf.get_x(), pdf.get_y(), pdf.epw * 0.6
        pdf.set_fill_color(*_LINE)
        pdf.rect(left, top + 1.5, width, 3, style="F")
        shade = colour(name, labels)
        pdf.set_fill_color(*(int(shade[place : place + 2], 16) for place in (1, 3, 5)))
        pdf.rect(left, top + 1.5, width * score, 3, style="F")
        pdf.set_x(left + width)
        pdf.cell(0, 6, f"{score:.1%}", align="R", new_x="LMARGIN", new_y="NEXT")
    pdf.fill_color = before


def _table(
    pdf: FPDF, title: str, header: Sequence[str], rows: Sequence[Sequence[str]], *, widths: Sequence[int],
    size: float = 9,
) -> None:  # fmt: skip
    from fpdf.enums import TableBordersLayout
    from fpdf.fonts import FontFace

    if title:
        _heading(pdf, title, room=24)
    _font(pdf, size=size)
    pdf.set_draw_color(*_LINE)
    soft = FontFace(emphasis="", color=_SOFT)
    with pdf.table(
        col_widths=tuple(widths), text_align="LEFT", line_height=0.55 * size, padding=(0.8, 1.5, 0.8, 0),
        borders_layout=TableBordersLayout.HORIZONTAL_LINES, first_row_as_headings=bool(header), headings_style=soft,
    ) as table:  # fmt: skip
        for cells in [header, *rows] if header else rows:
            table.row(cells)


def _text(pdf: FPDF, title: str, paragraphs: Sequence[str], *, soft: bool = False) -> None:
    _heading(pdf, title, room=24)
    for paragraph in paragraphs:
        _write(pdf, paragraph, size=9, ink=_SOFT if soft else _INK)
        pdf.ln(1)


def _heading(pdf: FPDF, text: str, *, room: float) -> None:
    """Write a heading, on a new page when less than ``room`` millimetres are left for what follows."""
    pdf.ln(4)
    if pdf.will_page_break(room):
        pdf.add_page()
    _write(pdf, text, size=12, bold=True)
    pdf.ln(1)


def _write(pdf: FPDF, text: str, *, size: float = 10, bold: bool = False, ink: tuple[int, int, int] = _INK) -> None:
    _font(pdf, size=size, bold=bold, ink=ink)
    pdf.multi_cell(0, size * 0.5, text, align="L", new_x="LMARGIN", new_y="NEXT")


def _font(pdf: FPDF, *, size: float, bold: bool = False, ink: tuple[int, int, int] = _INK) -> None:
    pdf.set_font("body", style="B" if bold else "", size=size)
    pdf.set_text_color(*ink)


# ---- letters ------------------------------------------------------------------------------------------------------


def _letters(content: Content) -> set[str]:
    words = [
        content.title, content.verdict, content.rationale, content.transcript or "", *content.warnings,
        *(value for row in content.facts for value in row), *(name for name, _ in content.scores),
        *(row.label for row in content.course), *(row.cue for row in content.evidence),
    ]  # fmt: skip
    return _visible(words)


def _visible(words: Sequence[str]) -> set[str]:
    return {letter for text in words for letter in text if letter.isprintable() and not letter.isspace()}


def _fonts() -> Path:
    import matplotlib as mpl

    return Path(mpl.get_data_path()) / "fonts" / "ttf"


@functools.lru_cache(maxsize=64)
def _fallbacks(letters: frozenset[str]) -> tuple[Path, ...]:
    """Return as few fonts of this machine as have the letters that the body font lacks."""
    from matplotlib.font_manager import findSystemFonts

    lacking = letters - _covered(_fonts() / "DejaVuSans.ttf", letters)
    found: list[Path] = []
    for name in sorted(findSystemFonts()) if lacking else ():
        if name.lower().endswith((".ttf", ".otf")) and (has := _covered(Path(name), lacking)):
            found.append(Path(name))
            lacking -= has
        if not lacking:
            break
    return tuple(found)


def _covered(font: Path, letters: frozenset[str]) -> frozenset[str]:
    from matplotlib.ft2font import FT2Font

    try:
        known = FT2Font(str(font)).get_charmap()
    except RuntimeError:  # a font that FreeType cannot open helps nobody
        return frozenset()
    return frozenset(letter for letter in letters if ord(letter) in known)
