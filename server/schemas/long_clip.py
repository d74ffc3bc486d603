"""What the answer about a long clip holds beside that of an ordinary one; mirrors `emollama.long_clip.analysis`.

A test holds these classes and the dataclasses equal, field by field. docs/long-clips.md says what each field means.
"""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from server.schemas.analysis import EmotionOut, EvidenceByModality, Wire


class WindowOut(Wire):
    """One stretch of the clip, judged on its own."""

    model_config = ConfigDict(title="Window")

    index: int
    start: float = Field(description="Seconds from the start of the clip.")
    end: float
    emotion: EmotionOut
    open_vocabulary: list[str]
    evidence: EvidenceByModality
    used: list[Literal["visual", "audio", "text"]] = Field(description="What the judgement rests on.")
    track: int | None = Field(description="The face that was followed.")
    rationale: str | None
    warnings: list[str]
    valence: float | None
    arousal: float | None
    affect_source: str | None


class ChapterOut(Wire):
    """A stretch over which the windows, smoothed over their neighbours, say the same."""

    model_config = ConfigDict(title="Chapter")

    start: float
    end: float
    label: str
    scores: dict[str, float]
    valence: float | None
    arousal: float | None


class TurningPointOut(Wire):
    """Where one chapter goes over into the next."""

    model_config = ConfigDict(title="TurningPoint")

    time: float
    before: str
    after: str
    found_in: Literal["face", "windows"] = Field(description="`face`: the face shows it; `windows`: a window's border.")
