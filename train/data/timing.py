"""How long encoding and training take here, measured on a few of the data set's own clips with the embedded model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from emollama.manifest import Manifest, Sample
from train.data.cost import Speed, measure_encoding, measure_step

if TYPE_CHECKING:
    from train.clip_task import ClipTask


def time_nano(manifest: Manifest, *, num: int = 3, batch_size: int | None = None) -> Speed:
    """Encode ``num`` clips of different size with nano and take a few steps on them, as the recipe ``instruct`` will.

    ``batch_size`` defaults to what a job would choose. Without clips, ``num`` rows of words alone are trained on.
    Raises `DatasetError` for a manifest that cannot be trained on.
    """
    from train.auto import passes_of
    from train.clip_task import Known
    from train.features import clip_of
    from train.recipes.instruct import instruct

    config = instruct()
    config = dataclasses.replace(config, task=dataclasses.replace(config.task, manifest=str(manifest.path)))
    task: ClipTask = config.task.build(config)
    learned = [*task.samples["train"], *task.samples["valid"]]
    found: dict[str, Known] = {}

    def size(sample: Sample) -> float:
        # Bytes stand for length: opening every clip to put three of them in order would cost more than the three.
        path = manifest.clip_path(sample)
        return float(path.stat().st_size) if path is not None and path.is_file() else 0.0

    def encode(sample: Sample) -> None:
        reading = task.trainee.read(clip_of(manifest, sample))
        found[sample.id] = Known(sample=sample, reading=reading, present=task.trainee.present(sample, reading))

    speed = measure_encoding([sample for sample in learned if sample.clip is not None], encode, size=size, num=num)
    for sample in learned[: 0 if found else num]:
        encode(sample)
    task.known = {"train": [known for known in found.values() if known.present], "valid": []}
    if not task.known["train"]:
        return speed
    step = _step_of(task, batch_size or passes_of(len(learned))[1])
    return dataclasses.replace(speed, seconds_per_step=measure_step(step))


def _step_of(task: ClipTask, batch_size: int) -> Callable[[], None]:
    """Return what takes one step: forward, backward and update, on a batch of the few samples over and over."""
    import torch

    model = task.build_model().train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)
    rng = Random(0)
    known = len(task.known["train"])

    def step() -> None:
        slots = [None if rng.random() < task.options.replay_share else rng.randrange(known) for _ in range(batch_size)]
        loss, _ = task.loss(model, task.collate(task.write(slots, rng)))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step
