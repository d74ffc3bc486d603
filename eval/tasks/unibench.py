"""MER-UniBench: open words for what is felt, by hit rate on basic emotions, and on emotion wheels for OV-MERD+.

A model answers in its own words; an item of the four closed sets counts as hit when the true class is among them, on
the wheels at level 1. The clips are those of the sets' own tasks; only the question and the score differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from emollama.datasets import mer
from eval.items import word_items
from eval.task import EvalTask, Item, Published
from eval.tasks import iemocap, meld, mer2023, mer2024

QUESTION = "Name every emotion that the person in the clip appears to feel, in words of your own."
_SOURCE = "AffectGPT (Lian et al., ICML 2025), table of MER-UniBench"
_NANO_EMOX = "Nano-EmoX, table 2"
# System, source, then the figures in the order of the sets: MER2023, MER2024, MELD, IEMOCAP, OV-MERD+.
_ROWS = (
    ("AffectGPT (A, V, T)", _SOURCE, (0.7854, 0.7880, 0.5565, 0.6054, 0.6252)),
    ("Emotion-LLaMA (A, V, T)", _SOURCE, (0.5938, 0.7362, 0.4676, 0.5547, 0.5297)),
    ("mPLUG-Owl (V, T)", _SOURCE, (0.5686, 0.5989, 0.4911, 0.5554, 0.4818)),
    ("Chat-UniVi (V, T)", _SOURCE, (0.5762, 0.6567, 0.4561, 0.5237, 0.4800)),
    ("SALMONN (A, T)", _SOURCE, (0.5553, 0.4538, 0.4562, 0.4684, 0.4500)),
    ("Otter (V, T)", _SOURCE, (0.1641, 0.1465, 0.2257, 0.2908, 0.1663)),
    ("Nano-EmoX 2.2B", _NANO_EMOX, (0.7909, 0.7794, 0.5655, 0.6012, 0.6475)),
    ("Qwen2-VL-7B", _NANO_EMOX, (0.5981, 0.6914, 0.4805, 0.5053, 0.5561)),
    ("R1-Omni 0.5B", _NANO_EMOX, (0.5830, 0.6941, 0.4087, 0.5018, 0.5184)),
)
_NOTES = (
    "A hit does not count wrong words beside the right one: naming many emotions scores high, so look at how many "
    "words are given. Words outside the word lists are dropped. Published values of AffectGPT are those of the best "
    "checkpoint on each test set; users got 66.92 where 78.80 is printed for MER2024."
)


def _published(place: int, figure: str) -> tuple[Published, ...]:
    return tuple(
        Published(
            system=system,
            figure=figure,
            value=values[place],
            source=source,
            note="best checkpoint on the test set" if system.startswith("AffectGPT") else "",
        )
        for system, source, values in _ROWS
    )


def items(data: Path, split: str, *, of: Callable[[Path, str], Iterable[Item]]) -> Iterator[Item]:
    """Yield the items of a set's own task with the bare class as what is true of them."""
    for item in of(data, split):
        yield replace(item, gold=item.gold["label"] if isinstance(item.gold, dict) else item.gold)


def items_ovmerd(data: Path, split: str) -> Iterator[Item]:
    """Yield the clips of OV-MERD+: ``ovlabel.csv`` (name, openset; the columns are unverified) and ``video``."""
    return word_items(mer.read_open(data, mer.OVMERD, table="ovlabel.csv", folders=("video",)))


def _task(name: str, place: int, *, title: str, of: EvalTask, splits: Sequence[str]) -> EvalTask:
    return replace(
        of,
        name=name,
        title=title,
        score="unibench_hit",
        items=partial(items, of=of.items),
        splits=tuple(splits),
        split=splits[0],
        asks="open",
        labels=(),
        instruction=QUESTION,
        published=_published(place, "hit"),
        notes=_NOTES,
    )


MER2023 = _task("unibench_mer2023", 0, title="MER-UniBench: MER2023", of=mer2023.MULTI, splits=("test1",))
MER2024 = _task("unibench_mer2024", 1, title="MER-UniBench: MER2024", of=mer2024.SEMI, splits=("test1",))
MELD = _task("unibench_meld", 2, title="MER-UniBench: MELD", of=meld.TASK, splits=("test",))
IEMOCAP = _task("unibench_iemocap", 3, title="MER-UniBench: IEMOCAP, session 5", of=iemocap.TASK, splits=("session5",))
OVMERD = EvalTask(
    name="ovmerd",
    title="MER-UniBench: OV-MERD+, open words on emotion wheels",
    score="ovmerd",
    items=items_ovmerd,
    splits=("test",),
    split="test",
    asks="open",
    instruction=QUESTION,
    modalities=("visual", "audio", "text"),
    published=_published(4, "ew_level1"),
    licence="CC BY-NC 4.0",
    home=mer.OVMERD.home,
    notes=(
        "532 clips. Words outside the word lists are dropped on both sides, so that nonsense costs no precision. "
        "Published values of AffectGPT are those of the best checkpoint on the test set. OV-MERD, whose 332 clips "
        "these include, is a training table of MER2025: check what a model was trained on."
    ),
)
