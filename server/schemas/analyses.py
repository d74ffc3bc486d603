"""`/v1/analyses`: what may be asked for, as a form or as JSON, and the analysis as a resource.

The body is read by `server.analyses.intake` under limits, not by the framework, so it is described here by hand.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from server.errors import ApiError, invalid_value
from server.records.analyses import AnalysisRecord
from server.schemas.analysis import EXAMPLE as RESULT_EXAMPLE
from server.schemas.analysis import AnalysisOut
from server.schemas.analyze import REQUEST_BODY as ANALYZE_BODY
from server.schemas.analyze import AnalyzeForm
from server.schemas.fine_tuning import MetadataKey, MetadataValue
from server.schemas.long_clip import ChapterOut, TurningPointOut, WindowOut
from server.signing import is_secret
from server.trust.declared import MAX_CONSENT_CHARS, check_consent

MIN_RETENTION_SECONDS = 60
# How long a result that is not to be stored can be read.
UNSTORED_SECONDS = 600.0
# Of a clip of any length; one of ordinary length may have as many as at `/analyze`.
MAX_TRANSCRIPT_CHARS = 200_000
_OPTIONS = ("transcript", "labels", "language", "model", "timeline")
_MAX_URL_CHARS = 2048


class AnalysisIn(BaseModel):
    """An analysis that is asked for: one clip, the options of `/analyze`, and what becomes of the result."""

    model_config = ConfigDict(title="AnalysisRequest", extra="forbid", frozen=True)

    file_id: str | None = Field(
        None, max_length=64, description="Id of an uploaded file of purpose vision or user_data."
    )
    url: str | None = Field(
        None, max_length=4096, description="Address of a clip, on a host that the service fetches from."
    )
    transcript: str | None = Field(
        None,
        max_length=MAX_TRANSCRIPT_CHARS,
        description="The words that are spoken, when they are known; of a long clip best as the text of its subtitles.",
    )
    labels: str | None = Field(None, description="The labels to choose from, as for `/analyze`; a list will do, too.")
    language: str | None = Field(None, description="Language that is spoken, such as en or pt-BR.")
    model: str | None = Field(None, max_length=200, description="A name from `GET /v1/models`.")
    timeline: bool = Field(True, description="Whether the result holds the timeline.")
    metadata: dict[MetadataKey, MetadataValue] | None = Field(None, max_length=16, description="Words of your own.")
    webhook_url: str | None = Field(
        None, max_length=_MAX_URL_CHARS, description="Address that is told when the analysis has ended."
    )
    webhook_secret: str | None = Field(
        None, max_length=128, description="Key that signs it: whsec_ and 24 to 64 bytes in base64."
    )
    store: bool = Field(True, description="false: the result is deleted ten minutes after it is there.")
    consent_reference: str | None = Field(
        None,
        max_length=MAX_CONSENT_CHARS,
        description="Where the consent of who is seen is kept: your own number of it, no name.",
    )
    retention_seconds: int | None = Field(
        None,
        ge=MIN_RETENTION_SECONDS,
        description="Age of the result at which it is deleted; the service's if left out.",
    )

    @field_validator("labels", mode="before")
    @classmethod
    def _join_labels(cls, value: Any) -> Any:
        if isinstance(value, list) and all(isinstance(each, str) and "," not in each for each in value):
            return ",".join(value)
        return value

    @field_validator("consent_reference")
    @classmethod
    def _check_consent(cls, value: str | None) -> str | None:
        return None if value is None else check_consent(value)

    @field_validator("webhook_secret")
    @classmethod
    def _check_secret(cls, value: str | None) -> str | None:
        if value is not None and not is_secret(value):
            raise ValueError("webhook_secret must be whsec_ and 24 to 64 bytes in base64")
        return value

    @classmethod
    def from_fields(cls, fields: Mapping[str, str]) -> AnalysisIn:
        """Read the text fields that came with a file; an empty one counts as not sent."""
        allowed = [name for name in cls.model_fields if name not in ("file_id", "url")]
        for name in fields:
            if name not in allowed:
                message = f"unknown field {name[:60]!r}; allowed: file, {', '.join(allowed)}"
                raise ApiError("unknown_field", message, param=name[:60])
        values: dict[str, Any] = {name: value.strip() for name, value in fields.items() if value.strip()}
        if "metadata" in values:
            try:
                values["metadata"] = json.loads(values["metadata"])
            except ValueError as exc:
                raise ApiError("invalid_value", "metadata is not a JSON object", param="metadata") from exc
        return cls._checked(values)

    @classmethod
    def from_json(cls, body: bytes) -> AnalysisIn:
        """Read a JSON body, which names its clip."""
        try:
            values = json.loads(body)
        except (ValueError, RecursionError) as exc:
            raise ApiError("invalid_value", "the body is not JSON") from exc
        if not isinstance(values, dict):
            raise ApiError("invalid_value", "the body is not a JSON object")
        given = cls._checked(values)
        if (given.file_id is None) == (given.url is None):
            message = "name one clip: file_id (an uploaded file) or url, or send a file as multipart/form-data"
            raise ApiError("missing_file" if given.url is None else "invalid_value", message, param="file_id")
        return given

    @classmethod
    def _checked(cls, values: dict[str, Any]) -> AnalysisIn:
        try:
            given = cls.model_validate(values)
        except ValidationError as exc:
            raise invalid_value(exc.errors(include_url=False, include_context=False, include_input=False)) from exc
        given.options()
        if (given.webhook_url is None) != (given.webhook_secret is None):
            message = "webhook_url and webhook_secret go together: without its signature nobody could trust a webhook"
            raise ApiError("invalid_value", message, param="webhook_secret")
        if not given.store and given.retention_seconds is not None:
            message = "retention_seconds has no meaning with store: false"
            raise ApiError("invalid_value", message, param="retention_seconds")
        return given

    def options(self) -> dict[str, Any]:
        """Return the options of the analysis, checked as those of `/analyze`."""
        given = {name: getattr(self, name) for name in _OPTIONS}
        fields = {
            name: str(value).lower() if name == "timeline" else value
            for name, value in given.items()
            if value is not None and name != "transcript"
        }
        form = AnalyzeForm.from_fields(fields)
        chosen = {name: getattr(form, name) for name in _OPTIONS}
        chosen["transcript"] = (self.transcript or "").strip() or None
        if form.labels is not None:
            chosen["labels"] = list(form.labels)
        return chosen

    def kept_seconds(self, most: float) -> float:
        """Return how long the result is to be kept; raises when that is longer than the service keeps any."""
        if not self.store:
            return min(UNSTORED_SECONDS, most)
        if self.retention_seconds is None:
            return most
        if self.retention_seconds > most:
            message = f"retention_seconds is {self.retention_seconds}; allowed: {MIN_RETENTION_SECONDS} to {most:.0f}"
            raise ApiError("invalid_value", message, param="retention_seconds")
        return float(self.retention_seconds)


class AnalysisErrorOut(BaseModel):
    """Why an analysis has failed: the body of an error, with the codes of docs/api.md."""

    model_config = ConfigDict(title="AnalysisError")

    code: str
    message: str
    type: str
    param: str | None


class AnalysisSummaryOut(BaseModel):
    """An analysis as it stands in a list: without its result."""

    model_config = ConfigDict(title="AnalysisSummary")

    id: str
    object: Literal["analysis"] = "analysis"
    status: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    stage: str | None = Field(
        description="What is being done: `decode`, `faces`, `judge` or `rationale`, with a long clip `windows` or "
        "`whole`; else null."
    )
    progress: Annotated[float, Field(ge=0, le=1)]
    created_at: int = Field(description="Unix seconds.")
    started_at: int | None
    finished_at: int | None
    expires_at: int | None = Field(description="When the result is deleted; null until the analysis has ended.")
    filename: str
    bytes: int
    model: str | None = Field(description="The model that was asked for; null: the service's.")
    metadata: dict[str, str]
    webhook_url: str | None
    purpose: str | None = Field(description="What it was asked for; null: nothing was declared.")
    consent_reference: str | None
    error: AnalysisErrorOut | None

    @classmethod
    def values_of(cls, record: AnalysisRecord) -> dict[str, Any]:
        times = {name: getattr(record, name) for name in ("created_at", "started_at", "finished_at", "expires_at")}
        return {
            "id": record.id,
            "object": "analysis",
            "status": record.status,
            "stage": record.stage if record.status == "running" else None,
            "progress": round(record.progress, 4),
            **{name: None if value is None else int(value) for name, value in times.items()},
            "filename": record.filename,
            "bytes": record.num_bytes,
            "model": record.options.get("model"),
            "metadata": dict(record.metadata),
            "webhook_url": record.webhook_url,
            "purpose": record.purpose,
            "consent_reference": record.consent_reference,
            "error": record.error,
        }

    @classmethod
    def of(cls, record: AnalysisRecord) -> AnalysisSummaryOut:
        return cls.model_validate(cls.values_of(record))


class ClipResultOut(AnalysisOut):
    """What `/analyze` answers about a clip."""

    model_config = ConfigDict(title="ClipResult")

    kind: Literal["clip"]


class LongClipResultOut(AnalysisOut):
    """The same about the whole of a long clip, and what was read window by window."""

    model_config = ConfigDict(title="LongClipResult")

    kind: Literal["long_clip"]
    window_seconds: float = Field(description="Length of a window; the last one may be up to a second longer.")
    course: str = Field(description="The chapters in words.")
    chapters: list[ChapterOut]
    turning_points: list[TurningPointOut]
    time_by_label: dict[str, float] = Field(description="Seconds of the windows by their label.")
    windows: list[WindowOut]
    sha256: str | None = Field(description="Of the file.")


class AnalysisTaskOut(AnalysisSummaryOut):
    """An analysis and, when it has succeeded, its result."""

    model_config = ConfigDict(title="AnalysisTask")

    result: Annotated[ClipResultOut | LongClipResultOut, Field(discriminator="kind")] | None = Field(
        description="What was found, by its `kind`: `clip`, or `long_clip` for one over the length or size that "
        "`/analyze` takes; null until the analysis has succeeded."
    )


def document_of(record: AnalysisRecord) -> dict[str, Any]:
    """Return an analysis with its result as it goes over the wire.

    The result is what the library gave, and its kind, which shows in its fields; it is not built anew for being sent.
    """
    result = None
    if record.result is not None:
        found = json.loads(record.result)
        result = {"kind": "long_clip" if "windows" in found else "clip", **found}
    return {**AnalysisSummaryOut.values_of(record), "result": result}


class AnalysisList(BaseModel):
    model_config = ConfigDict(title="AnalysisList")

    object: Literal["list"] = "list"
    data: list[AnalysisSummaryOut]
    has_more: bool
    first_id: str | None
    last_id: str | None


class AnalysisDeletedOut(BaseModel):
    model_config = ConfigDict(title="AnalysisDeleted")

    id: str
    object: Literal["analysis"] = "analysis"
    deleted: Literal[True] = True


QUEUED_EXAMPLE: dict[str, Any] = {
    "id": "analysis-4k1xq0m3c8zt5n2b7v9d6w1y",
    "object": "analysis",
    "status": "queued",
    "stage": None,
    "progress": 0.0,
    "created_at": 1795300000,
    "started_at": None,
    "finished_at": None,
    "expires_at": None,
    "filename": "interview.mp4",
    "bytes": 1804288,
    "model": None,
    "metadata": {"case": "17"},
    "webhook_url": None,
    "purpose": "research",
    "consent_reference": "study-4/consent/17",
    "error": None,
    "result": None,
}
DONE_EXAMPLE: dict[str, Any] = {
    **QUEUED_EXAMPLE,
    "status": "succeeded",
    "progress": 1.0,
    "started_at": 1795300002,
    "finished_at": 1795300004,
    "expires_at": 1795904804,
    "result": {"kind": "clip", **RESULT_EXAMPLE},
}


def analysis_schemas() -> dict[str, Any]:
    """Return the schema of the JSON body for OpenAPI's components, under its title."""
    schema = AnalysisIn.model_json_schema(ref_template="#/components/schemas/{model}")
    schema["properties"]["labels"] = {
        "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}, {"type": "null"}],
        "default": None,
        "description": AnalysisIn.model_fields["labels"].description,
    }
    return {schema["title"]: schema}


