"""What became of one clip, as the line that is written about it; and what to do about each kind of error."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from types import MappingProxyType
from typing import Any

from emollama import errors
from emollama.batch.items import Item, Task

# Kind of error -> what its reader can do about it. A more exact kind comes before its base.
REMEDIES: Mapping[type[BaseException], str] = MappingProxyType(
    {
        errors.UnsupportedMediaError: "Convert the file to one of the kinds that are read, or leave it out.",
        errors.UndecodableMediaError: "Check that the file plays; copy or encode it again, or leave it out.",
        errors.MediaLimitError: "Cut the clip, or name a stretch of it by start and end.",
        errors.InputError: "Correct the line of the list that names this clip.",
        errors.DatasetError: "Correct the line of the list that names this clip.",
        PermissionError: "Let the file be read, then run again with --retry-errors.",
        OSError: "Check the file and its disk, then run again with --retry-errors.",
    }
)
_UNEXPECTED = "This is a fault of the program: please report it with the clip, if you may share it."


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """``line`` is one line of JSON, of ``results.jsonl`` or, when ``failed``, of ``errors.jsonl``.

    ``timeline`` is the text of the clip's timeline when one was asked for.
    """

    index: int
    failed: bool
    line: str
    timeline: str | None = None


def result_line(task: Task, facts: Mapping[str, Any]) -> str:
    """Return the line about an answered clip: which one it is, then ``facts``."""
    return _dump({**_identity(task.item, task), **facts})


def failure(item: Item, error: BaseException, *, task: Task | None = None) -> Outcome:
    """Return a failed clip's outcome: the kind of error, its message, the field at fault, and what to do about it.

    ``task`` is the item's, where its bytes could be read.
    """
    remedy = next((text for kind, text in REMEDIES.items() if isinstance(error, kind)), _UNEXPECTED)
    told = {
        "type": type(error).__name__,
        "message": " ".join(str(error).split()) or type(error).__name__,
        "field": getattr(error, "field", None),
        "remedy": remedy,
    }
    return Outcome(index=item.index, failed=True, line=_dump({**_identity(item, task), "error": told}))


def copy_line(line: Mapping[str, Any], task: Task) -> str:
    """Return the line of a task whose clip is the same as the one that ``line`` is about."""
    own = _identity(task.item, task)
    first = line.get("duplicate_of", line["id"])
    rest = {name: value for name, value in line.items() if name not in own and name != "duplicate_of"}
    if "clip" in rest:
        rest["clip"] = clip_name(task.item)
    return _dump({**own, "duplicate_of": first, **rest})


def clip_name(item: Item) -> str:
    """Return what an answer calls its clip: the file's name, or the id of words alone."""
    return item.id if item.path is None else PurePath(item.path).name


def _dump(document: Mapping[str, Any]) -> str:
    return json.dumps(document, ensure_ascii=False, allow_nan=False)


def _identity(item: Item, task: Task | None) -> dict[str, Any]:
    return {
        "id": item.id,
        "path": item.clip,
        "start": item.start,
        "end": item.end,
        "sha256": None if task is None else task.sha256,
        "key": None if task is None else task.key,
    }
