"""Hume-Vidmimic2, the data of ABAW's Emotional Mimicry Intensity challenge: people who mimic a clip they have seen.

``train_split.csv`` and ``valid_split.csv`` have the columns Filename, Admiration, Amusement, Determination, Empathic
Pain, Excitement, Joy, intensities in [0, 1] that the mimics gave themselves. The videos lie below the same folder,
named after ``Filename`` (00000.mp4 and on; the folder's own name is unverified, any is searched). Labels of the test
clips are not published, and neither is who is in which clip.
"""

from __future__ import annotations

from pathlib import Path

from emollama.datasets.record import Record, Source
from emollama.importers.clips import ClipIndex
from emollama.importers.rows import number
from emollama.importers.table import read_table

SOURCE = Source(
    title="Hume-Vidmimic2 (ABAW EMI)", home="https://affective-behavior-analysis-in-the-wild.github.io (on request)"
)
INTENSITIES = ("Admiration", "Amusement", "Determination", "Empathic Pain", "Excitement", "Joy")
SPLITS = ("valid", "train")
_SPELLINGS = {"filename": (), **{name.lower().replace(" ", "_"): () for name in INTENSITIES}}


def read(data: Path, *, split: str = "valid") -> tuple[Record, ...]:
    """Return the clips of a split, ``meta["intensities"]`` holding the six values by name; raises `DatasetError`."""
    path = _path(data, split)
    index = ClipIndex(folder=data)
    records = []
    for name, (where, values) in _rows(path).items():
        file = index.find(name, where=where)
        if file is None:
            raise SOURCE.error(f"{where}: no video called {name!r} below {data}")
        records.append(Record(id=name, file=file, meta={"intensities": values}))
    return SOURCE.some(records, where=path, expected="a row for each clip")


def read_intensities(data: Path, *, split: str = "train") -> dict[str, tuple[float, ...]]:
    """Return clip -> its values in the order of `INTENSITIES`, without looking for videos; raises `DatasetError`."""
    rows = _rows(_path(data, split))
    return {name: tuple(values[title] for title in INTENSITIES) for name, (_, values) in rows.items()}


def _path(data: Path, split: str) -> Path:
    path = data / f"{SOURCE.split(split, SPLITS)}_split.csv"
    return SOURCE.file(path, expected=f"columns Filename, {', '.join(INTENSITIES)}")


def _rows(path: Path) -> dict[str, tuple[str, dict[str, float]]]:
    """Clip -> where its row stands, and its values by name."""
    table = read_table(path, spellings=_SPELLINGS, required=tuple(_SPELLINGS))
    rows: dict[str, tuple[str, dict[str, float]]] = {}
    for row in table.rows:
        where, name = table.where(row), table.text(row, "filename")
        values = {}
        for title in INTENSITIES:
            column = title.lower().replace(" ", "_")
            value = number(table.text(row, column), where=where, column=title)
            if value is None or not 0 <= value <= 1:
                raise SOURCE.error(f"{where}: {title} is {table.text(row, column)!r}; allowed: 0 to 1")
            values[title] = value
        if name in rows:
            raise SOURCE.error(f"{where}: clip {name!r} is there twice; keep one")
        rows[name] = (where, values)
    return rows
