"""The directory of one evaluation, which explains itself.

``config.json`` (what was asked of whom), ``environment.json`` (command, revision, versions, machine, dates),
``predictions.jsonl`` (one line an item, appended as it is answered), ``ablation.jsonl`` (the same items with modalities
dropped), then ``predictions.csv``, ``gold.csv``, ``result.json``, ``report.md`` and ``report.html``.

A run that was interrupted goes on where its files end: a last line that a kill cut short is removed. It goes on only
with the same task, items, model and settings.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from emollama.errors import DatasetError, InputError
from eval.predictions import Record
from eval.report import provenance, write_json

CONFIG, ENVIRONMENT, RESULT = "config.json", "environment.json", "result.json"
ANSWERS, ABLATION = "predictions.jsonl", "ablation.jsonl"
FORMAT = "emollama-eval/1"
# What may differ when a run is resumed: it changes no answer.
FREE_ON_RESUME = ("data", "workers")


class EvalRunDir:
    """The folder of one run. Opening refuses to overwrite another run, and to go on with a different one."""

    def __init__(self, path: Path, config: Mapping[str, Any], *, resume: bool) -> None:
        self.path = Path(path)
        file = self.path / CONFIG
        document = {"format": FORMAT, **config}
        if file.exists():
            if not resume:
                raise InputError(
                    f"run_dir {self.path} already holds a run; go on with it by --resume, or name another",
                    field="run_dir",
                )
            saved = read_document(file)
            changed = sorted(
                key for key in {*saved, *document} - {*FREE_ON_RESUME} if saved.get(key) != document.get(key)
            )
            if changed:
                raise InputError(
                    f"run_dir {self.path} was started with another {', '.join(changed)}: "
                    f"{_shown(saved.get(changed[0]))}, now {_shown(document.get(changed[0]))}; name another folder",
                    field=changed[0],
                )
            environment = read_document(self.path / ENVIRONMENT)
            environment.setdefault("resumed", []).append(provenance())
            write_json(self.path / ENVIRONMENT, environment)
            for name in (ANSWERS, ABLATION):
                _cut_torn_line(self.path / name)
        else:
            if self.path.exists() and any(self.path.iterdir()):
                raise InputError(f"run_dir {self.path} is not empty and holds no run; name another", field="run_dir")
            self.path.mkdir(parents=True, exist_ok=True)
            write_json(self.path / ENVIRONMENT, provenance())
            write_json(file, document)

    def append(self, record: Record, *, name: str = ANSWERS) -> None:
        """Add one line; it is in the file when this returns, whatever becomes of the process."""
        line = json.dumps(record.to_json_dict(), ensure_ascii=False, allow_nan=False)
        with (self.path / name).open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def records(self, name: str = ANSWERS) -> list[Record]:
        return list(read_records(self.path / name))

    def drop_failed(self) -> int:
        """Remove the lines of items that failed, so that they are asked again; return how many there were."""
        dropped = 0
        for name in (ANSWERS, ABLATION):
            records = self.records(name)
            kept = [record for record in records if record.error is None]
            if len(kept) < len(records):
                dropped += len(records) - len(kept)
                partial = self.path / f"{name}.part"
                lines = (json.dumps(record.to_json_dict(), ensure_ascii=False) + "\n" for record in kept)
                partial.write_text("".join(lines), encoding="utf-8")
                partial.replace(self.path / name)
        return dropped


def read_records(path: Path) -> Iterator[Record]:
    """Yield the lines of a file of answers; nothing when it is not there, `DatasetError` for a line that is none."""
    if not path.exists():
        return
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield Record.from_json_dict(json.loads(line))
            except (ValueError, TypeError, KeyError) as error:
                raise DatasetError(f"{path}, line {number} is not an answer of this command: {error}") from error


def read_document(path: Path) -> dict[str, Any]:
    """Read a JSON object of a run; `DatasetError` names the file that is missing or malformed."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DatasetError(f"{path} is not there; a finished run of `emollama eval` has it", field="run") from error
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read: {error}", field="run") from error
    if not isinstance(document, dict):
        raise DatasetError(f"{path} is no JSON object", field="run")
    return document


def new_run_dir(root: Path, *, task: str, model: str) -> Path:
    """Return a folder name that no run has yet: task, model, and the time to the second."""
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    safe = "".join(char if char.isalnum() or char in "-_." else "-" for char in model)
    path = root / f"{task}-{safe}-{stamp}"
    number = 1
    while path.exists():
        number += 1
        path = root / f"{task}-{safe}-{stamp}-{number}"
    return path


def find_unfinished(root: Path, *, task: str, model: Mapping[str, Any], split: str) -> Path | None:
    """Return the newest run under ``root`` of this task, split and model that has no result yet."""
    found = []
    for file in root.glob(f"*/{CONFIG}") if root.is_dir() else ():
        saved = read_document(file)
        is_same = (saved.get("task"), saved.get("split"), saved.get("model")) == (task, split, dict(model))
        if is_same and not (file.parent / RESULT).exists():
            found.append(file.parent)
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def _cut_torn_line(path: Path) -> None:
    if path.exists():
        with path.open("rb+") as file:
            file.truncate(file.read().rfind(b"\n") + 1)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."


def changes_between(environment: Mapping[str, Any]) -> list[str]:
    """Say where a run was resumed with other code or another machine than it was started with: its rows are mixed."""
    said = []
    for later in environment.get("resumed", []):
        for key, name in (("git_revision", "revision"), ("versions", "package versions"), ("machine", "machine")):
            if later.get(key) != environment.get(key):
                said.append(f"the run was resumed with another {name} than it was started with: see environment.json")
    return list(dict.fromkeys(said))


def by_id(records: Iterable[Record]) -> dict[str, Record]:
    return {record.id: record for record in records}
