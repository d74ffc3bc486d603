"""Write nano's data card: what taught it, counted in the raw data, with licences, splits and limits.

The counts go into a log (``docs/logs/nano-data.json``) and from there into the card, as the model card's figures do.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from emollama.datasets import emobank, emodb, ferplus, goemotions, xed
from emollama.labels import NANO_LABELS
from train.builders.pools import VALIDATION_SPEAKERS

LOG = Path("docs/logs/nano-data.json")
CARD = Path("emollama/assets/nano/DATA_CARD.md")
# Data, what it is, its language, its licence, how people came into it.
_SOURCES = (
    ("FER+ on FER2013", "48x48 grey pictures of faces, each with the votes of ten people", "none",
     "labels MIT; the pictures are of unclear rights: web pictures gathered in 2013, the customary research set",
     "they were not asked"),
    ("EmoDB", "acted speech, recorded in a studio", "German", "CC0 as packaged by audEERING", "actors"),
    ("GoEmotions", "comments on Reddit", "English", "Apache-2.0 / CC BY 4.0", "public; their writers were not asked"),
    ("XED", "film subtitles", "English", "CC BY 4.0", "written for films"),
    ("EmoBank", "sentences with valence, arousal and dominance", "English", "CC BY-SA 4.0", "published text"),
)  # fmt: skip
_COMMAND = "emollama train nano_data_card --data ../shared/data"


def write_data_card(data: Path, *, log: Path = LOG, card: Path = CARD) -> Path:
    """Count the raw data in the folder ``data`` and write log and card; raises `DatasetError` for a missing file."""
    report = {"command": _COMMAND, "date": datetime.now(UTC).isoformat(timespec="seconds"), "result": count(data)}
    log.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    card.write_text(render(report), encoding="utf-8")
    return card


def count(data: Path) -> dict[str, Any]:
    """Return how many samples each split has, in all and by label, after each reader's protocol."""
    utterances = emodb.read(data)
    return {
        "ferplus": {split: _pictures(ferplus.load(data, split)) for split in ferplus.SPLITS},
        "emodb": {
            "train": _speech([one for one in utterances if one.speaker not in VALIDATION_SPEAKERS]),
            "valid": _speech([one for one in utterances if one.speaker in VALIDATION_SPEAKERS]),
        },
        "goemotions": {
            split: _texts(one.ekman for one in goemotions.read(data, split=split)) for split in ("train", "dev")
        },
        "xed": {"train": _texts(line.ekman for line in xed.read(data))},
        "emobank": {
            split: {"samples": len(emobank.read(data, split=split))} for split in ("train", "dev")
        },
    }  # fmt: skip


def render(report: Mapping[str, Any]) -> str:
    """Return the card's Markdown."""
    result = report["result"]
    validation = " and ".join(VALIDATION_SPEAKERS)
    return f"""# The data of nano

What the embedded model learned from and was chosen by. Its figures are in the [model card](MODEL_CARD.md). None of the
data is in this package; what is in it are weights. Counted by `{report["command"]}`.

{_sources()}

## Splits

FER+ has its own splits, without pictures that are in two of them. Of EmoDB, eight of the ten speakers are used;
speakers {validation} validate what joins the modalities, and the voice branch is measured by leaving two out at a time.
GoEmotions and EmoBank have their own splits; all of XED is for training. Nothing was measured on what was trained on.

{_table(result)}

Text with several labels counts for each; "no label" is a picture without a majority, or text that maps to none. Boredom
of EmoDB is left out, so that there is an emotion that nano has never heard.

## What is made of it

- Valence and arousal of faces are not measured: they are the votes, placed on Russell's circumplex.
- Clips that have face, voice and words are composed: a picture, an utterance and a comment of the same emotion, or on
  purpose of another. They are not of one person, so how the three go together in one person was not learned.
- Rationales are made by a grammar of this project from what was measured in the samples.

## What is known to be wrong with it

- Contempt and disgust are rare in FER+, and mostly missed.
- The pictures of FER2013 are small, grey and mostly frontal; who is in them is not known, so neither is whether all
  kinds of people are.
- Eight actors are not how people speak; four are women and four are men, and all speak German.
- By what the authors of GoEmotions say, Reddit leans towards young men, and the comments were labelled by native
  English speakers from India.
- Labels are what others saw or read, not what anybody felt.

## What it may be used for

Weights that were trained on pictures of unclear rights are for trying and for research. For anything that people depend
on, train on data whose people agreed to it ([fine-tuning](../../../docs/training.md)); the
[limits of use](../../../docs/ethics.md) hold in any case.
"""


def _pictures(pictures: ferplus.FerPlus) -> dict[str, Any]:
    majority = pictures.majority
    labels = {name: int((majority == index).sum()) for index, name in enumerate(NANO_LABELS)}
    return {"samples": len(pictures), "labels": {**labels, "no label": int((majority < 0).sum())}}


def _speech(utterances: Iterable[emodb.Utterance]) -> dict[str, Any]:
    found = list(utterances)
    return {
        "samples": len(found),
        "speakers": sorted({one.speaker for one in found}),
        "minutes": round(sum(one.audio.seconds for one in found) / 60, 1),
        "labels": dict(Counter(one.emotion for one in found).most_common()),
    }


def _texts(labels: Iterable[tuple[str, ...]]) -> dict[str, Any]:
    found = list(labels)
    counts = Counter(name for names in found for name in (names or ("no label",)))
    return {"samples": len(found), "labels": dict(counts.most_common())}


def _sources() -> str:
    rows = (("data", "what", "language", "licence", "people"), ("---",) * 5, *_SOURCES)
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _table(result: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    lines = ["| data | split | samples | by label |", "|---|---|---|---|"]
    for name, splits in result.items():
        for split, found in splits.items():
            labels = ", ".join(f"{label} {number:,}" for label, number in found.get("labels", {}).items())
            lines.append(f"| {name} | {split} | {found['samples']:,} | {labels or 'numbers'} |")
    return "\n".join(lines)
