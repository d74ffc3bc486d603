"""What the loop asks of a task: a model, ordered batches, a loss, a validation and an export.

A task owns its data and its model; it knows nothing of optimisers, checkpoints or logs. A class of task options (a
frozen dataclass that sits in `TrainConfig.task`) builds it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor, nn

if TYPE_CHECKING:
    from train.config import TrainConfig


class Batches(Protocol):
    """One epoch's batches. With ``__getitem__`` too, a resumed run jumps to its batch without drawing those before."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Any]: ...


class Task(Protocol):
    """One thing to learn. The data's randomness comes from ``(seed, epoch)`` alone, the model's from torch."""

    def build_model(self) -> nn.Module:
        """Return a fresh model; what is trained has ``requires_grad``."""
        ...

    def batches(self, *, epoch: int, seed: int) -> Batches:
        """Return the batches of an epoch, the same ones in the same order for the same ``(seed, epoch)``."""
        ...

    def loss(self, model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, float]]:
        """Return the scalar loss of a batch and figures to log; the batch is moved to the model's device here."""
        ...

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Score a model in eval mode; called without gradients, on averaged weights where the config asks for them."""
        ...

    def export(self, model: nn.Module, folder: Path) -> None:
        """Write the final artefacts (safetensors and JSON) into ``folder``."""
        ...


class TaskOptions(Protocol):
    """The frozen dataclass in `TrainConfig.task`."""

    def build(self, config: TrainConfig) -> Task:
        """Return the task these options describe; raises `DatasetError` when its data is not there."""
        ...
