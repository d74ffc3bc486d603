"""Multiple choice about clips, as EmoBench-M asks: accuracy of the letter."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from emollama.datasets import multiple_choice
from eval.task import EvalTask, Item, Published


def items(data: Path, split: str) -> Iterator[Item]:
    """Yield the questions in the file's order; ``data`` is the file or the folder that holds it."""
    for question in multiple_choice.read(data):
        yield Item(
            id=question.id,
            gold=question.answer,
            clip=question.file,
            transcript=question.transcript,
            language=question.language,
            group=question.group,
            question=question.question,
            choices=question.choices,
            meta=question.meta,
        )


TASK = EvalTask(
    name="emobench_m",
    title="Multiple choice about clips (EmoBench-M style)",
    score="emobench_m",
    items=items,
    splits=("test",),
    split="test",
    asks="choice",
    instruction="Answer with the letter of the right choice.",
    modalities=("visual", "audio", "text"),
    published=(
        Published(
            system="Emotion-LLaMA",
            figure="war",
            value=0.406,
            source="EmoBench-M (arXiv:2502.04424)",
            note="unverified; the mean of recognition .369, conversation .307 and social .541, in its own form",
        ),
    ),
    licence="that of the questions and clips you bring; EmoBench-M is Apache-2.0",
    home="https://github.com/Emo-gml/EmoBench-M",
    notes=(
        "Chance is one over the number of choices, which differs between questions. A model that always says A is not "
        "at chance when answers are not spread evenly over the letters: look at the confusion matrix. Questions about "
        "one clip are drawn together."
    ),
)
