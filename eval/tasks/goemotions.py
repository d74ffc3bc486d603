"""GoEmotions: the emotions of a Reddit comment, any of 28 labels, by macro F1 (Demszky et al., ACL 2020).

The words are all there is: no face and no voice. A comment may carry several labels, and `eval.ask` says from which
probability on a label counts as given.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from emollama.labels import GOEMOTIONS_28
from eval.task import EvalTask, Item, Published


def items(data: Path, split: str) -> Iterator[Item]:
    """Yield the comments of a split in the file's order; ``data`` is the raw data folder or one Parquet file."""
    from emollama.datasets import goemotions

    comments = goemotions.read_file(data) if data.is_file() else goemotions.read(data, split=split)  # type: ignore[arg-type]
    for comment in comments:
        yield Item(id=comment.id, gold=list(comment.labels), transcript=comment.text, language="en")


TASK = EvalTask(
    name="goemotions",
    title="GoEmotions: emotions of written comments",
    score="goemotions",
    items=items,
    splits=("dev", "train", "test"),
    split="dev",
    asks="labels",
    labels=GOEMOTIONS_28,
    instruction="Which of these emotions does the comment express? Name all that apply.",
    modalities=("text",),
    published=(
        Published(
            system="BERT-base, fine-tuned",
            figure="macro_f1",
            value=0.46,
            source="Demszky et al., ACL 2020, table 4 (arXiv:2005.00547)",
            note="on the test split",
        ),
    ),
    licence="Apache-2.0 / CC BY 4.0 (google-research)",
    home="https://github.com/google-research/google-research/tree/master/goemotions",
    notes=(
        "nano's backbone was trained on the split train. The split dev was looked at while nano was made, and half of "
        "it served its calibration; nothing was learned from it otherwise."
    ),
)
