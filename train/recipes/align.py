"""Recipe ``align``: fine-tune the projectors alone on one's own clips; the backbone and its adapter stay as they are.

For a new camera, microphone or encoder, where what is seen and heard changes and what it means does not.
"""

from __future__ import annotations

import dataclasses

from train.config import TrainConfig
from train.recipes.instruct import instruct


def align() -> TrainConfig:
    config = instruct()
    return dataclasses.replace(
        config,
        recipe="align",
        run_dir="runs/align-clips",
        learning_rate=3e-3,
        task=dataclasses.replace(config.task, with_lora=False, dialogue_share=0.0, replay_share=0.0),
    )
