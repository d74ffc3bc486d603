"""Action units over time: read from an OpenFace CSV, and asked which emotions they fire for.

OpenFace 2 writes one row a frame and face: ``timestamp`` in seconds, ``success``, ``confidence``, the intensity of 17
action units as ``AU01_r`` (0 to 5) and the presence of 18 as ``AU01_c`` (0 or 1); header names may begin with a blank
(public documentation of TadasBaltrusaitis/OpenFace, "Output format"). AU28 has presence only.
"""

from __future__ import annotations

import csv
import hashlib
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emollama.errors import DatasetError
from train.builders.merr.rules import Rules

_COLUMN = re.compile(r"(AU\d\d)_([rc])")


@dataclass(frozen=True, kw_only=True)
class ActionUnits:
    """T frames of one face: ``times`` [T] seconds, ``intensities`` and ``presence`` code -> [T] (0-5, and bool)."""

    times: np.ndarray
    intensities: Mapping[str, np.ndarray]
    presence: Mapping[str, np.ndarray]
    source: str
    sha256: str

    @property
    def codes(self) -> tuple[str, ...]:
        return tuple(sorted({*self.intensities, *self.presence}))

    def at(self, index: int) -> dict[str, tuple[float | None, bool]]:
        """Return code -> (intensity or ``None``, present) at one frame."""
        return {
            code: (
                round(float(self.intensities[code][index]), 3) if code in self.intensities else None,
                bool(self.presence[code][index]) if code in self.presence else False,
            )
            for code in self.codes
        }

    def between(self, start: float, end: float | None) -> ActionUnits:
        """Return the frames of a stretch, with times from its start."""
        keep = (self.times >= start) & (self.times < (math.inf if end is None else end))
        return ActionUnits(
            times=self.times[keep] - start,
            intensities={code: values[keep] for code, values in self.intensities.items()},
            presence={code: values[keep] for code, values in self.presence.items()},
            source=self.source,
            sha256=self.sha256,
        )


def read_openface(path: Path, *, rules: Rules, min_confidence: float = 0.7) -> ActionUnits:
    """Read the face with the most successful frames; raises `DatasetError` with file, line, column and value.

    Rows whose tracking failed, or is less sure than ``min_confidence``, are left out. An action unit that the rules do
    not know is an error.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise DatasetError(f"{path} cannot be read ({error.strerror})", field="openface") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not text in UTF-8", field="openface") from error
    reader = csv.reader(text.splitlines())
    header = [name.strip() for name in next(reader, [])]
    missing = [name for name in ("timestamp", "success") if name not in header]
    columns = {i: match for i, name in enumerate(header) if (match := _COLUMN.fullmatch(name))}
    if missing or not columns:
        what = f"column {missing[0]!r}" if missing else "columns AUxx_r and AUxx_c"
        raise DatasetError(f"{path}:1: no {what}; write the file with OpenFace's FeatureExtraction -aus", field=what)
    for match in columns.values():
        if match[1] not in rules.action_units:
            raise DatasetError(f"{path}:1: the rules do not know {match[1]}; add it to the rules file", field=match[1])
    rows: list[tuple[str, list[float]]] = []
    place = {name: i for i, name in enumerate(header)}
    for line, cells in enumerate(reader, start=2):
        if not cells:
            continue
        if len(cells) != len(header):
            raise DatasetError(f"{path}:{line}: {len(cells)} cells; the header has {len(header)}", field="openface")
        sure = _number(cells, place, "confidence", path, line) if "confidence" in place else 1.0
        if _number(cells, place, "success", path, line) != 1.0 or sure < min_confidence:
            continue
        face = cells[place["face_id"]].strip() if "face_id" in place else "0"
        values = [_number(cells, place, "timestamp", path, line)]
        for i, match in columns.items():
            value = _number(cells, place, header[i], path, line)
            if not (0.0 <= value <= 5.0 if match[2] == "r" else value in (0.0, 1.0)):
                allowed = "0 to 5" if match[2] == "r" else "0 or 1"
                raise DatasetError(f"{path}:{line}: {header[i]} is {value:g}; allowed: {allowed}", field=header[i])
            values.append(value)
        rows.append((face, values))
    if not rows:
        raise DatasetError(f"{path}: the face was followed in no frame (success 1); take another clip", field="success")
    main = Counter(face for face, _ in rows).most_common(1)[0][0]
    table = np.array([values for face, values in rows if face == main])
    table = table[np.argsort(table[:, 0], kind="stable")]
    intensities, presence = {}, {}
    for column, match in enumerate(columns.values(), start=1):
        if match[2] == "r":
            intensities[match[1]] = table[:, column]
        else:
            presence[match[1]] = table[:, column] > 0.5
    return ActionUnits(
        times=table[:, 0],
        intensities=intensities,
        presence=presence,
        source=f"openface:{path.name}",
        sha256=hashlib.sha256(content).hexdigest(),
    )


def _number(cells: list[str], place: Mapping[str, int], name: str, path: Path, line: int) -> float:
    cell = cells[place[name]].strip()
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DatasetError(f"{path}:{line}: {name} is {cell!r}; allowed: a finite number", field=name)
    return value


@dataclass(frozen=True, kw_only=True)
class Fired:
    """An emotion whose action units are there: share of them present, mean intensity, strength, and the row it is."""

    emotion: str
    presence: float
    mean_intensity: float
    strength: str
    action_units: tuple[str, ...]
    source: str


def fired(reading: Mapping[str, tuple[float | None, bool]], rules: Rules) -> tuple[Fired, ...]:
    """Return the emotions that fire at one frame, the surest first; ``reading`` is code -> (intensity, present).

    Action units that were not measured are left out of a row; a row of which half or less was measured says nothing.
    """
    found: dict[str, Fired] = {}
    for emotion, rule in rules.emotions.items():
        for row in rule.combinations:
            measured = [code for code in row.action_units if code in reading]
            if 2 * len(measured) <= len(row.action_units):
                continue
            presence = sum(reading[code][1] for code in measured) / len(measured)
            graded = [value for code in measured if (value := reading[code][0]) is not None]
            mean = sum(graded) / len(graded) if graded else 0.0
            level = rules.intensity.level(mean)
            if presence < rules.firing.presence or mean < rules.firing.mean_intensity or level is None:
                continue
            candidate = Fired(
                emotion=emotion,
                presence=round(presence, 4),
                mean_intensity=round(mean, 4),
                strength=level.name,
                action_units=tuple(measured),
                source=row.source,
            )
            best = found.get(emotion)
            if best is None or (presence, mean) > (best.presence, best.mean_intensity):
                found[emotion] = candidate
    return tuple(sorted(found.values(), key=lambda f: (-f.presence, -f.mean_intensity)))
