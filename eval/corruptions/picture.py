"""Spoiled pictures: blurred, dark, squeezed by JPEG, or missing. Times of the frames that are left stay true."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar

import numpy as np

from emollama.errors import InputError
from emollama.types import Clip, Modality
from eval.corruptions.corruption import Noises, changed, places, read_number, untouched

_NO_PICTURE = "the clip has no picture"


@dataclass(frozen=True, kw_only=True)
class Blur:
    """Half the size ``log2(factor)`` times and back again (Gaussian pyramid, as MERTools' ``main-corrupt.py``)."""

    modality: ClassVar[Modality] = "visual"
    levels: ClassVar[tuple[str, ...]] = ("2", "4")
    unit: ClassVar[str] = "times smaller"

    def check(self, level: str) -> None:
        if level not in ("1", "2", "4", "8", "16"):
            raise InputError(f"blur level {level!r} is not allowed; one of 1, 2, 4, 8, 16", field="corrupt")

    def draw(self, level: str, random: Random, noises: Noises | None) -> dict[str, Any]:
        return {"factor": int(level)}

    def apply(self, clip: Clip, drawn: Mapping[str, Any], noises: Noises | None) -> Clip:
        import cv2

        if clip.frames is None:
            return untouched(clip, _NO_PICTURE)
        if drawn["factor"] == 1:
            return clip
        blurred = np.empty_like(clip.frames.images)
        for index, image in enumerate(clip.frames.images):
            sizes, small = [], image
            for _ in range(int(drawn["factor"]).bit_length() - 1):
                sizes.append((small.shape[1], small.shape[0]))
                small = cv2.pyrDown(small)
            for size in reversed(sizes):
                small = cv2.pyrUp(small, dstsize=size)
            blurred[index] = small
        return changed(clip, "blur", drawn, frames=dataclasses.replace(clip.frames, images=blurred))


@dataclass(frozen=True, kw_only=True)
class DroppedFrames:
    """A share of the sampled frames is missing; one is always left. A still picture has none to lose."""

    modality: ClassVar[Modality] = "visual"
    levels: ClassVar[tuple[str, ...]] = ("0.5", "0.9")
    unit: ClassVar[str] = "of the frames missing"

    def check(self, level: str) -> None:
        read_number(level, name="drop", low=0.0, high=1.0)

    def draw(self, level: str, random: Random, noises: Noises | None) -> dict[str, Any]:
        return {"seed": random.randrange(2**32), "share": float(level)}

    def apply(self, clip: Clip, drawn: Mapping[str, Any], noises: Noises | None) -> Clip:
        if clip.frames is None:
            return untouched(clip, _NO_PICTURE)
        count = len(clip.frames.times)
        num = min(round(float(drawn["share"]) * count), count - 1)
        if num == 0:
            return clip
        kept = np.delete(np.arange(count), places(count, num, int(drawn["seed"])))
        frames = dataclasses.replace(clip.frames, images=clip.frames.images[kept], times=clip.frames.times[kept])
        return changed(clip, "drop", drawn, frames=frames)


@dataclass(frozen=True, kw_only=True)
class LowLight:
    """Darker by a gamma curve: 8-bit values ``255 (v / 255)^gamma``. Without the noise that a dark sensor adds."""

    modality: ClassVar[Modality] = "visual"
    levels: ClassVar[tuple[str, ...]] = ("2", "4")
    unit: ClassVar[str] = "gamma"

    def check(self, level: str) -> None:
        read_number(level, name="dark", low=1.0, high=20.0)

    def draw(self, level: str, random: Random, noises: Noises | None) -> dict[str, Any]:
        return {"gamma": float(level)}

    def apply(self, clip: Clip, drawn: Mapping[str, Any], noises: Noises | None) -> Clip:
        if clip.frames is None:
            return untouched(clip, _NO_PICTURE)
        if drawn["gamma"] == 1.0:
            return clip
        curve = np.rint(255.0 * (np.arange(256) / 255.0) ** float(drawn["gamma"])).astype(np.uint8)
        return changed(clip, "dark", drawn, frames=dataclasses.replace(clip.frames, images=curve[clip.frames.images]))


@dataclass(frozen=True, kw_only=True)
class Jpeg:
    """Every frame is squeezed by JPEG and opened again: the blocks of a poor upload."""

    modality: ClassVar[Modality] = "visual"
    levels: ClassVar[tuple[str, ...]] = ("30", "10")
    unit: ClassVar[str] = "quality"

    def check(self, level: str) -> None:
        if read_number(level, name="jpeg", low=1, high=100) % 1:
            raise InputError(f"jpeg level {level!r} is not allowed; a whole number from 1 to 100", field="corrupt")

    def draw(self, level: str, random: Random, noises: Noises | None) -> dict[str, Any]:
        return {"quality": int(float(level))}

    def apply(self, clip: Clip, drawn: Mapping[str, Any], noises: Noises | None) -> Clip:
        import cv2

        if clip.frames is None:
            return untouched(clip, _NO_PICTURE)
        squeezed = np.empty_like(clip.frames.images)
        for index, image in enumerate(clip.frames.images):
            flag = [cv2.IMWRITE_JPEG_QUALITY, int(drawn["quality"])]
            _, encoded = cv2.imencode(".jpg", np.ascontiguousarray(image[:, :, ::-1]), flag)
            decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
            assert decoded is not None  # it was encoded just now
            squeezed[index] = decoded[:, :, ::-1]
        return changed(clip, "jpeg", drawn, frames=dataclasses.replace(clip.frames, images=squeezed))
