"""MobileFaceNet (Chen et al., "MobileFaceNets", CCBR 2018) in the wide form of InsightFace's recognisers.

The paper's network at twice its width (stages of 128, 128, 256 and 256 channels, with 1, 4, 6 and 2 blocks), PReLU
throughout, a global depthwise convolution in place of average pooling, and an embedding of 512 after a batch norm.
HSEmotion's ``mbf_va_mtl`` stands on it. Modules have the names of the public checkpoints.
"""

from __future__ import annotations

from torch import Tensor, nn


class ConvNorm(nn.Module):
    """A convolution without a bias and its batch norm, then a PReLU unless ``is_linear``."""

    def __init__(
        self, width_in: int, width: int, *, kernel: int = 1, stride: int = 1, groups: int = 1, is_linear: bool = False
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width_in, width, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(width)
        )
        if not is_linear:
            self.layers.append(nn.PReLU(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Bottleneck(nn.Module):
    """Widen by 1x1 to ``inner`` channels, filter each by 3x3, narrow by 1x1; with a residual path where asked for."""

    def __init__(self, width_in: int, width: int, *, inner: int, stride: int = 1, is_residual: bool = False) -> None:
        super().__init__()
        self.is_residual = is_residual
        self.layers = nn.Sequential(
            ConvNorm(width_in, inner),
            ConvNorm(inner, inner, kernel=3, stride=stride, groups=inner),
            ConvNorm(inner, width, is_linear=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x)
        return x + y if self.is_residual else y


class _Stage(nn.Module):
    def __init__(self, width: int, *, depth: int, inner: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(Bottleneck(width, width, inner=inner, is_residual=True) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class _Embedding(nn.Module):
    """One 7x7 filter a channel looks at the whole map: [B, 512, 7, 7] -> [B, num_features]."""

    def __init__(self, width: int, num_features: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Module(), nn.Flatten(), nn.Linear(width, num_features, bias=False), nn.BatchNorm1d(num_features)
        )
        self.layers[0] = _Global(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class _Global(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(width, width, 7, groups=width, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class MobileFaceNet(nn.Module):
    """Pictures [B, 3, 112, 112] -> embeddings [B, num_features]."""

    def __init__(self, *, num_features: int = 512, scale: int = 2, depths: tuple[int, int, int] = (4, 6, 2)) -> None:
        super().__init__()
        self.num_features = num_features
        first, last = 64 * scale, 128 * scale
        self.layers = nn.ModuleList(
            [
                ConvNorm(3, first, kernel=3, stride=2),  # 56 x 56
                ConvNorm(first, first, kernel=3, groups=64),  # 64 groups at either width
                Bottleneck(first, first, inner=128, stride=2),  # 28 x 28
                _Stage(first, depth=depths[0], inner=128),
                Bottleneck(first, last, inner=256, stride=2),  # 14 x 14
                _Stage(last, depth=depths[1], inner=256),
                Bottleneck(last, last, inner=512, stride=2),  # 7 x 7
                _Stage(last, depth=depths[2], inner=256),
            ]
        )
        self.conv_sep = ConvNorm(last, 512)
        self.features = _Embedding(512, num_features)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.features(self.conv_sep(x))
