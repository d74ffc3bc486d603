"""MELD, the Multimodal EmotionLines Dataset (Poria et al., ACL 2019): turns of the series Friends, in ``MELD.Raw``.

``test_sent_emo.csv``, ``dev_sent_emo.csv``, ``train_sent_emo.csv`` (columns Utterance, Speaker, Emotion, Dialogue_ID,
Utterance_ID and more); a turn's clip is ``dia<dialogue>_utt<utterance>.mp4`` in ``output_repeated_splits_test``,
``dev_splits_complete`` or ``train_splits``. The tables lie beside those folders or, in some copies, inside a folder
of the split's name.

The release lacks the clip of one development turn, and one training clip cannot be decoded (its index is missing).
These turns are judged by their words alone, so that the count stays the published one; any other missing clip is an
error.
"""

from __future__ import annotations

from pathlib import Path

from emollama.datasets.record import Record, Source
from emollama.importers.table import read_table

SOURCE = Source(title="MELD", home="https://github.com/declare-lab/MELD")
LABELS = ("anger", "joy", "sadness", "neutral", "disgust", "fear", "surprise")
CLIP_FOLDERS = {"test": "output_repeated_splits_test", "dev": "dev_splits_complete", "train": "train_splits"}
SPLITS = tuple(CLIP_FOLDERS)
KNOWN_DEFECTS = frozenset({("dev", "dia110_utt7"), ("train", "dia125_utt3")})
_SPELLINGS = {
    "utterance": (), "speaker": (), "emotion": (), "dialogue_id": (), "utterance_id": (), "season": (), "episode": (),
}  # fmt: skip
_REQUIRED = ("utterance", "speaker", "emotion", "dialogue_id", "utterance_id")


def read(data: Path, *, split: str = "test") -> tuple[Record, ...]:
    """Return the turns of a split in the table's order; raises `DatasetError`."""
    SOURCE.split(split, SPLITS)
    table_name, folder_name = f"{split}_sent_emo.csv", CLIP_FOLDERS[split]
    path = SOURCE.first(
        (data / table_name, data / split / table_name), expected=f"{table_name}, the table of the split's turns"
    )
    clips = SOURCE.first((data / folder_name, data / split / folder_name), expected="the clips, dia0_utt0.mp4 and on")
    table = read_table(path, spellings=_SPELLINGS, required=_REQUIRED)
    records, missing = [], []
    for row in table.rows:
        where, label = table.where(row), table.text(row, "emotion").lower()
        if label not in LABELS:
            raise SOURCE.error(
                f"{where}: Emotion {table.text(row, 'emotion')!r}; allowed: {', '.join(LABELS)}", field="label"
            )
        dialogue, turn = (table.text(row, column) for column in ("dialogue_id", "utterance_id"))
        if not (dialogue.isdecimal() and turn.isdecimal()):
            raise SOURCE.error(f"{where}: Dialogue_ID {dialogue!r}, Utterance_ID {turn!r}; expected: numbers")
        name = f"dia{int(dialogue)}_utt{int(turn)}"
        file: Path | None = None
        if (split, name) not in KNOWN_DEFECTS:
            file = clips / f"{name}.mp4"
            if not file.is_file():
                missing.append(name)
        words = table.text(row, "utterance")
        records.append(
            Record(
                id=name,
                file=file,
                label=label,
                transcript=words or None,
                language="en",
                # Dialogues are numbered anew in each split.
                group=f"{split}/dia{int(dialogue)}",
                meta={
                    "character": table.text(row, "speaker"),
                    **({} if file else {"clip": "missing or broken in the release"}),
                },
            )
        )
    if missing:
        shown = ", ".join(missing[:5]) + (" ..." if len(missing) > 5 else "")
        raise SOURCE.error(f"{clips} lacks the clips of {len(missing)} of {len(records)} turns: {shown}")
    return SOURCE.some(records, where=path, expected="a row for each turn")
