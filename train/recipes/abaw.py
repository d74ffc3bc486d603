"""Recipes ``abaw_expr``, ``abaw_va``, ``abaw_au``, ``abaw_ce``, ``abaw_emi``: heads for ABAW's five tasks (HSEmotion).

    emollama eval read-crops enet_b0_8_best_vgaf.safetensors AFFWILD2/cropped readings
    emollama train abaw_expr task.data=AFFWILD2 task.scores=readings
    emollama eval submit expr --head runs/abaw-expr/export --scores readings --list test.txt --output expr.txt

The face model is frozen: its readings are kept once, and a head learns from them in minutes. Heads, losses, weights of
classes, rates and batches are those of HSEmotion's ABAW-6 notebooks (`docs/abaw6.md` has the table); Keras' Adam is
AdamW without decay here. What they choose on the set that they report, and we do not: the best epoch, smoothing,
thresholds and shares come from videos of the training part that no head has seen.
"""

from __future__ import annotations

import dataclasses

from train.abaw.options import AbawOptions
from train.config import TrainConfig


def abaw_expr() -> TrainConfig:
    """Expressions: 128 hidden units on embeddings, weighted cross-entropy, batches of 256, 10 epochs."""
    return TrainConfig(
        recipe="abaw_expr",
        run_dir="runs/abaw-expr",
        task=AbawOptions(task="expr"),
        epochs=10,
        batch_size=256,
        learning_rate=1e-3,
        schedule="constant",
        clip_norm=None,
        log_every_steps=100,
        monitor="score:max",
        export="best",
    )


def abaw_va() -> TrainConfig:
    """Valence and arousal: one layer on the outputs, 1 - mean CCC, batches of 1,024, 5 epochs."""
    return dataclasses.replace(
        abaw_expr(),
        recipe="abaw_va",
        run_dir="runs/abaw-va",
        task=AbawOptions(task="va", reads="scores", hidden=0, kernel_decay=1 / 1024),
        epochs=5,
        batch_size=1024,
    )


def abaw_au() -> TrainConfig:
    """Action units: 128 hidden units on embeddings, weighted binary cross-entropy, batches of 512, 5 epochs."""
    return dataclasses.replace(
        abaw_expr(),
        recipe="abaw_au",
        run_dir="runs/abaw-au",
        task=AbawOptions(task="au"),
        epochs=5,
        batch_size=512,
    )


def abaw_ce() -> TrainConfig:
    """Compound expressions: the head of expressions, tuned by how well the parts of compounds are told apart.

    The published entry has no head: ``emollama eval submit ce`` without one is that.
    """
    return dataclasses.replace(
        abaw_expr(), recipe="abaw_ce", run_dir="runs/abaw-ce", task=AbawOptions(task="ce", trust=False)
    )


def abaw_emi() -> TrainConfig:
    """Mimicry: 64 hidden units on the statistics of embeddings, 1 - weighted r, batches of 512, 20 epochs."""
    return dataclasses.replace(
        abaw_expr(),
        recipe="abaw_emi",
        run_dir="runs/abaw-emi",
        task=AbawOptions(task="emi", hidden=64),
        epochs=20,
        batch_size=512,
        log_every_steps=15,
    )
