"""EmoLLaMA: what a person in a clip seems to feel, and what in the picture, the voice and the words says so.

    import emollama
    analysis = emollama.load("nano").analyze("clip.mp4")

The names below are the public API. They are imported when they are first used, so that importing the package, and
with it the command line, costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from emollama._version import __version__

if TYPE_CHECKING:
    from emollama.analyze import Analyzer, load
    from emollama.errors import EmoLlamaError
    from emollama.media import MediaLimits, read_clip
    from emollama.types import Analysis, Clip, Transcript

_HOMES = {
    "load": "emollama.analyze",
    "Analyzer": "emollama.analyze",
    "Analysis": "emollama.types",
    "Clip": "emollama.types",
    "Transcript": "emollama.types",
    "read_clip": "emollama.media",
    "MediaLimits": "emollama.media",
    "EmoLlamaError": "emollama.errors",
}

__all__ = [
    "Analysis", "Analyzer", "Clip", "EmoLlamaError", "MediaLimits", "Transcript", "__version__", "load", "read_clip",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'emollama' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
