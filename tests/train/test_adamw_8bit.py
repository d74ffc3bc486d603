"""AdamW with moments of 8 bits, for real on a processor: it learns, and its state survives a checkpoint."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from train.config import TrainConfig
from train.optimizer import build_optimizer
from train.trained_state import load_optimizer_state, optimizer_state

pytest.importorskip("bitsandbytes", reason="8-bit moments need the extra 'gpu'")

CONFIG = TrainConfig(recipe="x", run_dir="x", task=None, optimizer="adamw_8bit", learning_rate=5e-2)


def model() -> nn.Module:
    torch.manual_seed(0)
    # the first is large enough for 8 bits, the second is not
    return nn.Sequential(nn.Linear(96, 64, bias=False), nn.Linear(64, 8))


def steps(net: nn.Module, optimizer: torch.optim.Optimizer, count: int, *, begin: int = 0) -> list[float]:
    losses = []
    for index in range(begin, begin + count):
        inputs = torch.randn(32, 96, generator=torch.Generator().manual_seed(index))
        loss = (net(inputs) - 1.0).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_it_learns_and_goes_on_from_a_checkpoint_as_if_nothing_had_been(tmp_path: Path) -> None:
    net = model()
    optimizer = build_optimizer(CONFIG, net)
    losses = steps(net, optimizer, 12)
    assert losses[-1] < 0.8 * losses[0]
    assert {value.dtype for value in optimizer.state[net[0].weight].values() if torch.is_tensor(value)} >= {torch.uint8}
    save_file(optimizer_state(net, optimizer), tmp_path / "optimizer.safetensors")
    other = copy.deepcopy(net)
    again = build_optimizer(CONFIG, other)
    load_optimizer_state(other, again, load_file(tmp_path / "optimizer.safetensors"))
    assert steps(other, again, 4, begin=12) == steps(net, optimizer, 4, begin=12)
