"""Recipe ``instruct``: fine-tune on one's own clips, LoRA on attention and MLP and the projectors.

    emollama train instruct task.manifest=clips/manifest.jsonl

nano goes on from its own adapter; a large preset gets fresh pairs. The run is validated by macro-F1 after every epoch,
on the samples of the split ``valid`` or on some set apart by speaker, and exports its best.
"""

from __future__ import annotations

from train.clip_task import ClipOptions
from train.config import TrainConfig


def instruct() -> TrainConfig:
    return TrainConfig(
        recipe="instruct",
        run_dir="runs/instruct-clips",
        task=ClipOptions(),
        seed=1,
        epochs=12,
        batch_size=16,
        learning_rate=1e-3,
        warmup_steps=20,
        weight_decay=0.01,
        threads=2,
        monitor="macro_f1:max",
        patience=6,
        export="best",
        keep_exports=2,
        checkpoint_every_seconds=30.0,
    )
