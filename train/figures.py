"""`Figures`: weighted means of what steps report, over batches and processes, read from the device as seldom as can be.

Means are over terms (answer tokens, where batches say how many they have), as in the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from train.strategy import Strategy


class Figures:
    """Collects the figures of batches between two log lines, and the losses that nobody has looked at yet."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor | float] = {}
        self._weights: dict[str, float] = {}
        self._unseen: list[tuple[int, Tensor]] = []

    def add(self, figures: Mapping[str, float | Tensor], *, weight: float) -> None:
        if weight == 0.0:
            return
        for name, value in figures.items():
            self._sums[name] = self._sums.get(name, 0.0) + value * weight
            self._weights[name] = self._weights.get(name, 0.0) + weight

    def watch(self, step: int, loss: Tensor) -> None:
        """Remember a batch's loss until `first_not_finite` looks at it."""
        self._unseen.append((step, loss))

    def first_not_finite(self) -> int | None:
        """Return the first step since the last call whose loss is not finite; waits for the device."""
        losses = torch.stack([loss.float() for _, loss in self._unseen]).tolist() if self._unseen else []
        steps = [step for (step, _), loss in zip(self._unseen, losses, strict=True) if not math.isfinite(loss)]
        self._unseen.clear()
        return min(steps, default=None)

    def pending(self, strategy: Strategy) -> dict[str, tuple[float, float]]:
        """Return what has been added since the last `take`, over all processes: name -> (sum, weight)."""
        mine = {name: (float(total), self._weights[name]) for name, total in self._sums.items()}
        total: dict[str, tuple[float, float]] = {}
        for part in strategy.gather(mine):
            for name, (value, weight) in part.items():
                before = total.get(name, (0.0, 0.0))
                total[name] = (before[0] + value, before[1] + weight)
        return total

    def restore(self, pending: Mapping[str, tuple[float, float]]) -> None:
        """Go on from what a checkpoint held; on one process alone, since it is the sum of all."""
        self._sums = {name: value for name, (value, _) in pending.items()}
        self._weights = {name: weight for name, (_, weight) in pending.items()}

    def take(self, strategy: Strategy) -> dict[str, float]:
        """Return the means over all processes since the last call, in the order in which they came."""
        total = self.pending(strategy)
        self._sums, self._weights = {}, {}
        return {name: value / weight for name, (value, weight) in total.items()}
