"""What a report says of one analysis, in words and rows; how it looks is up to `html` and `pdf`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from emollama.disclosure import NOTES
from emollama.errors import InputError
from emollama.labels import NANO_LABELS, adjective
from emollama.long_clip.clock import clock

SOURCES = {"visual": "Face", "audio": "Voice", "text": "Words"}
_WORDS = {"given": "as given", "asr": "as heard by a recogniser"}
_NEEDED = ("clip", "seconds", "emotion", "timeline", "evidence", "modalities", "rationale")


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """A row of the course: what one face, or one chapter of a long clip, shows between two times (seconds)."""

    start: float
    end: float
    who: str
    label: str
    score: float
    valence: float | None
    arousal: float | None


@dataclass(frozen=True, kw_only=True)
class Observation:
    """A row of the evidence."""

    start: float
    end: float
    source: str
    cue: str
    value: str


@dataclass(frozen=True, kw_only=True)
class Content:
    """Everything that stands in a report, top to bottom. ``scores`` run from the highest to the lowest."""

    title: str
    verdict: str
    doubt: str | None
    facts: tuple[tuple[str, str], ...]
    scores: tuple[tuple[str, float], ...]
    course: tuple[Stretch, ...]
    rationale: str
    evidence: tuple[Observation, ...]
    transcript: str | None
    warnings: tuple[str, ...]
    made: tuple[tuple[str, str], ...]
    notes: tuple[str, ...] = NOTES


def content_of(document: Mapping[str, Any]) -> Content:
    """Return what the report of an analysis in its wire form says; raises `InputError` when it is not one."""
    missing = [name for name in _NEEDED if name not in document]
    if missing:
        raise InputError(f"this is not an analysis: it lacks {', '.join(missing)}", field="analysis")
    emotion = document["emotion"]
    transcript = document.get("transcript") or {}
    return Content(
        title=str(document["clip"]),
        verdict=verdict(emotion),
        doubt="Abstained: the reading is too unsure to be claimed." if _is_doubtful(emotion) else None,
        facts=tuple(_facts(document)),
        # Where nothing was there to judge, every label has the same share, which says nothing.
        scores=() if emotion["label"] is None else tuple(sorted(emotion["scores"].items(), key=lambda one: -one[1])),
        course=tuple(_course(document)),
        rationale=str(document["rationale"]),
        evidence=tuple(_evidence(document["evidence"])),
        transcript=transcript.get("text") or None,
        warnings=tuple(document.get("warnings") or ()),
        made=tuple(_made(document)),
    )


def verdict(emotion: Mapping[str, Any]) -> str:
    """Return the label as a person would say it: "appears happy, 81 %"."""
    if emotion.get("label") is None:
        return "nothing to judge"
    return f"appears {word(emotion['label'])}, {emotion['confidence']:.0%}"


def word(label: str) -> str:
    """Return a label as it is said of a person; a caller's own label stays as it is."""
    return adjective(label) if label in NANO_LABELS else label


def _is_doubtful(emotion: Mapping[str, Any]) -> bool:
    return bool(emotion.get("abstained")) and emotion.get("label") is not None


def _facts(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    used = document["modalities"]
    facts = [("Length", clock(document["seconds"]) if document["seconds"] >= 60 else f"{document['seconds']:.1f} s")]
    if document.get("valence") is not None and document.get("arousal") is not None:
        said = f"{document['valence']:+.2f} / {document['arousal']:+.2f}"
        facts.append(("Valence / arousal", f"{said} ({document.get('affect_source') or 'unknown source'})"))
    if document.get("open_vocabulary"):
        facts.append(("Also", ", ".join(document["open_vocabulary"])))
    visual, audio, text = used["visual"], used["audio"], used["text"]
    facts += [
        ("Face", f"{visual['faces']} followed in {visual['frames']} pictures" if visual["used"] else "not used"),
        ("Voice", f"{audio['voiced_seconds']:.1f} s of speech" if audio["used"] else "not used"),
        ("Words", _WORDS[text["source"]] if text["used"] else "not used"),
    ]  # fmt: skip
    return facts


def _course(document: Mapping[str, Any]) -> list[Stretch]:
    if document.get("chapters"):
        return [_stretch(row, who="all") for row in document["chapters"]]
    return [_stretch(row, who=f"face {row['track']}") for row in document["timeline"]]


def _stretch(row: Mapping[str, Any], *, who: str) -> Stretch:
    return Stretch(
        start=row["start"], end=row["end"], who=who, label=row["label"], score=row["scores"].get(row["label"], 0.0),
        valence=row.get("valence"), arousal=row.get("arousal"),
    )  # fmt: skip


def _evidence(evidence: Mapping[str, Any]) -> list[Observation]:
    rows = [
        Observation(
            start=row["start"], end=row["end"], source=SOURCES.get(name, name), cue=row["cue"],
            value=f"{row['value']:.2f}" if isinstance(row["value"], float) else str(row["value"]),
        )
        for name, found in evidence.items()
        for row in found
    ]  # fmt: skip
    return sorted(rows, key=lambda row: row.start)


def _made(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    made = []
    if document.get("id"):
        made.append(("Analysis", str(document["id"])))
    model = str(document.get("model", "unknown"))
    made.append(("Model", model if document.get("adapter") is None else f"{model} with adapter {document['adapter']}"))
    if document.get("created"):
        made.append(("Made", datetime.fromtimestamp(document["created"], UTC).strftime("%Y-%m-%d %H:%M UTC")))
    return made
