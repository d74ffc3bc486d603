"""EMER: what a person feels and why, with open words (by sets) and a written reason to be judged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from emollama.datasets import mer
from eval.items import word_items
from eval.task import EvalTask, Item

TABLES = {"english": "gt-eng.csv", "chinese": "gt-chi.csv"}


def items(data: Path, split: str) -> Iterator[Item]:
    """Yield the annotated clips; ``meta["reason"]`` is the reference description."""
    table = TABLES[mer.EMER.split(split, TABLES)]
    return word_items(mer.read_open(data, mer.EMER, table=table, folders=("video", "train")))


TASK = EvalTask(
    name="emer",
    title="EMER: open words and a reason",
    score="emer",
    items=items,
    splits=tuple(TABLES),
    split="english",
    asks="rationale",
    instruction="What does the person in the clip appear to feel, and what in face, voice and words says so?",
    modalities=("visual", "audio", "text"),
    licence="that of MER2023: academic research, no upload of samples",
    home=mer.EMER.home,
    notes=(
        "The published figures (clue and label overlap of 0 to 10, Emotion-LLaMA 7.83 and 6.25) were given by a judge "
        "model that is retired, so they cannot be reproduced; another judge's figures must not stand beside them. The "
        "reference descriptions end with the words of the labels: a text-only test must use the subtitles. Version 1 "
        "has 100 clips, none of them neutral."
    ),
)
