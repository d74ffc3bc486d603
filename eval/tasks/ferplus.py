"""FER+: the expression of a face in a still picture, eight classes by the majority of ten people.

The authors' protocol (Barsoum et al., ICMI 2016): votes of one are dropped, pictures whose top vote is unknown or no
face are dropped, and what counts is accuracy on the pictures where one emotion has more than five votes. A picture is
given to the model whole, as a clip of one still frame; whether a face is found in it is the model's own business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from emollama.labels import NANO_LABELS
from emollama.types import Clip, Frames
from eval.task import EvalTask, Item, Published


def items(data: Path, split: str) -> Iterator[Item]:
    """Yield the pictures with a majority, in the file's order; ``data`` is the raw data folder or one Parquet file."""
    from emollama.datasets import ferplus

    pictures = ferplus.read_parquet(data) if data.is_file() else ferplus.load(data, split)
    for place, name in enumerate(pictures.names):
        if pictures.majority[place] >= 0:
            yield Item(id=name, gold=NANO_LABELS[pictures.majority[place]], load=_still(name, pictures.images[place]))


def _still(name: str, grey: np.ndarray) -> Callable[[], Clip]:
    return partial(_clip, name, grey)


def _clip(name: str, grey: np.ndarray) -> Clip:
    """Return a picture [48, 48] grey as a clip of one frame [1, 48, 48, 3]."""
    frames = Frames(
        images=np.repeat(grey[None, :, :, None], 3, axis=3), times=np.zeros(1), source_fps=None, is_still=True
    )
    return Clip(name=name, seconds=0.0, frames=frames)


TASK = EvalTask(
    name="ferplus",
    title="FER+: expressions in pictures",
    score="ferplus",
    items=items,
    splits=("valid", "train"),
    split="valid",
    asks="label",
    labels=NANO_LABELS,
    instruction="Which expression does the face show?",
    modalities=("visual",),
    published=(
        Published(
            system="VGG13, probabilistic label drawing",
            figure="war",
            value=0.84986,
            source="Barsoum et al., ICMI 2016, table 1 (arXiv:1608.01041)",
            note="on FER2013's private test split, which is not the validation split",
        ),
        Published(
            system="VGG13, majority voting",
            figure="war",
            value=0.83852,
            source="Barsoum et al., ICMI 2016, table 1 (arXiv:1608.01041)",
            note="on FER2013's private test split, which is not the validation split",
        ),
    ),
    licence="labels MIT (microsoft/FERPlus); the pictures of FER2013 are web pictures of unclear rights",
    home="https://github.com/microsoft/FERPlus",
    notes=(
        "No network of nano was trained on the validation split, but it was looked at while nano was made, and nano's "
        "calibration was fitted on every second picture of it: its calibration error here is flattering."
    ),
)
