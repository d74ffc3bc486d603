"""The nouns of the project as frozen dataclasses; no behaviour beyond checks and JSON.

All times are seconds from the start of the clip, all boxes are pixels of the decoded frame, all probabilities sum
to 1, valence and arousal lie in [-1, 1]. An absent modality is ``None`` or an absent key, never zeros.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

Modality = Literal["visual", "audio", "text"]
MODALITIES: tuple[Modality, ...] = ("visual", "audio", "text")
SCHEMA_VERSION = "1.0"


# ---- what goes in -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Frames:
    """Sampled pictures of a clip: ``images`` [N, H, W, 3] uint8 RGB, upright, and ``times`` [N] seconds."""

    images: np.ndarray
    times: np.ndarray
    source_fps: float | None
    is_still: bool = False


@dataclass(frozen=True, kw_only=True)
class Audio:
    """Mono sound: ``samples`` [S] float32 in [-1, 1] at ``sample_rate`` Hz, from ``start`` seconds into the clip."""

    samples: np.ndarray
    sample_rate: int = 16_000
    start: float = 0.0

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.sample_rate


@dataclass(frozen=True, kw_only=True)
class TranscriptSegment:
    start: float
    end: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Transcript:
    """Words of a clip. ``source`` says whether the caller gave them or a recogniser heard them."""

    text: str
    language: str | None = None
    segments: tuple[TranscriptSegment, ...] = ()
    source: Literal["given", "asr"] = "given"


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A decoded clip. A stream that the file lacks is ``None``; ``warnings`` says what could not be read.

    ``tracks`` are the faces where they were followed already when the clip was decoded; ``frames`` then holds the
    pictures' times and no pictures (``images`` [0, H, W, 3]).
    """

    name: str
    seconds: float
    frames: Frames | None = None
    audio: Audio | None = None
    transcript: Transcript | None = None
    sha256: str | None = None
    warnings: tuple[str, ...] = ()
    tracks: tuple[FaceTrack, ...] | None = None


