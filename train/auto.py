"""Hyper-parameters that nobody chose: from the size of the data to epochs, batch size and rate.

Each may be given as a number instead. The rules are few and stated here: enough updates for a small set, few passes
over a large one; batches that a processor fills; the recipe's own rate, times the multiplier.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

from emollama.errors import InputError
from train.config import TrainConfig

Auto = Literal["auto"]

_MANY_UPDATES = 240  # updates that a small set is given, in as many epochs as that takes
_MOST_EPOCHS, _FEWEST_EPOCHS = 20, 3
_SMALL_BATCH, _LARGE_BATCH = 8, 32


def choose(
    config: TrainConfig,
    *,
    num_samples: int,
    n_epochs: int | Auto = "auto",
    batch_size: int | Auto = "auto",
    learning_rate_multiplier: float | Auto = "auto",
) -> TrainConfig:
    """Return a recipe's config for this many training samples; `InputError` names a value that is not allowed."""
    if num_samples < 1:
        raise InputError(f"num_samples is {num_samples}; allowed: 1 or more", field="training_file")
    size = _number(batch_size, "batch_size", most=256)
    epochs = _number(n_epochs, "n_epochs", most=50)
    multiplier = _number(learning_rate_multiplier, "learning_rate_multiplier", least=1e-3, most=100.0)
    if size is None:
        size = min(_LARGE_BATCH, max(_SMALL_BATCH, 2 ** int(math.log2(max(1.0, num_samples / 20)))))
    size = min(int(size), num_samples)
    if epochs is None:
        steps = max(1, num_samples // size)
        epochs = min(_MOST_EPOCHS, max(_FEWEST_EPOCHS, round(_MANY_UPDATES / steps)))
    changed: dict[str, Any] = {"batch_size": size, "epochs": int(epochs)}
    if multiplier is not None:
        changed["learning_rate"] = config.learning_rate * multiplier
        if config.projector_learning_rate is not None:
            changed["projector_learning_rate"] = config.projector_learning_rate * multiplier
    return dataclasses.replace(config, **changed)


def _number(value: float | str, name: str, *, least: float = 1, most: float) -> float | None:
    if value == "auto":
        return None
    if isinstance(value, (str, bool)) or not least <= value <= most:
        raise InputError(f"{name} is {value!r}; allowed: auto, or {least:g} to {most:g}", field=name)
    return value
