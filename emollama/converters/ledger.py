"""What a conversion reads, what became of every key, and a folder that is written whole or not at all."""

from __future__ import annotations

import argparse
import os
import pickle
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from emollama.checkpoint import sha256_of
from emollama.errors import CheckpointError
from emollama.tensors import write_json

if TYPE_CHECKING:
    import torch
    from torch import Tensor

REPORT = "conversion.json"
FORMAT = 1
Fate = Literal["kept", "dropped", "confirmed"]
_LISTED = 12
# What training scripts keep beside the weights; none of it is read.
_BESIDE = ("optimizer", "config", "scaler", "epoch", "args", "iteration", "iter", "optimizer_state_dict")


@dataclass(frozen=True, kw_only=True)
class KeyFate:
    """What became of one key: ``kept`` as ``became``, ``dropped`` because of ``why``, or only ``confirmed``."""

    key: str
    group: str
    shape: tuple[int, ...]
    dtype: str
    fate: Fate
    became: str | None = None
    why: str | None = None

    @property
    def parameters(self) -> int:
        total = 1
        for size in self.shape:
            total *= size
        return total


@dataclass(frozen=True, kw_only=True)
class Report:
    """A conversion: where it came from, and the fate of every key. ``notes`` is what else was recorded."""

    converter: str
    source: str
    source_sha256: str
    source_bytes: int
    beside: tuple[str, ...]
    keys: tuple[KeyFate, ...]
    notes: Mapping[str, Any] = field(default_factory=dict)

    def groups(self) -> dict[str, tuple[Fate, int, int, str]]:
        """Return fate, number of keys, number of parameters and the reason by group, in the file's order."""
        table: dict[str, tuple[Fate, int, int, str]] = {}
        for key in self.keys:
            _, count, parameters, _ = table.get(key.group, (key.fate, 0, 0, ""))
            table[key.group] = (key.fate, count + 1, parameters + key.parameters, key.why or "")
        return table

    def to_json_dict(self) -> dict[str, Any]:
        groups = {
            name: {"fate": fate, "keys": count, "parameters": parameters}
            for name, (fate, count, parameters, _) in self.groups().items()
        }
        keys = [
            {
                "key": key.key, "shape": list(key.shape), "dtype": key.dtype, "fate": key.fate, "became": key.became,
                "why": key.why,
            }
            for key in self.keys
        ]  # fmt: skip
        return {
            "format": FORMAT,
            "converter": self.converter,
            "source": {"name": self.source, "sha256": self.source_sha256, "bytes": self.source_bytes},
            "not_read": list(self.beside),
            **self.notes,
            "groups": groups,
            "keys": keys,
        }


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The tensors of an upstream file, mapped from disk, and which other entries lie beside them."""

    path: Path
    sha256: str
    tensors: Mapping[str, Tensor]
    beside: tuple[str, ...]

    def report(self, converter: str, keys: Sequence[KeyFate], **notes: Any) -> Report:
        return Report(
            converter=converter,
            source=self.path.name,
            source_sha256=self.sha256,
            source_bytes=self.path.stat().st_size,
            beside=self.beside,
            keys=tuple(keys),
            notes=notes,
        )


def read_checkpoint(path: Path, *, entry: str = "model", is_flat: bool = False) -> Checkpoint:
    """Read the tensors below ``entry`` of a torch file; with ``is_flat`` the file may be the tensors themselves.

    Raises `CheckpointError` for a file that holds more than tensors and plain values (opening it would run code), is
    damaged or of torch's old format, or has entries that nothing expects.
    """
    import torch

    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint at {path}", field="checkpoint")
    try:
        # argparse.Namespace, in which some training scripts keep their options, holds values and runs nothing
        with torch.serialization.safe_globals([argparse.Namespace]):
            document = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        reason = str(error).split("\n")[0]
        raise CheckpointError(
            f"{path.name} holds more than tensors, and opening it could run code; it is refused: {reason}",
            field="checkpoint",
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = str(error).split("\n")[0]
        raise CheckpointError(f"{path.name} is damaged or no torch file: {reason}", field="checkpoint") from error
    beside: tuple[str, ...] = ()
    tensors = document
    if isinstance(document, Mapping) and entry in document and not isinstance(document[entry], torch.Tensor):
        beside = tuple(str(name) for name in document if name != entry)
        unknown = [name for name in beside if name not in _BESIDE]
        if unknown:
            raise CheckpointError(
                f"{path.name} has entries that nothing expects: {', '.join(unknown)}", field="checkpoint"
            )
        tensors = document[entry]
    elif not is_flat:
        raise CheckpointError(f"{path.name} has no entry {entry!r}", field="checkpoint")
    others = (
        [str(name) for name, value in tensors.items() if not isinstance(value, torch.Tensor)]
        if isinstance(tensors, Mapping)
        else ["all of it"]
    )
    if others:
        raise CheckpointError(f"{path.name} holds what is no tensor: {_some(others)}", field="checkpoint")
    return Checkpoint(path=path, sha256=sha256_of(path), tensors=tensors, beside=beside)


class Ledger:
    """Collects the fate of every key and every problem, so that one look at the error tells all of them."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.fates: list[KeyFate] = []
        self.kept: dict[str, Tensor] = {}
        self.problems: list[str] = []

    def keep(self, key: str, *, group: str, name: str, shape: Sequence[int] | None) -> None:
        """Take a key as our tensor ``name``; its shape, its type and its values are checked."""
        import torch

        tensor = self.checkpoint.tensors[key]
        if name in self.kept:
            self.problems.append(f"{key}: its place is taken by another key ({name})")
        elif shape is not None and tuple(tensor.shape) != tuple(shape):
            self.problems.append(f"{key}: shape {list(tensor.shape)}, expected {list(shape)}")
        elif tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16):
            self.problems.append(f"{key}: {_dtype(tensor.dtype)}, expected float32, float16 or bfloat16")
        elif not bool(torch.isfinite(tensor).all()):
            self.problems.append(f"{key}: holds values that are not finite")
        else:
            self.kept[name] = tensor
            self._add(key, group, "kept", became=name)

    def drop(self, key: str, *, group: str, why: str) -> None:
        self._add(key, group, "dropped", why=why)

    def confirm(self, key: str, *, group: str, why: str) -> None:
        self._add(key, group, "confirmed", why=why)

    def unknown(self, key: str) -> None:
        self.problems.append(f"{key}: no key of this checkpoint")

    def require(self, names: Mapping[str, str]) -> None:
        """Every one of our ``names`` (-> the upstream key) must have been kept, or been a problem of its own."""
        told = {problem.partition(":")[0] for problem in self.problems}
        self.problems += [f"{key}: missing" for name, key in names.items() if name not in self.kept and key not in told]

    def close(self) -> None:
        """Raise `CheckpointError` that names every key which does not fit."""
        if self.problems:
            raise CheckpointError(
                f"{self.checkpoint.path.name} cannot be converted; {len(self.problems)} keys do not fit: "
                f"{_some(self.problems)}",
                field="checkpoint",
            )

    def _add(self, key: str, group: str, fate: Fate, *, became: str | None = None, why: str | None = None) -> None:
        tensor = self.checkpoint.tensors[key]
        self.fates.append(
            KeyFate(
                key=key, group=group, shape=tuple(tensor.shape), dtype=_dtype(tensor.dtype), fate=fate, became=became,
                why=why,
            )
        )  # fmt: skip


@contextmanager
def written_whole(out: Path, report: Report) -> Iterator[Path]:
    """Give a folder beside ``out`` that takes its name, with the report in it, once everything is written."""
    refuse_existing(out)
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    partial = out.absolute().with_name(f".{out.absolute().name}.{os.getpid()}.partial")
    partial.mkdir()
    try:
        yield partial
        write_json(partial / REPORT, report.to_json_dict())
        refuse_existing(out)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def refuse_existing(out: Path) -> None:
    """Raise `CheckpointError` when there is something at ``out`` already."""
    if os.path.lexists(out):
        raise CheckpointError(f"{out} exists already; nothing is overwritten", field="out")


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return "; ".join(names[:_LISTED]) + more
