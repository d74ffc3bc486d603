"""A run directory: ``config.json``, ``environment.json``, ``metrics.jsonl``, ``checkpoints/{last,best}``, ``export/``.

A checkpoint is a folder ``step-N`` with ``model.safetensors``, ``ema.safetensors`` when weights are averaged, and
``state.pt`` (optimiser, generator, position; read with ``weights_only=True``). ``last`` and ``best`` are symbolic
links, moved only after their folder is complete: a run that is killed while it saves keeps its previous checkpoint.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from emollama.errors import CheckpointError, InputError
from train.config import FREE_ON_RESUME, TrainConfig


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Weights as name -> tensor (``ema`` empty when not averaged) and the rest of the run's state."""

    model: dict[str, Tensor]
    ema: dict[str, Tensor]
    state: dict[str, Any]


class RunDir:
    """The folder of one run. Opening refuses to overwrite another run and to resume a different one."""

    def __init__(self, config: TrainConfig, *, resume: bool) -> None:
        self.path = Path(config.run_dir)
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / "checkpoints").mkdir(exist_ok=True)
        file = self.path / "config.json"
        document = config.to_json_dict()
        if file.exists():
            if not resume:
                raise InputError(
                    f"run_dir {self.path} already holds a run; continue it with --resume or name another",
                    field="run_dir",
                )
            saved = json.loads(file.read_text())
            changed = [k for k in document if k not in FREE_ON_RESUME and saved.get(k) != document[k]]
            if changed:
                raise InputError(
                    f"run_dir {self.path} was started with other values of {', '.join(changed)}", field=changed[0]
                )
        else:
            _write_json(file, document)
            _write_json(self.path / "environment.json", _environment())

    def log(self, event: str, **figures: Any) -> None:
        """Append one line to ``metrics.jsonl``; ``time`` is seconds since the epoch."""
        line = json.dumps({"event": event, "time": round(time.time(), 1), **figures})
        with open(self.path / "metrics.jsonl", "a") as file:
            file.write(line + "\n")

    def save(self, checkpoint: Checkpoint, *, best: bool) -> None:
        folder = self.path / "checkpoints" / f"step-{checkpoint.state['step']:08d}"
        partial = folder.with_name(folder.name + f".partial-{os.getpid()}")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        save_file({k: v.contiguous() for k, v in checkpoint.model.items()}, partial / "model.safetensors")
        if checkpoint.ema:
            save_file({k: v.contiguous() for k, v in checkpoint.ema.items()}, partial / "ema.safetensors")
        torch.save(checkpoint.state, partial / "state.pt")
        if folder.exists():  # the same step again, for instance saved by the clock and then by the end of its epoch
            for file in partial.iterdir():
                os.replace(file, folder / file.name)
            partial.rmdir()
        else:
            os.replace(partial, folder)
        self._point("last", folder.name)
        if best:
            self._point("best", folder.name)
        keep = {os.readlink(self.path / "checkpoints" / n) for n in ("last", "best") if self.has(n)}
        for other in (self.path / "checkpoints").glob("step-*"):
            if other.name not in keep:
                shutil.rmtree(other)

    def has(self, name: str) -> bool:
        return (self.path / "checkpoints" / name).is_dir()

    def load(self, name: str) -> Checkpoint:
        folder = self.path / "checkpoints" / name
        if not folder.is_dir():
            raise CheckpointError(f"no checkpoint {name!r} in {self.path / 'checkpoints'}")
        ema = folder / "ema.safetensors"
        return Checkpoint(
            model=load_file(folder / "model.safetensors"),
            ema=load_file(ema) if ema.exists() else {},
            state=torch.load(folder / "state.pt", map_location="cpu", weights_only=True),
        )

    def _point(self, name: str, target: str) -> None:
        link = self.path / "checkpoints" / f"{name}.new"
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        os.replace(link, self.path / "checkpoints" / name)


def _write_json(file: Path, document: Mapping[str, Any]) -> None:
    partial = file.with_name(file.name + ".partial")
    partial.write_text(json.dumps(document, indent=2) + "\n")
    os.replace(partial, file)


def _environment() -> dict[str, Any]:
    git = shutil.which("git")
    revision = ""
    if git:
        done = subprocess.run(
            [git, "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent, check=False
        )
        revision = done.stdout.strip()
    return {"git_revision": revision, "python": platform.python_version(), "torch": torch.__version__}
