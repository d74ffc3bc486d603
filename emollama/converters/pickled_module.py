"""A whole pickled torch module -> its tensors by name, without running anything that the file names.

``torch.save(model)`` writes classes and functions by name, and an ordinary reader imports and calls them. Here a name
is never imported: those of torch's and timm's own modules become inert stand-ins, which take any arguments and remember
what is set on them; tensors are made from the file's bytes by this module; every other name refuses the file. What a
stand-in remembers is searched for ``_parameters``, ``_buffers`` and ``_modules``, and the rest is forgotten.

Only torch's zip format (from torch 1.6 on) is read, uncompressed as torch writes it.
"""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emollama.errors import CheckpointError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_STORAGES = {
    "FloatStorage": "float32", "DoubleStorage": "float64", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool",
}  # fmt: skip
# Names that may stand in a module's pickle; none is imported. Layers and what they were configured with:
_INERT = re.compile(
    r"torch\.nn\.(modules|parameter|functional|init)(\.\w+)* \w+|torch\.nn [A-Z]\w+"
    r"|torch (Size|device|dtype|float32|float16|float64|int64|strided|contiguous_format|channels_last)"
    r"|torch\._C\._nn \w+|timm(\.\w+)* \w+|functools partial"
)
_PLAIN = {("builtins", "set"): set, ("builtins", "frozenset"): frozenset, ("collections", "OrderedDict"): OrderedDict}
_MOST_DEPTH = 64
_MOST_PICKLE = 64 << 20  # the structure of a module; weights lie beside it
_MOST_WEIGHTS = 4 << 30


class Inert:
    """What a name of the file became: it takes any arguments, and keeps what is set on it without using it."""

    qualified_name = ""
    state: Any = None

    def __new__(cls, *arguments: Any, **options: Any) -> Inert:
        return object.__new__(cls)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        pass

    def extend(self, items: Any) -> None:
        pass

    def add(self, item: Any) -> None:
        pass


@dataclass(frozen=True, kw_only=True)
class PickledModule:
    """``kind`` is the qualified name of the outermost class; ``tensors`` are its parameters and buffers by name."""

    kind: str
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True)
class _Storage:
    dtype: str
    key: str
    count: int


def read_module(path: Path, *, extra: tuple[str, ...] = ()) -> PickledModule:
    """Read the tensors of a module that was pickled whole; modules named in ``extra`` may hold classes, too.

    Raises `CheckpointError` for a name that is not torch's, timm's or of ``extra``, and for a file that is damaged or
    holds no module.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint at {path}", field="checkpoint")
    try:
        with zipfile.ZipFile(path) as archive:
            root = _Reader(archive, path, extra=extra).read()
    except zipfile.BadZipFile as error:
        raise CheckpointError(
            f"{path.name} is not in torch's zip format (older than torch 1.6, or damaged); where you trust it, load it "
            "once and save its state dict",
            field="checkpoint",
        ) from error
    except CheckpointError:
        raise
    except (
        pickle.UnpicklingError, EOFError, KeyError, ValueError, TypeError, AttributeError, IndexError, RuntimeError,
        OverflowError, RecursionError, MemoryError, NotImplementedError,
    ) as error:  # fmt: skip
        raise CheckpointError(f"{path.name} is damaged: {error}", field="checkpoint") from error
    if isinstance(root, Mapping):
        raise CheckpointError(f"{path.name} holds no module but a dictionary", field="checkpoint")
    found: dict[str, Tensor] = {}
    _collect(root, "", found, path=path, depth=0)
    if not found:
        raise CheckpointError(f"{path.name} holds no module with tensors", field="checkpoint")
    return PickledModule(kind=type(root).qualified_name, tensors=found)


def _collect(module: Any, prefix: str, found: dict[str, Tensor], *, path: Path, depth: int) -> None:
    """Add a stand-in's parameters and buffers and those of the modules below it."""
    import torch

    state = module.state if isinstance(module, Inert) else None
    if depth > _MOST_DEPTH or not isinstance(state, Mapping):
        raise CheckpointError(f"{path.name} is damaged: {prefix or 'the file'} is no module", field="checkpoint")
    passing = state.get("_non_persistent_buffers_set") or ()
    for part in ("_parameters", "_buffers"):
        for name, tensor in _named(state.get(part), path).items():
            if tensor is None or (part == "_buffers" and name in passing):
                continue
            if not isinstance(tensor, torch.Tensor):
                raise CheckpointError(f"{path.name} is damaged: {prefix}{name} is no tensor", field="checkpoint")
            found[f"{prefix}{name}"] = tensor
    for name, child in _named(state.get("_modules"), path).items():
        if child is not None:
            _collect(child, f"{prefix}{name}.", found, path=path, depth=depth + 1)


