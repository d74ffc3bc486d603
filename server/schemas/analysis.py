"""The answer of `POST /analyze` as it goes over the wire; mirrors `emollama.types.Analysis.to_json_dict`.

A test holds these classes and the dataclasses equal, field by field, so the handler may send what the library gives
without building these objects again. docs/schema.md says what each field means.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Wire(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_serialization_defaults_required=True)


class BoxOut(Wire):
    """A rectangle in pixels of the decoded frame."""

    model_config = ConfigDict(title="Box")

    x: float = Field(description="Left edge.")
    y: float = Field(description="Upper edge.")
    width: float
    height: float


class EmotionOut(Wire):
    """The scored label."""

    model_config = ConfigDict(title="Emotion")

    label: str | None = Field(description="The likeliest label; null only when there was nothing to judge.")
    confidence: float = Field(description="Calibrated probability of the label, 0 to 1.")
    abstained: bool = Field(description="The confidence is below the model's threshold: do not act on the label.")
    scores: dict[str, float] = Field(description="Calibrated probability of every label; they sum to 1.")


class EvidenceOut(Wire):
    """One checkable observation."""

    model_config = ConfigDict(title="Evidence")

    start: float = Field(description="Seconds from the start of the clip.")
    end: float
    cue: str = Field(description="The observation in words.")
    reading: str = Field(description="What was measured.")
    value: float | str = Field(description="The measured value.")
    supports: str | None = Field(description="The label that the observation speaks for, if any.")
    track: int | None = Field(description="The face it was seen on; null for voice and words.")


class EvidenceByModality(Wire):
    """A modality that was not used has no observations."""

    model_config = ConfigDict(title="EvidenceByModality")

    visual: list[EvidenceOut] = []
    audio: list[EvidenceOut] = []
    text: list[EvidenceOut] = []


class TranscriptSegmentOut(Wire):
    model_config = ConfigDict(title="TranscriptSegment")

    start: float
    end: float
    text: str


class TranscriptOut(Wire):
    """The words of the clip."""

    model_config = ConfigDict(title="Transcript")

    text: str
    language: str | None = Field(description="ISO 639-1 code, when it is known.")
    segments: list[TranscriptSegmentOut]
    source: Literal["given", "asr"] = Field(description="Sent with the request, or heard by a recogniser.")


class SegmentOut(Wire):
    """A stretch of the timeline of one face."""

    model_config = ConfigDict(title="Segment")

    start: float
    end: float
    label: str
    scores: dict[str, float]
    valence: float | None = Field(description="Mean over the stretch; null when the face model gives none.")
    arousal: float | None = Field(description="Mean over the stretch; null when the face model gives none.")
    track: int
    action_units: dict[str, float] = Field(
        default_factory=dict,
        description="Mean probability of each action unit (FACS); empty when the face model reads none.",
    )
    active_units: list[str] | None = Field(
        default=None,
        description="The action units that are there for half of the stretch or more, by tuned thresholds; null "
        "without them.",
    )


class FaceSummaryOut(Wire):
    """A face that was followed through the clip; its number means nothing outside this clip."""

    model_config = ConfigDict(title="FaceSummary")

    track: int
    share: float = Field(description="Part of the sampled frames that show it, 0 to 1.")
    is_main: bool = Field(description="This is the face that the analysis follows.")
    chosen_because: str
    times: list[float]
    boxes: list[BoxOut] = Field(description="One a time.")


class VisualUseOut(Wire):
    model_config = ConfigDict(title="VisualUse")

    used: bool
    frames: int
    faces: int


class AudioUseOut(Wire):
    model_config = ConfigDict(title="AudioUse")

    used: bool
    seconds: float
    voiced_seconds: float


class TextUseOut(Wire):
    model_config = ConfigDict(title="TextUse")

    used: bool
    source: Literal["given", "asr"] | None


class ModalityUseOut(Wire):
    """What the answer rests on."""

    model_config = ConfigDict(title="ModalityUse")

    visual: VisualUseOut
    audio: AudioUseOut
    text: TextUseOut


class AnalysisOut(Wire):
    """What a person in the clip seems to feel, and what that rests on. An expression is not an inner state."""

    model_config = ConfigDict(title="Analysis")

    id: str
    model: str
    adapter: str | None
    created: int = Field(description="Unix seconds.")
    clip: str = Field(description="The file's name as it was sent.")
    seconds: float = Field(description="Length of the clip.")
    emotion: EmotionOut
    open_vocabulary: list[str] = Field(description="Further words that fit, likeliest first; not a closed set.")
    rationale: str = Field(description="Two to four sentences naming the cues that carried the decision.")
    evidence: EvidenceByModality
    transcript: TranscriptOut | None
    timeline: list[SegmentOut] = Field(
        description="In time order; empty when it was not asked for or no face was seen."
    )
    faces: list[FaceSummaryOut]
    modalities: ModalityUseOut
    warnings: list[str] = Field(description="What could not be read, and what weakens the answer.")
    timings_ms: dict[str, float] = Field(description="Where the time went.")
    schema_version: str
    valence: float | None = Field(description="Unpleasant -1 to pleasant 1; null when nothing could be read.")
    arousal: float | None = Field(description="Calm -1 to excited 1; null when nothing could be read.")
    affect_source: str | None = Field(description="The model that gave valence and arousal.")


EXAMPLE: dict[str, Any] = {
    "id": "ana_5f0c9a7e21b84d3c90aa61d2",
    "model": "nano",
    "adapter": None,
    "created": 1795300000,
    "clip": "interview.mp4",
    "seconds": 5.2,
    "emotion": {
        "label": "happiness",
        "confidence": 0.81,
        "abstained": False,
        "scores": {
            "neutral": 0.09, "happiness": 0.81, "surprise": 0.04, "sadness": 0.01,
            "anger": 0.02, "disgust": 0.01, "fear": 0.01, "contempt": 0.01,
        },
    },
    "open_vocabulary": ["joy", "excitement"],
    "rationale": (
        "The person appears happy. The face is calm at first and clearly happy from 2.1 s to 5.2 s. The voice sounds "
        "happy too, with a high pitch, and the words “the best news” point the same way. All three agree; the face "
        "weighed most."
    ),
    "evidence": {
        "visual": [
            {
                "start": 2.1, "end": 5.2, "cue": "the face appears happy (high strength), most clearly at 3.4 s",
                "reading": "face.happiness.probability", "value": 0.88, "supports": "happiness", "track": 0,
            }
        ],
        "audio": [
            {
                "start": 1.4, "end": 3.6, "cue": "the voice sounds happy", "reading": "voice.happiness.probability",
                "value": 0.64, "supports": "happiness", "track": None,
            },
            {
                "start": 1.4, "end": 3.6, "cue": "pitch of 231 Hz (high)", "reading": "voice.pitch_hz", "value": 231.0,
                "supports": None, "track": None,
            },
        ],
        "text": [
            {
                "start": 0.0, "end": 5.2, "cue": "the words “the best news”", "reading": "words.occlusion_drop_nats",
                "value": 1.72, "supports": "happiness", "track": None,
            }
        ],
    },
    "transcript": {"text": "Really? That is the best news.", "language": "en", "segments": [], "source": "given"},
    "timeline": [
        {
            "start": 0.0, "end": 2.1, "label": "neutral", "scores": {"neutral": 0.74, "happiness": 0.26},
            "valence": 0.08, "arousal": -0.05, "track": 0, "action_units": {},
            "active_units": None,
        },
        {
            "start": 2.1, "end": 5.2, "label": "happiness", "scores": {"neutral": 0.12, "happiness": 0.88},
            "valence": 0.71, "arousal": 0.34, "track": 0, "action_units": {},
            "active_units": None,
        },
    ],
    "faces": [
        {
            "track": 0, "share": 0.96, "is_main": True, "chosen_because": "it is the only face",
            "times": [0.0, 2.6], "boxes": [
                {"x": 212.0, "y": 96.0, "width": 148.0, "height": 148.0},
                {"x": 220.0, "y": 101.0, "width": 151.0, "height": 151.0},
            ],
        }
    ],
    "modalities": {
        "visual": {"used": True, "frames": 26, "faces": 1},
        "audio": {"used": True, "seconds": 5.2, "voiced_seconds": 2.3},
        "text": {"used": True, "source": "given"},
    },
    "warnings": [],
    "timings_ms": {
        "decode": 142.1, "faces": 310.4, "encoders": 96.3, "prefill": 41.7, "decode_text": 262.8, "total": 854.9,
    },
    "schema_version": "1.0",
    "valence": 0.46,
    "arousal": 0.19,
    "affect_source": "face",
}  # fmt: skip
