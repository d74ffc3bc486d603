"""`Shares`: which batch goes to which process, so that any number of processes sees the same steps.

A step takes the next ``accumulate * size`` batches of an epoch; of these, process r of n takes number r, r + n, ... So
two processes without accumulation make the same steps as one that accumulates two batches. Where an epoch's last step
has fewer batches than processes, those without one run the step's first batch with weight 0: every process makes as
many passes, and nothing is dropped or counted twice.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from train.task import Batches


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """A batch, its number in the epoch (over all processes), and its weight in the loss of its step."""

    index: int
    batch: Any
    weight: float


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one process computes in one step; the epoch goes on with batch ``next_index``."""

    micro_batches: Sequence[MicroBatch]
    next_index: int
    is_last: bool

    @property
    def weight(self) -> float:
        return sum(micro.weight for micro in self.micro_batches)

    @property
    def num_tokens(self) -> int:
        return sum(getattr(m.batch, "num_tokens", 0) for m in self.micro_batches if m.weight > 0)


class Shares:
    """The steps of one epoch for process ``rank`` of ``size``."""

    def __init__(self, batches: Batches, *, rank: int, size: int, accumulate: int) -> None:
        self.batches, self.rank, self.size = batches, rank, size
        self.per_step = accumulate * size

    def __len__(self) -> int:
        return math.ceil(len(self.batches) / self.per_step)

    def steps(self, start: int) -> Iterator[Share]:
        """Yield the steps from batch ``start`` (the first of a step) on."""
        item = getattr(self.batches, "__getitem__", None)
        stream = iter(()) if item is not None else itertools.islice(iter(self.batches), start, None)
        total = len(self.batches)
        for first in range(start, total, self.per_step):
            end = min(first + self.per_step, total)
            rounds = math.ceil((end - first) / self.size)
            wanted = [first + self.rank + turn * self.size for turn in range(rounds)]
            indices = [(index, True) if index < end else (first, False) for index in wanted]
            drawn = {} if item is not None else dict(zip(range(first, end), stream, strict=False))
            taken = []
            for index, counts in indices:
                batch = item(index) if item is not None else drawn[index]
                weight = float(getattr(batch, "weight", 1.0)) if counts else 0.0
                taken.append(MicroBatch(index=index, batch=batch, weight=weight))
            yield Share(micro_batches=taken, next_index=end, is_last=end == total)
