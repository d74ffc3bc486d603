"""EmoVCLIP: CLIP prompted for emotions in video, as an encoder in front of the LLM and as a classifier of any labels.

A folder of it holds what was learned (prompts, weights over time, temperature: a few hundred kilobytes) and
``emovclip.json``, which says where the prompts stand and the sha256 of the one backbone that they were learned on.
See `clip_prompts` for the model and for what the paper leaves open.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from emollama.encoders.clip import CLIP_MEAN, CLIP_STD
from emollama.encoders.clip_backbone import ClipBackbone, ClipShape, build_clip
from emollama.encoders.clip_prompts import PromptedClip, PromptSettings
from emollama.encoders.vit import pictures_to_pixels
from emollama.errors import CheckpointError, InputError
from emollama.tensors import load_into, read_tensors, write_json, write_tensors

CONFIG, WEIGHTS, BACKBONE = "emovclip.json", "emovclip.safetensors", "backbone"
FORMAT_VERSION = 1
_FIELDS = ("format_version", "backbone_sha256", "labels", "settings")


class EmoVclipEncoder:
    """Stream ``emotion`` [1 + T, E] of T pictures: the video's unit vector, then its frames' in time order.

    ``labels`` are those that the prompts were learned with; `classify` takes any others. Of more than ``max_frames``
    pictures, as many are taken at even distances.
    """

    reads = "face"

    def __init__(self, model: PromptedClip, *, labels: Sequence[str] = (), max_frames: int = 16) -> None:
        if max_frames < 1:
            raise InputError(f"max_frames is {max_frames}; allowed: 1 or more", field="max_frames")
        self.model, self.labels, self.max_frames = model.eval().requires_grad_(False), tuple(labels), max_frames

    @property
    def widths(self) -> Mapping[str, int]:
        return {"emotion": self.model.backbone.embed_dim}

    @classmethod
    def build(cls, *, max_frames: int = 16, debug: bool = False) -> EmoVclipEncoder:
        """Make one of random weights, at the sizes of `ClipShape`, or a tiny one of the same layout."""
        shape, settings = ClipShape(), PromptSettings()
        if debug:
            shape = ClipShape(
                embed_dim=16, image_size=16, patch_size=8, vision_width=32, vision_layers=2, text_width=32,
                text_layers=2, head_width=16,
            )  # fmt: skip
            settings = PromptSettings(vision_tokens=2, vision_depths=(0, 1), text_tokens=2, text_depths=(0, 1))
        config = shape.to_open_clip()
        backbone = ClipBackbone.of(build_clip(config), config)
        return cls(PromptedClip(backbone, settings), max_frames=max_frames)

    @classmethod
    def load(
        cls,
        path: Path,
        *,
        backbone: ClipBackbone | Path | None = None,
        architecture: str = "",
        max_frames: int = 16,
        dtype: torch.dtype = torch.float32,
    ) -> EmoVclipEncoder:
        """Read a folder strictly; its backbone is the one given, else the folder ``backbone`` inside it.

        Raises `CheckpointError`, naming the field, for a missing or unknown key, a wrong shape, or another backbone.
        """
        document = _document(path / CONFIG)
        if not isinstance(backbone, ClipBackbone):
            place = backbone if backbone is not None else path / BACKBONE
            backbone = ClipBackbone.load(place, architecture=architecture, dtype=dtype)
        if backbone.sha256 != document["backbone_sha256"]:
            raise CheckpointError(
                f"the prompts in {path} were learned on the backbone {document['backbone_sha256'][:12]}, this one is "
                f"{backbone.sha256[:12]}; name the one that they belong to",
                field="backbone",
            )
        model = PromptedClip(backbone, PromptSettings.from_json_dict(document["settings"]))
        load_into(model, read_tensors(path / WEIGHTS), what=str(path / WEIGHTS))
        return cls(model, labels=document["labels"], max_frames=max_frames)

    def save(self, folder: Path) -> None:
        """Write what was learned, without the backbone."""
        write_json(
            folder / CONFIG,
            {
                "format_version": FORMAT_VERSION,
                "backbone_sha256": self.model.backbone.sha256,
                "labels": list(self.labels),
                "settings": dataclasses.asdict(self.model.settings),
            },
        )
        write_tensors(folder / WEIGHTS, self.model.state_dict())

    @torch.inference_mode()
    def encode(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Encode pictures [T, H, W, 3] uint8 RGB of one video; no picture gives no stream."""
        if not len(images):
            return {}
        frames = self._frames(images)
        video = self.model.pool(frames[None])
        tokens = torch.cat((video, torch.nn.functional.normalize(frames, dim=-1)))
        return {"emotion": tokens.cpu().numpy()}

    @torch.inference_mode()
    def classify(self, images: np.ndarray, labels: Sequence[str] = ()) -> dict[str, float]:
        """Return each label's probability for a video [T, H, W, 3] uint8 RGB; without labels, among the learned ones.

        The names are read as words, so any may be asked for; a backbone knows only words that it was trained with.
        """
        asked = tuple(labels) or self.labels
        if len(set(asked)) != len(asked):
            raise InputError(f"labels are {list(asked)}; allowed: different names", field="labels")
        if not len(images):
            raise InputError("the video has no picture; allowed: 1 or more", field="images")
        video = self.model.pool(self._frames(images)[None])
        chances = self.model.compare(video, self.model.encode_labels(asked)).softmax(1)[0]
        return dict(zip(asked, chances.tolist(), strict=True))

    def _frames(self, images: np.ndarray) -> Tensor:
        if len(images) > self.max_frames:
            images = images[np.linspace(0, len(images) - 1, self.max_frames).round().astype(int)]
        pixels = to_pixels(images, self.model.backbone.image_size)
        return self.model.encode_frames(pixels.to(self.model.device)).float()


def to_pixels(images: np.ndarray, size: int) -> Tensor:
    """Prepare pictures [N, H, W, 3] uint8 RGB for a backbone of ``size`` pixels -> [N, 3, size, size]."""
    return pictures_to_pixels(images, size, mean=CLIP_MEAN, std=CLIP_STD)


def _document(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise CheckpointError(f"{file} is missing", field="checkpoint")
    try:
        document = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file} is damaged: {error}", field="checkpoint") from error
    found = set(document) if isinstance(document, dict) else set()
    if wrong := sorted(found ^ set(_FIELDS)):
        raise CheckpointError(
            f"{file} has no field, or too many: {', '.join(wrong)}; allowed: exactly {', '.join(_FIELDS)}",
            field=wrong[0],
        )
    if document["format_version"] != FORMAT_VERSION:
        version = document["format_version"]
        raise CheckpointError(f"{file}: format_version is {version}; allowed: {FORMAT_VERSION}", field="format_version")
    return dict(document)
