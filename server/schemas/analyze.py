"""The form of `POST /analyze`: what may be sent beside the file, and how OpenAPI describes it.

The body is read by `server.ingest` under limits, not by the framework, so the description is written here by hand.
"""

from __future__ import annotations

import re
from typing import Any

from pydantic import field_validator

from emollama.labels import TAXONOMIES, parse_label_set
from server.schemas.forms import ClipForm
from server.trust.declared import CONSENT_PATTERN

_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8}){0,3}")
MAX_TRANSCRIPT_CHARS = 20_000


class AnalyzeForm(ClipForm):
    """The text fields of the form; an empty field counts as not sent, as browsers send it."""

    transcript: str | None = None
    labels: tuple[str, ...] | None = None
    language: str | None = None
    model: str | None = None
    timeline: bool = True
    consent_reference: str | None = None

    @field_validator("transcript")
    @classmethod
    def _check_transcript(cls, value: str) -> str:
        if len(value) > MAX_TRANSCRIPT_CHARS:
            raise ValueError(f"{len(value)} characters; allowed: {MAX_TRANSCRIPT_CHARS}")
        return value

    @field_validator("labels", mode="before")
    @classmethod
    def _parse_labels(cls, value: str) -> tuple[str, ...]:
        return parse_label_set(value)

    @field_validator("language")
    @classmethod
    def _check_language(cls, value: str) -> str:
        if not _LANGUAGE.fullmatch(value):
            raise ValueError(f"{value[:20]!r} is not a language code such as en, de or pt-BR")
        return value


REQUEST_BODY: dict[str, Any] = {
    "required": True,
    "description": "One clip and, optionally, what is already known of it.",
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "additionalProperties": False,
                "properties": {
                    "file": {
                        "type": "string",
                        "format": "binary",
                        "description": "A video (mp4, mov, mkv, webm, avi, gif), audio file (wav, mp3, m4a, flac, ogg) "
                        "or image (jpg, png, webp).",
                    },
                    "transcript": {
                        "type": "string",
                        "maxLength": MAX_TRANSCRIPT_CHARS,
                        "description": "The words that are spoken, when they are known.",
                    },
                    "labels": {
                        "type": "string",
                        "description": "The labels to choose from: 2 to 64 words separated by commas, or the name of "
                        f"a set ({', '.join(TAXONOMIES)}). Default: the model's own set.",
                    },
                    "language": {
                        "type": "string",
                        "description": "Language that is spoken, such as en or pt-BR.",
                        "pattern": f"^{_LANGUAGE.pattern}$",
                    },
                    "model": {
                        "type": "string",
                        "description": "A name from `GET /v1/models`. Default: the service's model.",
                    },
                    "timeline": {
                        "type": "boolean",
                        "default": True,
                        "description": "Whether the answer holds the timeline.",
                    },
                    "consent_reference": {
                        "type": "string",
                        "pattern": CONSENT_PATTERN,
                        "description": "Where the consent of who is seen is kept: your own number of it, no name.",
                    },
                },
            },
            "examples": {
                "a clip alone": {"value": {"file": "(the bytes of interview.mp4)"}},
                "with words and labels": {
                    "value": {
                        "file": "(the bytes of interview.mp4)",
                        "transcript": "Really? That is the best news.",
                        "labels": "delight, relief, disappointment",
                        "language": "en",
                    }
                },
            },
        }
    },
}
