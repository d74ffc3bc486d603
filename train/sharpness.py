"""Sharpness-aware minimisation (Foret et al., ICLR 2021): a step's gradient is taken where its loss is worst nearby.

With the gradient ``g`` of a whole step, over all its batches and processes, the weights go to ``w + rho g / |g|`` (one
norm over everything that is trained), the same batches give the gradient there, the weights come back, and the
optimiser steps by that gradient. Clipping, averaging and the schedule see one ordinary step. HSEmotion trains so, with
rho 0.05 over Adam and the plain form, in which no weight has a radius of its own.

The weights come back from a copy, bit for bit, so that a run with a checkpoint in it follows the undisturbed one. Batch
norms learn their statistics from the first pass alone: the second one's are those of weights that nobody keeps.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from emollama.errors import InputError
from train.optimizer import trained_parameters

if TYPE_CHECKING:
    from train.config import TrainConfig

_LEAST_NORM = 1e-12


def check_sharpness(config: TrainConfig, strategy: str) -> None:
    """Raise `InputError` where no process has whole gradients, as their norm and direction are wanted."""
    if config.sam_rho is not None and strategy in ("fsdp2", "deepspeed"):
        raise InputError(
            f"sam_rho is {config.sam_rho} with {strategy}; allowed there: null (it wants whole gradients: one process, "
            "or ddp)",
            field="sam_rho",
        )


@contextmanager
def at_sharpest(model: nn.Module, optimizer: Optimizer, *, rho: float) -> Iterator[None]:
    """Move the trained weights up their gradients for the block, which begins with no gradients and leaves its own."""
    parameters = [p for p in trained_parameters(optimizer) if p.grad is not None]
    climbed = climb(parameters, rho=rho)
    optimizer.zero_grad(set_to_none=True)
    tracking = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    for norm in tracking:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in tracking:
            norm.track_running_stats = True
        with torch.no_grad():
            for parameter, before in zip(parameters, climbed, strict=True):
                parameter.copy_(before)


@torch.no_grad()
def climb(parameters: list[nn.Parameter], *, rho: float) -> list[Tensor]:
    """Add ``rho g / |g|`` to the parameters, ``|g|`` the norm of all gradients together; return what they were."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    before = [parameter.detach().clone() for parameter in parameters]
    if not gradients:
        return before
    scale = rho / (torch.stack([gradient.float().norm() for gradient in gradients]).norm() + _LEAST_NORM)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.add_((gradient * scale).to(parameter.dtype))
    return before
