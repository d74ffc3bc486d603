"""The windows of a long clip that were read, as files: whoever is killed on the way goes on behind them.

One safetensors file a window: its arrays, and in the header, as JSON, everything else of a `KeptWindow`, after the
fields of the classes themselves, so that a field that is added is written, too. A file has its name when it is whole.
What cannot be read, or was kept of another question or by another version, counts as not there, and so does all that
comes after it: a window is read again rather than guessed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import types
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from emollama import __version__
from emollama.long_clip.kept import KeptWindow

_SUFFIX = ".safetensors"


class KeptFolder:
    """A folder with the windows of one clip; ``about`` is what else the answer depends on, as JSON types.

    The folder must be there to be written to: where it was removed, so was the clip.
    """

    def __init__(self, folder: Path, *, about: Mapping[str, Any]) -> None:
        self._folder = folder
        document = json.dumps([__version__, _layout(KeptWindow), dict(about)], sort_keys=True)
        self._digest = hashlib.sha256(document.encode()).hexdigest()

    def load(self) -> tuple[KeptWindow, ...]:
        """Return the windows that are there, from the first one on without a gap; others are removed."""
        windows: list[KeptWindow] = []
        for path in sorted(self._folder.iterdir()):
            window = self._read(path) if path == self._path(len(windows)) else None
            if window is None:
                path.unlink(missing_ok=True)
            else:
                windows.append(window)
        return tuple(windows)

    def add(self, window: KeptWindow) -> None:
        """Write a window; raises `OSError` where that is not possible."""
        from safetensors.numpy import save

        arrays: dict[str, np.ndarray] = {}
        told = json.dumps(_told(window, arrays), ensure_ascii=False)
        content = save(arrays, metadata={"of": self._digest, "window": told})
        path = self._path(window.analysis.index)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            partial.write_bytes(content)
            os.replace(partial, path)
        except OSError:
            partial.unlink(missing_ok=True)
            raise

    def _read(self, path: Path) -> KeptWindow | None:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                if metadata.get("of") != self._digest:
                    return None
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
            window: KeptWindow = _again(KeptWindow, json.loads(metadata["window"]), arrays)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError):
            return None  # damaged by whatever ended its writer
        return window

    def _path(self, index: int) -> Path:
        return self._folder / f"{index:06d}{_SUFFIX}"


def _told(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """Return a value as JSON types; an array becomes the name under which it is put into ``arrays``."""
    if isinstance(value, np.ndarray):
        name = f"array-{len(arrays)}"
        arrays[name] = np.ascontiguousarray(value)
        return name
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: _told(getattr(value, each.name), arrays) for each in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _told(item, arrays) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_told(item, arrays) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{type(value).__name__} is not kept of a window")


def _again(kind: Any, told: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """Return what `_told` told of a value of the type ``kind``; raises what Python raises for anything else."""
    origin, given = get_origin(kind), get_args(kind)
    if kind is np.ndarray:
        return arrays[told]
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        hints = _hints(kind)
        if set(told) != set(hints):
            raise ValueError(f"these are not the fields of {kind}")
        return kind(**{name: _again(hints[name], item, arrays) for name, item in told.items()})
    if origin in (Union, types.UnionType):
        if told is None and type(None) in given:
            return None
        others = [each for each in given if each is not type(None)]
        if len(others) == 1:
            return _again(others[0], told, arrays)
        if not isinstance(told, tuple(others)):
            raise TypeError(f"{type(told).__name__} is not {kind}")
        return told
    if origin is tuple:
        return tuple(_again(given[0], item, arrays) for item in told)
    if origin in (Mapping, dict):
        return {key: _again(given[1], item, arrays) for key, item in told.items()}
    if origin is Literal:
        if told not in given:
            raise ValueError(f"{told!r} is none of {given}")
        return told
    if not isinstance(told, (int, float) if kind is float else kind):
        raise TypeError(f"{type(told).__name__} is not {kind}")
    return told


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _layout(kind: Any) -> Any:
    """Return what a type is made of, so that what was written under another layout is told apart."""
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return {name: _layout(hint) for name, hint in _hints(kind).items()}
    return [str(get_origin(kind) or kind), *(_layout(each) for each in get_args(kind))]
