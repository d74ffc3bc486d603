"""Parts of nano measured on their own: what the model card cites, below the level of a whole analysis.

The benchmarks of `eval.tasks` ask the shipped analyzer. These ask one network of it (the face model on FER+'s majority
protocol, the voice networks out of fold, the backbone on comments) or compose clips that no data set holds. A part is
one file with ``evaluate(data: Path, ...) -> dict`` of plain JSON types; it may take ``model`` and ``progress`` (a
function of ``(done, total)``). ``emollama eval part NAME`` runs one; it is imported when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any

from emollama.errors import UnknownNameError

PARTS: Mapping[str, str] = MappingProxyType(
    {
        "ferplus": "eval.parts.ferplus:evaluate",
        "emodb": "eval.parts.emodb:evaluate",
        "goemotions": "eval.parts.goemotions:evaluate",
        "composed": "eval.parts.composed:evaluate",
        "fusion": "eval.parts.fusion:evaluate",
    }
)


def load_part(name: str) -> Callable[..., dict[str, Any]]:
    """Return a part's function; an unknown name raises `UnknownNameError` with the list."""
    if name not in PARTS:
        raise UnknownNameError("part", name, PARTS)
    module, function = PARTS[name].split(":")
    return getattr(import_module(module), function)
