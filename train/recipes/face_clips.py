"""Short clips made of FER+ stills: several faces of one expression, each moved and zoomed a little from frame to frame.

FER+'s training pictures are divided once, by a hash of their names: most are for a backbone, the rest for what is tuned
on it (of which some validate), so that nothing is tuned on pictures that its backbone has seen. Figures are taken on
clips of FER+'s validation split, of which every picture is in one clip.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from emollama.datasets.ferplus import FerPlus
from emollama.encoders.clip import CLIP_MEAN, CLIP_STD
from emollama.errors import InputError
from emollama.labels import NANO_LABELS
from train.recipes.labelled_videos import VideosInMemory

# The six of the MER tracks, with FER+'s fear for "worried". FER+ has 41 pictures of disgust and 69 of contempt.
LABELS = ("neutral", "happiness", "surprise", "sadness", "anger", "fear")
SHARES = {"backbone": 0.7, "tune": 0.22, "tune-valid": 0.08}


def grey_to_pixels(grey: Tensor) -> Tensor:
    """Grey pictures [..., H, W] of 0 to 1 -> [..., 3, H, W], standardised by CLIP's mean and deviation."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
    return (grey[..., None, :, :] - mean) / std


def part_of(name: str) -> str:
    """Return to which part of `SHARES` a training picture belongs, by its name alone."""
    draw = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") / 2.0**64
    for part, share in SHARES.items():
        if draw < share:
            return part
        draw -= share
    return "tune-valid"


def rows_of(data: FerPlus, part: str) -> np.ndarray:
    """Return which pictures of FER+'s training split belong to a part."""
    if part not in SHARES:
        raise InputError(f"part is {part!r}; allowed: {', '.join(SHARES)}", field="part")
    return np.flatnonzero([part_of(name) == part for name in data.names])


def make_clips(
    data: FerPlus,
    rows: np.ndarray,
    *,
    per_class: int | None,
    num_stills: int = 2,
    num_frames: int = 4,
    seed: int = 0,
    motion: int | None = None,
) -> VideosInMemory:
    """Make clips of the pictures ``rows`` that have a majority for one of `LABELS`.

    ``per_class`` clips of each label, whose stills are drawn anew for each clip; ``None``: every picture is in exactly
    one clip (up to ``num_stills - 1`` of a label are left over). A label without enough pictures has no clip.
    ``seed`` draws stills and motion, ``motion`` the motion alone: other values move the same clips in other ways.
    """
    if not 1 <= num_stills <= num_frames:
        raise InputError(f"num_stills is {num_stills}; allowed: 1 to {num_frames}, the frames", field="num_stills")
    rng = np.random.default_rng(seed)
    stills, labels = [], []
    for number, label in enumerate(LABELS):
        own = rows[data.majority[rows] == NANO_LABELS.index(label)]
        if len(own) < num_stills:
            continue
        if per_class is None:
            mixed = rng.permutation(own)[: len(own) // num_stills * num_stills]
            drawn = mixed.reshape(-1, num_stills)
        else:
            drawn = np.stack([rng.choice(own, num_stills, replace=False) for _ in range(per_class)])
        stills.append(drawn)
        labels += [number] * len(drawn)
    if not labels:
        raise InputError("no label has enough pictures for a clip", field="rows")
    frames = np.concatenate(stills)[:, np.arange(num_frames) * num_stills // num_frames]  # [N, T]
    pictures = torch.from_numpy(data.images[frames])  # [N, T, H, W]
    return VideosInMemory(
        grey=moved(equalised(pictures), seed=seed if motion is None else motion).numpy(), labels=torch.tensor(labels)
    )


def equalised(pictures: Tensor) -> Tensor:
    """Give each picture [..., H, W] uint8 the same mean and contrast: FER+'s light says nothing of an expression."""
    grey = pictures.float()
    centred = grey - grey.mean((-2, -1), keepdim=True)
    contrast = centred.square().mean((-2, -1), keepdim=True).sqrt().clamp_min(5.0)
    return (115.0 + 64.0 * centred / contrast).round().clamp(0, 255).to(torch.uint8)


def moved(pictures: Tensor, *, seed: int) -> Tensor:
    """Move and zoom each frame of [N, T, H, W] uint8 a little: a camera that is held by hand."""
    count, frames, height, width = pictures.shape
    generator = torch.Generator().manual_seed(seed + 1)
    shift = 0.06 * (2 * torch.rand((count, frames, 2), generator=generator) - 1)  # of half the picture
    zoom = 0.95 + 0.1 * torch.rand((count, frames, 1, 1), generator=generator)
    theta = torch.cat((zoom * torch.eye(2), shift[..., None]), dim=-1).flatten(0, 1)
    grid = F.affine_grid(theta, [count * frames, 1, height, width], align_corners=False)
    flat = pictures.flatten(0, 1)[:, None].float()
    moved = F.grid_sample(flat, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return moved.round().clamp(0, 255).to(torch.uint8).view(count, frames, height, width)
