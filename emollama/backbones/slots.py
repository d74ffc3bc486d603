"""Token ids past the vocabulary: projected tokens for an engine that takes ids and no embeddings.

`SlotEmbedding` stands in place of a LLaMA's input embedding. An id below V reads the table, an id from V on reads a row
of a bounded buffer: row ``(id - V) % num_slots``. The quotient does not matter to the look-up, and that is what makes
ids safe to remember: each time a row gets new content, `SlotLedger` gives it its next id. An id therefore stands for
one content for ever, and what an engine has computed for it (keys and values that later prompts share) can never be
taken for another clip's, not even when it was computed for a request that is long gone.

The same content is the same ids for as long as it lies in the buffer, so questions about one clip share its prefix.
`SlotLedger` knows no tensors.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emollama.errors import InputError

LAST_ID = 2**31 - 1  # engines keep ids in 32 bits


@dataclass(kw_only=True)
class _Held:
    ids: tuple[int, ...]
    rows: tuple[int, ...]
    users: int


@dataclass(frozen=True, kw_only=True)
class Lease:
    """The ids of some content; ``is_new`` says that its rows must be written before anybody reads them."""

    ids: tuple[int, ...]
    rows: tuple[int, ...]
    is_new: bool


class SlotLedger:
    """Who uses which slots. Content is named by a key; it stays until its last user is gone and the room is needed.

    Not for several threads at once: its owner has a lock.
    """

    def __init__(self, *, num_slots: int, first_id: int, last_id: int = LAST_ID) -> None:
        if num_slots < 1 or first_id + num_slots > last_id + 1:
            raise InputError(
                f"num_slots is {num_slots}; allowed: 1 to {last_id + 1 - first_id}, for ids from {first_id} on",
                field="num_slots",
            )
        self.num_slots, self.first_id, self.last_id = num_slots, first_id, last_id
        self._used: dict[bytes, _Held] = {}
        self._idle: OrderedDict[bytes, _Held] = OrderedDict()  # nobody's at the moment, the longest idle first
        self._start()

    def _start(self) -> None:
        self._free = deque(range(self.num_slots))
        self._next_id = [self.first_id + row for row in range(self.num_slots)]
        self.is_worn_out = False

    @property
    def num_used(self) -> int:
        """Slots that somebody holds."""
        return sum(len(held.rows) for held in self._used.values())

    @property
    def num_idle(self) -> int:
        """Slots whose content is kept for who may ask again; they are given away when room is needed."""
        return sum(len(held.rows) for held in self._idle.values())

    def acquire(self, wanted: Sequence[tuple[bytes, int]]) -> list[Lease] | None:
        """Hold every content of ``wanted`` (its key and its number of tokens), or none: ``None`` when there is no room.

        The same key may be wanted twice; each is released by itself. Raises `InputError` for more tokens than there
        are slots. When ``is_worn_out`` is true afterwards, ids have run out: see `renew`.
        """
        sizes = dict(wanted)
        total = sum(sizes.values())
        if total > self.num_slots:
            raise InputError(f"{total} feature tokens; allowed: at most {self.num_slots} slots", field="features")
        fresh = {key: count for key, count in sizes.items() if key not in self._used and key not in self._idle}
        kept = sum(len(held.rows) for key, held in self._idle.items() if key not in sizes)
        needed = sum(fresh.values())
        if needed > len(self._free) + kept:
            return None
        for key in [key for key in self._idle if key not in sizes]:
            if needed <= len(self._free):
                break
            self._free.extend(self._idle.pop(key).rows)
        rows = [self._free[index] for index in range(needed)]
        if any(self._next_id[row] > self.last_id for row in rows):
            self.is_worn_out = True
            return None
        leases = []
        for key, _ in wanted:
            held = self._used.get(key) or self._idle.pop(key, None)
            is_new = held is None
            if held is None:
                taken = tuple(self._free.popleft() for _ in range(sizes[key]))
                held = _Held(ids=tuple(self._next_id[row] for row in taken), rows=taken, users=0)
                for row in taken:
                    self._next_id[row] += self.num_slots
            held.users += 1
            self._used[key] = held
            leases.append(Lease(ids=held.ids, rows=held.rows, is_new=is_new))
        return leases

    def release(self, key: bytes) -> None:
        """End one use of a content."""
        held = self._used[key]
        held.users -= 1
        if held.users == 0:
            self._idle[key] = self._used.pop(key)

    def forget(self, key: bytes) -> None:
        """Drop content that nobody holds: it could not be written."""
        held = self._idle.pop(key, None)
        if held is not None:
            self._free.extend(held.rows)

    def renew(self) -> None:
        """Begin again with the first ids. What an engine remembers of the old ones must be forgotten first."""
        assert not self._used
        self._idle.clear()
        self._start()


class SlotEmbedding(nn.Module):
    """An input embedding with ``num_slots`` rows of its own for ids from V on; shapes never depend on the ids.

    So it may be part of a captured CUDA graph. ``table`` is the embedding that it stands for.
    """

    slots: Tensor

    def __init__(self, table: nn.Embedding, *, num_slots: int) -> None:
        super().__init__()
        self.table, self.num_slots = table, num_slots
        self.register_buffer("slots", table.weight.new_zeros(num_slots, table.embedding_dim), persistent=False)

    @property
    def weight(self) -> Tensor:
        """The table's: what a tied head is multiplied with."""
        return self.table.weight

    @property
    def num_words(self) -> int:
        return self.table.num_embeddings

    @torch.no_grad()
    def write(self, rows: Sequence[int], tokens: Tensor) -> None:
        """Put [n, W] into n rows; on a GPU they are there for every stream when this returns."""
        if tokens.shape != (len(rows), self.slots.shape[1]):
            raise InputError(
                f"projected tokens have shape {tuple(tokens.shape)}; allowed: {(len(rows), self.slots.shape[1])}",
                field="features",
            )
        index = torch.tensor(list(rows), dtype=torch.long, device=self.slots.device)
        self.slots.index_copy_(0, index, tokens.detach().to(self.slots))
        if self.slots.is_cuda:
            torch.cuda.current_stream(self.slots.device).synchronize()

    def forward(self, input_ids: Tensor) -> Tensor:
        past = input_ids.long() - self.num_words
        words = F.embedding(input_ids.clamp(max=self.num_words - 1).long(), self.table.weight)
        placed = F.embedding(past.clamp(min=0) % self.num_slots, self.slots)
        return torch.where((past >= 0)[..., None], placed, words)