# ---- what is seen and heard ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Box:
    """A rectangle in pixels of the decoded frame; ``x``, ``y`` is the upper left corner."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, kw_only=True)
class FaceTrack:
    """One face over time: ``times`` [T] seconds, ``boxes`` T boxes, ``crops`` [T, S, S, 3] uint8 RGB tight crops.

    ``share`` is the fraction of the clip's sampled frames that show it; ``is_main`` marks the one track the analysis
    follows and ``chosen_because`` says why it was picked.
    """

    track_id: int
    times: np.ndarray
    boxes: tuple[Box, ...]
    crops: np.ndarray
    share: float
    is_main: bool = False
    chosen_because: str = ""


@dataclass(frozen=True, kw_only=True)
class FaceReadings:
    """Expression of one track: ``times`` [T], ``probabilities`` [T, len(labels)], ``valence`` and ``arousal`` [T].

    Valence and arousal are not numbers where the model has none. ``units`` [T, len(action_units)] are the probabilities
    of ``action_units``, where the model reads them; ``unit_thresholds`` says above which one is there, where that was
    tuned. ``is_smooth``: the probabilities of expressions were smoothed over time already.
    """

    track_id: int
    times: np.ndarray
    labels: tuple[str, ...]
    probabilities: np.ndarray
    valence: np.ndarray
    arousal: np.ndarray
    action_units: tuple[str, ...] = ()
    units: np.ndarray | None = None
    unit_thresholds: tuple[float, ...] = ()
    is_smooth: bool = False


@dataclass(frozen=True, kw_only=True)
class VoiceSegment:
    """A stretch of voiced speech and what was measured on it.

    ``pitch_hz`` median F0; ``pitch_range_semitones`` 10th to 90th percentile; ``pitch_slope`` semitones per second;
    ``loudness_dbfs`` RMS; ``syllables_per_second`` speech rate. ``level`` maps each of pitch, loudness, rate to
    "low" | "medium" | "high" against documented reference ranges.
    """

    start: float
    end: float
    pitch_hz: float
    pitch_range_semitones: float
    pitch_slope: float
    loudness_dbfs: float
    syllables_per_second: float
    level: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class VoiceReadings:
    """What the voice branch measured. ``segments`` is empty when no voice was heard; then nothing may be claimed of it.

    ``functionals`` [F] float32 are utterance statistics named by ``prosody.FUNCTIONAL_NAMES``; ``probabilities``
    [len(labels)] is the voice head's opinion.
    """

    voiced_seconds: float
    segments: tuple[VoiceSegment, ...]
    functionals: np.ndarray | None = None
    labels: tuple[str, ...] = ()
    probabilities: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class Features:
    """One modality as the backbone sees it: ``tokens`` [T, D] float32 in time order, before projection."""

    encoder: str
    tokens: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Message:
    role: Literal["system", "user", "assistant"]
    content: str


# ---- what comes out -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Emotion:
    """The scored label. ``label`` is ``None`` only when there was nothing to judge (no face, voice or words)."""

    label: str | None
    confidence: float
    abstained: bool
    scores: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """One checkable observation: what was read, between which times, by which reading, with which value."""

    start: float
    end: float
    cue: str
    reading: str
    value: float | str
    supports: str | None = None
    track: int | None = None


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A stretch of the timeline of one face track; its numbers are means over it.

    ``valence`` and ``arousal`` are ``None`` where the face model has none; ``action_units`` holds the probability of
    each unit that it reads, and nothing where it reads none. ``active_units`` are those that are there for half of the
    stretch or more, ``None`` where no thresholds for them were tuned.
    """

    start: float
    end: float
    label: str
    scores: Mapping[str, float]
    valence: float | None
    arousal: float | None
    track: int
    action_units: Mapping[str, float] = field(default_factory=dict)
    active_units: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class FaceSummary:
    track: int
    share: float
    is_main: bool
    chosen_because: str
    times: tuple[float, ...]
    boxes: tuple[Box, ...]


@dataclass(frozen=True, kw_only=True)
class VisualUse:
    used: bool
    frames: int
    faces: int


@dataclass(frozen=True, kw_only=True)
class AudioUse:
    used: bool
    seconds: float
    voiced_seconds: float


@dataclass(frozen=True, kw_only=True)
class TextUse:
    used: bool
    source: Literal["given", "asr"] | None


@dataclass(frozen=True, kw_only=True)
class ModalityUse:
    visual: VisualUse
    audio: AudioUse
    text: TextUse


@dataclass(frozen=True, kw_only=True)
class Affect:
    """Valence and arousal in [-1, 1] and the model that gave them; ``None`` where nothing could be read."""

    valence: float | None
    arousal: float | None
    source: str | None


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """The answer about one clip; `to_json_dict` is the documented wire form (``docs/schema.md``)."""

    id: str
    model: str
    adapter: str | None
    created: int
    clip: str
    seconds: float
    emotion: Emotion
    open_vocabulary: tuple[str, ...]
    affect: Affect
    rationale: str
    evidence: Mapping[Modality, tuple[Evidence, ...]]
    transcript: Transcript | None
    timeline: tuple[Segment, ...]
    faces: tuple[FaceSummary, ...]
    modalities: ModalityUse
    warnings: tuple[str, ...] = ()
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    schema_version: str = SCHEMA_VERSION

    def to_json_dict(self) -> dict[str, Any]:
        """Return plain JSON types. ``valence``, ``arousal`` and ``affect_source`` stand at the top level."""
        document = plain(self)
        affect = document.pop("affect")
        document["valence"], document["arousal"] = affect["valence"], affect["arousal"]
        document["affect_source"] = affect["source"]
        return document


def plain(value: Any) -> Any:
    """Return dataclasses, mappings, sequences and arrays as plain JSON types."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    return value
