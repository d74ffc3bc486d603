"""RAVDESS: acted emotion in speech or song, eight classes by accuracy.

Every performance is judged once, from its fullest file (`emollama.datasets.ravdess`). The two sentences say nothing of
the emotion and are not given to the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from emollama.datasets import ravdess
from eval.items import label_items
from eval.task import EvalTask, Item


def items(data: Path, split: str) -> Iterator[Item]:
    """Yield the performances of a split, by actor."""
    return label_items(ravdess.read(data, split=split))


TASK = EvalTask(
    name="ravdess",
    title="RAVDESS: acted emotion in speech and song",
    score="ravdess",
    items=items,
    splits=ravdess.SPLITS,
    split="speech",
    asks="label",
    labels=ravdess.LABELS,
    instruction="Which emotion does the actor express?",
    modalities=("visual", "audio"),
    licence="CC BY-NC-SA 4.0",
    home=ravdess.SOURCE.home,
    notes=(
        "There is no official split, and the same sentence is spoken by every actor: figures of models that were "
        "trained on some of these actors are not comparable. Song has six of the eight emotions, so two classes of "
        "that split have no clip. Calm and neutral are told apart by few listeners."
    ),
)
