"""Reading the Parquet tables of the text data sets: checked columns, plain rows, errors that name the remedy.

Nothing here knows a label. The tables are the public data sets repackaged as Parquet, one row per sentence.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from emollama.errors import DatasetError


def read_rows(path: Path, *, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Return the rows of a Parquet file as dicts of ``columns``; a missing file or column raises `DatasetError`."""
    if not path.is_file():
        raise DatasetError(
            f"{path} is not there; put the data set's Parquet file at that path, or name its folder with --data or "
            "the environment variable EMOLLAMA_DATA",
            field="data",
        )
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DatasetError(f"{path} cannot be read as Parquet: {error}", field="data") from error
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        raise DatasetError(
            f"{path} lacks the columns {', '.join(missing)}; it has {', '.join(table.column_names)}", field="data"
        )
    rows: list[dict[str, Any]] = table.select(list(columns)).to_pylist()
    return rows


def write_manifest(rows: Iterable[Mapping[str, Any]], path: Path) -> int:
    """Write rows as JSON lines to a temporary name, rename it to ``path``, and return how many rows there are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    count = 0
    with temporary.open("w", encoding="utf-8") as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    os.replace(temporary, path)
    return count
