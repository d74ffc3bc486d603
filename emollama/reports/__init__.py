"""Reports: an analysis as a page, a document, a table or subtitles; a folder of analyses as one page; a marked video.

Everything but the video is written from the wire form of an analysis (``docs/schema.md``, ``docs/long-clips.md``), so
that an analysis of this minute and one that was stored give the same report.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from emollama.errors import InputError

__all__ = ["FORMATS", "Format", "format_named", "write_report"]


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
