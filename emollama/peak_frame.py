"""The frame at which a face shows most, for presets that look at one frame of a clip.

Emotion-LLaMA's paper looks at the peak frame, its public code at the first. With a face model that reads action units
the peak is where most of them are active, and of equals where their probabilities sum to most, as the paper words it.
Without one it is where the face is farthest from neutral, which is our choice: the shipped face model has no units.
Readings are not smoothed: a peak is one frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from emollama.errors import InputError
from emollama.labels import canonical
from emollama.types import FaceReadings, FaceTrack
from emollama.watch import Check, unwatched

if TYPE_CHECKING:
    from emollama.config import ModelConfig
    from emollama.encoders.face import FaceEncoder

Picture = Literal["first", "peak"]
PICTURES: tuple[Picture, ...] = get_args(Picture)
FOLDER = "peak"  # in a model's folder: face.safetensors, face.json, and face.au.safetensors with its JSON
_ACTIVE = 0.5


def check_picture(picture: str, config: ModelConfig) -> None:
    """Raise `InputError` for a picture that is none, or one that is no matter because many frames are looked at."""
    if picture not in PICTURES:
        raise InputError(f"picture is {picture!r}; allowed: {', '.join(PICTURES)}", field="picture")
    if picture != "first" and config.num_frames != 1:
        raise InputError(
            f"picture is {picture!r}; allowed for {config.name}, which looks at {config.num_frames} frames: first",
            field="picture",
        )


def peak_index(readings: FaceReadings, *, thresholds: Sequence[float] = ()) -> int:
    """Return which of the readings shows most; the first of equals. ``thresholds`` are those of the action units."""
    if readings.units is not None and readings.units.shape[1]:
        active = (readings.units > (np.asarray(thresholds) if len(thresholds) else _ACTIVE)).sum(axis=1)
        most = np.flatnonzero(active == active.max())
        return int(most[readings.units[most].sum(axis=1).argmax()])
    names = [canonical(label) for label in readings.labels]
    if "neutral" not in names:
        raise InputError(f"a face model of {', '.join(readings.labels)} does not know neutral", field="face")
    return int(readings.probabilities[:, names.index("neutral")].argmin())


class PeakFrame:
    """Finds the peak frame with a face model."""

    def __init__(self, face: FaceEncoder) -> None:
        self.face = face

    @classmethod
    def load(cls, folder: Path | None = None) -> PeakFrame:
        """Read the face model of a folder; without one, the shipped."""
        from emollama.checkpoint import ASSETS
        from emollama.encoders.face import FaceEncoder

        return cls(FaceEncoder.load((folder or ASSETS / "nano") / "face.safetensors"))

    def time(self, track: FaceTrack | None, *, check: Check = unwatched) -> float | None:
        """Return the peak's seconds from the start of the clip; ``None`` without a face, and then the first stands."""
        if track is None or not len(track.crops):
            return None
        readings, _ = self.face.read(track.crops, track.times, track.track_id, check=check)
        head = self.face.unit_head
        index = peak_index(readings, thresholds=() if head is None else head.thresholds)
        return float(readings.times[index])
