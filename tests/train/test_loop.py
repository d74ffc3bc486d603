"""The training loop: it learns, resumes exactly, stops cleanly, averages weights and explains itself on disk."""

from __future__ import annotations

import json
import os
import signal
import threading
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from emollama.errors import CheckpointError, InputError, TrainingError
from train.config import TrainConfig
from train.loop import run
from train.optimizer import learning_rate
from train.run_dir import RunDir, read_metrics
from train.trained_state import load_trained_state, trained_state


@dataclass(frozen=True, kw_only=True)
class Options:
    interrupt_at: int = -1
    is_indexed: bool = True
    is_broken: bool = False


class Toy:
    """Learns the sum of four numbers; has dropout and a norm, so that random state and buffers matter."""

    def __init__(self, options: Options, *, frozen: bool = False) -> None:
        self.options, self.frozen, self.seen, self.scores = options, frozen, [], iter(())

    def build_model(self) -> nn.Module:
        model = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 1))
        if self.frozen:
            model[0].requires_grad_(False)
        return model

    def batches(self, *, epoch, seed):
        generator = torch.Generator().manual_seed(1000 * seed + epoch)
        drawn = [torch.randn(16, 4, generator=generator) for _ in range(10)]
        return drawn if self.options.is_indexed else _Stream(drawn)

    def loss(self, model, batch):
        self.seen.append(float(batch.sum()))
        if len(self.seen) == self.options.interrupt_at:
            os.kill(os.getpid(), signal.SIGINT)
        loss = (model(batch).float() - batch.sum(1, keepdim=True)).square().mean()
        return loss * float("nan") if self.options.is_broken else loss, {"double": 2 * loss.item()}

    def validate(self, model):
        assert not model.training
        batch = torch.randn(256, 4, generator=torch.Generator().manual_seed(7))
        loss = (model(batch).float() - batch.sum(1, keepdim=True)).square().mean().item()
        return {"loss": loss, "score": next(self.scores, 0.0)}

    def export(self, model, folder: Path) -> None:
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "toy.safetensors")


class _Stream:
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __iter__(self):
        return iter(self.items)


def config_in(folder: Path, **fields) -> TrainConfig:
    base = {"epochs": 3, "ema_decay": 0.9, "learning_rate": 0.02, "warmup_steps": 3, "log_every_steps": 4}
    return TrainConfig(recipe="toy", run_dir=str(folder), task=Options(), device="cpu", **(base | fields))


def events(folder: Path, name: str) -> list[dict]:
    lines = (json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == name]


def test_a_run_learns_and_leaves_a_folder_that_explains_it(tmp_path):
    result = run(config_in(tmp_path, epochs=8), Toy(Options()))
    assert result.steps == 80
    assert not result.interrupted
    losses = [line["loss"] for line in events(tmp_path, "validate")]
    assert losses[-1] < 0.5 * losses[0]
    assert json.loads((tmp_path / "config.json").read_text())["epochs"] == 8
    assert "git_revision" in json.loads((tmp_path / "environment.json").read_text())
    assert events(tmp_path, "start")[0]["parameters"] == 4 * 16 + 16 + 32 + 17
    assert {"loss", "double", "learning_rate", "epoch"} <= events(tmp_path, "step")[0].keys()
    assert (tmp_path / "export" / "toy.safetensors").is_file()
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir())[:2] == ["best", "last"]


@pytest.mark.parametrize("is_indexed", [True, False])
@pytest.mark.parametrize(("interrupt_at", "accumulate"), [(14, 1), (20, 1), (14, 3)])
def test_an_interrupted_run_resumes_to_the_same_weights(tmp_path, is_indexed, interrupt_at, accumulate):
    whole = config_in(tmp_path / "whole", accumulate_steps=accumulate)
    straight = Toy(Options(is_indexed=is_indexed))
    run(whole, straight)

    parts = replace(whole, run_dir=str(tmp_path / "parts"))
    first = Toy(Options(is_indexed=is_indexed, interrupt_at=interrupt_at))
    stopped = run(parts, first)
    assert stopped.interrupted
    assert stopped.export is None
    torch.manual_seed(99)  # what the process did in between must not matter
    second = Toy(Options(is_indexed=is_indexed))
    done = run(parts, second, resume=True)
    assert not done.interrupted
    assert first.seen + second.seen == straight.seen
    for name in ("toy.safetensors",):
        expected = load_file(tmp_path / "whole" / "export" / name)
        actual = load_file(tmp_path / "parts" / "export" / name)
        assert all(torch.equal(expected[key], actual[key]) for key in expected)
    assert len(events(tmp_path / "parts", "resume")) == 1


def test_resuming_a_finished_run_trains_nothing_and_exports_again(tmp_path):
    config = config_in(tmp_path)
    run(config, Toy(Options()))
    before = load_file(tmp_path / "export" / "toy.safetensors")
    (tmp_path / "export" / "toy.safetensors").unlink()
    again = Toy(Options())
    result = run(config, again, resume=True)
    assert again.seen == []
    assert result.steps == 30
    assert torch.equal(before["0.weight"], load_file(tmp_path / "export" / "toy.safetensors")["0.weight"])


