"""What to label -> items: a manifest (JSONL), a table (CSV or TSV), a list of paths, or a folder.

Reading is strict and decodes nothing. What is wrong with the list itself (a line that is no JSON, an id that stands
twice, a column that is missing) raises `DatasetError` before any clip is touched; what is wrong with a clip is found
when its turn comes, and is that clip's error.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from emollama import sniff
from emollama.batch.items import Item
from emollama.errors import DatasetError, InputError, UnsupportedMediaError
from emollama.types import Transcript

_WORDS_SUFFIXES = (".txt", ".srt", ".vtt")
_SNIFFED_BYTES = 4096
_SPELLINGS = {
    "id": ("name", "sample", "utterance_id", "clip_id", "video_id"),
    "clip": ("path", "file", "filename", "file_name", "filepath", "file_path", "video", "audio", "image", "wav"),
    "start": ("start_time", "start_seconds", "begin", "onset"),
    "end": ("end_time", "end_seconds", "stop", "offset"),
    "transcript": ("sentence", "text", "subtitle", "transcription", "words"),
    "language": ("lang",),
}


@dataclass(frozen=True, kw_only=True)
class Source:
    """What was read: its kind, its items in order, and how many files of a folder were left out as no media."""

    path: Path
    kind: str
    items: tuple[Item, ...]
    num_left_out: int = 0


def read_source(path: Path, *, root: Path | None = None) -> Source:
    """Read a list of clips; its kind is told by its suffix. Relative paths start at ``root``, by default beside it.

    Raises `DatasetError` or `InputError`.
    """
    if path.is_dir():
        if root is not None:
            raise InputError("root has no effect on a folder: its clips are those below it", field="root")
        return _read_folder(path)
    if not path.is_file():
        raise InputError(
            f"{path} does not exist; give a manifest, a table, a list of paths or a folder", field="source"
        )
    suffix = path.suffix.lower()
    if suffix in sniff.MEDIA_SUFFIXES:
        raise InputError(f"{path} is one clip; use `emollama analyze`, or give the folder it lies in", field="source")
    kind = {".jsonl": "manifest", ".ndjson": "manifest", ".csv": "table", ".tsv": "table"}.get(suffix, "list")
    base = path.parent if root is None else root
    if not base.is_dir():
        raise InputError(f"root {base} is not a folder", field="root")
    items = _numbered(SOURCES[kind](path, base))
    if not items:
        raise DatasetError(f"{path} names no clip", field="source")
    return Source(path=path, kind=kind, items=items)


def _read_manifest(path: Path, base: Path) -> Iterator[dict[str, Any]]:
    from emollama.manifest import read_manifest

    inside = str(base.resolve())
    for sample in read_manifest(path).samples:
        yield {
            "id": sample.id, "clip": sample.clip, "path": None if sample.clip is None else str(base / sample.clip),
            "inside": None if sample.clip is None else inside, "start": sample.start, "end": sample.end,
            "transcript": _words(sample.transcript, sample.language), "language": sample.language,
        }  # fmt: skip


def _read_table(path: Path, base: Path) -> Iterator[dict[str, Any]]:
    from emollama.importers.rows import number
    from emollama.importers.table import read_table

    table = read_table(path, spellings=_SPELLINGS)
    if not {"clip", "transcript"} & set(table.columns):
        raise DatasetError(
            f"{path}:1: no column says which clip (path, clip, file, filename, video, audio) or which words "
            f"(transcript, sentence, text); found: {', '.join(table.header)}",
            field="path",
        )
    lines: dict[str, int] = {}
    for row in table.rows:
        where = table.where(row)
        clip, words = table.text(row, "clip") or None, table.text(row, "transcript")
        if clip is None and not words:
            raise DatasetError(f"{where}: path: the row names no clip and has no words; fill one of them", field="path")
        start, end = (number(table.text(row, name), where=where, column=name) for name in ("start", "end"))
        if (start or 0.0) < 0 or (end is not None and end <= (start or 0.0)):
            raise DatasetError(
                f"{where}: start is {start} and end {end}; allowed: 0 or more, and an end after it", field="end"
            )
        language, name = table.text(row, "language") or None, table.text(row, "id")
        if name and lines.setdefault(name, row.line) != row.line:
            raise DatasetError(f"{where}: id: {name!r} stands already in line {lines[name]}; keep one", field="id")
        yield {
            "id": name or _id(clip or f"line {row.line}", start, end), "clip": clip,
            "path": None if clip is None else str(base / clip), "start": start, "end": end,
            "transcript": _words(words, language), "language": language,
        }  # fmt: skip


def _read_list(path: Path, base: Path) -> Iterator[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"{path} is no list of paths: it is not text in UTF-8 (byte {error.start + 1})", field="source"
        ) from error
    for number, line in enumerate(text.split("\n"), start=1):
        name = line.removesuffix("\r")
        if not name.strip():
            continue
        if not name.isprintable() or len(name) > 4096:
            raise DatasetError(f"{path}:{number}: this is no path; a list has one path a line", field="source")
        yield {"id": name, "clip": name, "path": str(base / name)}


# kind of file -> its reader: facts of one item after the other
SOURCES: Mapping[str, Callable[[Path, Path], Iterator[dict[str, Any]]]] = MappingProxyType(
    {"manifest": _read_manifest, "table": _read_table, "list": _read_list}
)


def _read_folder(folder: Path) -> Source:
    """Find the media below a folder by their bytes; a file that only calls itself media stays in, as its own error.

    A text or subtitle file beside a clip, of the same name, holds its words.
    """
    items: list[Item] = []
    num_left_out = 0
    files = set(_files(folder))
    for name in sorted(files):
        path = folder / name
        if not (_is_media(path) or path.suffix.lower() in sniff.MEDIA_SUFFIXES):
            num_left_out += 1
            continue
        stem = name[: len(name) - len(path.suffix)]
        words = next((stem + suffix for suffix in _WORDS_SUFFIXES if stem + suffix in files), None)
        items.append(
            Item(
                index=len(items),
                id=name,
                clip=name,
                path=str(path),
                words_path=None if words is None else str(folder / words),
            )
        )
    if not items:
        raise InputError(f"the folder {folder} holds no media file", field="source")
    num_words = len({item.words_path for item in items} - {None})
    return Source(path=folder, kind="folder", items=tuple(items), num_left_out=num_left_out - num_words)


def _files(folder: Path) -> Iterator[str]:
    """Yield the files below a folder as paths with / between folders; hidden ones and linked folders are left out."""
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith("."):
                yield (Path(place) / name).relative_to(folder).as_posix()


def _is_media(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            sniff.sniff(file.read(_SNIFFED_BYTES))
    except (UnsupportedMediaError, OSError):
        return False
    return True


def _words(text: str | None, language: str | None) -> Transcript | None:
    joined = " ".join((text or "").split())
    return Transcript(text=joined, language=language, source="given") if joined else None


def _id(name: str, start: float | None, end: float | None) -> str:
    if start is None and end is None:
        return name
    return f"{name}#{start or 0.0:g}-{'' if end is None else f'{end:g}'}"


def _numbered(facts: Iterable[Mapping[str, Any]]) -> tuple[Item, ...]:
    """Return the items; an id that a list or a table without ids makes twice gets a number."""
    items = [Item(index=index, **each) for index, each in enumerate(facts)]
    counts = Counter(item.id for item in items)
    if len(counts) == len(items):
        return tuple(items)
    taken, seen = set(counts), Counter[str]()
    named = []
    for item in items:
        seen[item.id] += 1
        if seen[item.id] > 1:
            number = seen[item.id]
            while (name := f"{item.id} ({number})") in taken:
                number += 1
            taken.add(name)
            item = replace(item, id=name)
        named.append(item)
    return tuple(named)
