"""What a reader of a published data set hands on: one clip with what its annotators say of it, and where sets are had.

A reader knows the folder layout of its set and nothing of models, tasks or manifests. Paths are those of the files as
they lie; a reader decodes nothing. What is missing or malformed raises `DatasetError` with the file, what was
expected there, and where the set is to be had.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from emollama.errors import DatasetError


@dataclass(frozen=True, kw_only=True)
class Record:
    """One clip (or words alone) and what is known of it; labels are in the data set's own words.

    ``file`` may be None where a set has words without a clip. ``start`` and ``end`` are seconds into the file.
    ``words`` are open labels. ``valence`` and ``arousal`` stand on the data set's own scale. ``group`` is the speaker
    or the video: what must not be torn apart when clips are drawn or split.
    """

    id: str
    file: Path | None = None
    label: str | None = None
    words: tuple[str, ...] = ()
    valence: float | None = None
    arousal: float | None = None
    start: float | None = None
    end: float | None = None
    transcript: str | None = None
    language: str | None = None
    group: str | None = None
    meta: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, kw_only=True)
class Source:
    """A data set's name and where it is to be had, for errors that help."""

    title: str
    home: str

    def error(self, problem: str, *, field: str | None = "data") -> DatasetError:
        """Return the error for something that is not as published; the caller raises it."""
        return DatasetError(f"{self.title}: {problem}; the set is to be had at {self.home}", field=field)

    def file(self, path: Path, *, expected: str) -> Path:
        """Return ``path`` if it is a file."""
        if not path.is_file():
            raise self.error(f"{path} is not there; expected: {expected}")
        return path

    def folder(self, path: Path, *, expected: str) -> Path:
        """Return ``path`` if it is a folder."""
        if not path.is_dir():
            raise self.error(f"the folder {path} is not there; expected: {expected}")
        return path

    def first(self, paths: Iterable[Path], *, expected: str) -> Path:
        """Return the first of several places that exists."""
        tried = list(paths)
        for path in tried:
            if path.exists():
                return path
        raise self.error(f"none of {', '.join(map(str, tried))} is there; expected: {expected}")

    def split(self, split: str, allowed: Iterable[str]) -> str:
        """Return ``split`` if the set has it."""
        names = tuple(allowed)
        if split not in names:
            raise self.error(f"there is no split {split!r}; allowed: {', '.join(names)}", field="split")
        return split

    def some(self, records: Iterable[Record], *, where: Path | str, expected: str) -> tuple[Record, ...]:
        """Return the records as a tuple with each id once; none at all is an error."""
        found = tuple(records)
        if not found:
            raise self.error(f"{where} holds nothing to judge; expected: {expected}")
        seen: set[str] = set()
        for record in found:
            if record.id in seen:
                raise self.error(f"{where}: {record.id!r} is there twice; keep one", field="id")
            seen.add(record.id)
        return found
