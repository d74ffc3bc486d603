"""MERBench's label files (``label-6way.npz``), read without running anything that is in them.

The arrays ``train_corpus``, ``test1_corpus`` and on hold a pickled dict ``{name: {"emo": str or int, "val": float}}``,
with -10 for no valence. Unpickling runs code, so only the handful of names that an array of plain values needs are
let through; whatever else a file asks for is refused. Layout: MERTools.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from emollama.datasets.record import Source

LABELS = ("neutral", "angry", "happy", "sad", "worried", "surprise")  # in the order of the toolkit's indices
NO_VALENCE = -10.0
_MODULES = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray")
_ALLOWED = {
    "ndarray": np.ndarray,
    "dtype": np.dtype,
    "_reconstruct": np.empty(0).__reduce__()[0],
    "scalar": np.float64(0).__reduce__()[0],
}


class _PlainUnpickler(pickle.Unpickler):
    """Builds arrays and plain values; any other name is an `UnpicklingError`."""

    def find_class(self, module: str, name: str) -> Any:
        if module not in _MODULES or name not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _ALLOWED[name]


def read_corpora(path: Path, part: str, source: Source) -> Iterator[tuple[str, str, float | None]]:
    """Yield name, label and valence (None where there is none) of a part such as ``test1``; raises `DatasetError`."""

    def refuse(problem: str) -> NoReturn:
        raise source.error(f"{path}: {problem}")

    try:
        with zipfile.ZipFile(path) as archive:
            entry = f"{part}_corpus.npy"
            if entry not in archive.namelist():
                refuse(f"there is no {part}_corpus; it holds {', '.join(archive.namelist())}")
            content = io.BytesIO(archive.read(entry))
        version = np.lib.format.read_magic(content)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        _, _, dtype = read_header(content)
        if not dtype.hasobject:
            refuse(f"{part}_corpus is an array of {dtype}; expected: a pickled dict")
        corpus = _PlainUnpickler(content).load()
    except (zipfile.BadZipFile, pickle.UnpicklingError, ValueError, EOFError, OSError) as error:
        refuse(f"it cannot be read as a label file: {error}")
    if isinstance(corpus, np.ndarray) and corpus.shape == ():
        corpus = corpus.item()
    if not isinstance(corpus, dict):
        refuse(f"{part}_corpus holds {type(corpus).__name__}; expected: a dict of names")
    for name, facts in corpus.items():
        if not isinstance(facts, dict) or "emo" not in facts:
            refuse(f"{part}_corpus, {name!r}: {facts!r}; expected: a dict with emo")
        label, value = facts["emo"], float(facts.get("val", NO_VALENCE))
        if isinstance(label, (int, np.integer)):
            if not 0 <= label < len(LABELS):
                refuse(f"{part}_corpus, {name!r}: emo {label}; allowed: 0 to {len(LABELS) - 1}, or a name")
            label = LABELS[label]
        yield str(name), str(label), None if value == NO_VALENCE else value
