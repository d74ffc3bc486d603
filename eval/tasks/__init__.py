"""The benchmark tasks by name.

A task is one file with ``evaluate(data: Path, ...) -> dict``: it reads a data set's own files, asks a model, and
returns plain JSON types. It may take the keyword ``model`` (a preset or a checkpoint folder) and ``progress`` (a
function of ``(done, total)``). Adding one is that file and one line here; a task is imported when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any

from emollama.errors import UnknownNameError

TASKS: Mapping[str, str] = MappingProxyType(
    {
        "ferplus": "eval.tasks.ferplus:evaluate",
        "emodb": "eval.tasks.emodb:evaluate",
        "goemotions": "eval.tasks.goemotions:evaluate",
        "composed": "eval.tasks.composed:evaluate",
    }
)


def load_task(name: str) -> Callable[..., dict[str, Any]]:
    """Return a task's function; an unknown name raises `UnknownNameError` with the list."""
    if name not in TASKS:
        raise UnknownNameError("task", name, TASKS)
    module, function = TASKS[name].split(":")
    return getattr(import_module(module), function)


def describe_task(name: str) -> str:
    """Return the first line of a task's module docstring without importing what the module needs."""
    import ast
    from importlib.util import find_spec

    if name not in TASKS:
        raise UnknownNameError("task", name, TASKS)
    spec = find_spec(TASKS[name].split(":")[0])
    if spec is None or spec.origin is None:
        return ""
    with open(spec.origin, encoding="utf-8") as file:
        docstring = ast.get_docstring(ast.parse(file.read())) or ""
    return docstring.partition("\n")[0]
