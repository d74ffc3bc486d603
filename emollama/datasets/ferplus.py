"""FER+ (Barsoum et al., ICMI 2016): 48x48 grey faces with the votes of ten people.

The authors' protocol: votes of one are dropped as noise, pictures whose top vote is "unknown" or "not a face" are
dropped, and majority accuracy counts pictures where one of the eight emotions has more than five votes.
Parquet columns: ``name``, ``png`` (bytes), ``votes`` (ten integers in the order of ``labels.FERPLUS_VOTES``).
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emollama.errors import DatasetError
from emollama.labels import CIRCUMPLEX, FERPLUS_VOTES, NANO_LABELS

SIZE = 48
SPLITS = ("train", "valid")
_NUM_LABELS = len(NANO_LABELS)


@dataclass(frozen=True, kw_only=True)
class FerPlus:
    """N pictures: ``images`` [N, 48, 48] uint8 grey, ``targets`` [N, 8] vote shares, ``majority`` [N] label or -1."""

    names: tuple[str, ...]
    images: np.ndarray
    targets: np.ndarray
    majority: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    @property
    def affect(self) -> np.ndarray:
        """Valence and arousal [N, 2]: the vote shares' expectation over the circumplex. Derived, not measured."""
        points = np.array([CIRCUMPLEX[label] for label in NANO_LABELS], np.float32)
        return self.targets @ points


def file_of(data: Path, split: str) -> Path:
    """Where a split lies in the raw data folder."""
    if split not in SPLITS:
        raise DatasetError(f"FER+ has no split {split!r}; there are: {', '.join(SPLITS)}", field="split")
    return Path(data) / "faces" / f"ferplus-{split}.parquet"


def load(data: Path, split: str) -> FerPlus:
    """Read a split of the raw data folder; raises `DatasetError` for a missing file or a malformed row."""
    return read_parquet(file_of(data, split))


def read_parquet(file: Path) -> FerPlus:
    """Read one FER+ Parquet file and apply the protocol."""
    import pyarrow.parquet as parquet
    from PIL import Image

    if not file.is_file():
        raise DatasetError(
            f"{file} is missing; name the folder with the raw data by --data or EMOLLAMA_DATA", field="data"
        )
    table = parquet.read_table(file)
    if lacking := {"name", "png", "votes"} - set(table.column_names):
        raise DatasetError(f"{file} lacks the columns {', '.join(sorted(lacking))}", field="data")
    rows = table.column("votes").to_pylist()
    if bad := [index for index, row in enumerate(rows) if row is None or len(row) != len(FERPLUS_VOTES)]:
        raise DatasetError(f"{file} row {bad[0]}: votes must hold {len(FERPLUS_VOTES)} integers", field="data")
    votes = np.array(rows, np.int64).reshape(-1, len(FERPLUS_VOTES))
    keep, targets, majority = apply_protocol(votes)
    names, pngs = table.column("name").to_pylist(), table.column("png").to_pylist()
    images = np.empty((len(keep), SIZE, SIZE), np.uint8)
    for out, index in enumerate(keep):
        try:
            with Image.open(io.BytesIO(pngs[index])) as picture:
                grey = np.asarray(picture.convert("L"))
        except OSError as error:
            raise DatasetError(f"{file} row {index} ({names[index]}): the picture cannot be read: {error}") from error
        if grey.shape != (SIZE, SIZE):
            raise DatasetError(f"{file} row {index} ({names[index]}): {grey.shape} pixels; FER+ has {SIZE}x{SIZE}")
        images[out] = grey
    return FerPlus(names=tuple(names[index] for index in keep), images=images, targets=targets, majority=majority)


def apply_protocol(votes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Apply the protocol to votes [R, 10]: indices [N] of kept rows, targets [N, 8], majority [N] (-1: none)."""
    cleaned = np.where(votes <= 1, 0, votes)
    emotions = cleaned[:, :_NUM_LABELS]
    kept = (emotions.sum(1) > 0) & (emotions.max(1) >= cleaned[:, _NUM_LABELS:].max(1))
    index = np.flatnonzero(kept)
    emotions = emotions[index]
    targets = (emotions / emotions.sum(1, keepdims=True)).astype(np.float32)
    majority = np.where(emotions.max(1) > 5, emotions.argmax(1), -1)
    return index, targets, majority
