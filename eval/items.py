"""Records of the published data sets as items of a task: what the readers found, in the engine's form."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.task import Item

if TYPE_CHECKING:
    from emollama.datasets.aff_wild2 import Stretch
    from emollama.datasets.record import Record
    from emollama.types import Clip

MAX_CROPS = 240  # pictures of a stretch, as many as of a video (`emollama.media.read_clip`)


def item_of(record: Record, gold: Any, *, with_words: bool = True, **meta: Any) -> Item:
    """Return a record as an item; ``with_words=False`` keeps words that say nothing of the emotion from the model."""
    return Item(
        id=record.id,
        gold=gold,
        clip=record.file,
        start=record.start,
        end=record.end,
        transcript=record.transcript if with_words else None,
        language=record.language if with_words else None,
        group=record.group,
        meta={**record.meta, **meta},
    )


def label_items(records: Iterable[Record], *, with_words: bool = True) -> Iterator[Item]:
    """Yield an item for each record, its label being what is true of it."""
    for record in records:
        yield item_of(record, record.label, with_words=with_words)


def word_items(records: Iterable[Record]) -> Iterator[Item]:
    """Yield an item for each record, its open words being what is true of it."""
    for record in records:
        yield item_of(record, list(record.words))


def series_items(stretches: Iterable[Stretch]) -> Iterator[Item]:
    """Yield an item for each stretch of a video: an answer is wanted for each of its frames."""
    for stretch in stretches:
        yield Item(
            id=stretch.id,
            gold={"frames": list(stretch.frames), "times": list(stretch.times), "values": list(stretch.values)},
            clip=stretch.file,
            load=None if stretch.crops is None else partial(_clip_of_crops, stretch.id, stretch),
            start=stretch.start,
            end=stretch.end,
            group=stretch.video,
        )


def _clip_of_crops(name: str, stretch: Stretch) -> Clip:
    """Return the crops of a stretch as a clip [N, side, side, 3] with their own times, thinned out evenly."""
    import numpy as np

    from emollama.types import Clip, Frames

    crops = sorted((stretch.crops or {}).items())
    if len(crops) > MAX_CROPS:
        crops = [crops[round(place)] for place in np.linspace(0, len(crops) - 1, MAX_CROPS)]
    images = np.stack([_picture(path, stretch.side) for _, path in crops])
    times = np.array([seconds for seconds, _ in crops], np.float64)
    return Clip(
        name=name,
        seconds=stretch.seconds,
        frames=Frames(images=images, times=times, source_fps=None, is_still=len(crops) == 1),
    )


def _picture(path: Path, side: int) -> Any:
    """Read one crop as [side, side, 3] uint8 RGB, squashed to a square as the crops of the face models are."""
    import numpy as np
    from PIL import Image

    from emollama.errors import DatasetError

    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGB").resize((side, side), Image.Resampling.BILINEAR))
    except OSError as error:
        raise DatasetError(f"{path}: the picture cannot be read: {error}") from error
