"""The adapters of jobs as `server.models.ModelHost` sees them."""

from __future__ import annotations

from collections.abc import Mapping

from server.layout import DataFolder
from server.models import ModelSpec
from server.records import adapters
from server.records.adapters import AdapterRecord
from server.store import Store


class AdapterCatalog:
    """Reads the database; ``bases`` maps the names of base models to what they are loaded from."""

    def __init__(self, store: Store, data: DataFolder, *, bases: Mapping[str, str]) -> None:
        self._store, self._data, self._bases = store, data, bases

    def find(self, name: str) -> ModelSpec | None:
        record = adapters.find(self._store, name)
        return None if record is None else self._spec(record)

    def all(self) -> list[ModelSpec]:
        return [self._spec(record) for record in adapters.all_adapters(self._store)]

    def _spec(self, record: AdapterRecord) -> ModelSpec:
        return ModelSpec(
            name=record.name,
            base=self._bases.get(record.base, record.base),
            adapter=self._data.absolute(record.folder),
            created=int(record.created_at),
            owner=record.owner,
        )