def _named(value: Any, path: Path) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise CheckpointError(f"{path.name} is damaged: a module's parts have no names", field="checkpoint")
    return value


class _Reader(pickle.Unpickler):
    """An unpickler that imports nothing."""

    def __init__(self, archive: zipfile.ZipFile, path: Path, *, extra: tuple[str, ...]) -> None:
        self.archive, self.path, self.extra = archive, path, extra
        names = [name for name in archive.namelist() if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(names) != 1:
            raise CheckpointError(f"{path.name} is no file of torch: it has no data.pkl", field="checkpoint")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise CheckpointError(f"{path.name} is compressed, as torch writes no file", field="checkpoint")
        self.folder = names[0].removesuffix("data.pkl")
        sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
        if sizes[names[0]] > _MOST_PICKLE or sum(sizes.values()) > _MOST_WEIGHTS:
            raise CheckpointError(f"{path.name} is larger than any face model", field="checkpoint")
        self.storages: dict[str, tuple[_Storage, Tensor]] = {}
        self.made = 0  # bytes of tensors, which may share a storage
        super().__init__(io.BytesIO(archive.read(names[0])))

    def read(self) -> Any:
        return self.load()

    def find_class(self, module: str, name: str) -> Any:
        module = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module)
        if (module, name) in _PLAIN:
            return _PLAIN[module, name]
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_parameter"):
            maker: dict[str, Callable[..., Any]] = {
                "_rebuild_tensor_v2": lambda *given: self._tensor(*given),
                "_rebuild_parameter": lambda data, *_: data,
            }
            return maker[name]
        is_extra = module in self.extra and name.isidentifier()
        if is_extra or _INERT.fullmatch(f"{module} {name}"):
            return type(name.replace(".", "_"), (Inert,), {"qualified_name": f"{module}.{name}"})
        raise CheckpointError(
            f"{self.path.name} names {module}.{name}, which no face model needs and which could run code; the file is "
            "refused",
            field="checkpoint",
        )

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, count = pid
        if kind != "storage" or dtype not in _STORAGES.values() or not re.fullmatch(r"\w+", key):
            raise CheckpointError(f"{self.path.name} is damaged: it names no storage of torch", field="checkpoint")
        return _Storage(dtype, key, int(count))

    def _tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
        """Make a tensor of the file's bytes; one that would reach beyond them is refused."""
        import torch

        if not isinstance(storage, _Storage):
            raise CheckpointError(f"{self.path.name} is damaged: a tensor has no storage", field="checkpoint")
        flat = self._flat(storage)
        size, stride = tuple(map(int, size)), tuple(map(int, stride))
        reach = int(offset) + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if min((offset, *size, *stride), default=0) < 0 or (0 not in size and reach >= len(flat)):
            raise CheckpointError(f"{self.path.name} is damaged: a tensor is larger than its bytes", field="checkpoint")
        total = 1
        for n in size:
            total *= n
        self.made += total * flat.element_size()
        if total > len(flat) or self.made > _MOST_WEIGHTS:  # stride 0 could make a small file a large tensor
            raise CheckpointError(f"{self.path.name} is damaged: a tensor repeats its bytes", field="checkpoint")
        return torch.as_strided(flat, size, stride, int(offset)).clone()

    def _flat(self, storage: _Storage) -> Tensor:
        import torch

        if storage.key not in self.storages:
            kind: torch.dtype = getattr(torch, storage.dtype)
            data = bytearray(self.archive.read(f"{self.folder}data/{storage.key}"))
            if len(data) != storage.count * kind.itemsize:
                raise CheckpointError(
                    f"{self.path.name} is damaged: storage {storage.key} has {len(data)} bytes, not "
                    f"{storage.count * kind.itemsize}",
                    field="checkpoint",
                )
            flat = torch.frombuffer(data, dtype=kind) if data else torch.empty(0, dtype=kind)
            self.storages[storage.key] = (storage, flat)
        known, flat = self.storages[storage.key]
        if known.dtype != storage.dtype:
            raise CheckpointError(f"{self.path.name} is damaged: one storage has two types", field="checkpoint")
        return flat
