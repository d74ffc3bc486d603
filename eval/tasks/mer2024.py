"""MER2024: six emotions in Chinese clips (SEMI, NOISE, by weighted F1) and open words for them (OV, by sets)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from emollama.datasets import mer
from eval.items import label_items, word_items
from eval.task import EvalTask, Item, Published
from eval.tasks.mer2023 import QUESTION

FOLDERS = ("video-unlabeled-with-test2noise", "video-unlabeled", "video")
LICENCE = "MERChallenge EULA: academic research, no upload of samples"
_RANKING = "MER2024 workshop papers and ranking"


def items(data: Path, split: str, *, part: str) -> Iterator[Item]:
    """Yield the labelled clips of a part: those that the label file names, of the many that the folder holds."""
    return label_items(mer.read_closed(data, mer.MER2024, part=part, folders=FOLDERS))


def items_open(data: Path, split: str) -> Iterator[Item]:
    """Yield the clips of the checked open labels."""
    folders = ("video-labeled", "video")
    return word_items(mer.read_open(data, mer.MER2024, table="check-openset.csv", folders=folders))


def _ranked(system: str, value: float, note: str = "", source: str = _RANKING) -> Published:
    return Published(system=system, figure="waf", value=value, source=source, note=note)


SEMI = EvalTask(
    name="mer2024_semi",
    title="MER2024 SEMI: six emotions",
    score="mer2024_semi",
    items=partial(items, part="test1"),
    splits=("test1",),
    split="test1",
    asks="label",
    labels=mer.LABELS,
    instruction=QUESTION,
    modalities=("visual", "audio", "text"),
    published=(
        _ranked("EmoVCLIP, Soul AI (rank 1)", 0.9015, source="arXiv:2409.07078", note="the paper calls it accuracy"),
        _ranked("HuBERT with visual-to-acoustic alignment (rank 4)", 0.8890),
        _ranked("WooyoohL (rank 6)", 0.8825, source="arXiv:2409.04447"),
        _ranked("official baseline (A, V, T)", 0.8673, source="MER2024 baseline (MERTools)"),
        _ranked("HuBERT-large (A)", 0.7302, note="unverified", source="MER2024 baseline (MERTools)"),
        _ranked("Whisper-base (A)", 0.5665, note="unverified", source="MER2024 baseline (MERTools)"),
    ),
    licence=LICENCE,
    home=mer.MER2024.home,
    notes=(
        "1,169 clips of 115,595 have labels, and only those are judged and scored. Pseudo-labels of the pool that were "
        "made by systems tuned on this test raise validation far more than the test: keep them out of validation."
    ),
)
NOISE = replace(
    SEMI,
    name="mer2024_noise",
    title="MER2024 NOISE: six emotions under noise",
    score="mer2024_noise",
    items=partial(items, part="test2"),
    splits=("test2",),
    split="test2",
    published=(
        _ranked("SZTU-CMU, Conv-Attention with pseudo-labels (rank 1)", 0.8530),
        _ranked("Emotion-LLaMA alone", 0.8452, source="Emotion-LLaMA, README"),
        _ranked("BZL arc06", 0.8383),
        _ranked("VIRlab", 0.8365),
        _ranked("Soul AI (winner of SEMI)", 0.8017),
        _ranked("ACRG_GL (rank 14)", 0.7782),
    ),
    notes=(
        "Noise of MUSAN's speech part at 5 to 10 dB and blur by halving and doubling the picture once or twice, drawn "
        "without a seed: only the organisers' own clips give the published condition. Only clips with labels count."
    ),
)
OV = EvalTask(
    name="mer2024_ov",
    title="MER2024 OV: open words for what is felt",
    score="mer2024_ov",
    items=items_open,
    splits=("test",),
    split="test",
    asks="open",
    instruction="Name every emotion that the person in the clip appears to feel, in words of your own.",
    modalities=("visual", "audio", "text"),
    licence=LICENCE,
    home=mer.MER2024.home,
    notes=(
        "The official score merges synonyms by groups that a language model made for each clip: only with the "
        "organisers' stored groups is the figure theirs. Without groups words must match exactly, which is far lower. "
        "The words are English, the speech is Chinese."
    ),
)
