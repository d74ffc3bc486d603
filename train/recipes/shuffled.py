"""One epoch of batches over data that lies in memory, in an order that is drawn anew for each epoch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Generic, TypeVar

import torch
from torch import Tensor

Batch = TypeVar("Batch")


class Shuffled(ABC, Generic[Batch]):
    """Batch ``i`` depends on (seed, epoch, i) alone, so that a resumed run can jump to it.

    An incomplete last batch is left out; fewer than ``batch_size`` things are one batch.
    """

    def __init__(self, count: int, *, batch_size: int, epoch: int, seed: int) -> None:
        self.epoch = epoch
        self._number = seed * 100_003 + epoch
        self.generator = torch.Generator().manual_seed(self._number)  # of what is drawn once for the epoch
        self._order = torch.randperm(count, generator=self.generator)
        self._batch_size = min(batch_size, count)

    def __len__(self) -> int:
        return len(self._order) // self._batch_size

    def __iter__(self) -> Iterator[Batch]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Batch:
        rows = self._order[index * self._batch_size : (index + 1) * self._batch_size]
        return self.batch(rows, number=self._number * 10_007 + index + 1)

    @abstractmethod
    def batch(self, rows: Tensor, *, number: int) -> Batch:
        """Read the batch of ``rows`` [B]; ``number`` is its own, to seed what is drawn at random in it."""
