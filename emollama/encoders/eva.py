"""EVA-CLIP-g as Emotion-LLaMA uses it: one whole frame at 448 px -> 256 patch tokens and the CLS token.

Layout and key names are those of LAVIS' ``eva_vit_g`` (39 blocks, the last of 40 is dropped, no final norm); its
positions for 16 x 16 patches are resized to 32 x 32. ``ln_vision`` is a LayerNorm that upstream never loads, so its
gain is 1 and its bias 0. Four neighbouring patches of one row are joined to one token of 4 x 1408, row by row.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from emollama.encoders.vit import VisionTransformer, VitShape, load_vit, pictures_to_pixels, shrink
from emollama.errors import InputError

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
EVA_G = VitShape(
    image_size=448, patch_size=14, width=1408, depth=39, num_heads=16, mlp_width=6144, bias="qv", has_final_norm=False
)
JOINED = 4  # neighbouring patches of one row that make one token


def join_patches(patches: Tensor) -> Tensor:
    """Join patches [B, N, W] in row order four by four -> [B, N / 4, 4 W]."""
    if patches.shape[1] % JOINED:
        raise InputError(f"{patches.shape[1]} patches cannot be joined by {JOINED}", field="patches")
    return patches.unflatten(1, (-1, JOINED)).flatten(2)


class EvaEncoder:
    """Streams ``patches`` [256, 5632] and ``cls`` [1, 1408] of one frame."""

    reads = "frames"

    def __init__(self, model: VisionTransformer) -> None:
        self.model = model.eval()

    @property
    def widths(self) -> Mapping[str, int]:
        return {"patches": JOINED * self.model.shape.width, "cls": self.model.shape.width}

    @classmethod
    def build(cls, *, debug: bool = False) -> EvaEncoder:
        """Make one of random weights; ``debug`` makes it tiny (56 px, 16 patches)."""
        return cls(VisionTransformer(shrink(EVA_G, image_size=56) if debug else EVA_G))

    @classmethod
    def load(cls, path: Path, *, dtype: torch.dtype = torch.float32) -> EvaEncoder:
        return cls(load_vit(path, EVA_G, dtype=dtype))

    @torch.inference_mode()
    def encode(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Encode the first of [N, H, W, 3] uint8 RGB frames; which one that is is the caller's choice."""
        shape = self.model.shape
        pixels = pictures_to_pixels(images[:1], shape.image_size, mean=CLIP_MEAN, std=CLIP_STD)
        parameter = self.model.cls_token
        tokens = self.model(pixels.to(parameter.device, parameter.dtype)).float()
        tokens = F.layer_norm(tokens, (shape.width,), eps=1e-5)  # ln_vision  [1, 1 + N, W]
        return {
            "patches": join_patches(tokens[:, 1:])[0].cpu().numpy(),
            "cls": tokens[0, :1].cpu().numpy(),
        }
