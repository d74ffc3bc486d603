"""AffectNet (Mollahosseini et al., IEEE TAC 2017), the release of 2021 with a file for each label.

``val_set/images/0.jpg`` with ``val_set/annotations/0_exp.npy`` (expression 0 to 7), ``0_val.npy``, ``0_aro.npy``
(valence and arousal in [-1, 1], -2 where there is none) and ``0_lnd.npy`` (landmarks, not read); the same below
``train_set``. The pictures are cropped faces. That release has 3,999 validation pictures, the older one with a table
and boxes 4,000: figures of the two differ by a point or two. Who is in a picture is not told.
"""

from __future__ import annotations

import re
from pathlib import Path

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


def read(data: Path, *, split: str = "val") -> tuple[Record, ...]:
    """Return the pictures of a split by number; raises `DatasetError` for what is missing or not a label."""
    folder = data / f"{SOURCE.split(split, SPLITS)}_set"
    images = SOURCE.folder(folder / "images", expected=EXPECTED)
    annotations = SOURCE.folder(folder / "annotations", expected=EXPECTED)
    records = []
    for file in sorted(images.glob("*.jpg"), key=lambda path: (len(path.stem), path.stem)):
        if not re.fullmatch(r"\d+", file.stem):
            raise SOURCE.error(f"{file}: the name is not a number")
        code = _number(annotations / f"{file.stem}_exp.npy")
        if code not in range(len(LABELS)):
            shown = ", ".join(f"{number} {label}" for number, label in enumerate(LABELS))
            raise SOURCE.error(f"{annotations / file.stem}_exp.npy: {code:g}; allowed: {shown}", field="label")
        affect = {name: _number(annotations / f"{file.stem}_{name}.npy") for name in ("val", "aro")}
        for name, value in affect.items():
            if value != NO_AFFECT and not -1 <= value <= 1:
                raise SOURCE.error(f"{annotations / file.stem}_{name}.npy: {value:g}; allowed: -1 to 1, -2 for none")
        known = {name: None if value == NO_AFFECT else value for name, value in affect.items()}
        records.append(
            Record(id=file.stem, file=file, label=LABELS[int(code)], valence=known["val"], arousal=known["aro"])
        )
    return SOURCE.some(records, where=images, expected=EXPECTED)


def _number(path: Path) -> float:
    """Read a file of one value, which the release stores as text."""
    SOURCE.file(path, expected=EXPECTED)
    try:
        value = np.load(path, allow_pickle=False)
        return float(str(value.item()))
    except (ValueError, OSError, EOFError) as error:
        raise SOURCE.error(f"{path} does not hold one number: {error}") from error
