"""GoEmotions: 58k Reddit comments with 28 fine labels (Demszky et al., ACL 2020; Apache-2.0 / CC BY 4.0).

A comment may carry several labels. The seven Ekman classes are the authors' own grouping (``ekman_mapping.json`` of
the release, in `emollama.labels`); "joy" of that file is "happiness" here. Names and religions are masked in the
source as ``[NAME]`` and ``[RELIGION]`` and stay so.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from emollama.datasets.text_tables import read_rows, write_manifest
from emollama.errors import DatasetError
from emollama.labels import GOEMOTIONS_28, GOEMOTIONS_TO_EKMAN

Split = Literal["train", "dev", "test"]


@dataclass(frozen=True, kw_only=True)
class GoEmotionsComment:
    """One comment: its fine labels (of `GOEMOTIONS_28`) and the Ekman classes they fall into, each without repeats."""

    id: str
    text: str
    labels: tuple[str, ...]
    ekman: tuple[str, ...]


def table_path(data: Path, split: Split) -> Path:
    return data / "text" / f"goemotions-{split}.parquet"


def read(data: Path, *, split: Split) -> tuple[GoEmotionsComment, ...]:
    """Read one split from the data folder, as `read_file` reads it."""
    return read_file(table_path(data, split))


def read_file(path: Path) -> tuple[GoEmotionsComment, ...]:
    """Read one Parquet file; an unknown label raises `DatasetError` with file and row."""
    comments = []
    for number, row in enumerate(read_rows(path, columns=("id", "text", "labels"))):
        labels = tuple(row["labels"])
        unknown = [name for name in labels if name not in GOEMOTIONS_28]
        if unknown or not labels:
            raise DatasetError(f"{path} row {number}: labels {list(labels)!r}; allowed: one or more of GOEMOTIONS_28")
        ekman = tuple(dict.fromkeys(GOEMOTIONS_TO_EKMAN[name] for name in labels))
        comments.append(GoEmotionsComment(id=row["id"], text=row["text"], labels=labels, ekman=ekman))
    return tuple(comments)


def prepare(data: Path, manifest: Path, *, split: Split = "train") -> int:
    """Write one split as a JSONL manifest (``id, text, labels, ekman``); return its number of rows."""
    return write_manifest((asdict(comment) for comment in read(data, split=split)), manifest)
