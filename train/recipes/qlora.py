"""Recipe ``qlora``: fine-tune a large preset whose frozen backbone lies in 4 bits (QLoRA; Dettmers et al., 2023).

    emollama train qlora task.manifest=clips/manifest.jsonl task.weights=llama-3.1-8b-instruct=FOLDER,...

From the paper: NF4 with double quantisation, computed in bfloat16; LoRA of rank 64, alpha 16, dropout 0.1 on all
projections of attention and MLP; AdamW at 2e-4 with 16 samples a step, a constant rate, gradients clipped to 0.3. The
moments of the optimiser lie in 8 bits, and in pages where there is a GPU.

What differs: a warm-up of 50 steps, because the projectors begin at random; they learn at a rate of their own and are
not quantised; activations are recomputed; the run is validated by macro-F1 and exports its best.

The adapter that comes out has learned to make up for the rounding of the 4-bit weights, and it is served, and merged by
``emollama merge``, on weights that were not rounded. The difference is small, but it is one: figures measured during
training are those of the quantised model. Validate the served adapter before you quote any.
"""

from __future__ import annotations

from emollama.config import LORA_TARGETS, LoraSettings
from train.clip_task import ClipOptions
from train.config import TrainConfig


def qlora() -> TrainConfig:
    return TrainConfig(
        recipe="qlora",
        run_dir="runs/qlora",
        task=ClipOptions(
            model="emollama-8b",
            bits=4,
            lora=LoraSettings(rank=64, alpha=16.0, dropout=0.1, targets=LORA_TARGETS),
        ),
        seed=1,
        epochs=3,
        batch_size=4,
        accumulate_steps=4,
        optimizer="adamw_8bit",
        learning_rate=2e-4,
        projector_learning_rate=5e-4,
        warmup_steps=50,
        schedule="constant",
        weight_decay=0.0,
        clip_norm=0.3,
        precision="bf16",
        gradient_checkpointing=True,
        monitor="macro_f1:max",
        patience=3,
        export="best",
        keep_exports=2,
    )
