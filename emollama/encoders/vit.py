"""A plain vision transformer with the key names of the public checkpoints that Emotion-LLaMA stands on.

One module, three shapes: EVA-CLIP-g as in LAVIS' BLIP-2 (q and v biased, no final norm, CLS), MAE ViT (Facebook's
names: qkv biased, final norm, CLS) and the VideoMAE encoder (tubelets of two frames, fixed sine positions, no CLS).
A state dict of those projects loads strictly. It knows nothing of clips; `eva.py`, `face_mae.py` and `video_mae.py` do.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emollama.errors import CheckpointError, InputError
from emollama.tensors import check_tensors, read_folder, read_tensors


@dataclass(frozen=True, kw_only=True)
class VitShape:
    """Sizes of a vision transformer. ``num_frames`` above 1 cuts the input in tubelets of ``tubelet`` frames.

    ``bias`` says which of q, k, v have one; ``is_fixed`` positions are sines and not stored.
    """

    image_size: int
    patch_size: int
    width: int
    depth: int
    num_heads: int
    mlp_width: int
    bias: Literal["qkv", "qv"] = "qkv"
    has_cls: bool = True
    has_final_norm: bool = True
    is_fixed: bool = False
    num_frames: int = 1
    tubelet: int = 2

    def __post_init__(self) -> None:
        for name, divisor in (("image_size", self.patch_size), ("width", self.num_heads)):
            if getattr(self, name) % divisor:
                raise InputError(f"{name} is {getattr(self, name)}; allowed: a multiple of {divisor}", field=name)
        if self.num_frames > 1 and self.num_frames % self.tubelet:
            raise InputError(f"num_frames is {self.num_frames}; allowed: a multiple of {self.tubelet}")

    @property
    def grid(self) -> int:
        return self.image_size // self.patch_size

    @property
    def num_patches(self) -> int:
        return self.grid**2 * (self.num_frames // self.tubelet if self.num_frames > 1 else 1)


class _PatchEmbed(nn.Module):
    def __init__(self, shape: VitShape) -> None:
        super().__init__()
        size = (shape.patch_size, shape.patch_size)
        if shape.num_frames > 1:
            cube = (shape.tubelet, *size)
            self.proj: nn.Module = nn.Conv3d(3, shape.width, kernel_size=cube, stride=cube)
        else:
            self.proj = nn.Conv2d(3, shape.width, kernel_size=size, stride=size)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.proj(pixels).flatten(2).transpose(1, 2)  # [B, N, W], time slowest, then rows


class _Attention(nn.Module):
    def __init__(self, shape: VitShape) -> None:
        super().__init__()
        self.num_heads = shape.num_heads
        self.qkv = nn.Linear(shape.width, 3 * shape.width, bias=shape.bias == "qkv")
        if shape.bias == "qv":
            self.q_bias = nn.Parameter(torch.zeros(shape.width))
            self.v_bias = nn.Parameter(torch.zeros(shape.width))
        self.is_partly_biased = shape.bias == "qv"
        self.proj = nn.Linear(shape.width, shape.width)

    def forward(self, x: Tensor) -> Tensor:
        bias: Tensor = self.qkv.bias
        if self.is_partly_biased:
            bias = torch.cat((self.q_bias, torch.zeros_like(self.q_bias), self.v_bias))
        qkv = F.linear(x, self.qkv.weight, bias).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [B, H, N, W / H]
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class _Mlp(nn.Module):
    def __init__(self, shape: VitShape) -> None:
        super().__init__()
        self.fc1 = nn.Linear(shape.width, shape.mlp_width)
        self.fc2 = nn.Linear(shape.mlp_width, shape.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class _Block(nn.Module):
    def __init__(self, shape: VitShape) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(shape.width, eps=1e-6)
        self.attn = _Attention(shape)
        self.norm2 = nn.LayerNorm(shape.width, eps=1e-6)
        self.mlp = _Mlp(shape)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """Pixels [B, 3, S, S], or [B, 3, F, S, S] with frames -> [B, (1 +) N, W]; CLS, where there is one, comes first."""

    def __init__(self, shape: VitShape) -> None:
        super().__init__()
        self.shape = shape
        self.patch_embed = _PatchEmbed(shape)
        length = shape.num_patches + shape.has_cls
        if shape.has_cls:
            self.cls_token = nn.Parameter(torch.randn(1, 1, shape.width) * 0.02)
        if shape.is_fixed:
            self.register_buffer("positions", sine_positions(length, shape.width), persistent=False)
        else:
            self.pos_embed = nn.Parameter(torch.randn(1, length, shape.width) * 0.02)
        self.blocks = nn.ModuleList(_Block(shape) for _ in range(shape.depth))
        self.norm = nn.LayerNorm(shape.width, eps=1e-6) if shape.has_final_norm else nn.Identity()

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.patch_embed(pixels)
        if self.shape.has_cls:
            x = torch.cat((self.cls_token.expand(len(x), -1, -1), x), dim=1)
        positions: Tensor = self.positions if self.shape.is_fixed else self.pos_embed  # type: ignore[assignment]
        x = x + positions
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


def sine_positions(length: int, width: int) -> Tensor:
    """Return the fixed positions [1, length, width] of VideoMAE: sine at even places, cosine at odd ones."""
    place = torch.arange(width)
    rates = torch.exp((2 * (place // 2)).double() / width * -math.log(10_000.0))
    angles = torch.arange(length).double()[:, None] * rates
    return torch.where(place % 2 == 0, angles.sin(), angles.cos()).float()[None]


def load_vit(path: Path, shape: VitShape, *, dtype: torch.dtype = torch.float32) -> VisionTransformer:
    """Read a safetensors file (or folder) of upstream's key names strictly; positions of another size are resized."""
    tensors = read_folder(path, dtype=dtype) if path.is_dir() else read_tensors(path, dtype=dtype)
    with torch.device("meta"):
        model = VisionTransformer(shape)
    if "pos_embed" in tensors and not shape.is_fixed:
        tensors["pos_embed"] = resize_positions(tensors["pos_embed"], shape)
    check_tensors(tensors, model.state_dict(), what=str(path))
    model.load_state_dict(tensors, strict=True, assign=True)
    if shape.is_fixed:
        model.positions = sine_positions(shape.num_patches + shape.has_cls, shape.width).to(dtype)
    return model.eval().requires_grad_(False)


