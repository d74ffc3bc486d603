"""Crops of faces, a folder for each video -> kept readings: what heads are trained on and submissions made from.

The folders are those of ABAW: ``<video>/00001.jpg``, without the frames in which no face was found. Pictures are read
as they are, squashed to the model's square and not mirrored, as the published models were tuned.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from emollama.abaw.adaptive_rate import follow
from emollama.abaw.answers import face_opinion
from emollama.abaw.heads import TunedHeads
from emollama.datasets.frame_scores import FrameScores, write
from emollama.errors import DatasetError, InputError
from emollama.labels import HSEMOTION_8

if TYPE_CHECKING:
    from emollama.encoders.face import FaceEncoder


def read_folder(
    encoder: FaceEncoder, crops: Path, output: Path, *, heads: TunedHeads | None = None
) -> Iterator[tuple[str, int]]:
    """Read the videos that ``output`` does not have yet; yield each with the number of its faces as it is written.

    With ``heads`` that have an adaptive frame rate only those frames are read which it asks for; a submission made from
    them by the same heads is the one made from all frames.
    """
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
            readings = read_video(encoder, folder) if heads is None else read_sparsely(encoder, folder, heads)
            write(output, readings)
            yield folder.name, len(readings.frames)


def read_video(encoder: FaceEncoder, folder: Path) -> FrameScores:
    """Return the readings of one folder of crops; raises `DatasetError` for a picture that cannot be read."""
    return _read_files(encoder, folder.name, crops_of(folder))


def read_sparsely(encoder: FaceEncoder, folder: Path, heads: TunedHeads) -> FrameScores:
    """Return the readings of those crops that the adaptive frame rate of ``heads`` asks for."""
    rate = heads.plan.rate
    if rate is None:
        raise InputError("the heads have no adaptive frame rate; train them with task.strides", field="heads")
    files = dict(crops_of(folder))
    read = _read_files(encoder, folder.name, [])
    if not files:
        return read

    def ask(numbers: np.ndarray) -> np.ndarray:
        nonlocal read
        found = _read_files(encoder, folder.name, [(n, files[n]) for n in numbers.tolist() if n in files])
        read = _joined(read, found)
        return face_opinion(heads, found, numbers)

    # On past the last crop as far as it can be seen: a list of frames may be longer than the crops.
    follow(rate, max(files) + rate.reach, ask)
    return read


def crops_of(folder: Path) -> list[tuple[int, Path]]:
    """Return the numbers and files of a folder's crops, ascending."""
    return sorted((int(path.stem), path) for path in folder.glob("*.jpg") if path.stem.isdecimal())


def _joined(first: FrameScores, second: FrameScores) -> FrameScores:
    frames = np.concatenate([first.frames, second.frames])
    order = np.argsort(frames, kind="stable")
    assert first.embeddings is not None
    assert second.embeddings is not None
    return FrameScores(
        video=first.video,
        frames=frames[order],
        scores=np.concatenate([first.scores, second.scores])[order],
        embeddings=np.concatenate([first.embeddings, second.embeddings])[order],
    )


def _read_files(encoder: FaceEncoder, video: str, files: list[tuple[int, Path]]) -> FrameScores:
    import torch

    from emollama.encoders.face import hsemotion_scores, preprocess

    shape = encoder.config
    scores = [np.zeros((0, len(HSEMOTION_8) + 2 * shape.has_affect), np.float32)]
    embeddings = [np.zeros((0, encoder.embedding_width), np.float32)]
    for start in range(0, len(files), encoder.batch_size):
        batch = [preprocess(_picture(path)[None], shape) for _, path in files[start : start + encoder.batch_size]]
        with torch.inference_mode():
            output = encoder.look(torch.cat(batch))
            scores.append(hsemotion_scores(output, shape.labels).float().cpu().numpy())
            embeddings.append(output.embedding.float().cpu().numpy())
    numbers = np.array([number for number, _ in files], dtype=np.int64)
    return FrameScores(
        video=video, frames=numbers, scores=np.concatenate(scores), embeddings=np.concatenate(embeddings)
    )


def _picture(path: Path) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return np.array(picture.convert("RGB"))  # [H, W, 3]
    except OSError as error:
        raise DatasetError(f"{path} is not a picture that can be read ({error})") from error
