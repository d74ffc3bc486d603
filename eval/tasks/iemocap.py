"""IEMOCAP: emotion of turns between two actors, four classes (excited counts as happy) or six, by weighted F1."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from emollama.datasets import iemocap
from eval.items import label_items
from eval.score_tasks import IEMOCAP_4, IEMOCAP_6
from eval.task import EvalTask, Item


def items(data: Path, split: str, *, scheme: iemocap.Scheme = "four") -> Iterator[Item]:
    """Yield the turns of a session, or of all, whose label is among the classes."""
    return label_items(iemocap.read(data, split=split, scheme=scheme))


TASK = EvalTask(
    name="iemocap",
    title="IEMOCAP: emotion of turns, four classes",
    score="iemocap",
    items=items,
    splits=iemocap.SPLITS,
    split="session5",
    asks="label",
    labels=IEMOCAP_4,
    instruction="Which emotion does the speaker express?",
    modalities=("audio", "text"),
    licence="USC's release form, research use",
    home=iemocap.SOURCE.home,
    notes=(
        "Excited is merged into happy (5,531 turns in all, as MERBench counts them); surprise, fear, disgust, "
        "frustration, other and turns without agreement are left out. Published figures are means over five sessions, "
        "each held out once, or of session 5 alone, as in MER-UniBench: say which. Words are the release's own "
        "transcripts, which include what a recogniser would not hear, such as [LAUGHTER]. Turns of one speaker are "
        "drawn together: with two speakers a session the interval is a rough one."
    ),
)
SIX = replace(
    TASK,
    name="iemocap6",
    title="IEMOCAP: emotion of turns, six classes",
    score="iemocap6",
    items=partial(items, scheme="six"),
    labels=IEMOCAP_6,
    notes="Excited and frustrated stand apart (7,433 turns in all, as MERBench counts them). "
    + TASK.notes[TASK.notes.index("Published") :],
)
