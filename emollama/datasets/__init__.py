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
        "mer": "emollama.datasets.mer",
        "mafw": "emollama.datasets.mafw",
        "meld": "emollama.datasets.meld",
        "iemocap": "emollama.datasets.iemocap",
        "cremad": "emollama.datasets.cremad",
        "ravdess": "emollama.datasets.ravdess",
        "affectnet": "emollama.datasets.affectnet",
        "aff_wild2": "emollama.datasets.aff_wild2",
        "cexpr": "emollama.datasets.cexpr",
        "vidmimic": "emollama.datasets.vidmimic",
        "multiple_choice": "emollama.datasets.multiple_choice",
    }
)
