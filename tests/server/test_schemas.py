"""The wire types, the library's answer and the documents say the same."""

from __future__ import annotations

import dataclasses
import re
import typing
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from emollama import types
from emollama.labels import TAXONOMIES
from server.errors import CODES
from server.schemas import analysis as wire
from server.schemas.analyze import REQUEST_BODY, AnalyzeForm
from server.settings import Settings

PAIRS = {
    types.Box: wire.BoxOut,
    types.Emotion: wire.EmotionOut,
    types.Evidence: wire.EvidenceOut,
    types.TranscriptSegment: wire.TranscriptSegmentOut,
    types.Transcript: wire.TranscriptOut,
    types.Segment: wire.SegmentOut,
    types.FaceSummary: wire.FaceSummaryOut,
    types.VisualUse: wire.VisualUseOut,
    types.AudioUse: wire.AudioUseOut,
    types.TextUse: wire.TextUseOut,
    types.ModalityUse: wire.ModalityUseOut,
}


@pytest.mark.parametrize(("noun", "model"), PAIRS.items(), ids=lambda kind: kind.__name__)
def test_a_wire_type_has_the_fields_of_its_noun(noun: Any, model: type[BaseModel]) -> None:
    assert list(model.model_fields) == [field.name for field in dataclasses.fields(noun)]


def test_the_answer_has_the_fields_of_the_analysis() -> None:
    names = {field.name for field in dataclasses.fields(types.Analysis)} - {"affect"}
    assert set(wire.AnalysisOut.model_fields) == names | {"valence", "arousal", "affect_source"}
    assert set(wire.EvidenceByModality.model_fields) == set(typing.get_args(types.Modality))
    assert wire.EXAMPLE["schema_version"] == types.SCHEMA_VERSION


def test_what_the_library_gives_is_a_valid_answer(analysis: types.Analysis) -> None:
    document = analysis.to_json_dict()
    parsed = wire.AnalysisOut.model_validate(document).model_dump(mode="json")
    assert parsed.pop("evidence") == {"audio": [], **document.pop("evidence")}
    assert parsed == document


def test_an_answer_about_nothing_is_valid_too(analysis: types.Analysis) -> None:
    nothing = dataclasses.replace(
        analysis,
        emotion=types.Emotion(label=None, confidence=0.5, abstained=True, scores={"a": 0.5, "b": 0.5}),
        affect=types.Affect(valence=None, arousal=None, source=None),
        evidence={},
        transcript=None,
        timeline=(),
        faces=(),
    )
    wire.AnalysisOut.model_validate(nothing.to_json_dict())


def table(document: str, heading: str) -> list[str]:
    """The names in the first column of the table under a heading."""
    section = document.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = re.findall(r"^\| (`[^|]+) \|", section, flags=re.MULTILINE)
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row)]


@pytest.mark.parametrize(
    ("heading", "model"),
    [
        ("Top level", wire.AnalysisOut),
        ("Emotion", wire.EmotionOut),
        ("Evidence", wire.EvidenceOut),
        ("Transcript", wire.TranscriptOut),
        ("Segment", wire.SegmentOut),
        ("FaceSummary", wire.FaceSummaryOut),
        ("ModalityUse", wire.ModalityUseOut),
    ],
)
def test_the_schema_document_has_every_field(root: Path, heading: str, model: type[BaseModel]) -> None:
    document = (root / "docs/schema.md").read_text(encoding="utf-8")
    assert set(table(document, heading)) == set(model.model_fields)


def test_the_schema_document_names_the_fields_of_use(root: Path) -> None:
    section = (root / "docs/schema.md").read_text(encoding="utf-8").split("## ModalityUse")[1]
    for model in (wire.VisualUseOut, wire.AudioUseOut, wire.TextUseOut):
        for name in model.model_fields:
            assert f"`{name}`" in section


def test_the_api_document_has_every_code_setting_field_and_taxonomy(root: Path) -> None:
    document = (root / "docs/api.md").read_text(encoding="utf-8")
    for code, entry in CODES.items():
        assert f"| {entry.status} | `{code}` | {entry.meaning} |" in document
    for name, field in Settings.model_fields.items():
        assert f"| `EMOLLAMA_{name.upper()}` |" in document
        assert str(field.description) in document
    for name in TAXONOMIES:
        assert f"`{name}`" in document
    fields = REQUEST_BODY["content"]["multipart/form-data"]["schema"]["properties"]
    assert list(fields) == ["file", *AnalyzeForm.model_fields]
    for name in fields:
        assert f"| `{name}` |" in document
