"""Recipe ``instruct``: fine-tune on one's own clips, LoRA on attention and MLP and the projectors.

    emollama train instruct task.manifest=clips/manifest.jsonl

nano goes on from its own adapter; a large preset gets fresh pairs. Few recordings are passed over many times, each time
blurred anew (`ClipOptions`), and the weights are averaged. The run is validated by macro-F1 now and then, on the
samples of the split ``valid`` or on some set apart by speaker, and exports its best.
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
        epochs=60,
        batch_size=64,
        learning_rate=1e-3,
        projector_learning_rate=3e-3,
        warmup_steps=20,
        weight_decay=0.01,
        ema_decay=0.98,
        threads=2,
        monitor="macro_f1:max",
        validate_every_epochs=5,
        patience=6,
        export="best",
        keep_exports=2,
        checkpoint_every_seconds=30.0,
    )
