"""A run directory: ``config.json``, ``environment.json``, ``metrics.jsonl``, ``checkpoints/{last,best}``, ``exports/``.

A checkpoint is a folder ``step-N`` with ``model.safetensors``, ``ema.safetensors`` when weights are averaged,
``optimizer.safetensors`` (DeepSpeed: the folder ``deepspeed``) and ``position.json``. ``last`` and ``best`` are
symbolic links, moved only after their folder is complete and on the disk: a run that is killed while it saves keeps its
previous checkpoint.

``metrics.jsonl`` is only ever appended to, so that a reader can follow it. A run that was killed goes on from its last
checkpoint and logs the steps after it once more; its ``resume`` line has ``from_byte``, the length of the file when the
checkpoint was made: ``step``, ``validate`` and ``checkpoint`` lines from there to the ``resume`` line are superseded.
`read_metrics` leaves them out, and a last line that a kill cut short.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import secrets
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from emollama.errors import CheckpointError, InputError
from train.config import FREE_ON_RESUME, TrainConfig

METRICS = "metrics.jsonl"
EXPORTS = "exports"
_SUPERSEDED = ("step", "validate", "checkpoint")


@dataclass(kw_only=True)
class Position:
    """How far a run is. ``step`` updates are done; it goes on with batch ``batch`` (over all processes) of ``epoch``.

    ``validation_due``: the step's validation is still to be done. ``stale`` counts validations since the ``best`` one,
    which was at ``best_step``; ``metrics`` are the last one's. ``batches_per_step`` is ``accumulate_steps`` times the
    number of processes, ``log_bytes`` the length of ``metrics.jsonl``, ``figures`` what the next ``step`` line is to
    hold of the steps so far (name -> sum and weight).
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    validation_due: bool = False
    best: float | None = None
    best_step: int | None = None
    stale: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    batches_per_step: int = 1
    log_bytes: int = 0
    figures: dict[str, tuple[float, float]] = field(default_factory=dict)


def _changes(key: str, before: Any, now: Any) -> list[str]:
    """Name what differs between two values of a config, part by part: ``epochs (was 40, is 3)``."""
    if isinstance(before, dict) and isinstance(now, dict):
        return [
            change
            for name in {**before, **now}
            for change in _changes(f"{key}.{name}", before.get(name), now.get(name))
        ]
    return [] if before == now else [f"{key} (was {json.dumps(before)}, is {json.dumps(now)})"]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Tensors by name (``ema`` empty when not averaged, ``optimizer`` under DeepSpeed) and the run's position."""

    model: dict[str, Tensor]
    ema: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    position: Position


