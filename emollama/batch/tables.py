"""The answers as one table, a row a clip: CSV for a spreadsheet, Parquet for data frames.

Rows are in the order of the list, failed clips among them with their error. The columns of the scores are those of the
label set, each once.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from emollama.batch.folder import ERRORS, RESULTS, OutputFolder
from emollama.errors import UnknownNameError

# Column -> its type in Parquet. Scores follow, as doubles.
_COLUMNS = {
    "id": "string", "path": "string", "start": "double", "end": "double", "seconds": "double", "label": "string",
    "confidence": "double", "abstained": "bool", "valence": "double", "arousal": "double", "open_vocabulary": "string",
    "rationale": "string", "transcript": "string", "face": "bool", "voice": "bool", "words": "bool",
    "duplicate_of": "string", "warnings": "string", "error": "string",
}  # fmt: skip
_ROWS_AT_ONCE = 1000


def _write_csv(path: Path, names: list[str], rows: Iterable[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*_COLUMNS, *(f"score_{name}" for name in names)])
        for row in rows:
            writer.writerow(
                [*(_cell(row[column]) for column in _COLUMNS), *(_cell(row["scores"].get(n)) for n in names)]
            )


def _write_parquet(path: Path, names: list[str], rows: Iterable[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {"string": pa.string(), "double": pa.float64(), "bool": pa.bool_()}
    scores = [(f"score_{name}", name) for name in names]
    fields = [(column, types[kind]) for column, kind in _COLUMNS.items()]
    schema = pa.schema([*fields, *((column, pa.float64()) for column, _ in scores)])
    with pq.ParquetWriter(path, schema) as writer:
        for some in _in_parts(rows):
            columns = {column: [row[column] for row in some] for column in _COLUMNS}
            columns |= {column: [row["scores"].get(name) for row in some] for column, name in scores}
            writer.write_table(pa.table(columns, schema=schema))


# name (and suffix) of a table -> its writer: path, labels of the scores, rows
TABLES: Mapping[str, Callable[[Path, list[str], Iterable[dict[str, Any]]], None]] = MappingProxyType(
    {"csv": _write_csv, "parquet": _write_parquet}
)


def parse_tables(text: str) -> tuple[str, ...]:
    """Read a comma-separated list of kinds of tables; raises `UnknownNameError`."""
    names = tuple(dict.fromkeys(part.strip().lower() for part in text.split(",") if part.strip()))
    for name in names:
        if name not in TABLES:
            raise UnknownNameError("table", name, TABLES)
    return names


def write_tables(folder: OutputFolder, ids: Iterable[str], kinds: Iterable[str]) -> list[Path]:
    """Write ``results.KIND`` for each kind from a settled folder; ``ids`` is the order of the list."""
    order = list(ids)
    names = list(dict.fromkeys(name for line in folder.lines(RESULTS) for name in line["emotion"]["scores"]))
    written = []
    for kind in kinds:
        path = folder.path / f"results.{kind}"
        partial = path.with_name(f".{path.name}.partial")
        TABLES[kind](partial, names, _merged(folder, order))
        os.replace(partial, path)
        written.append(path)
    return written


def _merged(folder: OutputFolder, order: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of both files, each of which is in the order of the list, as one."""
    results, errors = folder.lines(RESULTS), folder.lines(ERRORS)
    result, error = next(results, None), next(errors, None)
    for item_id in order:
        if result is not None and result["id"] == item_id:
            yield _row(result)
            result = next(results, None)
        elif error is not None and error["id"] == item_id:
            yield _row(error)
            error = next(errors, None)


def _row(line: Mapping[str, Any]) -> dict[str, Any]:
    emotion, used = line.get("emotion") or {}, line.get("modalities") or {}
    error = line.get("error")
    return {
        **dict.fromkeys(_COLUMNS),
        **{name: line.get(name) for name in ("id", "path", "valence", "arousal", "rationale", "duplicate_of")},
        **{name: _number(line.get(name)) for name in ("start", "end", "seconds")},
        **{name: emotion.get(name) for name in ("label", "confidence", "abstained")},
        "open_vocabulary": ", ".join(line.get("open_vocabulary") or ()) or None,
        "transcript": (line.get("transcript") or {}).get("text"),
        "face": (used.get("visual") or {}).get("used"),
        "voice": (used.get("audio") or {}).get("used"),
        "words": (used.get("text") or {}).get("used"),
        "warnings": " ".join(line.get("warnings") or ()) or None,
        "error": None if error is None else f"{error['type']}: {error['message']}",
        "scores": emotion.get("scores") or {},
    }


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else value


def _in_parts(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    some: list[dict[str, Any]] = []
    for row in rows:
        some.append(row)
        if len(some) == _ROWS_AT_ONCE:
            yield some
            some = []
    yield some
