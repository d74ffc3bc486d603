"""A table of clips: one vector for each encoder and clip, what the clip is labelled, and which group it belongs to.

Kept as one safetensors file (``features.NAME`` [N, D] float32) whose header holds names, labels and groups as JSON. A
clip that lacks a modality has a row of NaN there, never of zeros: whoever forgets to look gets NaN, no silent face.
MERBench's layout is read as well: a folder ``<encoder>-UTT`` with ``<clip>.npy`` for each clip, [D] or [1, D].
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emollama.errors import DatasetError, InputError

_PREFIX, _HEADER = "features.", "utterances"


@dataclass(frozen=True, kw_only=True)
class Utterances:
    """N clips: ``features`` modality -> [N, D] float32 (rows of NaN where it is absent), in a fixed order.

    ``labels`` holds ``None`` for a clip without a label. ``groups`` names who speaks (or whatever must not stand on
    both sides of a split); clips whose group is not known bear their own name.
    """

    names: tuple[str, ...]
    features: Mapping[str, np.ndarray]
    labels: tuple[str | None, ...]
    groups: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.names):
            raise InputError("names hold a clip twice; allowed: each once", field="names")
        if not self.features:
            raise InputError("features are empty; allowed: one modality or more", field="features")
        for field in ("labels", "groups"):
            if len(getattr(self, field)) != len(self.names):
                raise InputError(
                    f"{field} has {len(getattr(self, field))} rows; allowed: {len(self.names)}", field=field
                )
        for modality, rows in self.features.items():
            if rows.ndim != 2 or len(rows) != len(self.names):
                raise InputError(
                    f"{modality} has shape {rows.shape}; allowed: [{len(self.names)}, D]", field="features"
                )
            finite = np.isfinite(rows)
            broken = np.flatnonzero(finite.any(1) & ~finite.all(1))
            if len(broken):
                raise InputError(
                    f"{modality} of {self.names[broken[0]]!r} is not finite in places; allowed: finite numbers, or "
                    "a row of NaN for an absent modality",
                    field="features",
                )

    def __len__(self) -> int:
        return len(self.names)

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.features)

    @property
    def widths(self) -> dict[str, int]:
        return {modality: rows.shape[1] for modality, rows in self.features.items()}

    @property
    def present(self) -> np.ndarray:
        """Which modalities each clip has, bool [N, M] in the order of `modalities`."""
        return np.stack([np.isfinite(rows[:, 0]) for rows in self.features.values()], axis=1)

    def take(self, rows: Sequence[int] | np.ndarray) -> Utterances:
        """Return some of the clips, in the order of ``rows``."""
        index = np.asarray(rows, np.int64)
        return Utterances(
            names=tuple(self.names[row] for row in index),
            features={modality: values[index] for modality, values in self.features.items()},
            labels=tuple(self.labels[row] for row in index),
            groups=tuple(self.groups[row] for row in index),
        )

    def without(self, *modalities: str) -> Utterances:
        """Return the clips with some modalities absent; raises `InputError` for one that is not there."""
        for modality in modalities:
            if modality not in self.features:
                raise InputError(f"modality {modality!r}; allowed: {', '.join(self.features)}", field="modality")
        features = {
            name: np.full_like(rows, np.nan) if name in modalities else rows for name, rows in self.features.items()
        }
        return Utterances(names=self.names, features=features, labels=self.labels, groups=self.groups)

    def with_labels(self, labels: Sequence[str | None]) -> Utterances:
        return Utterances(names=self.names, features=self.features, labels=tuple(labels), groups=self.groups)

    def joined(self, other: Utterances) -> Utterances:
        """Return the clips of both; they must have the same modalities and widths."""
        if self.widths != other.widths:
            raise InputError(f"widths are {other.widths}; allowed: {self.widths}", field="features")
        return Utterances(
            names=self.names + other.names,
            features={name: np.concatenate((rows, other.features[name])) for name, rows in self.features.items()},
            labels=self.labels + other.labels,
            groups=self.groups + other.groups,
        )

    # ---- files -------------------------------------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        """Write one safetensors file by a temporary name and a rename."""
        from safetensors.numpy import save

        path.parent.mkdir(parents=True, exist_ok=True)
        header = {"names": self.names, "labels": self.labels, "groups": self.groups, "modalities": self.modalities}
        tensors = {_PREFIX + name: np.ascontiguousarray(rows, np.float32) for name, rows in self.features.items()}
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        partial.write_bytes(save(tensors, metadata={_HEADER: json.dumps(header, ensure_ascii=False)}))
        os.replace(partial, path)

    @classmethod
    def load(cls, path: Path) -> Utterances:
        """Read a file; raises `DatasetError` for one that is missing, damaged, or no table of utterances."""
        from safetensors import SafetensorError, safe_open

        if not path.is_file():
            raise DatasetError(f"{path} is missing; it is made by: emollama fusion gather, or compose", field="table")
        try:
            with safe_open(path, framework="np") as file:
                header = json.loads((file.metadata() or {})[_HEADER])
                features = {name: file.get_tensor(_PREFIX + name) for name in header["modalities"]}
                left_over = set(file.keys()) - {_PREFIX + name for name in features}
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            raise DatasetError(f"{path} is no table of utterances ({error}); make it again", field="table") from error
        if left_over:
            raise DatasetError(f"{path} holds {sorted(left_over)[0]!r}, which its header does not name", field="table")
        return cls(
            names=tuple(header["names"]),
            features=features,
            labels=tuple(header["labels"]),
            groups=tuple(header["groups"]),
        )


def read_folders(
    folders: Mapping[str, Path],
    names: Sequence[str],
    *,
    labels: Mapping[str, str] | None = None,
    groups: Mapping[str, str] | None = None,
) -> Utterances:
    """Gather MERBench's ``<clip>.npy`` files, a folder a modality; a clip without a file lacks that modality.

    Raises `DatasetError` for a folder that has none of the clips, a file that is no plain vector, or vectors of
    different lengths. Arrays of objects are never read (they run code).
    """
    features: dict[str, np.ndarray] = {}
    for modality, folder in folders.items():
        found = {name: _vector(path) for name in names if (path := folder / f"{name}.npy").is_file()}
        if not found:
            raise DatasetError(f"{folder} has a vector of none of the {len(names)} clips; expected: <clip>.npy")
        widths = {len(vector) for vector in found.values()}
        if len(widths) != 1:
            raise DatasetError(f"{folder} holds vectors of {sorted(widths)} numbers; expected: all of one length")
        rows = np.full((len(names), widths.pop()), np.nan, np.float32)
        for row, name in enumerate(names):
            if name in found:
                rows[row] = found[name]
        features[modality] = rows
    return Utterances(
        names=tuple(names),
        features=features,
        labels=tuple((labels or {}).get(name) for name in names),
        groups=tuple((groups or {}).get(name, name) for name in names),
    )


def _vector(path: Path) -> np.ndarray:
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DatasetError(f"{path} cannot be read as a plain array: {error}") from error
    if values.ndim == 2 and len(values) == 1:
        values = values[0]
    if values.ndim != 1 or not np.issubdtype(values.dtype, np.floating) or not np.isfinite(values).all():
        raise DatasetError(f"{path} is {values.dtype} {values.shape}; expected: a vector of finite floats [D]")
    return values.astype(np.float32)
