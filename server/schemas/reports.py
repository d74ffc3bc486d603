"""The form of `POST /v1/reports/video`: what may be sent beside the clip, and how OpenAPI describes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator

from server.errors import ApiError, invalid_value
from server.trust.declared import CONSENT_PATTERN, check_consent


class VideoForm(BaseModel):
    """The text fields of the form; an empty field counts as not sent."""

    model_config = ConfigDict(frozen=True)

    analysis_id: str | None = None
    model: str | None = None
    marks: bool = True
    blur: bool = False
    voice: Literal["keep", "change", "mute"] = "keep"
    consent_reference: str | None = None

    @field_validator("consent_reference")
    @classmethod
    def _check_consent(cls, value: str) -> str:
        return check_consent(value)

    @model_validator(mode="after")
    def _check_what_is_drawn(self) -> VideoForm:
        if self.analysis_id is not None and self.model is not None:
            raise ValueError("model is given with analysis_id; allowed: one of them, as a kept analysis has its model")
        if not self.marks and self.model is not None:
            raise ValueError("model is given with marks=false; nothing is analysed then")
        return self

    @classmethod
    def from_fields(cls, fields: Mapping[str, str]) -> VideoForm:
        """Read the form's text fields; an error names the field."""
        for name in fields:
            if name not in cls.model_fields:
                allowed = ", ".join(("file", *cls.model_fields))
                raise ApiError("unknown_field", f"unknown field {name[:60]!r}; allowed: {allowed}", param=name[:60])
        try:
            return cls.model_validate({name: value.strip() for name, value in fields.items() if value.strip()})
        except ValidationError as exc:
            raise invalid_value(exc.errors(include_url=False, include_context=False, include_input=False)) from exc


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
