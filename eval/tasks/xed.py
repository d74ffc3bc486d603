"""XED, English part: the emotion of lines of film subtitles, those with exactly one of Ekman's six, or none (neutral).

The annotators' labels are Plutchik's eight (Oehman et al., COLING 2020); lines with several, or with anticipation and
trust alone, are left out, so the figures here are not those of the paper's multi-label protocol. There are no splits.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from emollama.labels import EKMAN_7
from eval.task import EvalTask, Item


def items(data: Path, split: str) -> Iterator[Item]:
    """Yield the lines with one class in the table's order, named by their row; ``data`` is the raw data folder."""
    from emollama.datasets import xed

    for number, line in enumerate(xed.read(data)):
        if len(line.ekman) == 1 and len(line.labels) <= 1:
            yield Item(id=f"line-{number:05d}", gold=line.ekman[0], transcript=line.text, language="en")


TASK = EvalTask(
    name="xed",
    title="XED: emotions of subtitle lines",
    score="xed",
    items=items,
    splits=("all",),
    split="all",
    asks="label",
    labels=EKMAN_7,
    instruction="Which emotion does this line of a film express?",
    modalities=("text",),
    licence="CC BY 4.0 (Helsinki-NLP)",
    home="https://github.com/Helsinki-NLP/XED",
    notes="nano's backbone was trained on these very lines: its figure says how well it remembers them, nothing more.",
)
