"""The folder of one batch, which explains itself and survives every kill.

``results.jsonl`` and ``errors.jsonl`` get one line a clip, in one write, as soon as the clip is done; a clip is done
when its id stands in one of them. A line that a kill cut short is removed at the next opening, so a clip is written
once, or again, never twice and never in part. When a run ends (also by Ctrl-C) both files are put into the order of
the list, and the table is written beside them. ``run.json`` says what was asked of whom, and how it went, session by
session.

A lock keeps a second process out; the system lifts it when its owner ends in any way.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from emollama.batch.items import Item, Task
from emollama.batch.outcome import Outcome, copy_line
from emollama.errors import DatasetError, InputError

try:
    import fcntl
except ImportError:  # another system than POSIX: nothing keeps a second process out
    fcntl = None  # type: ignore[assignment]

RESULTS, ERRORS, RUN, TIMELINES = "results.jsonl", "errors.jsonl", "run.json", "timelines"
FORMAT = "emollama-batch/1"
_LOCK = ".lock"
_SYNC_SECONDS = 1.0


class OutputFolder:
    """Open it with what makes the run what it is; another run in the same folder is refused."""

    def __init__(self, path: Path, identity: Mapping[str, Any], items: Sequence[Item], *, retry_errors: bool = False):
        self.path = Path(path)
        self._items = {item.id: item for item in items}
        self._places: dict[str, tuple[str, int]] = {}  # key of a task -> the file and byte at which its line begins
        self._lock: IO[bytes] | None = None
        self._files: dict[str, IO[bytes]] = {}
        self._synced = 0.0
        self.num_done = self.num_failed = 0
        self.done: set[str] = set()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"out {self.path} cannot be made ({error.strerror}); name a folder", field="out"
            ) from error
        self._take_lock()
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            self.document = self._open(dict(identity))
            if retry_errors:
                (self.path / ERRORS).unlink(missing_ok=True)
            for name in (RESULTS, ERRORS):
                cut_torn_line(self.path / name)
                self._index(name)
            undo.pop_all()

    # ---- while it runs -------------------------------------------------------------------------------------------

    def append(self, outcome: Outcome, item: Item, *, key: str | None = None) -> None:
        """Write a clip's line (and its timeline first); it is in the file when this returns.

        ``key`` is that of the item's task, where its bytes could be read: later ones of the same key copy the line.
        """
        name = ERRORS if outcome.failed else RESULTS
        if outcome.timeline is not None:
            self._write_timeline(item.id, outcome.timeline)
        file = self._files.get(name)
        if file is None:
            file = self._files[name] = (self.path / name).open("ab", buffering=0)
        at = file.seek(0, os.SEEK_END)
        file.write(outcome.line.encode() + b"\n")
        if key is not None:
            self._places.setdefault(key, (name, at))
        self._count(item.id, failed=outcome.failed)

    def sync(self, now: float) -> None:
        """Bring the lines onto the disk, at most once a second: then not even a loss of power takes them."""
        if now - self._synced >= _SYNC_SECONDS:
            self._synced = now
            for file in self._files.values():
                os.fsync(file.fileno())

    def copy(self, task: Task) -> Outcome | None:
        """Return the outcome of a task whose clip is done already, from its line; ``None`` when there is none."""
        if task.key not in self._places:
            return None
        name, at = self._places[task.key]
        with (self.path / name).open("rb") as file:
            file.seek(at)
            line = json.loads(file.readline())
        timeline = None
        with contextlib.suppress(FileNotFoundError):
            timeline = self._timeline_path(str(line["id"])).read_text(encoding="utf-8")
        return Outcome(index=task.item.index, failed=name == ERRORS, line=copy_line(line, task), timeline=timeline)

    def _write_timeline(self, item_id: str, text: str) -> None:
        path = self._timeline_path(item_id)
        path.parent.mkdir(exist_ok=True)
        write_whole(path, text)

    def _timeline_path(self, item_id: str) -> Path:
        return self.path / TIMELINES / file_name(item_id, suffix=str(self.document["options"].get("timelines")))

    # ---- at its end ----------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Put both files into the order of the list."""
        for file in self._files.values():
            os.fsync(file.fileno())
            file.close()
        self._files.clear()
        self._places.clear()
        order = {item_id: number for number, item_id in enumerate(self._items)}
        for name in (RESULTS, ERRORS):
            path = self.path / name
            if not path.exists():
                write_whole(path, "")
                continue
            places = [(order[str(line["id"])], at, length) for line, at, length in _lines(path)]
            if places == sorted(places):
                continue
            partial = _partial(path)
            with path.open("rb") as source, partial.open("wb") as target:
                for _, at, length in sorted(places):
                    source.seek(at)
                    target.write(source.read(length))
                target.flush()
                os.fsync(target.fileno())
            os.replace(partial, path)

    def save(self, **changes: Any) -> None:
        """Change what ``run.json`` says."""
        self.document.update(changes)
        write_whole(self.path / RUN, json.dumps(self.document, ensure_ascii=False, indent=2) + "\n")

    def lines(self, name: str) -> Iterator[dict[str, Any]]:
        """Yield the documents of ``results.jsonl`` or ``errors.jsonl``."""
        for line, _, _ in _lines(self.path / name):
            yield line

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    # ---- opening -------------------------------------------------------------------------------------------------

    def _take_lock(self) -> None:
        if fcntl is None:
            return
        self._lock = (self.path / _LOCK).open("ab")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            self._lock = None
            raise InputError(
                f"out {self.path} is being written by another process; wait for it, or name another folder", field="out"
            ) from error

    def _open(self, identity: dict[str, Any]) -> dict[str, Any]:
        """Return what ``run.json`` says, of this run or of the one that goes on; refuse another one."""
        file = self.path / RUN
        for partial in self.path.glob(".*.partial"):
            partial.unlink()
        if not file.exists():
            if any(path.name != _LOCK for path in self.path.iterdir()):
                raise InputError(f"out {self.path} is not empty and holds no batch; name another folder", field="out")
            return {"format": FORMAT, **identity, "sessions": []}
        try:
            saved = json.loads(file.read_text(encoding="utf-8"))
            options, before = dict(saved["options"]), {key: saved[key] for key in identity if key != "options"}
        except (ValueError, KeyError, TypeError) as error:
            raise DatasetError(f"{file} is no run.json of this command; name another folder", field="out") from error
        wanted = dict(identity["options"])
        if _grows(options.get("limit"), wanted.get("limit")):
            options["limit"] = wanted.get("limit")
        changes = [
            *((key, before[key], identity[key]) for key in before if not _is_same(before[key], identity[key])),
            *((key, options.get(key), wanted[key]) for key in wanted if options.get(key) != wanted[key]),
        ]
        for key, was, is_now in changes:
            raise InputError(
                f"out {self.path} was begun with another {key}: {_shown(was)}, now {_shown(is_now)}; give the same, or "
                "name another folder",
                field=key,
            )
        return {**saved, **identity, "sessions": list(saved.get("sessions", []))}

    def _index(self, name: str) -> None:
        for line, at, _ in _lines(self.path / name):
            item = self._items.get(str(line.get("id")))
            if item is None or item.id in self.done:
                raise DatasetError(
                    f"{self.path / name} was changed: {_shown(line.get('id'))} "
                    f"{'is not in the list' if item is None else 'stands twice'}; name another folder",
                    field="out",
                )
            self._count(item.id, failed=name == ERRORS)
            if line.get("key") is not None and "duplicate_of" not in line:
                self._places.setdefault(str(line["key"]), (name, at))

    def _count(self, item_id: str, *, failed: bool) -> None:
        self.done.add(item_id)
        self.num_done += not failed
        self.num_failed += failed


