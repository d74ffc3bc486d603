"""Ways to spoil a clip, each with levels that can be named: noise, blur, dark, lost frames, cut sound, lost words.

A corruption is two pure functions: ``draw`` takes everything random from a generator and gives plain JSON, ``apply``
makes the spoiled clip from the clip and what was drawn. So a manifest of what was drawn makes the same clips again.
The level that changes nothing is ``clean`` for all of them. A clip without the modality is returned as it is, with a
warning that says so. Nothing here knows a model or a task.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from emollama.errors import UnknownNameError
from eval.corruptions.corruption import CLEAN, Corruption, Noises
from eval.corruptions.picture import Blur, DroppedFrames, Jpeg, LowLight
from eval.corruptions.sound import AudioCut, BandLimit, Noise
from eval.corruptions.words import WordDeletion

CORRUPTIONS: Mapping[str, Corruption] = MappingProxyType(
    {
        "noise": Noise(),
        "noise_white": Noise(kind="white"),
        "noise_speech": Noise(kind="speech_shaped"),
        "noise_babble": Noise(kind="babble"),
        "band": BandLimit(),
        "cut_first": AudioCut(where="first"),
        "cut_middle": AudioCut(where="middle"),
        "cut_last": AudioCut(where="last"),
        "blur": Blur(),
        "drop": DroppedFrames(),
        "dark": LowLight(),
        "jpeg": Jpeg(),
        "words": WordDeletion(),
    }
)

__all__ = ["CLEAN", "CORRUPTIONS", "Corruption", "Noises", "find_corruption"]


def find_corruption(name: str) -> Corruption:
    """Return a corruption by name; an unknown name raises `UnknownNameError` with those that are known."""
    if name not in CORRUPTIONS:
        raise UnknownNameError("corruption", name, CORRUPTIONS)
    return CORRUPTIONS[name]
