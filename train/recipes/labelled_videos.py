"""Videos with labels for whatever learns from faces over time: in memory, or from the clips of a manifest.

Of a manifest's clip the main face's crops are taken, at even distances, and kept as pictures in a cache, named by the
clip's bytes, the stretch and the sizes; they are read again for each batch, because thousands of clips at 224 pixels do
not fit a memory. A clip without a face, or a row without a label, has nothing to teach and is left out, with a warning.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from emollama.errors import DatasetError, EmoLlamaError
from emollama.manifest import Manifest, Sample
from train.features import clip_of

logger = logging.getLogger(__name__)


class Pictures(NamedTuple):
    """B videos: ``frames`` [B, T, H, W, 3] uint8 RGB, ``present`` [B, T] bool; what is not present is black."""

    frames: np.ndarray
    present: Tensor


class LabelledVideos(Protocol):
    """N videos; ``labels`` [N] are numbers of the task's labels."""

    @property
    def labels(self) -> Tensor: ...
    def read(self, rows: Sequence[int]) -> Pictures: ...


@dataclass(frozen=True, kw_only=True)
class VideosInMemory:
    """``grey`` [N, T, H, W] uint8 frames, all present."""

    grey: np.ndarray
    labels: Tensor

    def read(self, rows: Sequence[int]) -> Pictures:
        frames = self.grey[np.asarray(rows, np.int64)][..., None].repeat(3, axis=-1)
        return Pictures(frames, torch.ones(frames.shape[:2], dtype=torch.bool))


@dataclass(frozen=True, kw_only=True)
class VideosInCache:
    """``files`` each hold the crops [t, S, S, 3] of one clip, t from 1 to ``num_frames``."""

    files: tuple[Path, ...]
    labels: Tensor
    num_frames: int

    def read(self, rows: Sequence[int]) -> Pictures:
        parts = [np.load(self.files[row], allow_pickle=False) for row in rows]
        frames = np.zeros((len(parts), self.num_frames, *parts[0].shape[1:]), np.uint8)
        present = torch.zeros(frames.shape[:2], dtype=torch.bool)
        for index, part in enumerate(parts):
            frames[index, : len(part)], present[index, : len(part)] = part, True
        return Pictures(frames, present)


def read_clips(
    manifest: Manifest,
    samples: Sequence[Sample],
    *,
    labels: Sequence[str],
    cache: Path,
    size: int,
    num_frames: int,
) -> VideosInCache:
    """Follow the main face of each labelled sample's clip, or find its crops in the cache.

    Raises `DatasetError` naming the sample whose clip cannot be read, or when nothing is left to learn from.
    """
    numbers = {label: number for number, label in enumerate(labels)}
    files, known, without = [], [], 0
    for sample in samples:
        if sample.clip is None or sample.top_label not in numbers:
            continue
        file = _crops_of(manifest, sample, cache=cache, size=size, num_frames=num_frames)
        if file is None:
            without += 1
            continue
        files.append(file)
        known.append(numbers[sample.top_label])
    if without:
        logger.warning("%s: %d clips show no face and are left out", manifest.path, without)
    if not files:
        raise DatasetError(f"{manifest.path}: no clip has both a face and a label of {list(labels)}", field="manifest")
    return VideosInCache(files=tuple(files), labels=torch.tensor(known), num_frames=num_frames)


def _crops_of(manifest: Manifest, sample: Sample, *, cache: Path, size: int, num_frames: int) -> Path | None:
    from emollama.faces import track_faces

    path = manifest.clip_path(sample)
    assert path is not None
    try:
        with path.open("rb") as opened:
            content = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise DatasetError(
            f"{manifest.path}: clip {sample.clip!r} of {sample.id!r} cannot be read ({error.strerror})", field="clip"
        ) from error
    key = json.dumps([content, sample.start, sample.end, size, num_frames])
    file = cache / f"{hashlib.sha256(key.encode()).hexdigest()}.npy"
    if file.is_file():
        return file
    try:
        clip = clip_of(manifest, sample)
    except EmoLlamaError as error:
        raise DatasetError(f"{manifest.path}: clip {sample.clip!r} of {sample.id!r}: {error}", field="clip") from error
    tracks = () if clip.frames is None else track_faces(clip.frames, audio=clip.audio, crop_size=size)
    main = next((track for track in tracks if track.is_main), None)
    if main is None or not len(main.crops):
        return None
    kept = np.linspace(0, len(main.crops) - 1, min(num_frames, len(main.crops))).round().astype(int)
    cache.mkdir(parents=True, exist_ok=True)
    partial = cache / f".{file.stem}.{os.getpid()}.partial"
    with partial.open("wb") as out:
        np.save(out, main.crops[kept], allow_pickle=False)
    os.replace(partial, file)
    return file
