"""`/v1/files` in OpenAI's shape."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from pydantic import BaseModel, ConfigDict, Field

from server.errors import ApiError
from server.records.files import FileRecord

MIN_EXPIRY_SECONDS, MAX_EXPIRY_SECONDS = 3600, 30 * 86_400
UploadPurpose = Literal["fine-tune", "vision", "user_data"]
PURPOSES: tuple[str, ...] = get_args(UploadPurpose)
_FIELDS = ("purpose", "expires_after[anchor]", "expires_after[seconds]")


class FileOut(BaseModel):
    """A file that is kept until it is deleted or expires."""

    model_config = ConfigDict(title="File")

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int = Field(description="Unix seconds.")
    expires_at: int | None = Field(description="Unix seconds when the file is deleted; null for never.")
    filename: str
    purpose: str = Field(
        description="`fine-tune`, `vision` or `user_data` (uploaded), or `fine-tune-results` (made by a job)."
    )
    status: Literal["processed"] = Field("processed", description="Of no meaning; clients expect it.")

    @classmethod
    def of(cls, record: FileRecord) -> FileOut:
        return cls(
            id=record.id,
            bytes=record.num_bytes,
            created_at=int(record.created_at),
            expires_at=None if record.expires_at is None else int(record.expires_at),
            filename=record.filename,
            purpose=record.purpose,
        )


class FileList(BaseModel):
    object: Literal["list"] = "list"
    data: list[FileOut]
    has_more: bool
    first_id: str | None
    last_id: str | None


class FileDeletedOut(BaseModel):
    model_config = ConfigDict(title="FileDeleted")

    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


@dataclass(frozen=True, kw_only=True)
class FileForm:
    """The text fields of an upload; ``expires_seconds`` counts from the upload."""

    purpose: UploadPurpose
    expires_seconds: int | None

    @classmethod
    def from_fields(cls, fields: Mapping[str, str]) -> FileForm:
        """Read the form's text fields; an error names the field."""
        for name in fields:
            if name not in _FIELDS:
                message = f"unknown field {name[:60]!r}; allowed: file, {', '.join(_FIELDS)}"
                raise ApiError("unknown_field", message, param=name[:60])
        purpose = fields.get("purpose", "")
        if purpose not in PURPOSES:
            allowed = ", ".join(PURPOSES)
            raise ApiError("invalid_value", f"purpose is {purpose[:60]!r}; allowed: {allowed}", param="purpose")
        return cls(purpose=cast(UploadPurpose, purpose), expires_seconds=_expiry(fields))


def _expiry(fields: Mapping[str, str]) -> int | None:
    anchor, seconds = (fields.get(name, "").strip() for name in _FIELDS[1:])
    if not anchor and not seconds:
        return None
    if anchor != "created_at":
        message = f"{_FIELDS[1]} is {anchor[:60]!r}; allowed: created_at"
        raise ApiError("invalid_value", message, param="expires_after.anchor")
    if not re.fullmatch(r"\d{1,9}", seconds) or not MIN_EXPIRY_SECONDS <= int(seconds) <= MAX_EXPIRY_SECONDS:
        message = f"{_FIELDS[2]} is {seconds[:60]!r}; allowed: {MIN_EXPIRY_SECONDS} to {MAX_EXPIRY_SECONDS}"
        raise ApiError("invalid_value", message, param="expires_after.seconds")
    return int(seconds)


REQUEST_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file", "purpose"],
                "additionalProperties": False,
                "properties": {
                    "file": {
                        "type": "string",
                        "format": "binary",
                        "description": "For fine-tune: a manifest (JSONL), or a zip, tar or tar.gz of `manifest.jsonl` "
                        "and its clips. For vision and user_data: a clip to chat about.",
                    },
                    "purpose": {"type": "string", "enum": list(PURPOSES)},
                    "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                    "expires_after[seconds]": {
                        "type": "integer",
                        "minimum": MIN_EXPIRY_SECONDS,
                        "maximum": MAX_EXPIRY_SECONDS,
                        "description": "Age at which the file is deleted.",
                    },
                },
            }
        }
    },
}
