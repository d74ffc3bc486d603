"""A job's run directory as the service sees it: what it puts there, what it finds there, what it clears away.

job.json              what the trainer is to do (`train.job.JobSpec`)
data/training/        the unpacked training bundle; data/validation/ the other one
trainer.log           what the trainer wrote to its standard output and error
trainer.json          its process: pid, start, machine
trainer.lock          locked as long as a process of the trainer lives
metrics.jsonl, checkpoints/, export/, exports/step-N/, error.json     the trainer's own (`train.job`)
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.errors import without_paths

TRAINING, VALIDATION = "training", "validation"
_UNPACKING = "unpacking-"
_MAX_ERROR_BYTES = 64 * 1024
# What is of no use once a job has ended: copies of somebody's clips, features of them, the trainer's memory.
# The lock stays: whoever opened it before it was removed would lock another file than who makes it anew.
_PERISHABLE = ("data", "features", "checkpoints", "trainer.json")


@dataclass(frozen=True)
class RunFolder:
    """The run directory of one job."""

    path: Path

    @property
    def training(self) -> Path:
        return self.path / "data" / TRAINING

    @property
    def validation(self) -> Path:
        return self.path / "data" / VALIDATION

    def new_unpacking(self) -> Path:
        """Make a folder for what is being unpacked."""
        return Path(tempfile.mkdtemp(prefix=_UNPACKING, dir=self.path))

    def keep_unpacked(self, folder: Path) -> None:
        """Make it the job's data; when another process was first, its data stay: they came of the same files."""
        try:
            os.rename(folder, self.path / "data")
        except OSError as exc:
            if exc.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise

    @property
    def export(self) -> Path:
        return self.path / "export"

    def checkpoint_export(self, step: int) -> Path:
        return self.path / "exports" / f"step-{step}"

    @property
    def card(self) -> Path:
        return self.export / "ADAPTER_CARD.md"

    @property
    def log(self) -> Path:
        return self.path / "trainer.log"

    @property
    def lock(self) -> Path:
        return self.path / "trainer.lock"

    @property
    def process_file(self) -> Path:
        return self.path / "trainer.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def has_export(self) -> bool:
        return (self.export / "adapter_config.json").is_file()

    def error(self) -> dict[str, str | None] | None:
        """Return what the trainer says went wrong (code, message, param), or None."""
        try:
            text = (self.path / "error.json").read_bytes()[:_MAX_ERROR_BYTES]
        except FileNotFoundError:
            return None
        try:
            document = json.loads(text)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            document = {}
        param, code = document.get("param"), str(document.get("code") or "training_failed")
        message = str(document.get("message") or "")
        if not message or code == "internal_error":  # whose message is not meant for a job's owner
            message = "the training failed; the service's log says why"
        return {
            "code": code,
            "message": without_paths(message, str(self.path)),
            "param": None if param is None else str(param),
        }

    @property
    def has_perishable(self) -> bool:
        return any(path.exists() for path in self._perishable())

    def mark(self) -> str:
        """Return where the run would go on: the name of its last checkpoint, empty when there is none."""
        try:
            return os.readlink(self.path / "checkpoints" / "last")
        except OSError:
            return ""

    def clear_verdict(self) -> None:
        """Remove what an earlier attempt said of its failure."""
        (self.path / "error.json").unlink(missing_ok=True)

    def prune(self) -> None:
        """Remove what is of no use once the job has ended; metrics, log and adapters stay."""
        for target in self._perishable():
            if target.is_dir():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)

    def _perishable(self) -> list[Path]:
        return [*(self.path / name for name in _PERISHABLE), *self.path.glob(f"{_UNPACKING}*")]


def write_json(file: Path, document: Mapping[str, Any]) -> None:
    """Write a JSON file so that a reader sees all of it or nothing."""
    partial = file.with_name(f"{file.name}.{os.getpid()}.part")
    partial.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, file)
