"""EmoBank: 10k sentences with valence, arousal and dominance (Buechel and Hahn, EACL 2017; CC BY-SA 4.0).

The ratings run from 1 to 5 with 3 as the middle. `valence` and `arousal` of a sentence are those ratings moved
linearly to [-1, 1], the range of the whole project.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from emollama.datasets.text_tables import read_rows, write_manifest
from emollama.errors import DatasetError

Split = Literal["train", "dev", "test"]


@dataclass(frozen=True, kw_only=True)
class EmoBankSentence:
    """One sentence with ``valence``, ``arousal`` and ``dominance`` in [-1, 1]."""

    id: str
    text: str
    valence: float
    arousal: float
    dominance: float


def table_path(data: Path) -> Path:
    return data / "text" / "emobank.parquet"


def read(data: Path, *, split: Split) -> tuple[EmoBankSentence, ...]:
    """Read one split from the data folder; a rating outside 1 to 5 raises `DatasetError` with file and row."""
    path = table_path(data)
    sentences = []
    for number, row in enumerate(read_rows(path, columns=("id", "split", "text", "v", "a", "d"))):
        if row["split"] != split:
            continue
        ratings = [float(row[name]) for name in ("v", "a", "d")]
        if not all(1.0 <= rating <= 5.0 for rating in ratings):
            raise DatasetError(f"{path} row {number}: v, a, d are {ratings}; allowed: 1 to 5")
        valence, arousal, dominance = ((rating - 3.0) / 2.0 for rating in ratings)
        sentences.append(
            EmoBankSentence(id=row["id"], text=row["text"], valence=valence, arousal=arousal, dominance=dominance)
        )
    return tuple(sentences)


def prepare(data: Path, manifest: Path, *, split: Split = "train") -> int:
    """Write one split as a JSONL manifest (``id, text, valence, arousal, dominance``); return its number of rows."""
    return write_manifest((asdict(sentence) for sentence in read(data, split=split)), manifest)
