"""Folders with one ``<video>.safetensors`` a video, in which what models said of frames or sound is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np

from emollama.errors import DatasetError

T = TypeVar("T")


def write_arrays(folder: Path, video: str, arrays: Mapping[str, np.ndarray]) -> Path:
    """Write a video's file, under a temporary name first."""
    import torch

    from emollama.tensors import write_tensors

    path = folder / f"{video}.safetensors"
    write_tensors(path, {name: torch.from_numpy(array) for name, array in arrays.items()})
    return path


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read a video's file; raises `CheckpointError` when it is damaged."""
    from emollama.tensors import read_tensors

    return {name: tensor.numpy() for name, tensor in read_tensors(path).items()}


def read_folder(folder: Path, read: Callable[[Path], T], *, what: str) -> dict[str, T]:
    """Return video -> what ``read`` makes of every file, sorted by name; raises `DatasetError` when there is none."""
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise DatasetError(f"{folder} holds no <video>.safetensors with {what}")
    return {path.stem: read(path) for path in paths}
