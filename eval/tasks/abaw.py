"""ABAW: expression, valence and arousal, and action units of every frame (Aff-Wild2), and two more challenges.

Compound expressions (C-EXPR-DB) are frame by frame too; emotional mimicry intensity (Hume-Vidmimic2) is one set of six
numbers for each clip. The figures beside them are validation figures of single models without the audio branch unless
it is said.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from emollama.datasets import aff_wild2, cexpr, vidmimic
from emollama.labels import ABAW_8
from eval.items import series_items
from eval.task import EvalTask, Item, Published

_NOTEBOOKS = "EmotiEffLib (sb-ai-lab), ABAW-6 notebooks"
_CHOSEN = "validation set, on which checkpoint and smoothing were chosen"
_LICENCE = "research use, by a signed agreement"
_EVERY_FRAME = (
    "Every annotated frame counts, also where no face was found: a frame without a reading is answered from its "
    "neighbours. Rows marked as not annotated are dropped. A video is cut into stretches of half a minute; frames of "
    "one video are drawn together by the bootstrap. The test labels are not published."
)


def items(data: Path, split: str, *, challenge: aff_wild2.Challenge) -> Iterator[Item]:
    """Yield the stretches of a challenge's split."""
    return series_items(aff_wild2.read(data, challenge, split=split))


def items_ce(data: Path, split: str) -> Iterator[Item]:
    """Yield the stretches of the compound expression videos."""
    return series_items(cexpr.read(data))


def items_emi(data: Path, split: str) -> Iterator[Item]:
    """Yield the clips of mimics, with the six intensities as what is true of them."""
    for record in vidmimic.read(data, split=split):
        values = dict(record.meta["intensities"])
        yield Item(id=record.id, gold=values, clip=record.file)


def _published(figure: str, system: str, value: float, note: str = _CHOSEN) -> Published:
    return Published(system=system, figure=figure, value=value, source=_NOTEBOOKS, note=note)


_ZERO_SHOT = "the pretrained model as it is, contempt read as other"
EXPR = EvalTask(
    name="abaw_expr",
    title="ABAW EXPR: expression of every frame",
    score="abaw_expr",
    items=partial(items, challenge="expr"),
    splits=("validation",),
    split="validation",
    asks="series",
    labels=ABAW_8,
    instruction="Which expression does the face show in each frame?",
    modalities=("visual", "audio"),
    published=(
        _published("macro_f1", "HSEmotion, EmotiEffNet-B0 and MLP, smoothed", 0.4237),
        _published("macro_f1", "HSEmotion, EmotiEffNet-B0 and MLP", 0.3844),
        _published("macro_f1", "HSEmotion, face and audio, smoothed", 0.4343, f"{_CHOSEN}; with audio"),
        _published("macro_f1", "HSEmotion, EmotiEffNet-B0, zero-shot", 0.2574, _ZERO_SHOT),
    ),
    licence=_LICENCE,
    home=aff_wild2.SOURCE.home,
    notes=_EVERY_FRAME + " Most notebooks drop frames without a face from validation, which makes them look better.",
)
VA = EvalTask(
    name="abaw_va",
    title="ABAW VA: valence and arousal of every frame",
    score="abaw_va",
    items=partial(items, challenge="va"),
    splits=("validation",),
    split="validation",
    asks="series",
    instruction="How pleasant and how excited is the face in each frame?",
    modalities=("visual", "audio"),
    published=(
        _published("ccc", "HSEmotion, DDAMFN, smoothed", 0.5676),
        _published("ccc", "HSEmotion, DDAMFN", 0.5024),
        _published("ccc", "HSEmotion, MobileViT", 0.4852),
        _published("ccc", "HSEmotion, zero-shot", 0.3213, "valence .4125, arousal .2301, without recalibration"),
        _published("ccc", "official baseline", 0.22, "unverified"),
    ),
    licence=_LICENCE,
    home=aff_wild2.SOURCE.home,
    notes=_EVERY_FRAME + " CCC is over all frames of all videos at once, not a mean over videos.",
)
AU = EvalTask(
    name="abaw_au",
    title="ABAW AU: twelve action units of every frame",
    score="abaw_au",
    items=partial(items, challenge="au"),
    splits=("validation",),
    split="validation",
    asks="series",
    labels=aff_wild2.ACTION_UNITS,
    instruction="Which of these action units are active in each frame?",
    modalities=("visual", "audio"),
    published=(
        _published("au_f1", "HSEmotion, EmotiEffNet-B0, smoothed", 0.5457, f"{_CHOSEN}; thresholds too"),
        _published("au_f1", "HSEmotion, EmotiEffNet-B0", 0.5367, f"{_CHOSEN}; thresholds too"),
        _published("au_f1", "HSEmotion, EmotiEffNet-B0, at 0.5", 0.5076),
    ),
    licence=_LICENCE,
    home=aff_wild2.SOURCE.home,
    notes=_EVERY_FRAME + " A row counts only when all twelve flags are known. Thresholds tuned on this set flatter.",
)
CE = EvalTask(
    name="abaw_ce",
    title="ABAW CE: compound expression of every frame",
    score="abaw_ce",
    items=items_ce,
    splits=("test",),
    split="test",
    asks="series",
    labels=cexpr.COMPOUNDS,
    instruction="Which compound expression does the face show in each frame?",
    modalities=("visual", "audio"),
    licence=_LICENCE,
    home=cexpr.SOURCE.home,
    notes=(
        "The challenge publishes no labels: this scores against a truth that you bring in the format of a submission, "
        "and no published figure can stand beside it. Frames without a reading are answered from their neighbours."
    ),
)
EMI = EvalTask(
    name="abaw_emi",
    title="ABAW EMI: intensity of six emotions in mimicry",
    score="abaw_emi",
    items=items_emi,
    splits=vidmimic.SPLITS,
    split="valid",
    asks="labels",
    labels=vidmimic.INTENSITIES,
    instruction="How strongly does the person show each of these?",
    modalities=("visual", "audio"),
    published=(
        _published("pearson", "HSEmotion, face and audio", 0.2989, "fusion weights tuned on validation"),
        _published("pearson", "HSEmotion, audio alone (wav2vec2)", 0.2361, "validation set"),
        _published("pearson", "HSEmotion, face alone (MobileFaceNet)", 0.1732, "validation set"),
        Published(
            system="HSEmotion, face, audio and text",
            figure="pearson",
            value=0.4422,
            source="EmotiEffLib (sb-ai-lab), ABAW-8 notebook",
            note="validation set",
        ),
    ),
    licence=_LICENCE,
    home=vidmimic.SOURCE.home,
    notes=(
        "What is said dominates: text alone reaches .378 in the ABAW-8 notebook. Some printed figures come from models "
        "trained on the validation set as well."
    ),
)
