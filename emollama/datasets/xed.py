"""XED, English part: film subtitles with Plutchik's eight emotions (Oehman et al., COLING 2020; CC BY 4.0).

A line without a label is neutral. For nano's label set joy is happiness, and anticipation and trust, which no Ekman
class holds, are dropped; a line that has only those two has no Ekman class left.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from emollama.datasets.text_tables import read_rows, write_manifest
from emollama.errors import DatasetError
from emollama.labels import PLUTCHIK_8

PLUTCHIK_TO_EKMAN = {
    "anger": "anger", "disgust": "disgust", "fear": "fear", "joy": "happiness", "sadness": "sadness",
    "surprise": "surprise",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class XedLine:
    """One subtitle line: Plutchik labels as annotated (none = neutral) and the Ekman classes they map to."""

    text: str
    labels: tuple[str, ...]
    ekman: tuple[str, ...]


def table_path(data: Path) -> Path:
    return data / "text" / "xed-en.parquet"


def read(data: Path) -> tuple[XedLine, ...]:
    """Read all lines from the data folder; an unknown label raises `DatasetError` with file and row."""
    path = table_path(data)
    lines = []
    for number, row in enumerate(read_rows(path, columns=("text", "labels"))):
        labels = tuple(row["labels"])
        if any(name not in PLUTCHIK_8 for name in labels):
            raise DatasetError(f"{path} row {number}: labels {list(labels)!r}; allowed: {', '.join(PLUTCHIK_8)}")
        mapped = tuple(PLUTCHIK_TO_EKMAN[name] for name in labels if name in PLUTCHIK_TO_EKMAN)
        lines.append(XedLine(text=row["text"], labels=labels, ekman=mapped if labels else ("neutral",)))
    return tuple(lines)


def prepare(data: Path, manifest: Path) -> int:
    """Write the lines as a JSONL manifest (``text, labels, ekman``); return its number of rows."""
    return write_manifest((asdict(line) for line in read(data)), manifest)
