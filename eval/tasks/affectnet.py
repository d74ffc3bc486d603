"""AffectNet: expressions in pictures of faces from the web, eight classes by accuracy on the validation set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from emollama.datasets import affectnet
from eval.items import item_of
from eval.task import EvalTask, Item, Published

_EMOTIEFF = "EmotiEffLib (sb-ai-lab), notebooks and README"
_OLD = "on the older release (4,000 pictures, 500 a class)"
_NEW = "on the release of 2021 (3,999 pictures)"


def items(data: Path, split: str) -> Iterator[Item]:
    """Yield the pictures of a split by number."""
    for record in affectnet.read(data, split=split):
        yield item_of(record, record.label, valence=record.valence, arousal=record.arousal)


def _published(system: str, value: float, source: str, note: str) -> Published:
    return Published(system=system, figure="war", value=value, source=source, note=note)


TASK = EvalTask(
    name="affectnet",
    title="AffectNet: expressions in pictures",
    score="affectnet",
    items=items,
    splits=affectnet.SPLITS,
    split="val",
    asks="label",
    labels=affectnet.LABELS,
    instruction="Which expression does the face show?",
    modalities=("visual",),
    published=(
        _published("EmotiEffNet-B0 (enet_b0_8_best_vgaf)", 0.6072, _EMOTIEFF, _NEW),
        _published("EmotiEffNet-B0 (enet_b0_8_best_afew)", 0.5956, _EMOTIEFF, _NEW),
        _published("EmotiEffNet-B2 (enet_b2_8_best)", 0.63125, _EMOTIEFF, _OLD),
        _published("MobileViT (mobilevit_va_mtl)", 0.625, _EMOTIEFF, _OLD),
        _published("MobileFaceNet (mbf_va_mtl)", 0.62325, _EMOTIEFF, _OLD),
        _published("EmotiEffNet-B0 (enet_b0_8_va_mtl)", 0.61925, _EMOTIEFF, _OLD),
        _published("DDAMFN++", 0.6504, "SainingZhang/DDAMFN", _OLD),
        _published("DDAMFN", 0.6425, "SainingZhang/DDAMFN", _OLD),
        _published("POSTER V2", 0.6377, "POSTER V2, its paper", _OLD),
        _published("S2D", 0.6306, "S2D, its paper", _OLD),
    ),
    licence="research use, by a signed agreement of a university",
    home=affectnet.SOURCE.home,
    notes=(
        "The validation set is the only public one, and most systems chose their checkpoints on it: their figures are "
        "on the high side. Accuracy over seven classes, which some papers print, leaves out contempt and is higher by "
        "two to four points. The crops of the two releases differ by one to two points on the same weights."
    ),
)
