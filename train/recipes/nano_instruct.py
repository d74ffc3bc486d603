"""Recipe ``nano_instruct``: LoRA on attention and MLP, and the projectors, on labels and dialogues.

Every sample holds one of the seven subsets of face, voice and words; what is left out is left out of the prompt.
"""

from __future__ import annotations

from train.composed_task import ComposedOptions
from train.config import TrainConfig


def nano_instruct() -> TrainConfig:
    return TrainConfig(
        recipe="nano_instruct",
        run_dir="runs/instruct",
        task=ComposedOptions(projectors="runs/align/export/projectors.safetensors", samples=16_000),
        seed=12,
        epochs=2,
        batch_size=32,
        learning_rate=1.2e-3,
        warmup_steps=80,
        weight_decay=0.0,
        precision="bf16",
        threads=2,
        monitor="loss:min",
        export="best",
        checkpoint_every_seconds=60.0,
        export_dir="emollama/assets/nano",
    )
