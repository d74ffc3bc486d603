"""open_clip's visual encoder: per frame the CLS embedding and a coarse grid of patch tokens.

The vision tower is built alone (no text tower) and its last projection is left out, so that CLS and patches have the
tower's width. Patches are averaged to ``grid`` x ``grid`` tokens per frame: with 8 frames and grid 4 that is
8 x (1 + 16) = 136 tokens, in time order. The choice of the grid is this project's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from emollama.encoders.vit import pictures_to_pixels
from emollama.errors import CheckpointError, InputError
from emollama.tensors import check_tensors, read_tensors

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
WEIGHTS = "open_clip_model.safetensors"


class ClipEncoder:
    """Stream ``scene`` [N (1 + grid^2), W] of N frames."""

    reads = "frames"

    def __init__(self, visual: nn.Module, *, grid: int = 4) -> None:
        side: int = visual.grid_size[0]  # type: ignore[index, assignment]
        if grid < 1 or grid > side:
            raise InputError(f"grid is {grid}; allowed: 1 to {side}", field="grid")
        self.visual, self.grid = visual.eval().requires_grad_(False), grid

    @property
    def widths(self) -> Mapping[str, int]:
        return {"scene": int(self.visual.conv1.out_channels)}  # type: ignore[union-attr, arg-type]

    @classmethod
    def build(cls, *, architecture: str = "ViT-L-14-quickgelu", grid: int = 4, debug: bool = False) -> ClipEncoder:
        """Make one of random weights, or a tiny one of the same layout."""
        from open_clip.transformer import VisionTransformer

        if debug:
            sizes: dict[str, Any] = {"image_size": 56, "patch_size": 14, "width": 32, "layers": 2, "heads": 2}
            visual = VisionTransformer(**sizes, mlp_ratio=2.0, output_dim=16, output_tokens=True)
        else:
            visual = _tower(architecture)
        visual.proj = None
        return cls(visual, grid=grid)

    @classmethod
    def load(
        cls,
        path: Path,
        *,
        architecture: str = "ViT-L-14-quickgelu",
        grid: int = 4,
        dtype: torch.dtype = torch.float32,
    ) -> ClipEncoder:
        """Read the ``visual.*`` tensors of an open_clip safetensors file (or its folder) strictly."""
        file = path / WEIGHTS if path.is_dir() else path
        tensors = read_tensors(file, dtype=dtype)
        tensors = {name.removeprefix("visual."): t for name, t in tensors.items() if name.startswith("visual.")}
        visual = _tower(architecture)
        check_tensors(tensors, visual.state_dict(), what=f"the visual tower of {file}")
        visual.load_state_dict(tensors, strict=True)
        visual.proj = None  # type: ignore[assignment]
        return cls(visual.to(dtype), grid=grid)

    @torch.inference_mode()
    def encode(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Encode frames [N, H, W, 3] uint8 RGB; no frame gives no stream."""
        if not len(images):
            return {}
        size = int(self.visual.image_size[0])  # type: ignore[index]
        pixels = pictures_to_pixels(images, size, mean=CLIP_MEAN, std=CLIP_STD)
        weight = self.visual.conv1.weight  # type: ignore[union-attr]
        cls_token, patches = self.visual(pixels.to(weight.device, weight.dtype))  # type: ignore[arg-type]
        rows, columns = self.visual.grid_size  # type: ignore[misc]
        patches = patches.float().transpose(1, 2).unflatten(2, (rows, columns))  # [N, W, r, c]
        pooled = F.adaptive_avg_pool2d(patches, self.grid).flatten(2).transpose(1, 2)  # [N, grid^2, W]
        return {"scene": torch.cat((cls_token.float()[:, None], pooled), dim=1).flatten(0, 1).cpu().numpy()}


def architecture_config(architecture: str) -> dict[str, Any]:
    """Return open_clip's configuration of a name; `CheckpointError` for one that it does not know."""
    path = next((p for p in _config_folder().glob("*.json") if p.stem == architecture), None)
    if path is None:
        raise CheckpointError(f"open_clip knows no architecture {architecture!r}", field="architecture")
    config: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return config


def _tower(architecture: str) -> nn.Module:
    import open_clip

    config = architecture_config(architecture)
    visual: nn.Module = open_clip.model._build_vision_tower(
        config["embed_dim"], config["vision_cfg"], quick_gelu=config.get("quick_gelu", False)
    )
    visual.output_tokens = True  # type: ignore[assignment]
    return visual


def _config_folder() -> Path:
    import open_clip

    return Path(str(open_clip.__file__)).parent / "model_configs"
