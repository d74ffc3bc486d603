"""CREMA-D: acted emotion in speech, six classes by accuracy against the emotion that was asked for.

The twelve sentences say nothing of the emotion and are not given to the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from emollama.datasets import cremad
from eval.items import label_items
from eval.score_tasks import SCORE_TASKS
from eval.task import EvalTask, Item


def items(data: Path, split: str) -> Iterator[Item]:
    """Yield the recordings by name."""
    return label_items(cremad.read(data))


TASK = EvalTask(
    name="cremad",
    title="CREMA-D: acted emotion in speech",
    score="cremad",
    items=items,
    splits=("all",),
    split="all",
    asks="label",
    labels=SCORE_TASKS["cremad"].labels,
    instruction="Which emotion does the actor express?",
    modalities=("visual", "audio"),
    licence="Open Database License (ODbL)",
    home=cremad.SOURCE.home,
    notes=(
        "The truth is the intended emotion; the crowd heard another one in many recordings, so that accuracy against "
        "it has a ceiling well below 1. There is no official split. The pictures are published as Flash video, which "
        "is not decoded here: convert them to MP4 into VideoMP4/ to have faces judged. Two recordings that are "
        "known to be unusable (1076_MTI_SAD_XX is silent, 1064_IEO_DIS_MD holds every emotion) are judged all the same."
    ),
)
