"""EmoBank: valence and arousal of English sentences, by Pearson's r with readers' and writers' mean ratings.

Ratings of 1 to 5 are moved linearly to [-1, 1] (Buechel and Hahn, EACL 2017), which changes no correlation. Dominance
is not asked for. The words are all there is.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from eval.task import EvalTask, Item


def items(data: Path, split: str) -> Iterator[Item]:
    """Yield the sentences of a split in the table's order; ``data`` is the raw data folder."""
    from emollama.datasets import emobank

    for sentence in emobank.read(data, split=split):  # type: ignore[arg-type]
        gold = {"valence": sentence.valence, "arousal": sentence.arousal}
        yield Item(id=sentence.id, gold=gold, transcript=sentence.text, language="en")


TASK = EvalTask(
    name="emobank",
    title="EmoBank: valence and arousal of sentences",
    score="emobank",
    items=items,
    splits=("dev", "train", "test"),
    split="dev",
    asks="affect",
    instruction="How pleasant and how excited is the feeling that this sentence expresses?",
    modalities=("text",),
    licence="CC BY-SA 4.0 (JULIELab)",
    home="https://github.com/JULIELab/EmoBank",
    notes="nano was trained on the split train; the split dev was looked at while it was trained, not learned from.",
)