def file_name(item_id: str, *, suffix: str) -> str:
    """Return a file's name for an id; what no file system has trouble with stays, the rest is told apart by a hash."""
    safe = "".join(char if char.isascii() and (char.isalnum() or char in "-_.") else "_" for char in item_id)
    if safe != item_id or len(safe) > 100 or safe.startswith("."):
        safe = f"{safe.lstrip('.')[:80]}-{hashlib.sha256(item_id.encode()).hexdigest()[:12]}"
    return f"{safe}.{suffix}"


def cut_torn_line(path: Path) -> None:
    """Remove what stands behind the last end of a line."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - (1 << 16))
            file.seek(start)
            at = file.read(end - start).rfind(b"\n")
            if at >= 0:
                end = start + at + 1
                break
            end = start
        file.truncate(end)


def write_whole(path: Path, text: str) -> None:
    """Write a file under another name and rename it, so that it is there whole or not at all."""
    partial = _partial(path)
    with partial.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def _lines(path: Path) -> Iterator[tuple[dict[str, Any], int, int]]:
    """Yield each line's document, the byte at which it begins, and its length."""
    if not path.exists():
        return
    at = 0
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            try:
                document = json.loads(raw)
                document["id"]
            except (ValueError, KeyError, TypeError) as error:
                raise DatasetError(f"{path}, line {number} is no line of this command; name another folder") from error
            yield document, at, len(raw)
            at += len(raw)


def _grows(before: int | None, wanted: int | None) -> bool:
    return before is not None and (wanted is None or wanted >= before)


def _is_same(before: Any, wanted: Any) -> bool:
    """Say whether two lists hold the same items, two models the same weights; they may have been moved."""
    if isinstance(before, Mapping) and isinstance(wanted, Mapping) and wanted.get("sha256") is not None:
        return before.get("sha256") == wanted["sha256"]
    return bool(before == wanted)


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):  # the parts a reader knows it by
        known = (str(value[name]) for name in ("name", "path") if name in value)
        clips = f", {value['num_items']} clips" if "num_items" in value else ""
        return f"{next(known, '')}{clips} (sha256 {str(value.get('sha256'))[:12]})"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."