def resize_positions(positions: Tensor, shape: VitShape) -> Tensor:
    """Resize stored positions [1, (1 +) n * n, W] bicubically to the grid of ``shape``; CLS is kept."""
    extra = int(shape.has_cls)
    side = math.isqrt(positions.shape[1] - extra)
    if side * side + extra != positions.shape[1]:
        raise CheckpointError(f"pos_embed holds {positions.shape[1]} positions, which is not a square (and a CLS)")
    if side == shape.grid:
        return positions
    grid = positions[:, extra:].unflatten(1, (side, side)).permute(0, 3, 1, 2).float()
    grid = F.interpolate(grid, size=(shape.grid, shape.grid), mode="bicubic", align_corners=False)
    resized = grid.permute(0, 2, 3, 1).flatten(1, 2).to(positions.dtype)
    return torch.cat((positions[:, :extra], resized), dim=1)


def pictures_to_pixels(
    images: np.ndarray, size: int, *, mean: tuple[float, ...] | None = None, std: tuple[float, ...] | None = None
) -> Tensor:
    """Resize [N, H, W, 3] uint8 RGB to size x size (the aspect is squashed, as upstream does) -> [N, 3, size, size].

    Values lie in [0, 1], or are standardised when ``mean`` and ``std`` are given.
    """
    if images.ndim != 4 or images.shape[-1] != 3:
        raise InputError(f"pictures have shape {images.shape}; allowed: [N, H, W, 3]", field="images")
    pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float()
    if pixels.shape[-2:] != (size, size):
        pixels = F.interpolate(pixels, size=(size, size), mode="bicubic", align_corners=False, antialias=True)
    pixels = pixels.clamp(0.0, 255.0) / 255.0
    if mean is None or std is None:
        return pixels
    return (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def shrink(shape: VitShape, *, image_size: int) -> VitShape:
    """Return the same layout at a size for tests."""
    return dataclasses.replace(
        shape,
        image_size=image_size,
        width=32,
        depth=2,
        num_heads=2,
        mlp_width=48,
        num_frames=min(shape.num_frames, 4),
    )
