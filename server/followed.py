"""Faces that were followed in the decoding process, on their way to the service: a JSON header and bare arrays.

Nothing that arrives is believed: `unpack` checks it against what a clip of so many pictures can hold and raises
`ValueError` (`KeyError`, `TypeError`) for anything else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from emollama.types import FaceTrack

_MAX_TRACKS, _MAX_CROP, _MAX_REASON = 64, 512, 500


def wanted_by(analyzer: Any) -> bool:
    """Tell whether an analyzer takes a clip with its faces followed and without its pictures."""
    return bool(getattr(analyzer, "takes_followed_faces", False))


def pack(tracks: Sequence[FaceTrack]) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
    """Return the header's entry of each track, and two arrays for each: ``times`` [T] and ``crops`` [T, S, S, 3]."""
    told, arrays = [], []
    for track in tracks:
        told.append(
            {
                "track_id": track.track_id,
                "boxes": [[box.x, box.y, box.width, box.height] for box in track.boxes],
                "crop_size": int(track.crops.shape[1]),
                "share": track.share,
                "is_main": track.is_main,
                "chosen_because": track.chosen_because,
            }
        )
        arrays += [track.times.astype("<f8", copy=False), track.crops.astype("uint8", copy=False)]
    return told, arrays


def unpack(
    told: Sequence[dict[str, Any]], read: Callable[[int], memoryview], *, num_pictures: int
) -> tuple[FaceTrack, ...]:
    """Build the tracks of a clip of ``num_pictures``; ``read(n)`` gives the next n bytes of the arrays."""
    if len(told) > _MAX_TRACKS:
        raise ValueError(f"{len(told)} faces are too many")
    tracks = tuple(_track(each, read, num_pictures=num_pictures) for each in told)
    if tracks and sum(track.is_main for track in tracks) != 1:
        raise ValueError("one face is the main one")
    return tracks


def _track(told: dict[str, Any], read: Callable[[int], memoryview], *, num_pictures: int) -> FaceTrack:
    from emollama.types import Box, FaceTrack

    number, size = len(told["boxes"]), int(told["crop_size"])
    if not 1 <= number <= num_pictures or not 1 <= size <= _MAX_CROP:
        raise ValueError(f"no face has {number} crops of {size} pixels")
    boxes = tuple(Box(x=x, y=y, width=w, height=h) for x, y, w, h in (map(_finite, box) for box in told["boxes"]))
    times = np.frombuffer(read(8 * number), "<f8")
    if not np.isfinite(times).all():
        raise ValueError("a time is not finite")
    return FaceTrack(
        track_id=int(told["track_id"]),
        times=times,
        boxes=boxes,
        crops=np.frombuffer(read(3 * number * size * size), np.uint8).reshape(number, size, size, 3),
        share=_finite(told["share"]),
        is_main=bool(told["is_main"]),
        chosen_because=str(told["chosen_because"])[:_MAX_REASON],
    )


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{number} is not finite")
    return number