def test_a_run_is_never_overwritten_nor_resumed_as_another(tmp_path):
    config = config_in(tmp_path, epochs=1)
    run(config, Toy(Options()))
    with pytest.raises(InputError, match="--resume"):
        run(config, Toy(Options()))
    with pytest.raises(InputError, match="learning_rate"):
        run(replace(config, learning_rate=0.5), Toy(Options()), resume=True)
    run(
        replace(config, threads=torch.get_num_threads()), Toy(Options()), resume=True
    )  # does not change what is learned


def test_max_steps_ends_inside_an_epoch_with_a_validation_and_an_export(tmp_path):
    result = run(config_in(tmp_path, max_steps=2), Toy(Options()))
    assert result.steps == 2
    assert result.export is not None
    assert len(events(tmp_path, "validate")) == 1


def test_early_stopping_and_the_best_weights(tmp_path):
    toy = Toy(Options())
    toy.scores = iter([0.1, 0.9, 0.3, 0.2, 0.8])
    config = config_in(tmp_path, epochs=9, monitor="score:max", patience=2, export="best")
    result = run(config, toy)
    assert result.steps == 40  # the second epoch was best, two more did not better it
    assert result.best == 0.9
    best = load_file(tmp_path / "checkpoints" / "best" / "ema.safetensors")
    assert torch.equal(best["0.weight"], load_file(tmp_path / "export" / "toy.safetensors")["0.weight"])
    assert os.readlink(tmp_path / "checkpoints" / "best") == "step-00000020"
    assert os.readlink(tmp_path / "checkpoints" / "last") == "step-00000040"


def test_the_export_has_averaged_weights(tmp_path):
    run(config_in(tmp_path), Toy(Options()))
    exported = load_file(tmp_path / "export" / "toy.safetensors")
    last = tmp_path / "checkpoints" / "last"
    assert torch.equal(exported["0.weight"], load_file(last / "ema.safetensors")["0.weight"])
    assert not torch.equal(exported["0.weight"], load_file(last / "model.safetensors")["0.weight"])


@pytest.mark.parametrize(
    "fields",
    [{"precision": "bf16"}, {"optimizer": "sgd"}, {"schedule": "linear"}, {"clip_norm": None}, {"ema_decay": 0.0}],
)
def test_every_setting_trains(tmp_path, fields):
    result = run(config_in(tmp_path, epochs=1, **fields), Toy(Options()))
    assert result.steps == 10


def test_frozen_parameters_are_neither_trained_nor_saved(tmp_path):
    run(config_in(tmp_path, epochs=1, weight_decay=0.5), Toy(Options(), frozen=True))
    assert "0.weight" not in load_file(tmp_path / "checkpoints" / "last" / "model.safetensors")
    torch.manual_seed(0)
    fresh = Toy(Options()).build_model()
    assert torch.equal(fresh[0].weight, load_file(tmp_path / "export" / "toy.safetensors")["0.weight"])


def test_a_clock_checkpoint_is_written_inside_an_epoch(tmp_path):
    run(config_in(tmp_path, max_steps=5, checkpoint_every_seconds=0.0), Toy(Options()))
    assert os.readlink(tmp_path / "checkpoints" / "last") == "step-00000005"
    assert len(list((tmp_path / "checkpoints").glob("step-*"))) == 1


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    with pytest.raises(TrainingError, match=r"not finite at step 1: lower learning_rate"):
        run(config_in(tmp_path), Toy(Options(is_broken=True)))


def test_nothing_to_train_on_is_an_error(tmp_path):
    empty = Toy(Options())
    empty.batches = lambda **_: []
    with pytest.raises(InputError, match="no batches"):
        run(config_in(tmp_path / "a"), empty)
    frozen = Toy(Options())
    frozen.build_model = lambda: nn.Linear(4, 1).requires_grad_(False)
    with pytest.raises(InputError, match="no parameter"):
        run(config_in(tmp_path / "b"), frozen)


def test_a_monitor_that_is_not_measured_lists_what_is(tmp_path):
    with pytest.raises(InputError, match="loss, score"):
        run(config_in(tmp_path, epochs=1, monitor="accuracy:max"), Toy(Options()))


def test_it_runs_outside_the_main_thread(tmp_path):
    results = []
    thread = threading.Thread(target=lambda: results.append(run(config_in(tmp_path, epochs=1), Toy(Options()))))
    thread.start()
    thread.join()
    assert results[0].steps == 10


def test_the_rate_warms_up_and_falls_to_its_floor():
    config = config_in(Path("x"), warmup_steps=4, learning_rate=1.0, min_learning_rate_ratio=0.1)
    rates = [learning_rate(config, step=step, total_steps=104) for step in range(105)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4] == 1.0
    assert rates[54] == pytest.approx(0.55)
    assert rates[104] == pytest.approx(0.1)
    constant = replace(config, schedule="constant")
    assert learning_rate(constant, step=90, total_steps=104) == 1.0


def test_weights_of_another_shape_do_not_load():
    model = nn.Linear(2, 1)
    with pytest.raises(CheckpointError, match="bias"):
        load_trained_state(model, {"weight": torch.zeros(1, 2)})
    with pytest.raises(CheckpointError, match="shape"):
        load_trained_state(model, {"weight": torch.zeros(1, 3), "bias": torch.zeros(1)})
    assert set(trained_state(nn.BatchNorm1d(2))) == {
        "weight",
        "bias",
        "running_mean",
        "running_var",
        "num_batches_tracked",
    }


def test_a_missing_checkpoint_is_said(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint 'best'"):
        RunDir(config_in(tmp_path), resume=False).load("best")
