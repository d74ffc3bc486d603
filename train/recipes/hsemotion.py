"""Recipes ``hsemotion_stage1`` and ``hsemotion_stage2``: HSEmotion's face models on AffectNet, in its two stages.

    emollama convert hsemotion state_vggface2_enet0_new.pt vggface2 --model enet_b0_8_va_mtl
    emollama train hsemotion_stage1 task.data=AFFECTNET task.start=vggface2
    emollama train hsemotion_stage2 task.data=AFFECTNET

As in the notebooks (sb-ai-lab/EmotiEffLib, ``training_and_examples/affectnet``): a network that knows faces; first the
new head alone, 3 epochs at 1e-3, then everything, 6 epochs at 1e-4, constant; sharpness-aware minimisation with rho
0.05 over Adam without decay; batches of 48 (64 for models without valence and arousal: ``batch_size=64``); crops by the
set's own box, squashed to the square, never distorted; class weights (1 / n) / min(1 / n); the losses of
`train.affectnet.losses`. ``task.model`` is any of `FACE_MODELS`, so that every backbone is trained in the same way;
one of seven classes learns from pictures without contempt.

What differs, on purpose: the epoch is chosen on pictures of the training part that are held back, not on the set that
is reported (``task.held_per_class=0`` is the published way), and in the first stage the batch norms of the backbone
keep their statistics.
"""

from __future__ import annotations

import dataclasses

from train.affectnet.options import AffectNetOptions
from train.config import TrainConfig


def hsemotion_stage1() -> TrainConfig:
    """The head alone, on a network that was trained before."""
    return TrainConfig(
        recipe="hsemotion_stage1",
        run_dir="runs/hsemotion-1",
        task=AffectNetOptions(trains="head"),
        epochs=3,
        batch_size=48,
        learning_rate=1e-3,
        schedule="constant",
        clip_norm=None,
        sam_rho=0.05,
        log_every_steps=100,
        monitor="accuracy:max",
        export="best",
    )


def hsemotion_stage2() -> TrainConfig:
    """The whole network, from where the first stage ended."""
    return dataclasses.replace(
        hsemotion_stage1(),
        recipe="hsemotion_stage2",
        run_dir="runs/hsemotion-2",
        task=AffectNetOptions(start="runs/hsemotion-1/export"),
        epochs=6,
        learning_rate=1e-4,
    )
