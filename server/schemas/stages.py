"""The events of `POST /analyze` when it answers stage by stage, and how OpenAPI describes the stream.

The fields are those of the whole answer (`server.schemas.analysis`); a test holds them to what the library gives.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import ConfigDict, Field

from server.schemas.analysis import (
    EXAMPLE,
    EmotionOut,
    EvidenceByModality,
    FaceSummaryOut,
    TranscriptOut,
    Wire,
)
from server.streaming.sse import EVENT_SCHEMA


class DecodedOut(Wire):
    """Event `decoded`: the file was read."""

    model_config = ConfigDict(title="DecodedEvent")

    seconds: float = Field(description="Length of the clip.")
    num_frames: int = Field(description="Pictures that are looked at.")
    has_audio: bool
    warnings: list[str] = Field(description="What could not be read.")


class FacesOut(Wire):
    """Event `faces`: who is seen in the clip; empty when there is no picture or no face."""

    model_config = ConfigDict(title="FacesEvent")

    faces: list[FaceSummaryOut]


class LabelOut(Wire):
    """Event `label`: the verdict and what it rests on."""

    model_config = ConfigDict(title="LabelEvent")

    emotion: EmotionOut
    open_vocabulary: list[str]
    evidence: EvidenceByModality
    transcript: TranscriptOut | None
    valence: float | None
    arousal: float | None
    affect_source: str | None


class RationalePieceOut(Wire):
    """Event `rationale`: the next characters of the rationale; all of them together are it."""

    model_config = ConfigDict(title="RationaleEvent")

    text: str


EVENTS: dict[str, type[Wire]] = {
    "decoded": DecodedOut,
    "faces": FacesOut,
    "label": LabelOut,
    "rationale": RationalePieceOut,
}


def stage_schemas() -> dict[str, Any]:
    """Return the schemas of the events' data for OpenAPI's components."""
    schemas: dict[str, Any] = {}
    for model in EVENTS.values():
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}", mode="serialization")
        schemas.update({**schema.pop("$defs", {}), schema["title"]: schema})
    return schemas


def _example() -> str:
    frames = EXAMPLE["modalities"]["visual"]["frames"]
    decoded = {"seconds": EXAMPLE["seconds"], "num_frames": frames, "has_audio": True, "warnings": []}
    label = {name: EXAMPLE[name] for name in LabelOut.model_fields}
    half = EXAMPLE["rationale"].index(" The face")
    pieces = [EXAMPLE["rationale"][:half], EXAMPLE["rationale"][half:]]
    events: list[tuple[str, Any]] = [("decoded", decoded), ("faces", {"faces": EXAMPLE["faces"]}), ("label", label)]
    events += [("rationale", {"text": piece}) for piece in pieces]
    events.append(("done", EXAMPLE))
    return "".join(
        f"event: {name}\nid: {number}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"
        for number, (name, data) in enumerate(events, 1)
    )


STREAM: dict[str, Any] = {
    "schema": {
        **EVENT_SCHEMA,
        "description": "With `stream=true`: server-sent events `decoded` (DecodedEvent), `faces` (FacesEvent), `label` "
        "(LabelEvent), `rationale` (RationaleEvent) any number of times, and `done` with the Analysis; or, at any "
        "place after the first byte, `error` with the Error that would otherwise be the answer. Comments in between "
        "say that the work goes on.",
    },
    "example": _example(),
}
