"""Recipe ``debug``: two steps of ``instruct`` on a few clips, to see that a manifest and a machine work at all."""

from __future__ import annotations

import dataclasses

from train.config import TrainConfig
from train.recipes.instruct import instruct


def debug() -> TrainConfig:
    return dataclasses.replace(
        instruct(),
        recipe="debug",
        run_dir="runs/debug",
        epochs=1,
        max_steps=2,
        batch_size=4,
        warmup_steps=0,
        ema_decay=0.0,
        validate_every_epochs=1,
        threads=0,
        monitor="loss:min",
        patience=None,
        keep_exports=0,
        log_every_steps=1,
    )
