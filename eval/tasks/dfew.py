"""DFEW: expressions in film clips, seven classes by accuracy (WAR) and mean recall (UAR), in five folds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from emollama.datasets.record import Source
from emollama.importers.dfew import CLIP_FOLDERS, import_dfew
from eval.score_tasks import SCORE_TASKS
from eval.task import EvalTask, Item, Published

SOURCE = Source(title="DFEW", home="https://dfew-dataset.github.io (a signed agreement is needed)")
SPLITS = ("fold1", "fold2", "fold3", "fold4", "fold5", "all")
_EMOTION_LLAMA = (
    "comparison table of Emotion-LLaMA (Cheng et al., NeurIPS 2024), in the paper and not in its repository"
)


def items(data: Path, split: str) -> Iterator[Item]:
    """Yield the test clips of a fold, or of all five, which together are the single-labelled clips."""
    from emollama.importers.clips import ClipFolder

    SOURCE.split(split, SPLITS)
    SOURCE.folder(data / "EmoLabel_DataSplit", expected="the five folds, as published")
    clips = SOURCE.first((data / name for name in CLIP_FOLDERS), expected="the folder of the clips")
    seen: set[str] = set()
    for fold in [split[-1]] if split != "all" else "12345":
        for sample in import_dfew(data, media=clips, clips=ClipFolder(root=clips), fold=int(fold)):
            if sample.split != "test":
                continue
            if sample.id in seen:
                raise SOURCE.error(f"clip {sample.id} is in the test sets of two folds")
            seen.add(sample.id)
            votes = dict(sample.distribution) if sample.distribution else None
            assert sample.clip is not None  # the importer yields clips alone
            yield Item(
                id=sample.id, gold=sample.label, clip=clips / sample.clip, meta={"fold": int(fold), "votes": votes}
            )


TASK = EvalTask(
    name="dfew",
    title="DFEW: expressions in film clips",
    score="dfew",
    items=items,
    splits=SPLITS,
    split="all",
    asks="label",
    labels=SCORE_TASKS["dfew"].labels,
    instruction="Which expression does the person show?",
    modalities=("visual", "audio"),
    published=(
        Published(system="Emotion-LLaMA, zero-shot", figure="war", value=0.5937, source=_EMOTION_LLAMA),
        Published(system="Emotion-LLaMA, zero-shot", figure="uar", value=0.4559, source=_EMOTION_LLAMA),
        Published(system="Emotion-LLaMA, fine-tuned", figure="war", value=0.7706, source=_EMOTION_LLAMA),
        Published(system="Emotion-LLaMA, fine-tuned", figure="uar", value=0.6421, source=_EMOTION_LLAMA),
        Published(
            system="Emotion-LLaMA, zero-shot, as a user reproduced it",
            figure="war",
            value=0.3533,
            source="ZebangCheng/Emotion-LLaMA issue 62",
            note="unverified",
        ),
    ),
    licence="research use, by a signed agreement",
    home=SOURCE.home,
    notes=(
        "Published figures of trained models are means over the test sets of five folds. A model that was not trained "
        "on DFEW is judged on all five at once: its WAR is then the mean weighted by fold sizes, and its UAR that of "
        "the pooled clips. Only single-labelled clips count. Cropped clips have no sound; the original ones do, and "
        "are preferred. What film a clip is from is not published, so clips are drawn one by one."
    ),
)
