"""One clip to be labelled, and what makes two of them the same clip."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from emollama.errors import InputError
from emollama.media import MediaLimits
from emollama.media_windows import LONG_LIMITS
from emollama.types import Transcript


@dataclass(frozen=True, kw_only=True)
class Item:
    """A clip as its source names it, in the source's order (``index`` from 0); nothing of it has been read yet.

    ``clip`` is the path as written, ``path`` where it lies; both are ``None`` for words alone. ``start`` and ``end``
    are seconds from the clip's start. ``words_path`` is a text or subtitle file that lies beside the clip. A path that
    must not lead out of a folder has it in ``inside``.
    """

    index: int
    id: str
    clip: str | None = None
    path: str | None = None
    inside: str | None = None
    start: float | None = None
    end: float | None = None
    transcript: Transcript | None = None
    words_path: str | None = None
    language: str | None = None


@dataclass(frozen=True, kw_only=True)
class Task:
    """An item whose bytes and words are known. Two tasks of one ``key`` have one answer."""

    item: Item
    sha256: str | None
    transcript: Transcript | None

    @property
    def key(self) -> str:
        words = None if self.transcript is None else asdict(self.transcript)
        facts = [self.sha256, self.item.start, self.item.end, words, self.item.language]
        return hashlib.sha256(json.dumps(facts, ensure_ascii=False).encode()).hexdigest()[:32]


def prepare(item: Item, *, limits: MediaLimits = LONG_LIMITS) -> Task:
    """Read what an item's answer depends on: the sha256 of its clip's bytes, and its words.

    Raises `InputError` or `OSError` when the clip or the words cannot be read, and `MediaLimitError` when the file has
    more bytes than ``limits`` allow.
    """
    words = item.transcript
    if words is None and item.words_path is not None:
        from emollama.transcribe import read_transcript_file

        words = read_transcript_file(item.words_path, language=item.language)
    if item.path is None:
        return Task(item=item, sha256=None, transcript=words)
    path = Path(item.path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is not there"
        raise InputError(f"the clip {item.clip!r} {what}", field="clip")
    if item.inside is not None and not path.resolve().is_relative_to(item.inside):
        raise InputError(f"the clip {item.clip!r} leads out of its manifest's folder", field="clip")
    found = path.stat()
    limits.check("max_bytes", found.st_size, unit="bytes")
    return Task(item=item, sha256=_sha256(path, found.st_size, found.st_mtime_ns), transcript=words)


@lru_cache(maxsize=4096)
def _sha256(path: Path, size: int, changed: int) -> str:
    """Hash a file; many stretches of one are hashed once, until its size or its date changes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(items: Iterable[Item]) -> str:
    """Return the sha256 of a list of items: what is asked for, wherever the files lie."""
    found = hashlib.sha256()
    for item in items:
        words = None if item.transcript is None else asdict(item.transcript)
        name = None if item.words_path is None else os.path.basename(item.words_path)
        row = [item.id, item.clip, item.start, item.end, words, name, item.language]
        found.update(json.dumps(row, ensure_ascii=False).encode() + b"\n")
    return found.hexdigest()
