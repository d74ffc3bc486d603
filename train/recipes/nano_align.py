"""Recipe ``nano_align``: the projectors alone learn to say in the backbone's language what face and voice show."""

from __future__ import annotations

from train.composed_task import ComposedOptions
from train.config import TrainConfig


def nano_align() -> TrainConfig:
    return TrainConfig(
        recipe="nano_align",
        run_dir="runs/align",
        task=ComposedOptions(with_lora=False, dialogue_share=0.0, open_share=0.0, samples=14_400),
        seed=11,
        epochs=1,
        batch_size=48,
        learning_rate=1e-3,
        warmup_steps=40,
        weight_decay=0.01,
        precision="bf16",
        threads=2,
        monitor="nll:min",
        checkpoint_every_seconds=60.0,
    )
