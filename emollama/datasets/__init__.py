"""Data sets: one file each; `DATASETS` names the module that reads it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

# name -> module; imported only when asked for, because readers pull in pyarrow and decoders
DATASETS: Mapping[str, str] = MappingProxyType(
    {
        "ferplus": "emollama.datasets.ferplus",
        "emodb": "emollama.datasets.emodb",
        "goemotions": "emollama.datasets.goemotions",
        "xed": "emollama.datasets.xed",
        "emobank": "emollama.datasets.emobank",
    }
)
