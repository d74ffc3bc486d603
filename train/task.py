"""What the loop asks of a task: a model, ordered batches, a loss, a validation and an export.

A task owns its data and its model; it knows nothing of optimisers, checkpoints or logs. A class of task options (a
frozen dataclass that sits in `TrainConfig.task`) builds it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor, nn

if TYPE_CHECKING:
    from train.config import TrainConfig


class Batches(Protocol):
    """One epoch's batches. With ``__getitem__`` too, a process and a resumed run go straight to the batches they need.

    A batch may have ``weight`` (a number, known without the model: how many terms its mean loss is over, such as answer
    tokens; 1 without it) and ``num_tokens`` (those it holds, without padding; only for the speed that is shown).
    """

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Any]: ...


class Task(Protocol):
    """One thing to learn. The data's randomness comes from ``(seed, epoch)`` alone, the model's from torch.

    The model may have ``enable_gradient_checkpointing()``; a config that asks for it is refused where there is none.
    """

    def build_model(self) -> nn.Module:
        """Return a fresh model; what is trained has ``requires_grad``."""
        ...

    def batches(self, *, epoch: int, seed: int) -> Batches:
        """Return the batches of an epoch, the same ones in the same order for the same ``(seed, epoch)``."""
        ...

    def loss(self, model: nn.Module, batch: Any) -> tuple[Tensor, Mapping[str, float | Tensor]]:
        """Return the scalar mean loss of a batch and figures to log; the batch is moved to the model's device here.

        It runs inside the forward pass of the prepared module (DDP, FSDP2, DeepSpeed); ``model`` is the plain one. What
        is drawn at random comes from torch's generators, which the loop has seeded for this batch. A figure may stay
        a (detached) tensor, which spares a wait for the device.
        """
        ...

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Score a model in eval mode; called without gradients, on averaged weights where the config asks for them.

        With several processes the main one scores the whole set; where weights are sharded all of them do, in step.
        """
        ...

    def export(self, model: nn.Module, folder: Path) -> None:
        """Write the artefacts (safetensors, JSON) into ``folder``.

        Of sharded weights only what is trained is there, so the model cannot be run; `validate` has just been.
        """
        ...


class TaskOptions(Protocol):
    """The frozen dataclass in `TrainConfig.task`."""

    def build(self, config: TrainConfig) -> Task:
        """Return the task these options describe; raises `DatasetError` when its data is not there."""
        ...
