"""Hyper-parameters that nobody chose: from the size of the data to epochs, batch size and what is exported.

Each may be given as a number instead. The rules are few and stated here. A small set is passed over many times, a large
one a few; a batch is a sixth of a small set at most; the rate is the recipe's own, times the multiplier. Where fewer
than `_TRUSTED` samples validate, the best of many validations is mostly the luckiest: then the last, averaged weights
are exported, and nothing is stopped early.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from emollama.errors import InputError
from train.config import TrainConfig

Auto = Literal["auto"]

_PASSES = 24_000  # samples that are passed over in all, as far as the bounds on epochs allow
_MOST_EPOCHS, _FEWEST_EPOCHS = 60, 3
_SMALLEST_BATCH, _LARGEST_BATCH = 4, 64
_VALIDATIONS = 10
_TRUSTED = 200


def passes_of(num_samples: int) -> tuple[int, int]:
    """Return (epochs, batch size) for so many training samples."""
    size = min(num_samples, _LARGEST_BATCH, max(_SMALLEST_BATCH, num_samples // 6))
    return min(_MOST_EPOCHS, max(_FEWEST_EPOCHS, round(_PASSES / max(1, num_samples)))), max(1, size)


def choose(
    config: TrainConfig,
    *,
    num_samples: int,
    num_valid: int = 0,
    n_epochs: int | Auto = "auto",
    batch_size: int | Auto = "auto",
    learning_rate_multiplier: float | Auto = "auto",
) -> TrainConfig:
    """Return a recipe's config for so many training and validation samples; `InputError` names what is not allowed."""
    if num_samples < 1:
        raise InputError(f"num_samples is {num_samples}; allowed: 1 or more", field="training_file")
    size = _number(batch_size, "batch_size", most=256)
    epochs = _number(n_epochs, "n_epochs", most=200)
    multiplier = _number(learning_rate_multiplier, "learning_rate_multiplier", least=1e-3, most=100.0)
    own_epochs, own_size = passes_of(num_samples)
    epochs = own_epochs if epochs is None else epochs
    changed: dict[str, Any] = {
        "batch_size": own_size if size is None else min(int(size), num_samples),
        "epochs": int(epochs),
        "validate_every_epochs": max(1, round(epochs / _VALIDATIONS)),
    }
    if num_valid < _TRUSTED:
        changed |= {"export": "last", "patience": None}
    if num_valid == 0:
        changed["monitor"] = "loss:min"
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
