"""The optimiser of a run and its learning rate, which is a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from emollama.errors import InputError
from train.config import TrainConfig

PROJECTORS = "projectors."


def build_optimizer(config: TrainConfig, model: nn.Module) -> Optimizer:
    """Return the optimiser of what has ``requires_grad``.

    Biases and norms (fewer than two dimensions) are not decayed; parameters under ``projectors.`` may have a rate of
    their own. Nothing to train raises `InputError`.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            # Sharded by ZeRO-3, a parameter has its dimensions in ds_shape.
            is_decayed = len(getattr(parameter, "ds_shape", parameter.shape)) >= 2
            groups.setdefault((is_decayed, name.startswith(PROJECTORS)), []).append(parameter)
    if not groups:
        raise InputError("the model has no parameter to train", field="task")
    projector_rate = config.projector_learning_rate or config.learning_rate
    described: list[dict[str, Any]] = [
        {
            "params": parameters,
            "weight_decay": config.weight_decay if is_decayed else 0.0,
            "peak": projector_rate if is_projector else config.learning_rate,
        }
        for (is_decayed, is_projector), parameters in groups.items()
    ]
    if config.optimizer == "sgd":
        return torch.optim.SGD(described, lr=config.learning_rate, momentum=config.momentum, nesterov=True)
    if config.optimizer == "adamw_8bit":
        from emollama.backbones.quantize import adamw_8bit

        return adamw_8bit(described, lr=config.learning_rate, betas=config.betas)
    return torch.optim.AdamW(described, lr=config.learning_rate, betas=config.betas, fused=True)


def set_learning_rate(config: TrainConfig, optimizer: Optimizer, *, step: int, total_steps: int) -> float:
    """Set every group's rate for a step; return that of the parameters that are no projector's."""
    share = learning_rate(config, step=step, total_steps=total_steps) / config.learning_rate
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * share
    return config.learning_rate * share


def learning_rate(config: TrainConfig, *, step: int, total_steps: int) -> float:
    """Return the rate of a step (from 0): a linear warm-up, then the schedule down to its floor."""
    if step < config.warmup_steps:
        begin = config.warmup_start_ratio
        return config.learning_rate * (begin + (1.0 - begin) * (step + 1) / config.warmup_steps)
    done = (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps)
    shape = {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1.0 + math.cos(math.pi * done))}[config.schedule]
    return config.learning_rate * (config.min_learning_rate_ratio + (1.0 - config.min_learning_rate_ratio) * shape)


def trained_parameters(optimizer: Optimizer) -> Sequence[nn.Parameter]:
    """Return every parameter that an optimiser updates."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
