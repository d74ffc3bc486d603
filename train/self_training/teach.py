"""An ensemble of fusion classifiers, each trained by the one loop in a run directory of its own that is thrown away."""

from __future__ import annotations

import dataclasses
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

from emollama.errors import InputError
from emollama.fusion.classifier import FusionClassifier
from emollama.fusion.utterances import Utterances
from train.config import TrainConfig
from train.loop import run
from train.recipes.fusion import FusionOptions, FusionTask
from train.self_training.rounds import Teach

logger = logging.getLogger(__name__)


def teach_by(config: TrainConfig, labels: Sequence[str], *, steps: int | None = None) -> Teach:
    """Return a function that trains members as ``config`` says, all of them with the same ``labels`` in the same order.

    With ``steps`` every training takes so many updates however many clips there are, so that a comparison of few labels
    with many is not one of few updates with many. An interrupted training raises `InterruptedError`.
    """
    if not isinstance(config.task, FusionOptions):
        raise InputError(f"recipe {config.recipe!r} is not fusion", field="recipe")
    options = dataclasses.replace(config.task, labels=tuple(labels))

    def teach(clips: Utterances, weights: Sequence[float], seeds: Sequence[int]) -> FusionClassifier:
        members = []
        for seed in seeds:
            with tempfile.TemporaryDirectory(prefix="emollama-fusion-") as folder:
                wanted = dataclasses.replace(config, run_dir=f"{folder}/run", seed=seed, task=options)
                if steps is not None:
                    per_epoch = -(-len(clips) // config.batch_size)
                    epochs = -(-steps // per_epoch)
                    wanted = dataclasses.replace(
                        wanted, epochs=epochs, max_steps=steps, validate_every_epochs=epochs + 1
                    )
                result = run(wanted, FusionTask(wanted, options, clips, weights=weights))
                if result.interrupted or result.export is None:
                    raise InterruptedError("stopped while training a member")
                members += FusionClassifier.load(Path(result.export)).members
        return FusionClassifier(members)

    return teach
