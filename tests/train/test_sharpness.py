"""Sharpness-aware minimisation: the published step on a quadratic, in the loop with all its settings, and resumed."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from emollama.errors import InputError
from train.config import TrainConfig, override
from train.loop import run
from train.run_dir import read_metrics
from train.sharpness import at_sharpest, check_sharpness

RHO = 0.05


@dataclass(frozen=True, kw_only=True)
class Options:
    interrupt_at: int = -1


class Bowl(nn.Module):
    """A quadratic bowl 0.5 sum(a w^2) + b . w, for which everything can be worked out by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.tensor([1.0, -2.0]))
        self.two = nn.Parameter(torch.tensor([[3.0]]))

    def forward(self, slopes: torch.Tensor) -> torch.Tensor:
        weights = torch.cat((self.one, self.two.flatten()))
        return 0.5 * (STEEPNESS * weights.square()).sum() + (slopes * weights).sum()


STEEPNESS = torch.tensor([1.0, 4.0, 0.5])


class BowlTask:
    def __init__(self, slopes: list[torch.Tensor]) -> None:
        self.slopes = slopes

    def build_model(self) -> nn.Module:
        return Bowl()

    def batches(self, *, epoch, seed):
        return self.slopes

    def loss(self, model, batch):
        return model(batch), {}

    def validate(self, model):
        return {"loss": model(torch.zeros(3)).item()}

    def export(self, model, folder: Path) -> None:
        save_file(model.state_dict(), folder / "bowl.safetensors")


def config_in(folder: Path, **fields) -> TrainConfig:
    base = {"optimizer": "sgd", "momentum": 0.5, "learning_rate": 0.1, "schedule": "constant", "clip_norm": None}
    return TrainConfig(
        recipe="bowl", run_dir=str(folder), task=Options(), device="cpu", log_every_steps=1, sam_rho=RHO,
        **(base | fields),
    )  # fmt: skip


def by_hand(slopes: list[torch.Tensor], *, accumulate: int, clip: float | None, momentum: float, rate: float):
    """The published formula, written out: weights and the loss that each step reports."""
    weights, velocity, losses = torch.tensor([1.0, -2.0, 3.0]), torch.zeros(3), []
    for start in range(0, len(slopes), accumulate):
        slope = torch.stack(slopes[start : start + accumulate]).mean(0)
        losses.append(float(0.5 * (STEEPNESS * weights.square()).sum() + (slope * weights).sum()))
        rising = STEEPNESS * weights + slope
        worst = weights + RHO * rising / (rising.norm() + 1e-12)
        gradient = STEEPNESS * worst + slope
        if clip is not None:
            gradient = gradient * min(1.0, clip / float(gradient.norm()))
        velocity = momentum * velocity + gradient
        weights = weights - rate * (gradient + momentum * velocity)  # Nesterov, as torch has it
    return weights, losses


@pytest.mark.parametrize(("accumulate", "clip"), [(1, None), (1, 0.7), (3, None), (3, 0.7)])
def test_the_loop_takes_the_published_step(tmp_path, accumulate, clip):
    generator = torch.Generator().manual_seed(0)
    slopes = [torch.randn(3, generator=generator) for _ in range(6)]
    run(config_in(tmp_path, accumulate_steps=accumulate, clip_norm=clip), BowlTask(slopes))
    expected, losses = by_hand(slopes, accumulate=accumulate, clip=clip, momentum=0.5, rate=0.1)
    state = load_file(tmp_path / "export" / "bowl.safetensors")
    assert torch.cat((state["one"], state["two"].flatten())).tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    # what is reported is the loss of the weights that are kept, not of the worst ones nearby
    assert [step["loss"] for step in read_metrics(tmp_path, events=["step"])] == pytest.approx(losses, abs=1e-5)


def test_without_a_radius_nothing_changes(tmp_path):
    slopes = [torch.ones(3)] * 2
    run(config_in(tmp_path / "a"), BowlTask(slopes))
    plain = replace(config_in(tmp_path / "b"), sam_rho=None)
    run(plain, BowlTask(slopes))
    a, b = (load_file(tmp_path / name / "export" / "bowl.safetensors")["one"] for name in "ab")
    assert not torch.allclose(a, b)
    assert plain.to_json_dict()["sam_rho"] is None  # as in a run from before there was the option, which resumes


def test_weights_come_back_bit_for_bit_and_batch_norms_learn_once():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    frozen = model[2].bias.requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    batch = torch.randn(8, 3)
    model(batch).square().sum().backward()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with at_sharpest(model, optimizer, rho=0.3):
        moved = torch.cat([(p - before[n]).flatten() for n, p in model.named_parameters()])
        assert moved.norm().item() == pytest.approx(0.3, abs=1e-5)
        assert all(p.grad is None for p in model.parameters())
        model(batch).square().sum().backward()
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(p.grad is not None for p in model.parameters() if p is not frozen)
    model(batch)
    assert not torch.equal(model.state_dict()["1.running_mean"], before["1.running_mean"])  # it learns again


class Noisy(BowlTask):
    """A network with dropout and a batch norm, so that random state and statistics matter, interrupted on demand."""

    def __init__(self, options: Options) -> None:
        generator = torch.Generator().manual_seed(1)
        super().__init__([torch.randn(8, 3, generator=generator) for _ in range(7)])
        self.interrupt_at, self.calls = options.interrupt_at, 0

    def build_model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 1))

    def loss(self, model, batch):
        self.calls += 1
        if self.calls == self.interrupt_at:
            os.kill(os.getpid(), signal.SIGINT)
        return (model(batch) - batch.sum(1, keepdim=True)).square().mean(), {}

    def validate(self, model):
        return {"loss": self.loss(model, self.slopes[0])[0].item()}


@pytest.mark.parametrize("interrupt_at", [5, 12])  # in a first pass, and in a second
def test_an_interrupted_run_has_the_same_losses_as_a_whole_one(tmp_path, interrupt_at):
    whole = config_in(
        tmp_path / "whole", epochs=3, optimizer="adamw", learning_rate=0.02, ema_decay=0.9, clip_norm=1.0,
        accumulate_steps=2, monitor="loss:min",
    )  # fmt: skip
    run(whole, Noisy(Options()))
    parts = replace(whole, run_dir=str(tmp_path / "parts"))
    assert run(parts, Noisy(Options(interrupt_at=interrupt_at))).interrupted
    torch.manual_seed(5)
    run(parts, Noisy(Options()), resume=True)
    losses = [[step["loss"] for step in read_metrics(tmp_path / name, events=["step"])] for name in ("whole", "parts")]
    assert losses[0] == losses[1]
    states = [load_file(tmp_path / name / "export" / "bowl.safetensors") for name in ("whole", "parts")]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_the_radius_is_checked_and_is_an_option_of_every_recipe(tmp_path):
    config = config_in(tmp_path)
    assert override(config, ["sam_rho=0.1"]).sam_rho == 0.1
    assert override(config, ["sam_rho=null"]).sam_rho is None
    with pytest.raises(InputError, match=r"sam_rho is 0\.0; allowed: more than 0, or null"):
        replace(config, sam_rho=0.0)
    check_sharpness(config, "ddp")
    with pytest.raises(InputError, match=r"sam_rho is 0\.05 with fsdp2"):
        check_sharpness(config, "fsdp2")
