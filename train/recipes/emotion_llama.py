"""Recipes ``emotion_llama_stage1`` and ``emotion_llama_stage2``: the two stages of Emotion-LLaMA (NeurIPS 2024).

    emollama train emotion_llama_stage1 task.manifest=merr-coarse/manifest.jsonl task.weights=llama-2-7b-chat=FOLDER,...
    emollama train emotion_llama_stage2 task.manifest=merr-fine/manifest.jsonl task.weights=...

As in the public configurations: LoRA of rank 64, alpha 16, dropout 0.05 on q and v, and the five linear projectors;
AdamW (0.9, 0.999) with weight decay 0.05 but not on biases; one sample on each of four GPUs, which is one sample and
four accumulated batches here (with four processes set ``accumulate_steps=1``); 30 x 1000 steps; no clipping of
gradients; answers end with ``</s>``. Stage 1 learns label and description, one of the two at each visit, at a rate that
climbs from 1e-6 to 1e-5 in 1000 steps and falls back as a cosine. Stage 2 goes on from stage 1's adapter and learns
reasons alone at a constant 1e-6, which its warm-up (from 1e-6) does not change.

What differs, on purpose:

- Answers keep their case and punctuation and are not cut at 200 words; the public code lower-cases them and strips
  most signs.
- bfloat16 instead of float16 with loss scaling: the same memory, nothing to tune.
- There is a validation split, and stage 1 exports the state that was best on it. The public code has none; its authors
  advise to try every epoch on the test list.
- The rate follows the cosine step by step; the public schedule holds it for a whole epoch.
- Questions are in wordings of our own, and a description's or reason's tag is ``[reason]``, as the demo sends it
  (``[reason_v2]`` in the public stage 2).
- Stage 1 begins with fresh pairs and projectors, not with MiniGPT-v2's; give ``task.adapter`` a folder to begin with.
- The frame is the first, as in the public code; ``task.picture=peak`` is the paper's (`emollama.peak_frame`).
- A modality that a clip lacks is left out of the prompt; the public code feeds zeros. ``task.modality_dropout`` is 0,
  as there.
- A prompt with its answer has at most 2048 tokens (published: 1024 of the answer, 3800 in all).
"""

from __future__ import annotations

import dataclasses

from emollama.config import EMOTION_LLAMA_7B
from train.clip_task import ClipOptions
from train.config import TrainConfig


def emotion_llama_stage1() -> TrainConfig:
    return TrainConfig(
        recipe="emotion_llama_stage1",
        run_dir="runs/emotion-llama-1",
        task=ClipOptions(
            model="emotion-llama-7b",
            lora=EMOTION_LLAMA_7B.lora,
            valid_share=0.05,
            modality_dropout=0.0,
            balance=0.0,
            replay_share=0.0,
        ),
        seed=42,
        epochs=30,
        max_steps=30_000,
        batch_size=1,
        accumulate_steps=4,
        learning_rate=1e-5,
        min_learning_rate_ratio=0.1,
        warmup_steps=1000,
        warmup_start_ratio=0.1,
        schedule="cosine",
        weight_decay=0.05,
        betas=(0.9, 0.999),
        clip_norm=None,
        precision="bf16",
        gradient_checkpointing=True,
        validate_every_steps=1000,
        monitor="macro_f1:max",
        export="best",
        keep_exports=2,
    )


def emotion_llama_stage2() -> TrainConfig:
    first = emotion_llama_stage1()
    return dataclasses.replace(
        first,
        recipe="emotion_llama_stage2",
        run_dir="runs/emotion-llama-2",
        task=dataclasses.replace(first.task, task="reason", adapter=f"{first.run_dir}/export"),
        learning_rate=1e-6,
        min_learning_rate_ratio=1.0,
        warmup_start_ratio=1.0,
        schedule="constant",
        export="last",
    )
