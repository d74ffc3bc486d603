"""What was seen and heard of one clip, as plain data: everything later steps may speak of, and nothing else.

An observation is saved as JSON with its sample, so that a run that was stopped need not read the clip again, and the
review sheet can be made without the clips. Times are seconds from the start of the sample's stretch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from emollama.prompt import Cues, FaceCue, VoiceCue, WordsCue

LabelSource = Literal["manifest", "distribution", "pseudo"]


@dataclass(frozen=True, kw_only=True)
class PeakFrame:
    """The peak frame; ``basis`` and ``what`` say which reading was followed."""

    time: float
    value: float
    basis: str
    what: str
    reached: bool
    peaks: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class UnitReading:
    """One action unit at the peak frame; ``intensity`` is ``None`` when only its presence was measured."""

    code: str
    intensity: float | None
    present: bool


@dataclass(frozen=True, kw_only=True)
class FaceReading:
    """Expression of the main face at its peak (smoothed), its mean over the clip, and valence and arousal there."""

    at_peak: dict[str, float]
    mean: dict[str, float]
    valence: float
    arousal: float


@dataclass(frozen=True, kw_only=True)
class VoiceReading:
    """Level of each quality of the voice, by the length of its segments, and the voice head's verdict."""

    start: float
    end: float
    pitch: str
    loudness: str
    rate: str
    melody: str
    verdict: str | None


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A curve for the review sheet: ``values`` over ``times``, ``None`` where there is nothing (an unvoiced frame)."""

    times: tuple[float, ...]
    values: tuple[float | None, ...]


@dataclass(frozen=True, kw_only=True)
class Observation:
    """One clip. A modality that is not there is ``None``; ``cues`` is what an answer may rest on.

    ``label`` is in the sample's own word; ``label_confidence`` is 1 for a label that was given.
    """

    seconds: float
    label: str
    label_source: LabelSource
    label_confidence: float
    abstained: bool
    cues: Cues
    peak: PeakFrame | None
    units: tuple[UnitReading, ...]
    units_source: str | None
    units_sha256: str | None
    face: FaceReading | None
    voice: VoiceReading | None
    transcript: str | None
    transcript_source: str | None
    curves: dict[str, Curve]
    model: str
    clip_sha256: str | None
    warnings: tuple[str, ...]

    @property
    def times(self) -> tuple[float, ...]:
        """Return every time that an answer may cite besides those of the cues."""
        return () if self.peak is None else (round(self.peak.time, 1),)

    @property
    def present(self) -> frozenset[str]:
        """Return the modalities that there are readings of: face, voice, words."""
        there = {"face": self.face is not None or bool(self.units), "voice": self.voice is not None}
        return frozenset(name for name, is_there in {**there, "words": bool(self.transcript)}.items() if is_there)

    def to_json_dict(self) -> dict[str, Any]:
        from dataclasses import asdict

        return asdict(self)

    @classmethod
    def from_json_dict(cls, document: dict[str, Any]) -> Observation:
        """Read what `to_json_dict` wrote; a missing or left-over key is a `KeyError` or `TypeError`."""
        data = dict(document)
        cues = dict(data["cues"])
        data["cues"] = Cues(
            **{
                **cues,
                "face": tuple(FaceCue(**cue) for cue in cues["face"]),
                "voice": None if cues["voice"] is None else VoiceCue(**cues["voice"]),
                "words": None if cues["words"] is None else WordsCue(**cues["words"]),
                "absent": tuple(cues["absent"]),
                "others": tuple(cues["others"]),
            }
        )
        if data["peak"] is not None:
            data["peak"] = PeakFrame(**{**data["peak"], "peaks": tuple(data["peak"]["peaks"])})
        data["units"] = tuple(UnitReading(**unit) for unit in data["units"])
        data["face"] = None if data["face"] is None else FaceReading(**data["face"])
        data["voice"] = None if data["voice"] is None else VoiceReading(**data["voice"])
        data["curves"] = {
            name: Curve(times=tuple(curve["times"]), values=tuple(curve["values"]))
            for name, curve in data["curves"].items()
        }
        data["warnings"] = tuple(data["warnings"])
        return cls(**data)
