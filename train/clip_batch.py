"""`ClipBatch`: examples of people's clips, padded and side by side; what one step computes.

Examples of very different length are computed in groups of similar length, so that little padding is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from emollama.model import ModelBatch
    from train.trainees import Example


@dataclass(frozen=True, kw_only=True)
class ClipBatch:
    """Rows padded to one length. ``label_at`` [B] (0 where there is no label); ``targets`` [B, U] (all zero there) and
    ``asked`` (bool) [B, U]; ``owners`` names, by stream, the rows that its features belong to, in order."""

    inputs: ModelBatch
    label_at: Tensor
    targets: Tensor
    asked: Tensor
    owners: Mapping[str, tuple[int, ...]]
    num_tokens: int
    num_answers: int

    def parts(self) -> list[ClipBatch]:
        """Return the rows as batches of similar length: none is computed at the length of a much longer one."""
        assert self.inputs.attention_mask is not None
        lengths = self.inputs.attention_mask.sum(1).tolist()
        groups = similar_lengths(lengths)
        return [self] if len(groups) == 1 else [self._part(rows, max(lengths[row] for row in rows)) for rows in groups]

    def _part(self, rows: Sequence[int], length: int) -> ClipBatch:
        from emollama.model import IGNORED, ModelBatch

        whole, chosen = self.inputs, list(rows)
        assert whole.attention_mask is not None
        assert whole.labels is not None
        kept = {
            name: [(row, tokens) for row, tokens in zip(owners, whole.features[name], strict=True) if row in rows]
            for name, owners in self.owners.items()
        }
        mask, labels = whole.attention_mask[chosen, :length], whole.labels[chosen, :length]
        return ClipBatch(
            inputs=ModelBatch(
                input_ids=whole.input_ids[chosen, :length],
                attention_mask=mask,
                features={name: [tokens for _, tokens in pairs] for name, pairs in kept.items() if pairs},
                labels=labels,
            ),
            label_at=self.label_at[chosen],
            targets=self.targets[chosen],
            asked=self.asked[chosen],
            owners={name: tuple(chosen.index(row) for row, _ in pairs) for name, pairs in kept.items() if pairs},
            num_tokens=int(mask.sum()),
            num_answers=int((labels[:, 1:] != IGNORED).sum()),
        )


def collate(examples: Sequence[Example], *, pad_id: int, label_token_ids: Sequence[int]) -> ClipBatch:
    """Pad on the right and join the features of all rows, stream by stream."""
    import torch

    from emollama.model import IGNORED, ModelBatch

    length = max(len(one.ids) for one in examples)
    ids = np.full((len(examples), length), pad_id)
    mask = np.zeros((len(examples), length), np.int64)
    labels = np.full((len(examples), length), IGNORED)
    targets = np.zeros((len(examples), len(label_token_ids)), np.float32)
    asked = np.zeros((len(examples), len(label_token_ids)), bool)
    features: dict[str, list[Tensor]] = {}
    owners: dict[str, list[int]] = {}
    for row, one in enumerate(examples):
        count = len(one.ids)
        ids[row, :count], mask[row, :count] = one.ids, 1
        answer = np.array(one.is_answer, bool)
        labels[row, :count][answer] = ids[row, :count][answer]
        if one.target is not None and one.asked is not None:
            targets[row], asked[row] = one.target, one.asked
        for name, tokens in one.features.items():
            if len(tokens):
                features.setdefault(name, []).append(torch.from_numpy(np.asarray(tokens, np.float32)))
                owners.setdefault(name, []).append(row)
    return ClipBatch(
        inputs=ModelBatch(
            input_ids=torch.from_numpy(ids),
            attention_mask=torch.from_numpy(mask),
            features=features,
            labels=torch.from_numpy(labels),
        ),
        label_at=torch.tensor([one.label_at or 0 for one in examples]),
        targets=torch.from_numpy(targets),
        asked=torch.from_numpy(asked),
        owners={name: tuple(rows) for name, rows in owners.items()},
        num_tokens=int(mask.sum()),
        num_answers=int((labels[:, 1:] != IGNORED).sum()),
    )


def similar_lengths(lengths: Sequence[int], *, overhead: int = 192) -> list[list[int]]:
    """Return the rows in groups that, each padded to its longest, cost the least.

    The cost is padded tokens + ``overhead`` (what one more pass costs, in tokens) for each group; the best cut of the
    rows in the order of their lengths is found by dynamic programming over the different lengths.
    """
    order = sorted(range(len(lengths)), key=lambda row: lengths[row])
    ends = [i + 1 for i in range(len(order)) if i + 1 == len(order) or lengths[order[i]] != lengths[order[i + 1]]]
    best: list[tuple[int, int]] = [
        (0, 0)
    ]  # least cost of the first rows up to each end, and where its last group begins
    starts = [0, *ends]
    for k, end in enumerate(ends, 1):
        longest = lengths[order[end - 1]]
        best.append(min((best[j][0] + overhead + longest * (end - starts[j]), j) for j in range(k)))
    groups = []
    k = len(ends)
    while k > 0:
        j = best[k][1]
        groups.append(order[starts[j] : starts[k]])
        k = j
    return groups[::-1]
