"""What a live session tells, as frozen dataclasses; `LiveReading.to_json_dict` is the wire form (``docs/live.md``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from emollama.types import Affect, Box, Emotion, plain


@dataclass(frozen=True, kw_only=True)
class LiveFace:
    """A face that is there now. ``box`` is in pixels of the last picture, ``seen_at`` when that was, in seconds.

    ``label`` and ``scores`` are those of the last second, ``valence`` and ``arousal`` ``None`` where the face model has
    none. ``track`` counts the faces of this session and means nothing outside it.
    """

    track: int
    is_main: bool
    box: Box
    seen_at: float
    label: str
    appears: str
    scores: Mapping[str, float]
    valence: float | None
    arousal: float | None


@dataclass(frozen=True, kw_only=True)
class LiveVoice:
    """The voice of the window: where it was last heard, for how long in all, and what the voice model says of it."""

    label: str
    scores: Mapping[str, float]
    voiced_seconds: float
    heard_until: float


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """How many pictures came, were read, were dropped because newer ones were there, and could not be read."""

    received: int = 0
    read: int = 0
    dropped: int = 0
    refused: int = 0


@dataclass(frozen=True, kw_only=True)
class LiveReading:
    """What the last seconds appear to say. ``emotion.label`` is ``None`` when nothing is seen or heard.

    ``number`` counts the readings of the session, ``time`` is its time in seconds and ``window_start`` where the window
    began. ``used`` names what the label rests on, ``appears`` says it in words that claim no more than an appearance.
    """

    number: int
    time: float
    window_start: float
    size: tuple[int, int] | None
    faces: tuple[LiveFace, ...]
    voice: LiveVoice | None
    emotion: Emotion
    affect: Affect
    used: tuple[str, ...]
    appears: str
    pictures: Pictures = Pictures()
    timings_ms: Mapping[str, float] = field(default_factory=dict)

    def to_json_dict(self) -> dict[str, Any]:
        """Return plain JSON types; ``valence``, ``arousal`` and ``affect_source`` stand at the top level."""
        document = plain(self)
        affect, size = document.pop("affect"), document.pop("size")
        document["picture"] = None if size is None else {"width": size[0], "height": size[1]}
        document["valence"], document["arousal"] = affect["valence"], affect["arousal"]
        document["affect_source"] = affect["source"]
        return document
