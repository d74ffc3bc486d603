"""Logging of the service: one line an event, with fields, and nothing of what a request held.

No file name, transcript, rationale, address or header value is logged. Of an exception the log has the class and the
places in the code, not the message, since a message may quote the input.
"""

from __future__ import annotations

import json
import logging
import time
import traceback
from types import TracebackType
from typing import Any

_ExcInfo = tuple[type[BaseException] | None, BaseException | None, TracebackType | None]


def frames_of(exc: BaseException) -> list[str]:
    """Return the places an exception passed through, innermost last, and those of its causes."""
    places = []
    current: BaseException | None = exc
    while current is not None:
        places += [
            f"{frame.name} ({frame.filename}:{frame.lineno})" for frame in traceback.extract_tb(current.__traceback__)
        ]
        places.append(type(current).__name__)
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return places


class JsonFormatter(logging.Formatter):
    """A record as one JSON object; what was passed as ``extra={"fields": {...}}`` stands beside the message."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(self.as_fields(record), ensure_ascii=False, default=str)

    def as_fields(self, record: logging.LogRecord) -> dict[str, Any]:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields: dict[str, Any] = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields.update(getattr(record, "fields", {}))
        info: _ExcInfo | None = record.exc_info
        if info and info[1] is not None:
            fields["exception"] = type(info[1]).__name__
            fields["trace"] = frames_of(info[1])
        return fields


class TextFormatter(JsonFormatter):
    """The same fields for a person at a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        fields = self.as_fields(record)
        head = f"{fields.pop('time')} {fields.pop('level'):7} {fields.pop('message')}"
        fields.pop("logger")
        places = fields.pop("trace", [])
        rest = " ".join(f"{key}={value}" for key, value in fields.items())
        return "\n".join([f"{head} {rest}".rstrip(), *(f"    {place}" for place in places)])


def log_config(*, level: str, style: str) -> dict[str, Any]:
    """Return a `logging.config.dictConfig` document for the process: everything to standard error."""
    formatter = JsonFormatter if style == "json" else TextFormatter
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": formatter}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line", "stream": "ext://sys.stderr"}},
        "root": {"handlers": ["stderr"], "level": level.upper()},
    }
