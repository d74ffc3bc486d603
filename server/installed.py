"""The adapters that the operator installed by request, as `server.models.ModelHost` sees them: kept over restarts.

They are rows of the database, so every process of a service knows them. What a row says is held against this process
each time: a folder that is no longer under the adapter root, or holds files that could run, and a base that is not
served any more are as if they were not there; their rows stay until they are unloaded.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from server.adapter_folder import find_adapter
from server.errors import ApiError
from server.models import ModelSpec
from server.records import installed
from server.records.installed import InstalledRecord
from server.store import Store


class InstalledAdapters:
    """Reads and writes the database; ``bases`` is what the models of this service are loaded from."""

    def __init__(self, store: Store, *, root: Path | None, bases: Collection[str]) -> None:
        self._store, self._root, self._bases = store, root, frozenset(bases)

    def add(self, spec: ModelSpec) -> bool:
        """Keep an adapter; false when the name is taken."""
        assert spec.adapter is not None
        record = InstalledRecord(
            name=spec.name, base=spec.base, folder=str(spec.adapter), created_at=float(spec.created or 0)
        )
        return installed.add(self._store, record)

    def remove(self, name: str) -> bool:
        """Forget an adapter; false when there is none of that name."""
        return installed.remove(self._store, name)

    def find(self, name: str) -> ModelSpec | None:
        record = installed.find(self._store, name)
        return None if record is None else self._spec(record)

    def all(self) -> list[ModelSpec]:
        found = (self._spec(record) for record in installed.all_installed(self._store))
        return [spec for spec in found if spec is not None]

    def _spec(self, record: InstalledRecord) -> ModelSpec | None:
        if record.base not in self._bases:
            return None
        try:
            folder = find_adapter(self._root, record.folder)
        except ApiError:
            return None
        return ModelSpec(name=record.name, base=record.base, adapter=folder, created=int(record.created_at))
