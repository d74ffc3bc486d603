"""MELD: the emotion of each turn of a conversation in the series Friends, seven classes by weighted F1."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from emollama.datasets import meld
from eval.items import label_items
from eval.task import EvalTask, Item, Published

_FLOOR = "class counts of the test split in MERBench (MERTools)"


def items(data: Path, split: str) -> Iterator[Item]:
    """Yield the turns of a split in the table's order."""
    return label_items(meld.read(data, split=split))


TASK = EvalTask(
    name="meld",
    title="MELD: emotion of turns in conversation",
    score="meld",
    items=items,
    splits=meld.SPLITS,
    split="test",
    asks="label",
    labels=meld.LABELS,
    instruction="Which emotion does the speaker of this turn express?",
    modalities=("visual", "audio", "text"),
    published=(
        Published(
            system="always neutral", figure="waf", value=0.3127, source=_FLOOR, note="what no model may be below"
        ),
        Published(
            system="always neutral", figure="war", value=0.4812, source=_FLOOR, note="what no model may be below"
        ),
    ),
    licence="GPL-3.0 for the annotations; the clips are of a television series (research use)",
    home=meld.SOURCE.home,
    notes=(
        "A turn is judged alone: the turns before it are not given, while most published systems see them. Several "
        "people are often in the picture, and the one that speaks is not marked. The hit rates that MER-UniBench "
        "prints for MELD are another figure (see score task unibench_hit). Turns of one dialogue are drawn together. "
        "The main characters speak in every split, as published: a model trained on MELD has heard them."
    ),
)
