"""DDAMFN (Zhang et al., "A dual-direction attention mixed feature network for facial expression recognition",
Electronics 12(17), 2023): mixed kernels in depth, coordinate attention in every block, and heads that attend along
both directions.

A face [B, 3, 112, 112] becomes a map [B, 512, 7, 7]. Each head gives a gate from a column and a row of it, the largest
gate of all heads multiplies the map, and one 7x7 filter a channel makes the embedding [B, 512].

Modules are ours by name; `upstream_name` maps the keys of the public code (SainingZhang/DDAMFN), whose checkpoints also
hold modules that its forward pass never calls (`DEAD`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn

# Keys of public checkpoints that no computation there uses: norm and PReLU of the mixed kernels, a second pooling in
# every head, and a batch norm of the classes.
DEAD = re.compile(r"features\.\d+\.(model\.\d+\.)?conv_dw\.(bn|prelu)\..+|cat_head\d+\.CoordAtt\.Linear\..+|bn\..+")
_RENAMED = (
    (r"^features\.", "stem."),
    (r"\.model\.", "."),
    (r"\.conv_dw\.mixed_depthwise_conv\.", ".mixed."),
    (r"\.CA\.", ".attention."),
    (r"^cat_head(\d+)\.CoordAtt\.", r"heads.\1."),
    (r"\.Linear_h\.", ".across."),
    (r"\.Linear_w\.", ".down."),
    (r"^Linear\.", "pool."),
)  # fmt: skip


def upstream_name(key: str) -> str:
    """Return our name of a key of the public code's ``DDAMNet``."""
    for pattern, replacement in _RENAMED:
        key = re.sub(pattern, replacement, key)
    return key


class _ConvNorm(nn.Module):
    def __init__(
        self,
        width_in: int,
        width: int,
        *,
        kernel: int | tuple[int, int] = 1,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        is_linear: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width_in, width, kernel, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.prelu = nn.Identity() if is_linear else nn.PReLU(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.prelu(self.bn(self.conv(x)))


class _Gate(nn.Module):
    """Coordinate attention's shared half (Hou et al., CVPR 2021): a column and a row of means -> a gate each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = max(8, width // 32)
        self.conv1, self.bn1 = nn.Conv2d(width, inner, 1), nn.BatchNorm2d(inner)
        self.conv2, self.conv3 = nn.Conv2d(inner, width, 1), nn.Conv2d(inner, width, 1)

    def gate(self, column: Tensor, row: Tensor) -> Tensor:
        """column [B, C, H, 1] and row [B, C, 1, W] -> [B, C, H, W] in 0 to 1."""
        height = column.shape[2]
        both = torch.cat((column, row.transpose(2, 3)), dim=2)  # [B, C, H + W, 1]
        both = nn.functional.hardswish(self.bn1(self.conv1(both)))
        down, across = both[:, :, :height], both[:, :, height:].transpose(2, 3)
        return self.conv2(down).sigmoid() * self.conv3(across).sigmoid()


class CoordinateAttention(_Gate):
    """Gates a map by the means of its rows and of its columns."""

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x.mean(3, keepdim=True), x.mean(2, keepdim=True))


class DirectionHead(_Gate):
    """The same with a learned filter of each channel along either direction in place of the mean; gives the gate."""

    def __init__(self, width: int, *, side: int = 7) -> None:
        super().__init__(width)
        self.across = _ConvNorm(width, width, kernel=(1, side), groups=width, is_linear=True)
        self.down = _ConvNorm(width, width, kernel=(side, 1), groups=width, is_linear=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.gate(self.across(x), self.down(x))


class MixedBlock(nn.Module):
    """Widen, filter each channel by one of several ``kernels``, attend, narrow; ``split`` channels have each kernel."""

    def __init__(
        self, width_in: int, width: int, *, kernels: Sequence[int], split: Sequence[int], stride: int = 1
    ) -> None:
        super().__init__()
        inner = sum(split)
        self.split = tuple(split)
        self.is_residual = stride == 1
        self.conv = _ConvNorm(width_in, inner)
        self.mixed = nn.ModuleList(
            nn.Conv2d(part, part, kernel, stride, kernel // 2, groups=part, bias=False)
            for kernel, part in zip(kernels, split, strict=True)
        )
        self.attention = CoordinateAttention(inner)
        self.project = _ConvNorm(inner, width, is_linear=True)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.conv(x).split(self.split, dim=1)
        y = torch.cat([conv(part) for conv, part in zip(self.mixed, parts, strict=True)], dim=1)
        y = self.project(self.attention(y))
        return x + y if self.is_residual else y


def _stage(width: int, depth: int, *, kernels: Sequence[int], split: Sequence[int]) -> nn.Sequential:
    return nn.Sequential(*(MixedBlock(width, width, kernels=kernels, split=split) for _ in range(depth)))


class Ddamfn(nn.Module):
    """Pictures [B, 3, 112, 112] -> embeddings [B, 512]."""

    num_features = 512

    def __init__(self, *, num_heads: int = 2) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            _ConvNorm(3, 64, kernel=3, stride=2, padding=1),  # 56 x 56
            _ConvNorm(64, 64, kernel=3, padding=1, groups=64),
            MixedBlock(64, 64, kernels=(3, 5, 7), split=(64, 32, 32), stride=2),  # 28 x 28
            _stage(64, 9, kernels=(3, 5), split=(96, 32)),
            MixedBlock(64, 128, kernels=(3, 5, 7), split=(128, 64, 64), stride=2),  # 14 x 14
            _stage(128, 16, kernels=(3, 5), split=(192, 64)),
            MixedBlock(128, 256, kernels=(3, 5, 7, 9), split=(256, 256, 256, 256), stride=2),  # 7 x 7
            _stage(256, 6, kernels=(3, 5, 7), split=(172, 170, 170)),
            _ConvNorm(256, self.num_features),
        )
        self.heads = nn.ModuleList(DirectionHead(self.num_features) for _ in range(num_heads))
        self.pool = _ConvNorm(self.num_features, self.num_features, kernel=7, groups=self.num_features, is_linear=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)  # [B, 512, 7, 7]
        gate = self.heads[0](x)
        for head in self.heads[1:]:
            gate = torch.maximum(gate, head(x))
        return self.pool(x * gate).flatten(1)
