"""MAFW: expressions in clips of films and series, eleven classes by accuracy (WAR) and mean recall (UAR)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from emollama.datasets import mafw
from eval.items import label_items
from eval.task import EvalTask, Item


def items(data: Path, split: str) -> Iterator[Item]:
    """Yield the test clips of a fold, or of all five."""
    return label_items(mafw.read(data, split=split))


TASK = EvalTask(
    name="mafw",
    title="MAFW: expressions in film clips, eleven classes",
    score="mafw",
    items=items,
    splits=mafw.SPLITS,
    split="all",
    asks="label",
    labels=mafw.LABELS,
    instruction="Which expression does the person show?",
    modalities=("visual", "audio"),
    licence="research use, by a signed agreement",
    home=mafw.SOURCE.home,
    notes=(
        "Published figures are means over the test sets of five folds, of models trained on the other four. A model "
        "that was not trained on MAFW is judged on all five at once: its WAR is then the mean weighted by fold sizes, "
        "and its UAR that of the pooled clips. The Chinese and English descriptions are not given: they say the answer."
    ),
)
