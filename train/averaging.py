"""`AveragedWeights`: an exponential moving average of what is trained, for validation and export."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from train.trained_state import like, load_trained_state, trained_state


class AveragedWeights:
    """Averages a model's trained state with ``decay`` (0: keeps nothing, and changes nothing)."""

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self._model, self._decay = model, decay
        self.state: dict[str, Tensor] = {}
        if decay:
            self.state = {name: value.detach().clone() for name, value in trained_state(model, in_parts=True).items()}

    @torch.no_grad()
    def update(self, *, step: int) -> None:
        """Take in the weights after ``step`` updates; at first the average is short, so that the start is forgotten."""
        if not self.state:
            return
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, value in trained_state(self._model, in_parts=True).items():
            if value.is_floating_point():
                self.state[name].lerp_(value, 1.0 - decay)
            else:
                self.state[name].copy_(value)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a checkpoint's average."""
        for name, tensor in state.items():
            self.state[name].copy_(like(tensor, self.state[name]))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the average into the model for a while."""
        if not self.state:
            yield
            return
        current = {name: value.clone() for name, value in trained_state(self._model, in_parts=True).items()}
        load_trained_state(self._model, self.state)
        try:
            yield
        finally:
            load_trained_state(self._model, current)
