"""Which videos of the training part are held back for tuning: whole videos, and both people of one together."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from emollama.datasets.aff_wild2 import scene_of
from emollama.errors import DatasetError, InputError


def tuning_videos(sizes: Mapping[str, int], *, share: float, seed: int) -> tuple[str, ...]:
    """Return the names held back, sorted: scenes drawn in an order by ``seed`` until they have ``share`` of the rows.

    ``sizes`` maps names to their annotated rows. One scene at least is held back and one left to learn from.
    """
    if not 0.0 < share < 1.0:
        raise InputError(f"tuning_share is {share}; allowed: between 0 and 1", field="tuning_share")
    scenes: dict[str, list[str]] = {}
    for name in sorted(sizes):
        scenes.setdefault(scene_of(name), []).append(name)
    if len(scenes) < 2:
        raise DatasetError(f"the training part has {len(scenes)} videos; expected: 2 or more, one of them to tune on")
    drawn = sorted(scenes, key=lambda scene: hashlib.blake2b(f"{seed}/{scene}".encode(), digest_size=8).digest())
    total, rows = sum(sizes.values()), 0
    held: list[str] = []
    for scene in drawn[:-1]:
        if rows >= share * total and held:
            break
        held += scenes[scene]
        rows += sum(sizes[name] for name in scenes[scene])
    return tuple(sorted(held))


def refuse_shared_scenes(train: Iterable[str], reported: Iterable[str]) -> None:
    """Raise `DatasetError` when a video of the training part is in the part that is reported on."""
    shared = sorted({scene_of(name) for name in train} & {scene_of(name) for name in reported})
    if shared:
        raise DatasetError(
            f"{len(shared)} videos are in the training part and in the one that is reported on, the first is "
            f"{shared[0]!r}; take them out of one"
        )
