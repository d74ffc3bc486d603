"""VideoMAE: a ViT-L/16 over 16 face frames -> one vector, the mean of all 1,568 tokens without a final norm.

The weights are the Emotion-LLaMA authors' own pretraining on MER2023 (academic licence, not public); key names are
those of MCG-NJU's VideoMAE. Sampling is upstream's at test time: eight segments, two consecutive frames from the middle
of each; a track of nine frames or fewer repeats its first two eight times.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from emollama.encoders.vit import VisionTransformer, VitShape, load_vit, pictures_to_pixels, shrink

VIDEO_MAE_LARGE = VitShape(
    image_size=224, patch_size=16, width=1024, depth=24, num_heads=16, mlp_width=4096, bias="qv",
    has_cls=False, has_final_norm=False, is_fixed=True, num_frames=16,
)  # fmt: skip
SEGMENTS = 8


def sample_indices(num_frames: int, *, wanted: int = 2 * SEGMENTS) -> np.ndarray:
    """Return which frames of a track are read: pairs of neighbours from the middle of equal segments, [wanted]."""
    segments = wanted // 2
    if num_frames <= segments + 1:
        return np.tile([0, min(1, num_frames - 1)], segments)
    span = (num_frames - 1) / segments
    starts = np.array([int(span * index + span / 2) for index in range(segments)])
    return np.stack((starts, np.minimum(starts + 1, num_frames - 1)), axis=1).ravel()


class VideoMaeEncoder:
    """Stream ``temporal`` [1, 1024] of a track's crops."""

    reads = "face"

    def __init__(self, model: VisionTransformer) -> None:
        self.model = model.eval()

    @property
    def widths(self) -> Mapping[str, int]:
        return {"temporal": self.model.shape.width}

    @classmethod
    def build(cls, *, debug: bool = False) -> VideoMaeEncoder:
        return cls(VisionTransformer(shrink(VIDEO_MAE_LARGE, image_size=32) if debug else VIDEO_MAE_LARGE))

    @classmethod
    def load(cls, path: Path, *, dtype: torch.dtype = torch.float32) -> VideoMaeEncoder:
        return cls(load_vit(path, VIDEO_MAE_LARGE, dtype=dtype))

    @torch.inference_mode()
    def encode(self, crops: np.ndarray) -> dict[str, np.ndarray]:
        """Encode crops [T, S, S, 3] uint8 RGB in time order; no crop gives no stream."""
        if not len(crops):
            return {}
        shape = self.model.shape
        chosen = crops[sample_indices(len(crops), wanted=shape.num_frames)]
        pixels = pictures_to_pixels(chosen, shape.image_size).transpose(0, 1)[None]  # [1, 3, F, S, S]
        weight = self.model.blocks[0].attn.proj.weight  # type: ignore[union-attr]
        tokens = self.model(pixels.to(weight.device, weight.dtype))  # type: ignore[arg-type]
        return {"temporal": tokens.float().mean(1).cpu().numpy()}
