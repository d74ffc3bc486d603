"""The residual face network for answering: the same numbers as `emollama.encoders.face.ResidualNet`, sooner.

- The batch norms, which are constant by now, are folded into the convolutions before them.
- Wide 3x3 convolutions of stride 1 are computed by minimal filtering (Lavin & Gray, "Fast Algorithms for Convolutional
  Neural Networks", CVPR 2016): an output tile of 3 x 3 takes 25 products a channel pair instead of 81. The transforms
  are those of Toom and Cook for the points 0, 1, -1, 2 and infinity, small enough that the sums differ from a direct
  convolution's in the sixth digit. Narrow layers are left alone: there the transforms cost more than they save.

Pictures lie in memory as [B, H, W, C] throughout. The folded network does not follow later changes of the weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from emollama.encoders.face import ResidualNet

_TILE, _TAPS = 3, 3
_SPAN = _TILE + _TAPS - 1  # what one tile of the output looks at
_POINTS = (0.0, 1.0, -1.0, 2.0)  # and infinity
_WIDE = 128  # channels from which on minimal filtering pays


class FoldedNet:
    """Reads grey pictures [B, 1, S, S] as the network that it was made of does: [B, widths[-1]]."""

    def __init__(self, net: ResidualNet) -> None:
        self._stem = _fold(net.stem, net.stem_bn)
        self._blocks = [_Block(block) for block in net.blocks]

    def __call__(self, pictures: Tensor) -> Tensor:
        x = self._stem(pictures).relu_()
        for block in self._blocks:
            x = block(x)
        return x.mean((2, 3))


class _Block:
    def __init__(self, block: Any) -> None:
        self._first = _fold(block.conv1, block.bn1)
        self._second = _fold(block.conv2, block.bn2)
        self._squeeze, self._excite = block.squeeze, block.excite
        parts = list(block.skip) if isinstance(block.skip, nn.Sequential) else []
        self._pool = parts[0] if parts else None
        self._skip = _fold(parts[1], parts[2]) if parts else None

    def __call__(self, x: Tensor) -> Tensor:
        y = self._second(self._first(x).relu_())
        gate = self._excite(self._squeeze(y.mean((2, 3), keepdim=True)).relu_()).sigmoid_()
        if self._pool is not None and self._skip is not None:
            x = self._skip(self._pool(x))
        return y.mul_(gate).add_(x).relu_()


class _Convolution:
    """A convolution with its bias, [B, C, H, W] in the memory format channels_last."""

    def __init__(self, weight: Tensor, bias: Tensor, *, stride: int, padding: int) -> None:
        self._weight = weight.contiguous(memory_format=torch.channels_last)
        self._bias, self._stride, self._padding = bias, stride, padding
        is_wide = min(weight.shape[:2]) >= _WIDE and weight.shape[2:] == (_TAPS, _TAPS)
        self._filtered = _Filtered(weight, bias) if is_wide and (stride, padding) == (1, 1) else None

    def __call__(self, x: Tensor) -> Tensor:
        if self._filtered is not None and not any(side % _TILE for side in x.shape[2:]):
            return self._filtered(x)
        return F.conv2d(x, self._weight, self._bias, stride=self._stride, padding=self._padding)


class _Filtered:
    """A 3x3 convolution by minimal filtering, for pictures whose sides are multiples of the tile."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        gather, filters, spread = toom_cook(_TILE, _TAPS, _POINTS)
        both = torch.from_numpy(np.kron(filters, filters))  # [25, 9]
        taps = weight.detach().double().flatten(2).permute(2, 1, 0)  # [9, C, C_out]
        self._taps = torch.einsum("st,tio->sio", both, taps).float().contiguous()  # [25, C, C_out]
        self._spread = torch.from_numpy(np.kron(spread, spread)).float()  # [25, 25]
        self._gather = torch.from_numpy(np.kron(gather, gather)).float()  # [9, 25]
        self._bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        batch, width_in, height, width = x.shape
        down, across, width_out = height // _TILE, width // _TILE, self._taps.shape[2]
        padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
        tiles = padded.unfold(1, _SPAN, _TILE).unfold(2, _SPAN, _TILE)  # [B, down, across, C, 5, 5]
        tiles = tiles.permute(4, 5, 0, 1, 2, 3).reshape(_SPAN * _SPAN, -1)
        tiles = torch.mm(self._spread, tiles).view(_SPAN * _SPAN, -1, width_in)  # [25, P, C]
        products = torch.bmm(tiles, self._taps).view(_SPAN * _SPAN, -1)  # [25, P C_out]
        y = torch.mm(self._gather, products).view(_TILE, _TILE, batch, down, across, width_out)
        y = y.permute(2, 3, 0, 4, 1, 5).reshape(batch, height, width, width_out)
        return y.add_(self._bias).permute(0, 3, 1, 2)


def _fold(convolution: nn.Module, norm: nn.Module) -> _Convolution:
    """Join a convolution without a bias and the batch norm after it, as it is in evaluation."""
    assert isinstance(convolution, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    gain = norm.weight.detach() / (norm.running_var + norm.eps).sqrt()
    stride, padding = convolution.stride[0], convolution.padding[0]
    assert isinstance(padding, int)
    return _Convolution(
        convolution.weight.detach() * gain[:, None, None, None],
        norm.bias.detach() - norm.running_mean * gain,
        stride=stride,
        padding=padding,
    )


def toom_cook(tile: int, taps: int, points: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the matrices (gather [m, n], filters [n, r], spread [n, n]) of a minimal filter, n = m + r - 1.

    ``gather @ ((filters @ g) * (spread @ d))`` are the m outputs of sliding the taps g [r] over the inputs d [n]. The
    points are n - 1 different numbers; infinity is the last.
    """
    size = tile + taps - 1
    a = np.asarray(points, np.float64)
    assert len(set(points)) == size - 1
    gather, filters, spread = np.zeros((tile, size)), np.zeros((size, taps)), np.zeros((size, size))
    for i in range(size - 1):
        others = np.delete(a, i)
        gather[:, i] = a[i] ** np.arange(tile)
        filters[i] = a[i] ** np.arange(taps) / np.prod(a[i] - others)
        spread[i, : size - 1] = np.poly(others)[::-1]
    gather[-1, -1] = filters[-1, -1] = 1.0
    spread[-1] = np.poly(a)[::-1]
    return gather, filters, spread
