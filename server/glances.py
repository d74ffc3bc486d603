"""Pictures of a camera on their way to the decoding process, and what was seen on its way back.

As with clips, nothing that arrives is believed: `unpack_glance` checks it and raises `ValueError` (`KeyError`,
`TypeError`) for what no picture can show.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from emollama.glance import Glance, Look, PictureLimits

_MAX_FACES = 16


def told_look(look: Look, limits: PictureLimits) -> dict[str, Any]:
    """Write down what to look for, and under which limits."""
    return {
        "follow": [[box.x, box.y, box.width, box.height] for box in look.follow],
        "search": look.search,
        "thorough": look.thorough,
        "crop_size": look.crop_size,
        "limits": dataclasses.asdict(limits),
    }


def asked_look(told: dict[str, Any]) -> tuple[Look, PictureLimits]:
    """Read what `told_look` wrote."""
    from emollama.glance import Look, PictureLimits
    from emollama.types import Box

    follow = tuple(Box(x=x, y=y, width=width, height=height) for x, y, width, height in told["follow"])
    look = Look(follow=follow, search=told["search"], thorough=told["thorough"], crop_size=told["crop_size"])
    return look, PictureLimits(**told["limits"])


def pack_glance(glance: Glance) -> tuple[dict[str, Any], list[Any]]:
    """Return the header, and two arrays for each face: ``look`` [16, 16] and ``crop`` [S, S, 3]."""
    header = {
        "size": [glance.width, glance.height],
        "was_searched": glance.was_searched,
        "faces": [
            {
                "box": [face.box.x, face.box.y, face.box.width, face.box.height],
                "confidence": face.confidence,
                "follows": face.follows,
            }
            for face in glance.faces
        ],
    }
    arrays: list[Any] = []
    for face in glance.faces:
        arrays += [face.look.astype("<f4", copy=False), face.crop.astype("uint8", copy=False)]
    return header, arrays


def unpack_glance(
    told: dict[str, Any], read: Callable[[int], memoryview], *, num_followed: int, crop_size: int
) -> Glance:
    """Build the glance; ``read(n)`` gives the next n bytes of the arrays."""
    from emollama.glance import LOOK_SIZE, Glance, Sighting
    from emollama.types import Box

    width, height = (int(side) for side in told["size"])
    if min(width, height) < 1 or len(told["faces"]) > _MAX_FACES:
        raise ValueError(f"no picture of {width} x {height} shows {len(told['faces'])} faces")
    faces = []
    for each in told["faces"]:
        x, y, wide, high = (_finite(value) for value in each["box"])
        if not (0 <= x < width and 0 <= y < height and 0 < wide <= width and 0 < high <= height):
            raise ValueError("a face lies outside the picture")
        follows = None if each["follows"] is None else int(each["follows"])
        if follows is not None and not 0 <= follows < num_followed:
            raise ValueError(f"no face {follows} was asked for")
        look = np.frombuffer(read(4 * LOOK_SIZE**2), "<f4").reshape(LOOK_SIZE, LOOK_SIZE)
        if not np.isfinite(look).all():
            raise ValueError("a face is not finite")
        crop = np.frombuffer(read(3 * crop_size**2), np.uint8).reshape(crop_size, crop_size, 3)
        faces.append(
            Sighting(
                box=Box(x=x, y=y, width=wide, height=high), confidence=_finite(each["confidence"]), follows=follows,
                look=look, crop=crop,
            )
        )  # fmt: skip
    return Glance(width=width, height=height, faces=tuple(faces), was_searched=bool(told["was_searched"]))


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{number} is not finite")
    return number
