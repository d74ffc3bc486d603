"""What a corruption is, and what all of them share: levels, and a clip that says it was changed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from random import Random
from typing import Any, Protocol

import numpy as np

from emollama.errors import InputError
from emollama.types import Clip, Modality

CLEAN = "clean"  # the level of every corruption that changes nothing


class Noises(Protocol):
    """Recordings of noise. ``draw`` gives plain JSON, ``read`` the samples [num_samples] float32 that it stands for."""

    def draw(self, random: Random) -> dict[str, Any]: ...

    def read(self, drawn: Mapping[str, Any], num_samples: int) -> np.ndarray: ...


class Corruption(Protocol):
    """One way to spoil a clip; ``levels`` are those of a sweep that names none, ``unit`` says what a level means."""

    @property
    def modality(self) -> Modality: ...

    @property
    def levels(self) -> tuple[str, ...]: ...

    @property
    def unit(self) -> str: ...

    def check(self, level: str) -> None:
        """Raise `InputError` for a level that is not allowed."""

    def draw(self, level: str, random: Random, noises: Noises | None) -> dict[str, Any]:
        """Draw everything random of one item as plain JSON. What does not depend on the level is drawn first and alike
        for all levels, so that two levels of one item differ by the level alone."""

    def apply(self, clip: Clip, drawn: Mapping[str, Any], noises: Noises | None) -> Clip:
        """Return the spoiled clip; the same clip and draw give the same bits."""


def read_number(level: str, *, name: str, low: float, high: float) -> float:
    """Return a level that is a number in a range; `InputError` names the level and the range."""
    try:
        value = float(level)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise InputError(f"{name} level {level!r} is not allowed; a number from {low:g} to {high:g}", field="corrupt")
    return value


def changed(clip: Clip, name: str, drawn: Mapping[str, Any], **parts: Any) -> Clip:
    """Return the clip with new parts and a content hash of its own: a cache must not take it for the clip it was."""
    digest = None
    if clip.sha256 is not None:
        told = json.dumps([clip.sha256, name, dict(drawn)], sort_keys=True)
        digest = hashlib.sha256(told.encode()).hexdigest()
    return dataclasses.replace(clip, sha256=digest, **parts)


def untouched(clip: Clip, what: str) -> Clip:
    """Return the clip as it is, with a warning why nothing was changed."""
    return dataclasses.replace(clip, warnings=(*clip.warnings, f"Nothing was corrupted: {what}."))


def places(count: int, num: int, seed: int) -> list[int]:
    """Return which ``num`` of ``count`` places a seed picks, in order; a larger ``num`` picks these and more.

    Uses Python's own generator, whose sequence for a seed is the same in every version.
    """
    random = Random(seed)
    order = sorted(range(count), key=[random.random() for _ in range(count)].__getitem__)
    return sorted(order[:num])
