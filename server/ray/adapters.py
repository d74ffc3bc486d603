"""Adapters that travel: the files of one folder, packed at the door, unpacked where a decoder loads them.

So a decoder's machine needs no folder in common with the door's. An adapter is known by the sha256 of its files, and
its bytes leave the door's object store only for a replica that does not have it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from emollama.errors import CheckpointError

# Weights, and what says how to use them. Nothing else of an adapter folder is read by anybody.
_SUFFIXES = frozenset({".safetensors", ".json"})


@dataclass(frozen=True, kw_only=True)
class PackedAdapter:
    """``files`` by their names in the folder; ``digest`` is of names and contents."""

    digest: str
    files: Mapping[str, bytes]

    @classmethod
    def of(cls, folder: Path) -> PackedAdapter:
        """Read a folder; raises `CheckpointError` for one that is no adapter."""
        files = {}
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.is_file() and path.suffix in _SUFFIXES:
                files[path.name] = path.read_bytes()
        if "adapter_config.json" not in files:
            raise CheckpointError(f"{folder} is not an adapter folder: adapter_config.json is missing", field="adapter")
        digest = hashlib.sha256()
        for name, content in files.items():
            digest.update(f"{len(name)} {name} {len(content)} ".encode())
            digest.update(content)
        return cls(digest=digest.hexdigest(), files=files)

    def unpack(self, folder: Path) -> None:
        """Write the files into an empty folder."""
        for name, content in self.files.items():
            if Path(name).name != name or Path(name).suffix not in _SUFFIXES:
                raise CheckpointError(
                    f"a packed adapter holds {name!r}, which is no file of an adapter", field="adapter"
                )
            (folder / name).write_bytes(content)
