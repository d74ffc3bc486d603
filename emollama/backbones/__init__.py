"""Backbones: one file each; `BACKBONES` names what runs a LLaMA, imported only when one is built.

``transformers`` is trained (with peft and bitsandbytes beside it), ``lean`` answers: same files, same numbers.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from emollama.errors import UnknownNameError

# name -> "module:loader"; a loader takes the folder of a backbone.
BACKBONES: Mapping[str, str] = MappingProxyType(
    {
        "transformers": "emollama.backbones.llama:load_llama",
        "quantized": "emollama.backbones.quantize:load_quantized_llama",
        "lean": "emollama.backbones.lean:LeanLlama.load",
    }
)


def backbone_loader(name: str) -> Any:
    """Return the loader of a backbone, or raise `UnknownNameError` with the names that are."""
    if name not in BACKBONES:
        raise UnknownNameError("backbone", name, BACKBONES)
    module, _, attributes = BACKBONES[name].partition(":")
    found: Any = importlib.import_module(module)
    for attribute in attributes.split("."):
        found = getattr(found, attribute)
    return found
