"""Facts of one annotation line -> a `Sample`, with an error that names file, line, field and value."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from emollama.errors import DatasetError
from emollama.manifest import Sample, describe


@dataclass(frozen=True, kw_only=True)
class SampleMaker:
    """Makes the samples of one annotation file, each id once."""

    path: Path
    _lines: dict[str, int] = field(default_factory=dict, repr=False)

    def where(self, line: int) -> str:
        return f"{self.path}:{line}"

    def make(self, line: int, *, at: str | None = None, **facts: Any) -> Sample:
        """Return the sample; facts that are None or empty are not known. ``at`` is said in place of file and line.

        Raises `DatasetError`.
        """
        where = at or self.where(line)
        known = {name: value for name, value in facts.items() if value is not None and value != "" and value != {}}
        try:
            sample = Sample.model_validate(known)
        except ValidationError as error:
            name, message = describe(error)[0]
            raise DatasetError(f"{where}: {name}: {message}; correct it there", field=name) from error
        if sample.id in self._lines:
            raise DatasetError(
                f"{where}: id: {sample.id!r} stands already in line {self._lines[sample.id]}; keep one",
                field="id",
            )
        self._lines[sample.id] = line
        return sample


def number(text: str, *, where: str, column: str) -> float | None:
    """Read a cell as a finite number; an empty one is None. Raises `DatasetError`."""
    if not text.strip():
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DatasetError(f"{where}: {column}: {text!r} is not a finite number; write one, or leave it empty")
    return value


def scaled_valence(value: float | None, *, limit: float, where: str) -> float | None:
    """Bring a valence of the scale [-limit, limit] to [-1, 1]; -10 is how MER files write that there is none."""
    if value is None or value == -10.0:
        return None
    if abs(value) > limit:
        raise DatasetError(
            f"{where}: valence: {value:g} is outside -{limit:g} to {limit:g} (-10: none); "
            "correct it, or give the file's own scale by valence_limit",
            field="valence",
        )
    return value / limit


def words_of(text: str) -> tuple[str, ...]:
    """Read a list of words as annotation files write it: ``['a','b']``, ``"[a, b]"``, ``a; b`` or ``a|b``."""
    body = text.strip()
    if body.startswith("[") and body.endswith("]"):
        body = body[1:-1]
    for mark in "\"';|，、":
        body = body.replace(mark, ",")
    return tuple(dict.fromkeys(part.strip() for part in body.split(",") if part.strip()))
