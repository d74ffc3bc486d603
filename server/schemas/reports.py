"""The form of `POST /v1/reports/video`: what may be sent beside the clip, and how OpenAPI describes it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import model_validator

from server.schemas.forms import ClipForm
from server.trust.declared import CONSENT_PATTERN


class VideoForm(ClipForm):
    """The text fields of the form; an empty field counts as not sent."""

    analysis_id: str | None = None
    model: str | None = None
    marks: bool = True
    blur: bool = False
    voice: Literal["keep", "change", "mute"] = "keep"
    consent_reference: str | None = None

    @model_validator(mode="after")
    def _check_what_is_drawn(self) -> VideoForm:
        if self.analysis_id is not None and self.model is not None:
            raise ValueError("model is given with analysis_id; allowed: one of them, as a kept analysis has its model")
        if not self.marks and self.model is not None:
            raise ValueError("model is given with marks=false; nothing is analysed then")
        return self


VIDEO_BODY: dict[str, Any] = {
    "required": True,
    "description": "The clip, and what is to be done with it.",
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
                        "description": "A video (mp4, mov, mkv, webm, avi).",
                    },
                    "analysis_id": {
                        "type": "string",
                        "description": "A kept analysis of this clip, whose faces and timeline are drawn. Without "
                        "it the clip is analysed first.",
                    },
                    "model": {"type": "string", "description": "What analyses it: a name from `GET /v1/models`."},
                    "marks": {
                        "type": "boolean",
                        "default": True,
                        "description": "Draw boxes and what faces appear to express.",
                    },
                    "blur": {"type": "boolean", "default": False, "description": "Cover every face that is found."},
                    "voice": {
                        "type": "string",
                        "enum": ["keep", "change", "mute"],
                        "default": "keep",
                        "description": "What becomes of the sound.",
                    },
                    "consent_reference": {
                        "type": "string",
                        "pattern": CONSENT_PATTERN,
                        "description": "Where the consent of who is seen is kept, if the clip is analysed.",
                    },
                },
            },
        }
    },
}