class RunDir:
    """The folder of one run. Opening refuses to overwrite another run and to resume a different one.

    Of several processes only the main one opens it with ``writes``; the others read, and their `log` does nothing.
    """

    def __init__(self, config: TrainConfig, *, resume: bool, writes: bool = True) -> None:
        self.path = Path(config.run_dir)
        self.writes = writes
        self.is_new = False
        file = self.path / "config.json"
        if not writes:
            return
        try:
            (self.path / "checkpoints").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"run_dir {self.path} cannot be made ({error.strerror}); name a folder that can be written to",
                field="run_dir",
            ) from error
        document = config.to_json_dict()
        if file.exists():
            if not resume:
                raise InputError(
                    f"run_dir {self.path} already holds a run; continue it with --resume or name another",
                    field="run_dir",
                )
            saved = json.loads(file.read_text())
            changed = [
                change
                for key in document
                if key not in FREE_ON_RESUME
                for change in _changes(key, saved.get(key), document[key])
            ]
            if changed:
                raise InputError(
                    f"run_dir {self.path} was started with other values: {', '.join(changed)}; resume it with its own, "
                    "or name another run_dir",
                    field=changed[0].partition(" ")[0],
                )
            self._cut_torn_line()
        else:
            self.is_new = True
            _write_json(self.path / "environment.json", {"run_id": secrets.token_hex(8), **environment()})
            _write_json(file, document)

    @property
    def run_id(self) -> str:
        """A name that stays when the run is resumed and that no other run has."""
        return str(json.loads((self.path / "environment.json").read_text())["run_id"])

    # ---- metrics -----------------------------------------------------------------------------------------------------

    def log(self, event: str, **figures: Any) -> None:
        """Append one line to ``metrics.jsonl``; ``time`` is seconds since the epoch."""
        if self.writes:
            line = json.dumps({"event": event, "time": round(time.time(), 1), **figures})
            with open(self.path / METRICS, "a") as file:
                file.write(line + "\n")

    def _cut_torn_line(self) -> None:
        path = self.path / METRICS
        if path.exists():
            with open(path, "rb+") as file:
                file.truncate(file.read().rfind(b"\n") + 1)

    # ---- checkpoints -------------------------------------------------------------------------------------------------

    def begin_checkpoint(self, step: int) -> Path:
        """Return the folder that the checkpoint of a step is written into; the main process makes it, empty."""
        partial = self.path / "checkpoints" / f"step-{step:08d}.partial"
        if self.writes:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
        return partial

    def save(self, checkpoint: Checkpoint, *, best: bool) -> None:
        """Complete the folder of `begin_checkpoint`, then point ``last`` (and ``best``) at it; old ones are removed."""
        folder = self.path / "checkpoints"
        partial = folder / f"step-{checkpoint.position.step:08d}.partial"
        parts = {"model": checkpoint.model, "ema": checkpoint.ema, "optimizer": checkpoint.optimizer}
        for name, tensors in parts.items():
            if tensors:
                save_file({k: v.contiguous() for k, v in tensors.items()}, partial / f"{name}.safetensors")
        metrics = self.path / METRICS
        if metrics.exists():
            _flush(metrics)
            checkpoint.position.log_bytes = metrics.stat().st_size
        _write_json(partial / "position.json", dataclasses.asdict(checkpoint.position))
        for file in partial.rglob("*"):
            _flush(file)
        _flush(partial)
        # The same step may be saved twice, before its validation and after it; a folder is never written into again.
        names = (partial.stem, *(f"{partial.stem}.{again}" for again in range(2, 1000)))
        complete = next(folder / name for name in names if not (folder / name).exists())
        os.replace(partial, complete)
        _flush(folder)
        # ``best`` first: killed in between, the run goes on from the old ``last``, validates again and finds it best.
        for name in ("best", "last") if best else ("last",):
            self._point(name, complete.name)
        keep = {os.readlink(folder / name) for name in ("last", "best") if self.has(name)}
        for other in folder.glob("step-*"):
            if other.name not in keep:
                shutil.rmtree(other)

    def has(self, name: str) -> bool:
        return (self.path / "checkpoints" / name).is_dir()

    def checkpoint_folder(self, name: str) -> Path:
        folder = self.path / "checkpoints" / name
        if not folder.is_dir():
            raise CheckpointError(f"no checkpoint {name!r} in {self.path / 'checkpoints'}")
        return folder

    def load(self, name: str) -> Checkpoint:
        """Read checkpoint ``last`` or ``best``; `CheckpointError` when there is none."""
        folder = self.checkpoint_folder(name)
        parts = {part: folder / f"{part}.safetensors" for part in ("model", "ema", "optimizer")}
        tensors = {part: load_file(file) if file.exists() else {} for part, file in parts.items()}
        return Checkpoint(**tensors, position=Position(**json.loads((folder / "position.json").read_text())))

    def _point(self, name: str, target: str) -> None:
        link = self.path / "checkpoints" / f"{name}.new"
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        os.replace(link, self.path / "checkpoints" / name)
        _flush(link.parent)

    # ---- exports -----------------------------------------------------------------------------------------------------

    def begin_export(self, step: int) -> Path:
        """Return the folder to export a step's weights into; the main process makes it, empty."""
        partial = self.path / EXPORTS / f"step-{step}.partial"
        if self.writes:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        return partial

    def keep_export(self, partial: Path, *, newest: int, best_step: int | None) -> str:
        """Give a finished export its name, ``exports/step-N``, and return it; keep the newest and the best ones."""
        complete = partial.with_suffix("")
        name = f"{EXPORTS}/{complete.name}"
        if not self.writes:
            return name
        shutil.rmtree(complete, ignore_errors=True)  # of a run that was killed after this export
        os.replace(partial, complete)
        steps = sorted(int(p.name.removeprefix("step-")) for p in partial.parent.glob("step-*") if not p.suffix)
        for step in steps[:-newest]:
            if step != best_step:
                shutil.rmtree(partial.parent / f"step-{step}")
        return name


def read_metrics(run_dir: Path, *, events: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return the lines of ``metrics.jsonl`` (those of some events), without superseded ones and a torn last line."""
    lines: list[tuple[int, dict[str, Any]]] = []
    start = 0
    with open(run_dir / METRICS, "rb") as file:
        for raw in file:
            if not raw.endswith(b"\n"):
                break
            line = json.loads(raw)
            if line["event"] == "resume":
                cut = line["from_byte"]
                lines = [(at, old) for at, old in lines if at < cut or old["event"] not in _SUPERSEDED]
            lines.append((start, line))
            start += len(raw)
    return [line for _, line in lines if not events or line["event"] in events]


def _flush(path: Path) -> None:
    """Have the disk hold a file, or a folder's entries: what is renamed afterwards is then whole after a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_json(file: Path, document: Mapping[str, Any]) -> None:
    partial = file.with_name(file.name + ".partial")
    partial.write_text(json.dumps(document, indent=2) + "\n")
    _flush(partial)
    os.replace(partial, file)


def environment() -> dict[str, Any]:
    """Return the git revision of the code and the versions that a result depends on."""
    git = shutil.which("git")
    revision = ""
    if git:
        done = subprocess.run(
            [git, "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent, check=False
        )
        revision = done.stdout.strip()
    return {"git_revision": revision, "python": platform.python_version(), "torch": torch.__version__}
