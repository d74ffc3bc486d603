"""Strict reading and writing of tensors: safetensors only, every key accounted for, computed in the dtype asked for.

A pickle (``.pt``, ``.pth``, ``.bin``, ...) runs code when it is opened, so it is refused by name; the message says
what to do instead.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from emollama.errors import CheckpointError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

PICKLE_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".npy", ".npz")
_LISTED = 6


def refuse_pickle(path: Path) -> None:
    """Raise `CheckpointError` when ``path`` is named like a pickle."""
    if path.suffix.lower() in PICKLE_SUFFIXES:
        raise CheckpointError(
            f"{path.name} is a pickle, which can run code when it is opened, and is never opened as a checkpoint; "
            "convert it to safetensors where you trust its source, and load that file",
            field="checkpoint",
        )


def read_tensors(path: Path, *, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Read a safetensors file, or the shards that a ``*.safetensors.index.json`` names; floats are cast to ``dtype``.

    Raises `CheckpointError` for a pickle, a missing or damaged file, or shards that do not hold what the index says.
    """
    from safetensors import SafetensorError, safe_open

    refuse_pickle(path)
    if not path.is_file():
        raise CheckpointError(f"{path} is missing", field="checkpoint")
    if path.name.endswith(".index.json"):
        return _read_shards(path, dtype=dtype)
    if path.suffix != ".safetensors":
        raise CheckpointError(f"{path.name} is not a safetensors file", field="checkpoint")
    tensors: dict[str, Tensor] = {}
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (a safetensors handle is no mapping)
                tensor = file.get_tensor(name)
                tensors[name] = tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged: {error}", field="checkpoint") from error
    return tensors


def _read_shards(index: Path, *, dtype: torch.dtype | None) -> dict[str, Tensor]:
    weight_map = json.loads(index.read_text("utf-8")).get("weight_map", {})
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(weight_map.values())):
        if Path(name).name != name:
            raise CheckpointError(f"{index} names a shard outside its folder: {name!r}", field="checkpoint")
        tensors.update(read_tensors(index.parent / name, dtype=dtype))
    check_keys(tensors, weight_map, what=str(index))
    return tensors


def read_folder(folder: Path, *, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Read ``model.safetensors`` or the shards of ``model.safetensors.index.json`` in a folder."""
    for name in ("model.safetensors", "model.safetensors.index.json"):
        if (folder / name).is_file():
            return read_tensors(folder / name, dtype=dtype)
    pickles = sorted(path for path in folder.glob("*") if path.suffix in PICKLE_SUFFIXES)
    if pickles:
        refuse_pickle(pickles[0])
    raise CheckpointError(f"{folder} holds no model.safetensors", field="checkpoint")


def check_keys(found: Mapping[str, object], expected: Mapping[str, object], *, what: str) -> None:
    """Raise `CheckpointError` naming the keys that are missing from ``found`` and those that nothing expects."""
    differences = {"missing": sorted(set(expected) - set(found)), "unexpected": sorted(set(found) - set(expected))}
    problems = [f"{len(names)} {word}: {_some(names)}" for word, names in differences.items() if names]
    if problems:
        raise CheckpointError(f"{what} does not fit the model; {'; '.join(problems)}", field="checkpoint")


def check_tensors(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, what: str) -> None:
    """As `check_keys`, and every shape must be the expected one."""
    check_keys(found, expected, what=what)
    wrong = [
        f"{name} is {list(found[name].shape)}, the model has {list(tensor.shape)}"
        for name, tensor in expected.items()
        if found[name].shape != tensor.shape
    ]
    if wrong:
        raise CheckpointError(f"{what} does not fit the model; wrong shape: {_some(wrong)}", field="checkpoint")


def load_into(module: nn.Module, tensors: Mapping[str, Tensor], *, what: str) -> None:
    """Copy tensors into a module strictly; the module keeps its own dtype and device."""
    check_tensors(tensors, module.state_dict(), what=what)
    module.load_state_dict(dict(tensors), strict=True)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], *, dtype: torch.dtype | None = None) -> None:
    """Write a safetensors file by a temporary name and a rename; floats are stored as ``dtype``."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    stored = {
        name: (tensor.detach().to(dtype) if dtype is not None and tensor.is_floating_point() else tensor.detach())
        .contiguous()
        .cpu()
        .clone()
        for name, tensor in tensors.items()
    }
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    save_file(stored, partial, metadata={"format": "pt"})
    os.replace(partial, path)


def write_json(path: Path, document: object) -> None:
    """Write a JSON file by a temporary name and a rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", "utf-8")
    os.replace(partial, path)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
