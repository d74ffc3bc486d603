"""`KvCache`: the keys and values of several rows, in one tensor with room to grow; rows are copied, added and dropped.

It knows nothing of the model that fills it, except the sizes. Rows of one layer lie one after the other, keys apart
from values, so that any rows next to each other are one contiguous block: another runtime can work on them in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from emollama.config import LlamaShape

_ROUND = 64  # capacities are multiples of this, so that growing is rare


class KvCache:
    """Keys and values of B rows in one tensor [L, 2, R, K, S, D]: keys, then values; room for R rows and S tokens.

    ``lengths`` is what each row holds; what lies beyond it in the tensor is finite and means nothing. ``layers`` is
    what each layer reads and writes, [2, B, K, S, D] each. ``binding`` belongs to whoever computes on the cache, and
    so do ``tags``, one a row, which go where their rows go.
    """

    def __init__(self, held: Tensor, lengths: list[int]) -> None:
        self.held, self.lengths = held, lengths
        self.binding: Any = None
        self.tags: list[Any] = [None] * len(lengths)
        self._divide()

    @classmethod
    def empty(cls, shape: LlamaShape, *, rows: int, capacity: int, like: Tensor) -> KvCache:
        size = (shape.num_layers, 2, rows, shape.num_kv_heads, _rounded(capacity), shape.size_of_head)
        return cls(like.new_zeros(size), [0] * rows)

    def _divide(self) -> None:
        self.layers = self.held[:, :, : len(self.lengths)].unbind(0)

    @property
    def num_rows(self) -> int:
        return len(self.lengths)

    @property
    def capacity(self) -> int:
        return self.held.shape[4]

    @property
    def num_bytes(self) -> int:
        return self.held.numel() * self.held.element_size()

    def fork(self, rows: Sequence[int], *, capacity: int) -> KvCache:
        """Copy some rows (a row may be named twice) into a new cache with room for ``capacity`` tokens each."""
        lengths = [self.lengths[row] for row in rows]
        forked = KvCache(self._copy(rows, num_rows=len(lengths), capacity=capacity), lengths)
        forked.tags = [self.tags[row] for row in rows]
        return forked

    def _copy(self, rows: Sequence[int], *, num_rows: int, capacity: int) -> Tensor:
        longest = max((self.lengths[row] for row in rows), default=0)
        num_layers, _, _, heads, _, size = self.held.shape
        target = self.held.new_zeros((num_layers, 2, num_rows, heads, _rounded(max(capacity, longest)), size))
        for place, row in enumerate(rows):
            length = self.lengths[row]
            target[:, :, place, :, :length] = self.held[:, :, row, :, :length]
        return target

    def reserve(self, *, capacity: int) -> None:
        """Make room for ``capacity`` tokens in every row."""
        if capacity > self.capacity:
            rows = self.held.shape[2]
            self.held = self._copy(range(self.num_rows), num_rows=rows, capacity=max(capacity, 2 * self.capacity))
            self._divide()

    def append(self, other: KvCache, row: int) -> None:
        """Take a copy of one row of another cache as the last row of this one."""
        length, place = other.lengths[row], self.num_rows
        self.reserve(capacity=length)
        if place == self.held.shape[2]:
            self.held = self._copy(range(place), num_rows=max(4, 2 * place), capacity=self.capacity)
        self.held[:, :, place, :, :length] = other.held[:, :, row, :, :length]
        self.lengths.append(length)
        self.tags.append(other.tags[row])
        self._divide()

    def drop(self, row: int) -> None:
        """Forget one row; the last row takes its place, so that nothing else is moved."""
        last = self.num_rows - 1
        length, tag = self.lengths.pop(), self.tags.pop()
        if row != last:
            self.tags[row] = tag
            self.held[:, :, row, :, :length] = self.held[:, :, last, :, :length]
            self.lengths[row] = length
        self._divide()


def _rounded(capacity: int) -> int:
    return -(-max(capacity, 1) // _ROUND) * _ROUND
