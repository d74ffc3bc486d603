"""What an audio model heard in videos, over time, kept so that heads are trained and tuned without any sound.

A folder has one ``<video>.safetensors`` for each video with sound: ``times`` [N] float64, seconds from the start of the
video, ascending; ``features`` [N, D] float32; ``fps`` [1] float64, the video's own frames a second, by which a frame's
number becomes a time (frame n is shown at (n - 1) / fps). N is at least 1: a video without sound has no file, and so no
sound is ever made up for it. Two people of one video (``_left``, ``_right``) have one sound.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emollama.datasets.aff_wild2 import scene_of
from emollama.datasets.video_files import read_arrays, read_folder, write_arrays
from emollama.errors import DatasetError, InputError
from emollama.temporal import interpolate


@dataclass(frozen=True, kw_only=True)
class SoundFeatures:
    """The features of one video's sound; see the module for shapes and units."""

    video: str
    times: np.ndarray
    features: np.ndarray
    fps: float

    def __post_init__(self) -> None:
        if self.times.ndim != 1 or not len(self.times) or (np.diff(self.times) <= 0).any():
            raise InputError(f"times of {self.video} must ascend, one or more", field="times")
        if self.features.ndim != 2 or len(self.features) != len(self.times):
            raise InputError(
                f"features of {self.video} have shape {self.features.shape}; allowed: [{len(self.times)}, D]",
                field="features",
            )
        if not (np.isfinite(self.features).all() and np.isfinite(self.times).all()):
            raise InputError(f"features of {self.video} hold a value that is not finite", field="features")
        if not 0 < self.fps <= 1000:
            raise InputError(f"fps of {self.video} is {self.fps}; allowed: above 0, up to 1000", field="fps")

    def at_frames(self, frames: np.ndarray) -> np.ndarray:
        """Return the features [T, D] at frames [T], numbers from 1: linear in time, at the ends the nearest."""
        return interpolate(self.times, self.features, (np.asarray(frames, np.float64) - 1.0) / self.fps)


def find(sounds: Mapping[str, SoundFeatures], name: str) -> SoundFeatures | None:
    """Return the sound of a video, or of the video that a person of two is in; ``None`` where there is none."""
    return sounds.get(name) or sounds.get(scene_of(name))


def write(folder: Path, sound: SoundFeatures) -> Path:
    """Write a video's file, under a temporary name first."""
    arrays: dict[str, np.ndarray] = {
        "times": sound.times.astype(np.float64),
        "features": sound.features.astype(np.float32),
        "fps": np.array([sound.fps], np.float64),
    }
    return write_arrays(folder, sound.video, arrays)


def read_video(path: Path) -> SoundFeatures:
    """Read a video's file; raises `CheckpointError` when it is damaged, `DatasetError` when it is something else."""
    arrays = read_arrays(path)
    if set(arrays) != {"times", "features", "fps"} or arrays["fps"].shape != (1,):
        raise DatasetError(f"{path} holds {', '.join(sorted(arrays))}; expected: times, features and fps")
    try:
        return SoundFeatures(
            video=path.stem,
            times=arrays["times"],
            features=arrays["features"],
            fps=float(arrays["fps"][0]),
        )
    except InputError as error:
        raise DatasetError(f"{path}: {error}") from error


def read(folder: Path) -> Mapping[str, SoundFeatures]:
    """Return video -> features of every file in a folder, sorted by name; raises `DatasetError` when it has none."""
    return read_folder(folder, read_video, what="features of sound")
