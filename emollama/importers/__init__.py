"""Importers: other people's data sets -> the samples of a manifest; one file each, `IMPORTERS` names them.

An importer reads annotations and finds clips; it decodes nothing and fetches nothing. What is wrong raises
`DatasetError` with file, line, field, value and what to do about it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

from emollama.errors import UnknownNameError
from emollama.manifest import Sample

# name -> module:function; imported only when asked for
IMPORTERS: Mapping[str, str] = MappingProxyType(
    {
        "folder": "emollama.importers.folder:import_folder",
        "csv": "emollama.importers.csv_file:import_csv",
        "openai_chat": "emollama.importers.openai_chat:import_openai_chat",
        "merr": "emollama.importers.merr:import_merr",
        "mer": "emollama.importers.mer:import_mer",
        "dfew": "emollama.importers.dfew:import_dfew",
    }
)

Importer = Callable[..., Iterator[Sample]]


def load_importer(name: str) -> Importer:
    """Return an importer by name; an unknown one raises `UnknownNameError` with the list."""
    from importlib import import_module

    if name not in IMPORTERS:
        raise UnknownNameError("importer", name, IMPORTERS)
    module, _, function = IMPORTERS[name].partition(":")
    importer: Importer = getattr(import_module(module), function)
    return importer
