"""FaceMAE: a masked autoencoder's ViT-L/16 on face crops -> one vector, the mean of the CLS tokens of all frames.

The weights are the Emotion-LLaMA authors' own pretraining on MER2023 (academic licence, not public); key names are
those of Facebook's MAE. Crops are resized to 224 px and only scaled to [0, 1], as upstream does.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from emollama.encoders.vit import VisionTransformer, VitShape, load_vit, pictures_to_pixels, shrink

MAE_LARGE = VitShape(image_size=224, patch_size=16, width=1024, depth=24, num_heads=16, mlp_width=4096)
_BATCH = 16


class FaceMaeEncoder:
    """Stream ``face`` [1, 1024] of a track's crops."""

    reads = "face"

    def __init__(self, model: VisionTransformer) -> None:
        self.model = model.eval()

    @property
    def widths(self) -> Mapping[str, int]:
        return {"face": self.model.shape.width}

    @classmethod
    def build(cls, *, debug: bool = False) -> FaceMaeEncoder:
        return cls(VisionTransformer(shrink(MAE_LARGE, image_size=32) if debug else MAE_LARGE))

    @classmethod
    def load(cls, path: Path, *, dtype: torch.dtype = torch.float32) -> FaceMaeEncoder:
        return cls(load_vit(path, MAE_LARGE, dtype=dtype))

    @torch.inference_mode()
    def encode(self, crops: np.ndarray) -> dict[str, np.ndarray]:
        """Encode crops [T, S, S, 3] uint8 RGB; no crop gives no stream."""
        if not len(crops):
            return {}
        parameter = self.model.cls_token
        total = torch.zeros(self.model.shape.width)
        for start in range(0, len(crops), _BATCH):
            pixels = pictures_to_pixels(crops[start : start + _BATCH], self.model.shape.image_size)
            total += self.model(pixels.to(parameter.device, parameter.dtype))[:, 0].float().sum(0).cpu()
        return {"face": (total / len(crops)).numpy()[None]}
