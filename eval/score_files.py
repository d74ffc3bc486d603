"""CSV files of predictions and truth, strictly read: what is missing, doubled or unknown is an error, never a guess.

Knows cells, names and lines; not what is computed from them. Column names are those of the project and, for each, the
spelling that the benchmarks' own files use.
"""

from __future__ import annotations

import csv
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from emollama.errors import DatasetError
from emollama.labels import ALIASES, canonical

# Column -> how files spell it.
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "name": ("name", "names", "Filename", "image_location", "image"),
    "label": ("label", "discrete"),
    "labels": ("labels", "openset"),
    "valence": ("valence", "val"),
    "groups": ("groups",),
    "text": ("text", "reason", "reasons", "rationale", "description"),
}
UNPARSEABLE = ("", "unparseable")
ABSTAINED = ("abstain", "abstained")
# Names that `labels.canonical` merges but a benchmark may not mean: an answer "none" is not the class neutral.
_NOT_ALIASES = frozenset({"calm", "none", "no emotion"})
_PREFERENCE = re.compile(r"a1|a2|same")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a file."""

    table: Table
    line: int
    cells: Mapping[str, str]

    def where(self, column: str) -> str:
        return f"{self.table.path}, line {self.line}, column {self.table.spelled(column)}"

    def text(self, column: str) -> str:
        return self.cells[self.table.spelled(column)]

    def number(self, column: str) -> float:
        """Return a finite number; anything else raises `DatasetError` with file, line and value."""
        text = self.text(column)
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise DatasetError(f"{self.where(column)}: {text!r} is not a number; allowed: a finite number")
        return value


@dataclass(frozen=True, kw_only=True)
class Table:
    """A file with a ``name`` column: its rows by name, in the file's order."""

    path: Path
    header: tuple[str, ...]
    rows: dict[str, Row] = field(default_factory=dict, repr=False)

    def has(self, column: str) -> bool:
        return any(spelling in self.header for spelling in COLUMNS.get(column, (column,)))

    def spelled(self, column: str) -> str:
        """Return how this file writes a column; raises `DatasetError` when it has none or two of them."""
        found = [spelling for spelling in COLUMNS.get(column, (column,)) if spelling in self.header]
        if len(found) == 1:
            return found[0]
        allowed = " or ".join(COLUMNS.get(column, (column,)))
        problem = f"has both columns {' and '.join(found)}; keep one" if found else f"has no column {allowed}"
        raise DatasetError(f"{self.path} {problem}; found: {', '.join(self.header)}")


def read_table(path: Path, *, columns: Sequence[str]) -> Table:
    """Read a CSV file that must hold ``name`` and ``columns``; a name may stand on one line only."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = list(_numbered(csv.reader(file, strict=True)))
    except FileNotFoundError as error:
        raise DatasetError(f"{path} does not exist") from error
    except IsADirectoryError as error:
        raise DatasetError(f"{path} is a folder; a CSV file is wanted") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path} is not a CSV file in UTF-8: {error}") from error
    if not lines:
        raise DatasetError(f"{path} is empty; a header line with {', '.join(('name', *columns))} is wanted")
    header = tuple(cell.strip() for cell in lines[0][1])
    doubled = [cell for cell, count in Counter(header).items() if count > 1]
    if doubled:
        raise DatasetError(f"{path}: the header names column {doubled[0]!r} twice")
    table = Table(path=path, header=header)
    for column in ("name", *columns):
        table.spelled(column)
    for number, cells in lines[1:]:
        if len(cells) != len(header):
            raise DatasetError(
                f"{path}, line {number}: {len(cells)} cells where the header has {len(header)}; "
                "a cell that holds a comma wants double quotes around it"
            )
        row = Row(table=table, line=number, cells=dict(zip(header, (cell.strip() for cell in cells), strict=True)))
        name = row.text("name")
        if not name:
            raise DatasetError(f"{row.where('name')} is empty")
        if name in table.rows:
            raise DatasetError(f"{row.where('name')}: {name!r} already stands on line {table.rows[name].line}")
        table.rows[name] = row
    if not table.rows:
        raise DatasetError(f"{path} holds a header and no rows")
    return table


def _numbered(reader: Iterator[list[str]]) -> Iterator[tuple[int, list[str]]]:
    """Yield (line on which a row starts, cells) of the rows that are not blank; a cell may hold line breaks."""
    start = 1
    for cells in reader:
        if cells:
            yield start, cells
        start = reader.line_num + 1  # type: ignore[attr-defined]


# ---- cells --------------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Tally:
    """What was met while reading cells, for the report."""

    unparseable: int = 0
    abstained: int = 0
    read_as: Counter[str] = field(default_factory=Counter)


class LabelReader:
    """Finds the class that a cell names: exactly, by another name of the same emotion, or not at all."""

    def __init__(self, labels: Sequence[str], *, by_index: bool = False) -> None:
        self.labels = tuple(labels)
        self.by_index = by_index
        self._index = {" ".join(label.lower().replace("_", " ").split()): i for i, label in enumerate(labels)}
        owner = {canonical(label): i for i, label in reversed(list(enumerate(labels)))}
        owner |= self._index
        names = {**{name: name for name in owner}, **ALIASES}
        for alias, noun in names.items():
            if alias not in self._index and alias not in _NOT_ALIASES and noun in owner:
                self._index[alias] = owner[noun]

    def find(self, text: str) -> int | None:
        key = " ".join(text.lower().replace("_", " ").split())
        if self.by_index and key.isdecimal() and int(key) < len(self.labels):
            return int(key)
        return self._index.get(key)

    def allowed(self) -> str:
        indices = f" or an index 0 to {len(self.labels) - 1}" if self.by_index else ""
        return ", ".join(self.labels) + indices


def find_preference(text: str) -> str | None:
    """Return what MER2026-Prefer reads from an answer: the first of a1, a2, same in the lower-cased text."""
    found = _PREFERENCE.search(text.lower())
    return found.group() if found else None


def some(names: Sequence[str], *, most: int = 5) -> str:
    """Return the first few of many names for a message: ``'a', 'b' and 7 more``."""
    shown = ", ".join(repr(name) for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
