"""A table with a row for each clip: the manifest's fields as columns, or the names that other files give them.

Numbers are read as numbers, ``open_vocabulary`` as a list of words, ``distribution`` and ``messages`` as JSON. Columns
of the form ``p_sadness`` are shares (or votes) of a distribution. What is in no known column goes into ``meta``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from emollama.errors import DatasetError
from emollama.importers.clips import ClipFolder, ClipIndex
from emollama.importers.rows import SampleMaker, number, words_of
from emollama.importers.table import Row, Table, read_table
from emollama.manifest import Sample

SPELLINGS = {
    "id": ("name", "names", "sample", "utterance", "utterance_id", "clip_id", "video_id", "video_name"),
    "clip": ("file", "path", "filename", "file_name", "filepath", "file_path", "video", "audio", "image", "wav"),
    "start": ("start_time", "start_seconds", "begin", "onset"),
    "end": ("end_time", "end_seconds", "stop", "offset"),
    "transcript": ("sentence", "text", "subtitle", "transcription", "words"),
    "language": ("lang",),
    "label": ("emotion", "discrete", "emo", "class"),
    "distribution": (),
    "open_vocabulary": ("openset", "open_set", "labels", "emotions"),
    "valence": ("val",),
    "arousal": ("aro",),
    "messages": ("conversation",),
    "split": ("set", "partition", "subset"),
    "speaker": ("speaker_id", "actor", "person", "subject"),
}
SPLITS = {"dev": "valid", "val": "valid", "validation": "valid", "training": "train", "testing": "test", "eval": "test"}
_NUMBERS = ("start", "end", "valence", "arousal")
_SHARE_PREFIX = "p_"


def import_csv(
    source: Path,
    *,
    media: Path | None = None,
    clips: ClipFolder | None = None,
    valence_limit: float = 1.0,
) -> Iterator[Sample]:
    """Yield a sample for each row; clips are found below ``media`` (default: the table's folder).

    ``valence_limit`` is the end of the file's scale of valence and arousal: 5 for a scale of -5 to 5. Without an id
    column the clip's name is the id, with the stretch when there is one. Raises `DatasetError` with file and line.
    """
    source = Path(source)
    if not (math.isfinite(valence_limit) and valence_limit > 0):
        raise DatasetError(f"valence_limit is {valence_limit!r}; allowed: above 0", field="valence_limit")
    table = read_table(source, spellings=SPELLINGS)
    if not {"id", "clip", "transcript"} & set(table.columns):
        raise DatasetError(
            f"{source}:1: no column says which clip (clip, file, path, filename, video, name) or which words "
            f"(transcript, sentence, text); found: {', '.join(table.header)}",
            field="clip",
        )
    base = media or source.parent
    clips = clips or ClipFolder(root=base)
    index, maker = ClipIndex(folder=base), SampleMaker(path=source)
    for row in table.rows:
        facts = _facts(table, row, limit=valence_limit)
        name = table.text(row, "clip") or ("" if "clip" in table.columns else table.text(row, "id"))
        where = table.where(row)
        found = (Path(name) if Path(name).is_absolute() else index.find(name, where=where)) if name else None
        if name and (found is None or not found.is_file()):
            if "clip" in table.columns or not facts.get("transcript"):
                clips.missing(f"clip: no file {name!r} below {str(base)!r}", where=where)
                continue
            found = None
        facts["clip"] = clips.place(found, base=base, where=where) if found is not None else None
        facts["id"] = table.text(row, "id") or _id(name, facts) or f"line {row.line}"
        yield maker.make(row.line, **facts)


def _facts(table: Table, row: Row, *, limit: float) -> dict[str, Any]:
    where = table.where(row)
    facts: dict[str, Any] = {}
    for column in table.columns:
        text = table.text(row, column)
        if column in ("clip", "id") or not text:
            continue
        if column in _NUMBERS:
            value = number(text, where=where, column=table.columns[column])
            facts[column] = value if value is None or column in ("start", "end") else value / limit
        elif column == "open_vocabulary":
            facts[column] = words_of(text)
        elif column in ("distribution", "messages"):
            facts[column] = _json(text, where=where, column=column)
        elif column == "split":
            facts[column] = SPLITS.get(text.lower(), text.lower())
        else:
            facts[column] = text
    taken = set(table.columns.values())
    shares = {name: row.cells[name] for name in table.header if name.lower().startswith(_SHARE_PREFIX)}
    if any(text.strip() for text in shares.values()) and "distribution" not in table.columns:
        facts["distribution"] = _shares(shares, where=where)
    meta = {
        name: text for name, text in row.cells.items() if name and name not in taken and name not in shares and text
    }
    return {**facts, "meta": meta}


def _shares(cells: dict[str, str], *, where: str) -> dict[str, float]:
    values = {name: number(text, where=where, column=name) or 0.0 for name, text in cells.items()}
    total = math.fsum(values.values())
    low = [name for name, value in values.items() if value < 0]
    if low or total <= 0:
        raise DatasetError(
            f"{where}: {low[0] if low else 'distribution'}: "
            f"{'is below 0' if low else 'all shares are 0'}; write shares or votes from 0 up",
            field="distribution",
        )
    return {name[len(_SHARE_PREFIX) :].replace("_", " "): value / total for name, value in values.items() if value}


def _json(text: str, *, where: str, column: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DatasetError(
            f"{where}: {column}: {text[:60]!r} is not JSON ({error}); write JSON", field=column
        ) from error


def _id(name: str, facts: dict[str, Any]) -> str:
    stem = str(PurePosixPath(name.replace("\\", "/")).with_suffix("")) if name else ""
    if not stem or ("start" not in facts and "end" not in facts):
        return stem
    return f"{stem}#{facts.get('start', 0.0):g}-{facts['end']:g}" if "end" in facts else f"{stem}#{facts['start']:g}-"
