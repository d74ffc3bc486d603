"""Tables in text files: a header and rows, by comma, semicolon, tab or bar, with the line each row stands on."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from emollama.errors import DatasetError

DELIMITERS = (",", ";", "\t", "|")
_MAX_CELL_CHARS = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row: its line, its cells by column as the file spells it, stripped."""

    line: int
    cells: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table that was opened: ``columns`` maps what a column means to how the file spells it."""

    path: Path
    header: tuple[str, ...]
    columns: Mapping[str, str]
    rows: tuple[Row, ...]

    def where(self, row: Row) -> str:
        return f"{self.path}:{row.line}"

    def text(self, row: Row, column: str) -> str:
        """Return the cell of a column by its meaning; empty when the file has no such column."""
        return row.cells[self.columns[column]] if column in self.columns else ""


def read_table(path: Path, *, spellings: Mapping[str, tuple[str, ...]], required: tuple[str, ...] = ()) -> Table:
    """Read a table in UTF-8 (a byte order mark is allowed); raises `DatasetError` with file and line.

    ``spellings`` gives the names that a column goes by, in lower case; ``required`` those that must be there.
    """
    lines = list(_lines(path))
    if not lines:
        raise DatasetError(f"{path} is empty; a header line is wanted, with {_wanted(required, spellings)}")
    meaning = {spelling: column for column, names in spellings.items() for spelling in (column, *names)}
    header = tuple(cell.strip() for cell in lines[0][1])
    doubled = [name for name, count in Counter(header).items() if count > 1]
    if doubled:
        raise DatasetError(f"{path}:1: the header names column {doubled[0]!r} twice; keep one")
    columns: dict[str, str] = {}
    for name in header:
        column = meaning.get(name.lower().replace(" ", "_"))
        if column is None:
            continue
        if column in columns:
            raise DatasetError(
                f"{path}:1: columns {columns[column]!r} and {name!r} are both read as {column}; keep one"
            )
        columns[column] = name
    for column in required:
        if column not in columns:
            raise DatasetError(
                f"{path}:1: no column {_wanted((column,), spellings)}; found: {', '.join(header)}", field=column
            )
    rows = []
    for line, cells in lines[1:]:
        if len(cells) != len(header):
            raise DatasetError(
                f"{path}:{line}: {len(cells)} cells where the header has {len(header)}; "
                "put a cell that holds the delimiter into double quotes"
            )
        rows.append(Row(line=line, cells=dict(zip(header, (cell.strip() for cell in cells), strict=True))))
    if not rows:
        raise DatasetError(f"{path} holds a header and no rows")
    return Table(path=path, header=header, columns=columns, rows=tuple(rows))


def _wanted(columns: tuple[str, ...], spellings: Mapping[str, tuple[str, ...]]) -> str:
    return "; ".join(" or ".join((column, *spellings.get(column, ()))) for column in columns) or "column names"


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (line on which a row starts, its cells) of the rows that are not blank."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            first = stream.readline(_MAX_CELL_CHARS)
            stream.seek(0)
            # The header decides: the delimiter that cuts it into the most pieces.
            delimiter = max(DELIMITERS, key=first.count)
            reader = csv.reader(stream, delimiter=delimiter, strict=True)
            start = 1
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    yield start, cells
                start = reader.line_num + 1
    except FileNotFoundError as error:
        raise DatasetError(f"{path} does not exist") from error
    except IsADirectoryError as error:
        raise DatasetError(f"{path} is a folder; a table (CSV) is wanted") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not text in UTF-8 (byte {error.start + 1}); save it as UTF-8") from error
    except csv.Error as error:
        raise DatasetError(f"{path} is not a table: {error}; check its double quotes") from error