def _form() -> dict[str, Any]:
    """The form's fields: those of `/analyze`, and what `AnalysisIn` says of the rest."""
    properties = dict(ANALYZE_BODY["content"]["multipart/form-data"]["schema"]["properties"])
    kinds = {"store": {"type": "boolean", "default": True}, "retention_seconds": {"type": "integer", "minimum": 60}}
    for name in ("metadata", "webhook_url", "webhook_secret", "store", "consent_reference", "retention_seconds"):
        description = AnalysisIn.model_fields[name].description
        properties[name] = {**kinds.get(name, {"type": "string"}), "description": description}
    properties["transcript"] = {
        "type": "string", "maxLength": MAX_TRANSCRIPT_CHARS,
        "description": AnalysisIn.model_fields["transcript"].description,
    }  # fmt: skip
    properties["metadata"]["description"] = "Words of your own: a JSON object of at most 16 texts."
    return {"type": "object", "required": ["file"], "additionalProperties": False, "properties": properties}


REQUEST_BODY: dict[str, Any] = {
    "required": True,
    "description": "One clip: as a file, or named in JSON by the id of an uploaded file or by its address.",
    "content": {
        "multipart/form-data": {"schema": _form()},
        "application/json": {
            "schema": {"$ref": "#/components/schemas/AnalysisRequest"},
            "examples": {
                "an uploaded file": {"value": {"file_id": "file-4k1xq0m3c8zt5n2b7v9d6w1y", "metadata": {"case": "17"}}},
                "an address": {"value": {"url": "https://media.example/interview.mp4", "labels": ["calm", "tense"]}},
            },
        },
    },
}
