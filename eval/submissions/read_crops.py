"""Crops of faces, a folder for each video -> kept readings: what heads are trained on and submissions made from.

The folders are those of ABAW: ``<video>/00001.jpg``, without the frames in which no face was found. Pictures are read
as they are, squashed to the model's square and not mirrored, as the published models were tuned.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from emollama.datasets.frame_scores import FrameScores, write
from emollama.errors import DatasetError, InputError
from emollama.labels import HSEMOTION_8

if TYPE_CHECKING:
    from emollama.encoders.face import FaceEncoder


def read_folder(encoder: FaceEncoder, crops: Path, output: Path) -> Iterator[tuple[str, int]]:
    """Read the videos that ``output`` does not have yet; yield each with the number of its faces as it is written."""
    if set(encoder.config.labels) != set(HSEMOTION_8):
        raise InputError(
            f"{encoder.name} knows {', '.join(encoder.config.labels)}; allowed: a model of {', '.join(HSEMOTION_8)}",
            field="model",
        )
    folders = sorted(path for path in crops.iterdir() if path.is_dir()) if crops.is_dir() else []
    if not folders:
        raise DatasetError(f"{crops} holds no folder; expected: <video>/00001.jpg and on")
    for folder in folders:
        if not (output / f"{folder.name}.safetensors").is_file():
            readings = read_video(encoder, folder)
            write(output, readings)
            yield folder.name, len(readings.frames)


def read_video(encoder: FaceEncoder, folder: Path) -> FrameScores:
    """Return the readings of one folder of crops; raises `DatasetError` for a picture that cannot be read."""
    import torch

    from emollama.encoders.face import preprocess

    files = sorted((int(path.stem), path) for path in folder.glob("*.jpg") if path.stem.isdecimal())
    shape = encoder.config
    order = [shape.labels.index(label) for label in HSEMOTION_8]
    scores = [np.zeros((0, len(order) + 2 * shape.has_affect), np.float32)]
    embeddings = [np.zeros((0, encoder.model.embedding_width), np.float32)]
    device = encoder.model.head.weight.device
    for start in range(0, len(files), encoder.batch_size):
        batch = [preprocess(_picture(path)[None], shape) for _, path in files[start : start + encoder.batch_size]]
        with torch.inference_mode():
            output = encoder.model(torch.cat(batch).to(device))
            columns = [output.logits[:, order]] + ([output.affect] if output.affect is not None else [])
            scores.append(torch.cat(columns, dim=1).float().cpu().numpy())
            embeddings.append(output.embedding.float().cpu().numpy())
    numbers = np.array([number for number, _ in files], dtype=np.int64)
    return FrameScores(
        video=folder.name, frames=numbers, scores=np.concatenate(scores), embeddings=np.concatenate(embeddings)
    )


def _picture(path: Path) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return np.array(picture.convert("RGB"))  # [H, W, 3]
    except OSError as error:
        raise DatasetError(f"{path} is not a picture that can be read ({error})") from error
