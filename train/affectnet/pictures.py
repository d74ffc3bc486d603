"""Pictures of faces on the disk, with what is known of them, decoded a batch at a time by threads.

The whole set does not fit into memory, so that a batch is decoded when it is asked for: its box cut out as it is
(without a margin, held to the picture), and squashed to the model's square by the same `preprocess` that answers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from emollama.datasets.record import Record
from emollama.encoders.face import preprocess
from emollama.encoders.face_models import FaceModelConfig
from emollama.errors import DatasetError


@dataclass(frozen=True, kw_only=True)
class Faces:
    """N pictures: ``records``, ``classes`` [N] in the model's order, ``affect`` [N, 2], not a number where unknown."""

    records: tuple[Record, ...]
    classes: Tensor
    affect: Tensor

    def __len__(self) -> int:
        return len(self.records)

    @classmethod
    def of(cls, records: Sequence[Record], *, labels: Sequence[str]) -> Faces:
        """Take the records whose label is one of ``labels``; raises `DatasetError` when none is."""
        kept = tuple(record for record in records if record.label in labels)
        if not kept:
            raise DatasetError(f"no picture has one of the labels {', '.join(labels)}")
        missing = float("nan")
        affect = [
            (missing if r.valence is None else r.valence, missing if r.arousal is None else r.arousal) for r in kept
        ]
        classes = [list(labels).index(str(record.label)) for record in kept]
        return cls(records=kept, classes=torch.tensor(classes), affect=torch.tensor(affect, dtype=torch.float32))

    def taken(self, rows: Sequence[int]) -> Faces:
        index = torch.tensor(list(rows), dtype=torch.int64)
        return Faces(records=tuple(self.records[row] for row in rows), classes=self.classes[index],
                     affect=self.affect[index])  # fmt: skip

    def held_back(self, per_class: int, *, seed: int) -> tuple[Faces, Faces]:
        """Divide into what is learned from and ``per_class`` pictures of every class, at most a tenth of it.

        Which are held back depends on ``seed`` and their names alone. A class with fewer than ten gives one, and keeps
        one; 0 holds nothing back.
        """
        drawn = sorted(
            range(len(self)),
            key=lambda row: hashlib.blake2b(f"{seed}/{self.records[row].id}".encode(), digest_size=8).digest(),
        )
        held: set[int] = set()
        for code in self.classes.unique().tolist():
            rows = [row for row in drawn if int(self.classes[row]) == code]
            share = max(1, min(per_class, len(rows) // 10)) if per_class and len(rows) > 1 else 0
            held.update(rows[:share])
        return self.taken([row for row in range(len(self)) if row not in held]), self.taken(sorted(held))


class Decoder:
    """Reads pictures into a model's input with ``workers`` threads."""

    def __init__(self, config: FaceModelConfig, *, workers: int) -> None:
        self.config = config
        self._pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="faces")

    def __call__(self, records: Sequence[Record]) -> Tensor:
        """Return [B, C, S, S]; raises `DatasetError` for a picture that cannot be read."""
        pictures = torch.cat(list(self._pool.map(self._read, records)))
        return pictures.contiguous(memory_format=torch.channels_last)

    def _read(self, record: Record) -> Tensor:
        from PIL import Image

        assert record.file is not None
        try:
            with Image.open(record.file) as picture:
                rgb = picture.convert("RGB")
        except (OSError, ValueError) as error:
            raise DatasetError(f"{record.file} cannot be read as a picture: {error}", field="data") from error
        box = record.meta.get("box")
        if box is not None:
            x, y, width, height = box
            left, top = max(x, 0), max(y, 0)
            right, bottom = min(x + width, rgb.width), min(y + height, rgb.height)
            if right <= left or bottom <= top:
                raise DatasetError(
                    f"{record.file}: the box {box} is outside of its {rgb.width}x{rgb.height} pixels", field="data"
                )
            rgb = rgb.crop((left, top, right, bottom))
        return preprocess(np.array(rgb)[None], self.config)
