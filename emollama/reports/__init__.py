"""Reports: an analysis as page, document, table or subtitles; many as one page, document or table; a marked video.

Everything but the video is written from the wire form of an analysis (``docs/schema.md``, ``docs/long-clips.md``), so
that an analysis of this minute and one that was stored give the same report.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from emollama.errors import InputError

if TYPE_CHECKING:
    from emollama.reports.summary import Summary

__all__ = ["FORMATS", "SUMMARY_FORMATS", "Format", "SummaryFormat", "format_named", "write_report", "write_summary"]


@dataclass(frozen=True, kw_only=True)
class Format:
    """One way to write an analysis down: its media type and what writes it from the wire form."""

    media_type: str
    write: Callable[[Mapping[str, Any]], bytes]


def _html(document: Mapping[str, Any]) -> bytes:
    from emollama.reports.html import page

    return page(document).encode()


def _pdf(document: Mapping[str, Any]) -> bytes:
    from emollama.reports.pdf import pages

    return pages(document)


def _timeline(name: str) -> Callable[[Mapping[str, Any]], bytes]:
    def write(document: Mapping[str, Any]) -> bytes:
        from emollama.timeline import WRITERS
        from emollama.types import Segment

        return WRITERS[name]([Segment(**row) for row in document["timeline"]]).encode()

    return write


FORMATS: Mapping[str, Format] = {
    "html": Format(media_type="text/html; charset=utf-8", write=_html),
    "pdf": Format(media_type="application/pdf", write=_pdf),
    "csv": Format(media_type="text/csv; charset=utf-8", write=_timeline("csv")),
    "srt": Format(media_type="application/x-subrip; charset=utf-8", write=_timeline("srt")),
    "vtt": Format(media_type="text/vtt; charset=utf-8", write=_timeline("vtt")),
}


def format_named(name: str) -> Format:
    """Return the format of that name; raises `InputError` (field ``format``)."""
    if name not in FORMATS:
        raise InputError(f"format is {name!r}; allowed: {', '.join(FORMATS)}", field="format")
    return FORMATS[name]


def write_report(document: Mapping[str, Any], format: str) -> bytes:
    """Return an analysis, in its wire form, as a whole file of ``format``; the same document gives the same bytes."""
    return format_named(format).write(document)


@dataclass(frozen=True, kw_only=True)
class SummaryFormat:
    """One way to write many analyses down."""

    media_type: str
    write: Callable[[Summary], bytes]


def _summary_html(summary: Summary) -> bytes:
    from emollama.reports.summary import summary_page

    return summary_page(summary).encode()


def _summary_pdf(summary: Summary) -> bytes:
    from emollama.reports.pdf import summary_pages

    return summary_pages(summary)


def _summary_csv(summary: Summary) -> bytes:
    from emollama.reports.summary import summary_table

    return summary_table(summary).encode()


SUMMARY_FORMATS: Mapping[str, SummaryFormat] = {
    "html": SummaryFormat(media_type="text/html; charset=utf-8", write=_summary_html),
    "pdf": SummaryFormat(media_type="application/pdf", write=_summary_pdf),
    "csv": SummaryFormat(media_type="text/csv; charset=utf-8", write=_summary_csv),
}


def write_summary(summary: Summary, format: str) -> bytes:
    """Return a report of many analyses as a whole file; raises `InputError` (field ``format``)."""
    if format not in SUMMARY_FORMATS:
        raise InputError(f"format is {format!r}; allowed for many clips: {', '.join(SUMMARY_FORMATS)}", field="format")
    return SUMMARY_FORMATS[format].write(summary)
