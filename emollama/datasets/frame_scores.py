"""What a face model said of the frames of videos, kept so that heads are trained and tuned without any picture.

A folder has one ``<video>.safetensors`` for each video: ``frames`` [N] int64, numbers from 1 of the frames with a face,
ascending (a frame with several faces is there several times); ``scores`` [N, 8 or 10] float32, the model's logits in
the order of `HSEMOTION_8`, then valence and arousal where the model has them; ``embeddings`` [N, D] float32, optional.
A video in which no face was found has N = 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emollama.datasets.video_files import read_arrays, read_folder, write_arrays
from emollama.errors import DatasetError, InputError
from emollama.labels import HSEMOTION_8

_NUM_LABELS = len(HSEMOTION_8)


@dataclass(frozen=True, kw_only=True)
class FrameScores:
    """The readings of one video; see the module for shapes and orders."""

    video: str
    frames: np.ndarray
    scores: np.ndarray
    embeddings: np.ndarray | None = None

    def __post_init__(self) -> None:
        frames, scores = self.frames, self.scores
        if frames.ndim != 1 or (np.diff(frames) < 0).any() or (len(frames) and frames[0] < 1):
            raise InputError(f"frames of {self.video} must be numbers from 1, ascending", field="frames")
        if scores.ndim != 2 or len(scores) != len(frames) or scores.shape[1] not in (_NUM_LABELS, _NUM_LABELS + 2):
            raise InputError(
                f"scores of {self.video} have shape {scores.shape}; allowed: [{len(frames)}, 8 or 10]", field="scores"
            )
        if not np.isfinite(scores).all():
            raise InputError(f"scores of {self.video} hold a value that is not finite", field="scores")
        if self.embeddings is not None and (self.embeddings.ndim != 2 or len(self.embeddings) != len(frames)):
            raise InputError(
                f"embeddings of {self.video} have shape {self.embeddings.shape}; allowed: [{len(frames)}, D]",
                field="embeddings",
            )

    def probabilities(self) -> np.ndarray:
        """Return the softmax [N, 8] of the logits, without valence and arousal."""
        logits = self.scores[:, :_NUM_LABELS].astype(np.float64)
        raised = np.exp(logits - logits.max(axis=1, keepdims=True))
        return raised / raised.sum(axis=1, keepdims=True)

    @property
    def has_affect(self) -> bool:
        """Whether the model gave valence and arousal, too."""
        return bool(self.scores.shape[1] > _NUM_LABELS)

    def affect(self) -> np.ndarray:
        """Return valence and arousal [N, 2], brought into -1 to 1; raises `InputError` where the model has none."""
        if not self.has_affect:
            raise InputError(
                f"the scores of {self.video} have no valence and arousal; allowed: those of a model with ten outputs "
                "(its name ends in _mtl)",
                field="scores",
            )
        return np.clip(self.scores[:, _NUM_LABELS:].astype(np.float64), -1.0, 1.0)


def write(folder: Path, readings: FrameScores) -> Path:
    """Write a video's file, under a temporary name first."""
    arrays: dict[str, np.ndarray] = {
        "frames": readings.frames.astype(np.int64),
        "scores": readings.scores.astype(np.float32),
    }
    if readings.embeddings is not None:
        arrays["embeddings"] = readings.embeddings.astype(np.float32)
    return write_arrays(folder, readings.video, arrays)


def read_video(path: Path) -> FrameScores:
    """Read a video's file; raises `CheckpointError` when it is damaged, `DatasetError` when it is something else."""
    arrays = read_arrays(path)
    names = set(arrays)
    if not {"frames", "scores"} <= names <= {"frames", "scores", "embeddings"}:
        raise DatasetError(f"{path} holds {', '.join(sorted(names))}; expected: frames, scores and maybe embeddings")
    try:
        return FrameScores(video=path.stem, **arrays)
    except InputError as error:
        raise DatasetError(f"{path}: {error}") from error


def read(folder: Path) -> Mapping[str, FrameScores]:
    """Return video -> readings of every file in a folder, sorted by name; raises `DatasetError` when it has none."""
    return read_folder(folder, read_video, what="readings of frames")
