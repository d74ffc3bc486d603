"""Adaptive frame rate: few frames where the face is plain, more where it is not (Savchenko, ICML 2023).

A frame is judged from the frames around it, at most ``reach`` away: first those on a coarse grid (every 200th, say);
when the largest of their mean probabilities reaches the grid's threshold the decision stands, else the next finer grid
is read. The finest always decides. Grids lie on the numbers 1, 1 + stride, ... of the whole video and each holds the
coarser one, so that what was read for one frame serves its neighbours; the published text leaves that open.

A frame without a face is on no grid. Where the finest grid, too, has none around a frame, there is no decision (NaN).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from emollama.errors import InputError
from emollama.temporal import window_means

Read = Callable[[np.ndarray], np.ndarray]  # numbers of frames [M] -> probabilities [M, K], NaN rows without a face


@dataclass(frozen=True, kw_only=True)
class AdaptiveRate:
    """``strides`` from coarse to fine, each a multiple of the next; a threshold for each but the last."""

    strides: tuple[int, ...]
    thresholds: tuple[float, ...]
    reach: int = 100

    def __post_init__(self) -> None:
        check_strides(self.strides)
        if len(self.thresholds) != len(self.strides) - 1:
            raise InputError(
                f"there are {len(self.thresholds)} thresholds; allowed: {len(self.strides) - 1}, one for each stride "
                "but the last",
                field="thresholds",
            )
        if self.reach < 1:
            raise InputError(f"reach is {self.reach}; allowed: 1 or more frames", field="reach")


@dataclass(frozen=True, kw_only=True)
class Followed:
    """``values`` [T, K] of every frame, ``levels`` [T] which stride decided (-1: none), ``read`` [T] what was read."""

    values: np.ndarray
    levels: np.ndarray
    read: np.ndarray

    @property
    def share(self) -> float:
        """The share of the frames that were read."""
        return float(self.read.mean())


def check_strides(strides: tuple[int, ...]) -> None:
    """Raise `InputError` unless strides go from coarse to fine, each a multiple of the next."""
    pairs = list(itertools.pairwise(strides))
    if not strides or strides[-1] < 1 or any(a <= b or a % b for a, b in pairs):
        raise InputError(
            f"strides are {strides}; allowed: from coarse to fine, each a multiple of the next, as 200,100,50,10,1",
            field="strides",
        )


def follow(rate: AdaptiveRate, last: int, read: Read) -> Followed:
    """Judge frames 1 to ``last`` of a video, asking ``read`` for each frame at most once, a grid at a time."""
    known: np.ndarray | None = None  # [T, K]; NaN where there is no face, or nothing was asked
    asked = np.zeros(last, bool)
    levels = np.full(last, -1)
    values: np.ndarray | None = None
    for level, stride in enumerate(rate.strides):
        open_ = np.flatnonzero(levels < 0)
        if not len(open_):
            break
        wanted = _near(open_, last, rate.reach) & (np.arange(last) % stride == 0) & ~asked
        numbers = np.flatnonzero(wanted)
        if len(numbers):
            found = np.asarray(read(numbers + 1), np.float64)
            if known is None or values is None:
                known, values = (np.full((last, found.shape[1]), np.nan) for _ in range(2))
            known[numbers] = found
            asked |= wanted
        if known is None or values is None:
            continue
        means = grid_means(known, open_, stride=stride, reach=rate.reach)
        is_last = level == len(rate.strides) - 1
        with np.errstate(invalid="ignore"):
            sure = means.max(axis=1) >= (-np.inf if is_last else rate.thresholds[level])
        values[open_[sure]], levels[open_[sure]] = means[sure], level
    if values is None:
        raise InputError("no frame was read", field="last")
    return Followed(values=values, levels=levels, read=asked)


def grid_means(known: np.ndarray, rows: np.ndarray, *, stride: int, reach: int) -> np.ndarray:
    """Return the means [N, K] of the frames of ``known`` [T, K] that lie on a grid, at most ``reach`` from ``rows``.

    NaN where no frame with a face lies there.
    """
    grid = known[::stride]
    there = ~np.isnan(grid).any(axis=1)
    low = -(-np.maximum(rows - reach, 0) // stride)
    high = np.minimum(rows + reach, len(known) - 1) // stride + 1
    low = np.minimum(low, high)
    counts = np.concatenate([[0], np.cumsum(there)])
    first, after = counts[low], counts[high]
    filled = after > first
    means = np.full((len(rows), known.shape[1]), np.nan)
    means[filled] = window_means(grid[there], first[filled], after[filled])
    return means


def _near(rows: np.ndarray, last: int, reach: int) -> np.ndarray:
    """Return which frames [T] are at most ``reach`` from one of ``rows``."""
    edges = np.zeros(last + 1, np.int64)
    np.add.at(edges, np.maximum(rows - reach, 0), 1)
    np.add.at(edges, np.minimum(rows + reach + 1, last), -1)
    return np.cumsum(edges)[:last] > 0
