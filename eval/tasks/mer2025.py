"""MER2025 FG: open words for what is felt, scored on emotion wheels at two levels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from emollama.datasets import mer
from eval.items import word_items
from eval.task import EvalTask, Item, Published

TABLES = {
    "test": "track2_test.csv",
    "ovmerd": "track2_train_ovmerd.csv",
    "mercaptionplus": "track2_train_mercaptionplus.csv",
}
_SOURCE = "MER2025 baseline paper (arXiv:2504.19423)"


def items(data: Path, split: str) -> Iterator[Item]:
    """Yield the clips of a table of open words."""
    table = TABLES[mer.MER2025.split(split, TABLES)]
    return word_items(mer.read_open(data, mer.MER2025, table=table, folders=("video",)))


FG = EvalTask(
    name="mer2025_fg",
    title="MER2025 FG: open words on emotion wheels",
    score="mer2025_fg",
    items=items,
    splits=tuple(TABLES),
    split="test",
    asks="open",
    instruction="Name every emotion that the person in the clip appears to feel, in words of your own.",
    modalities=("visual", "audio", "text"),
    published=(
        Published(system="AffectGPT", figure="ew", value=0.4686, source=_SOURCE, note="unverified"),
        Published(system="best zero-shot model", figure="ew", value=0.3680, source=_SOURCE, note="unverified"),
    ),
    licence="CC BY-NC 4.0",
    home=mer.MER2025.home,
    notes=(
        "The truth of the 1,200 test clips was the organisers'; ovmerd and mercaptionplus are training tables and are "
        "for trying things out, not for a score to report. Words outside the word lists are dropped on both sides, so "
        "that nonsense costs no precision: look at the count of dropped words. Upstream picks the best checkpoint on "
        "the test set."
    ),
)
