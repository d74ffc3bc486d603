"""Why a run cannot go on, said so that its owner can act: a loss that is not finite, a device that is too small."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from emollama.errors import TrainingError
from train.config import TrainConfig
from train.run_dir import RunDir


def not_finite(config: TrainConfig, run_dir: RunDir, what: str) -> TrainingError:
    """Return the error to raise when ``what`` is not finite; it names the checkpoint that is left."""
    kept = run_dir.path / "checkpoints" / "last"
    remedy = f"lower learning_rate ({config.learning_rate:g})"
    if config.clip_norm is None:
        remedy += ", set clip_norm=1"
    remedy += " or raise warmup_steps, in a new run_dir"
    there = f"; the last checkpoint is {kept.resolve()}" if run_dir.has("last") else ""
    return TrainingError(f"{what}: {remedy}{there}", field="learning_rate")


@contextmanager
def explained_memory(config: TrainConfig) -> Iterator[None]:
    """Say which settings need less memory when the device has too little."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        knobs = []
        if config.batch_size > 1:
            knobs.append(f"batch_size={config.batch_size // 2} accumulate_steps={config.accumulate_steps * 2}")
        if not config.gradient_checkpointing:
            knobs.append("gradient_checkpointing=true")
        if config.precision == "fp32":
            knobs.append("precision=bf16")
        knobs.append("recipe qlora, or several GPUs with train/accelerate/fsdp2.yaml")
        raise TrainingError(
            f"the device's memory is too small ({str(error).splitlines()[0]}); try, in this order: {'; '.join(knobs)}",
            field="batch_size",
        ) from error
