"""AffectNet (Mollahosseini et al., IEEE TAC 2017), in both of its releases.

The one of 2021 has a file for each label: ``val_set/images/0.jpg`` with ``val_set/annotations/0_exp.npy`` (expression 0
to 7), ``0_val.npy``, ``0_aro.npy`` (valence and arousal in [-1, 1], -2 where there is none) and ``0_lnd.npy``
(landmarks, not read); the same below ``train_set``. The pictures are cropped faces. Such a set has 3,999 validation
pictures.

The one of 2017 has tables, ``validation.csv`` and ``training.csv``, at the top or in ``Manually_Annotated_file_lists``:
``subDirectory_filePath, face_x, face_y, face_width, face_height, facial_landmarks, expression, valence, arousal``, with
or without that line on top, beside ``Manually_Annotated_Images/689/NAME.jpg``. Expressions 8, 9 and 10 (none,
uncertain, no face) are left out. The box is handed on as ``meta["box"]``: x, y, width, height in pixels. Such a set has
4,000 validation pictures; figures of the two differ by a point or two. Who is in a picture is told by neither.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType

import numpy as np

from emollama.datasets.record import Record, Source
from emollama.labels import AFFECTNET_8

SOURCE = Source(
    title="AffectNet", home="http://mohammadmahoor.com/affectnet (a signed agreement of a university is needed)"
)
LABELS = AFFECTNET_8  # 0 to 7
SPLITS = ("val", "train")
NO_AFFECT = -2.0
EXPECTED = "images/N.jpg with annotations/N_exp.npy, N_val.npy and N_aro.npy"
COLUMNS = (
    "subDirectory_filePath", "face_x", "face_y", "face_width", "face_height", "facial_landmarks", "expression",
    "valence", "arousal",
)  # fmt: skip
_TABLES = {"val": "validation.csv", "train": "training.csv"}
_TABLE_FOLDERS = ("", "Manually_Annotated_file_lists", "Manually_Annotated/Manually_Annotated_file_lists")
_PICTURE_FOLDERS = ("Manually_Annotated_Images", "Manually_Annotated/Manually_Annotated_Images")
_WITHOUT_EXPRESSION = (8, 9, 10)


def read(data: Path, *, split: str = "val") -> tuple[Record, ...]:
    """Return the pictures of a split; raises `DatasetError` for what is missing or not a label."""
    name = _TABLES[SOURCE.split(split, SPLITS)]
    table = next((data / place / name for place in _TABLE_FOLDERS if (data / place / name).is_file()), None)
    if table is not None:
        return SOURCE.some(_rows(table, data), where=table, expected="rows with an expression of 0 to 7")
    return _numbered(data / f"{split}_set")


def _numbered(folder: Path) -> tuple[Record, ...]:
    """Read the release with a file for each label, by number."""
    images = SOURCE.folder(folder / "images", expected=f"{EXPECTED}; or the tables {', '.join(_TABLES.values())}")
    annotations = SOURCE.folder(folder / "annotations", expected=EXPECTED)
    records = []
    for file in sorted(images.glob("*.jpg"), key=lambda path: (len(path.stem), path.stem)):
        if not re.fullmatch(r"\d+", file.stem):
            raise SOURCE.error(f"{file}: the name is not a number")
        code = _number(annotations / f"{file.stem}_exp.npy")
        if code not in range(len(LABELS)):
            raise SOURCE.error(f"{annotations / file.stem}_exp.npy: {code:g}; allowed: {_codes()}", field="label")
        values = {name: _number(annotations / f"{file.stem}_{name}.npy") for name in ("val", "aro")}
        known = {name: _affect(v, f"{annotations / file.stem}_{name}.npy") for name, v in values.items()}
        records.append(
            Record(id=file.stem, file=file, label=LABELS[int(code)], valence=known["val"], arousal=known["aro"])
        )
    return SOURCE.some(records, where=images, expected=EXPECTED)


def _rows(table: Path, data: Path) -> Iterator[Record]:
    """Read the rows of a table that have an expression."""
    pictures = SOURCE.first(
        (data / place for place in _PICTURE_FOLDERS), expected="a folder with the pictures that the table names"
    )
    with table.open(newline="", encoding="utf-8-sig") as file:
        for number, cells in enumerate(csv.reader(file), start=1):
            if number == 1 and tuple(cell.strip() for cell in cells) == COLUMNS:
                continue
            where = f"{table}:{number}"
            if len(cells) != len(COLUMNS):
                raise SOURCE.error(f"{where} has {len(cells)} columns; expected: {', '.join(COLUMNS)}")
            row = dict(zip(COLUMNS, cells, strict=True))
            code = _cell(row, "expression", where)
            if code in _WITHOUT_EXPRESSION:
                continue
            if code not in range(len(LABELS)):
                raise SOURCE.error(f"{where}: expression is {code:g}; allowed: {_codes()}, 8 to 10 none", field="label")
            box = tuple(int(_cell(row, name, where)) for name in COLUMNS[1:5])
            if box[2] < 1 or box[3] < 1:
                raise SOURCE.error(f"{where}: the box is {box}; allowed: a width and a height of 1 or more")
            name = row["subDirectory_filePath"].strip()
            yield Record(
                id=name,
                file=SOURCE.file(pictures / name, expected=f"the picture of {where}"),
                label=LABELS[int(code)],
                valence=_affect(_cell(row, "valence", where), f"{where}: valence"),
                arousal=_affect(_cell(row, "arousal", where), f"{where}: arousal"),
                meta=MappingProxyType({"box": box}),
            )


def _cell(row: dict[str, str], name: str, where: str) -> float:
    try:
        return float(row[name])
    except ValueError as error:
        raise SOURCE.error(f"{where}: {name} is {row[name]!r}; allowed: a number") from error


def _affect(value: float, where: str) -> float | None:
    if value != NO_AFFECT and not -1 <= value <= 1:
        raise SOURCE.error(f"{where}: {value:g}; allowed: -1 to 1, -2 for none")
    return None if value == NO_AFFECT else value


def _codes() -> str:
    return ", ".join(f"{number} {label}" for number, label in enumerate(LABELS))


def _number(path: Path) -> float:
    """Read a file of one value, which the release stores as text."""
    SOURCE.file(path, expected=EXPECTED)
    try:
        value = np.load(path, allow_pickle=False)
        return float(str(value.item()))
    except (ValueError, OSError, EOFError) as error:
        raise SOURCE.error(f"{path} does not hold one number: {error}") from error
