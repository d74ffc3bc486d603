"""The training loop: it learns, resumes exactly, stops cleanly, averages weights and explains itself on disk."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import types
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from accelerate.utils import LoggerType
from safetensors.torch import load_file, save_file
from torch import nn

from emollama.errors import CheckpointError, DependencyError, InputError, TrainingError
from train.config import TrainConfig
from train.loop import run
from train.optimizer import build_optimizer, learning_rate, set_learning_rate
from train.run_dir import read_metrics
from train.shares import Shares
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
    return read_metrics(folder, events=[name])


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


def test_resuming_where_no_run_is_says_so(tmp_path, caplog):
    run(config_in(tmp_path / "typo", epochs=1), Toy(Options()), resume=True)
    assert "typo holds no run to resume" in caplog.text


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


# ---- what a step is --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Weighed:
    """A batch of scalars that knows how many they are."""

    values: torch.Tensor
    weight: float
    num_tokens: int = 0


class Mean(Toy):
    """One parameter, pulled to the mean of the values: its gradient says how batches were weighed."""

    def __init__(self, sizes: list[int], *, weighted: bool = True) -> None:
        super().__init__(Options())
        values = iter(range(100))
        drawn = [torch.tensor([float(next(values)) for _ in range(size)]) for size in sizes]
        self.drawn = [Weighed(values=v, weight=len(v) if weighted else 1, num_tokens=2 * len(v)) for v in drawn]

    def build_model(self):
        model = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(model.weight)
        return model

    def batches(self, *, epoch, seed):
        return self.drawn

    def loss(self, model, batch):
        return (model(torch.ones(1)) - batch.values).square().mean(), {}

    def validate(self, model):
        return {"loss": 0.0}

    def export(self, model, folder):
        self.weight = model.weight.item()


def plain_sgd(folder: Path, **fields) -> TrainConfig:
    fields = {
        "optimizer": "sgd",
        "momentum": 0.1,
        "schedule": "constant",
        "warmup_steps": 0,
        "clip_norm": None,
    } | fields
    return config_in(folder, epochs=1, ema_decay=0.0, learning_rate=0.01, **fields)


@pytest.mark.parametrize("weighted", [True, False])
def test_the_loss_of_a_step_is_the_mean_over_all_its_terms(tmp_path, weighted):
    task = Mean([1, 5, 2], weighted=weighted)
    run(plain_sgd(tmp_path, accumulate_steps=3, log_every_steps=1), task)
    rows = [batch.values for batch in task.drawn]
    mean = torch.cat(rows).mean() if weighted else torch.stack([row.mean() for row in rows]).mean()
    assert task.weight == pytest.approx(0.01 * 1.1 * 2 * float(mean), rel=1e-5)  # nesterov: 1 + momentum
    squares = torch.cat(rows).square().mean() if weighted else torch.stack([r.square().mean() for r in rows]).mean()
    step = events(tmp_path, "step")[0]
    assert step["loss"] == pytest.approx(float(squares), rel=1e-5)
    assert step["tokens_per_second"] > 0
    assert step["seconds_left"] == 0.0


def test_a_last_step_with_fewer_batches_is_still_a_mean(tmp_path):
    short, alone = Mean([3, 3, 4]), Mean([4])
    alone.drawn = short.drawn[2:]
    run(plain_sgd(tmp_path / "a", accumulate_steps=2, log_every_steps=1), short)
    run(plain_sgd(tmp_path / "b", accumulate_steps=1, log_every_steps=1, clip_norm=1.0), alone)
    norms = [line.get("gradient_norm") for line in events(tmp_path / "b", "step")]
    assert norms == [pytest.approx(2 * float(short.drawn[2].values.mean()), rel=1e-5)]
    assert len(events(tmp_path / "a", "step")) == 2


def test_batches_without_a_term_to_learn_are_an_error(tmp_path):
    task = Mean([2])
    task.drawn = [replace(task.drawn[0], weight=0)]
    with pytest.raises(InputError, match="step 1 have no term"):
        run(plain_sgd(tmp_path), task)


@pytest.mark.parametrize("is_indexed", [True, False])
@pytest.mark.parametrize(("total", "size", "accumulate"), [(9, 1, 2), (9, 2, 1), (10, 3, 2), (2, 4, 1), (8, 2, 2)])
def test_every_batch_goes_to_one_process_in_the_same_step_as_always(total, size, accumulate, is_indexed):
    batches = list(range(total)) if is_indexed else _Stream(range(total))
    dealt = [list(Shares(batches, rank=rank, size=size, accumulate=accumulate).steps(0)) for rank in range(size)]
    for steps in dealt:
        assert len(steps) == len(Shares(batches, rank=0, size=size, accumulate=accumulate))
        assert [step.is_last for step in steps] == [False] * (len(steps) - 1) + [True]
    expected = iter(range(total))
    for parts in zip(*dealt, strict=True):
        passes = {len(part.micro_batches) for part in parts}
        assert len(passes) == 1  # all make as many passes, or they would wait for each other for ever
        counted = sorted(m.batch for part in parts for m in part.micro_batches if m.weight)
        assert counted == [next(expected) for _ in counted]
        assert counted[0] // (size * accumulate) == counted[-1] // (size * accumulate)
    assert next(expected, None) is None
    if len(dealt[0]) > 1:
        start = dealt[0][0].next_index
        rest = list(Shares(batches, rank=0, size=size, accumulate=accumulate).steps(start))
        assert [[m.index for m in s.micro_batches] for s in rest] == [
            [m.index for m in s.micro_batches] for s in dealt[0][1:]
        ]


def test_dropout_depends_on_the_batch_alone(tmp_path):
    class Random(Toy):
        def loss(self, model, batch):
            self.seen.append(float(torch.rand(())))
            torch.rand(torch.randint(1, 9, ()).item())  # however much a batch draws, the next one is not moved
            return super().loss(model, batch)

    one, two = Random(Options()), Random(Options())
    run(config_in(tmp_path / "a", epochs=2), one)
    run(config_in(tmp_path / "b", epochs=2, accumulate_steps=5, validate_every_steps=1), two)
    assert one.seen[::2] == two.seen[::2]
    assert len(set(one.seen[::2])) == 20


# ---- when it saves, validates and exports ----------------------------------------------------------------------------


def test_checkpoints_by_steps_and_validations_by_steps(tmp_path):
    saved = []
    toy = Toy(Options())
    toy.export = lambda model, folder: saved.append(folder.name)
    config = config_in(
        tmp_path, epochs=2, validate_every_steps=4, validate_every_epochs=2, keep_exports=2, monitor="score:max"
    )
    toy.scores = iter([0.1, 0.9, 0.2, 0.3, 0.4])
    run(config, toy)
    assert [line["step"] for line in events(tmp_path, "validate")] == [4, 8, 12, 16, 20]
    assert [line["best"] for line in events(tmp_path, "validate")] == [True, True, False, False, False]
    assert [line["export"] for line in events(tmp_path, "checkpoint")] == [
        f"exports/step-{n}" for n in (4, 8, 12, 16, 20)
    ]
    assert sorted(p.name for p in (tmp_path / "exports").iterdir()) == ["step-16", "step-20", "step-8"]
    assert saved == [*(f"step-{n}.partial" for n in (4, 8, 12, 16, 20)), "export"]


def test_a_run_that_is_stopped_where_a_validation_is_due_validates_when_it_goes_on(tmp_path):
    config = config_in(tmp_path, epochs=2, checkpoint_every_steps=3)
    assert run(config, Toy(Options(interrupt_at=10))).interrupted
    assert events(tmp_path, "validate") == []
    again = Toy(Options())
    run(config, again, resume=True)
    assert [line["step"] for line in events(tmp_path, "validate")] == [10, 20]
    assert len(again.seen) == 10


def test_patience_that_ran_out_stays_so_until_it_is_raised(tmp_path):
    toy = Toy(Options())
    toy.scores = iter([0.5, 0.4])
    config = config_in(tmp_path, epochs=4, monitor="score:max", patience=1)
    assert run(config, toy).steps == 20
    assert run(config, Toy(Options()), resume=True).steps == 20
    more = Toy(Options())
    more.scores = iter([0.6, 0.7])
    assert run(replace(config, patience=2), more, resume=True).steps == 40


def test_another_number_of_batches_in_a_step_is_another_run(tmp_path):
    config = config_in(tmp_path, checkpoint_every_steps=2, accumulate_steps=2)
    assert run(config, Toy(Options(interrupt_at=6))).interrupted
    with pytest.raises(InputError, match="accumulate_steps times processes is 1; allowed in this run_dir: 2"):
        run(replace(config, accumulate_steps=1), Toy(Options()), resume=True)


def test_a_broken_loss_leaves_the_last_checkpoint_and_says_where(tmp_path):
    class Breaking(Toy):
        def loss(self, model, batch):
            loss, figures = super().loss(model, batch)
            return loss * (float("nan") if len(self.seen) == 8 else 1.0), figures

    config = config_in(tmp_path, checkpoint_every_steps=3)
    with pytest.raises(TrainingError, match=r"step 8: lower learning_rate \(0\.02\).*step-00000006"):
        run(config, Breaking(Options()))
    assert os.readlink(tmp_path / "checkpoints" / "last") == "step-00000006"
    assert all(p.isfinite().all() for p in load_file(tmp_path / "checkpoints" / "last" / "model.safetensors").values())


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    class Spoilt(Toy):
        def validate(self, model):
            with torch.no_grad():
                model[0].weight.fill_(float("nan"))
            return super().validate(model)

    with pytest.raises(TrainingError, match="weight is not finite after step 10"):
        run(config_in(tmp_path, ema_decay=0.0), Spoilt(Options()))
    assert not (tmp_path / "checkpoints" / "last").exists()


def test_too_little_memory_says_what_to_turn(tmp_path):
    toy = Toy(Options())

    def exhausted(model, batch):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\nmore")

    toy.loss = exhausted
    with pytest.raises(TrainingError) as caught:
        run(config_in(tmp_path, batch_size=8), toy)
    assert "Tried to allocate 2.00 GiB" in str(caught.value)
    assert "batch_size=4 accumulate_steps=2; gradient_checkpointing=true; precision=bf16" in str(caught.value)


# ---- settings --------------------------------------------------------------------------------------------------------


def test_projectors_may_have_a_rate_of_their_own(tmp_path):
    model = nn.ModuleDict({"projectors": nn.Linear(2, 2), "backbone": nn.Linear(2, 2)})
    config = config_in(tmp_path, learning_rate=0.1, projector_learning_rate=0.4, weight_decay=0.5, warmup_steps=2)
    optimizer = build_optimizer(config, model)
    rates = {}

    def read() -> None:
        for group in optimizer.param_groups:
            for p in group["params"]:
                name = next(name for name, own in model.named_parameters() if own is p)
                rates[name] = (group["lr"], group["weight_decay"])

    assert set_learning_rate(config, optimizer, step=0, total_steps=10) == pytest.approx(0.05)
    read()
    assert rates == {
        "backbone.weight": (pytest.approx(0.05), 0.5),
        "backbone.bias": (pytest.approx(0.05), 0.0),
        "projectors.weight": (pytest.approx(0.2), 0.5),
        "projectors.bias": (pytest.approx(0.2), 0.0),
    }


def test_recomputed_activations_change_no_loss_and_are_refused_where_there_are_none(tmp_path):
    with pytest.raises(InputError, match="gradient_checkpointing is true; allowed with Sequential: false"):
        run(config_in(tmp_path / "a", gradient_checkpointing=True), Toy(Options()))

    class Recomputing(nn.Sequential):
        is_recomputed = False

        def enable_gradient_checkpointing(self):
            self.is_recomputed = True

        def forward(self, inputs):
            if not (self.is_recomputed and self.training):
                return super().forward(inputs)
            return torch.utils.checkpoint.checkpoint(super().forward, inputs, use_reentrant=False)

    class Recomputed(Toy):
        def build_model(self):
            self.model = Recomputing(nn.Linear(4, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 1))
            return self.model

    for name, is_on in (("b", False), ("c", True)):
        task = Recomputed(Options())
        run(config_in(tmp_path / name, epochs=1, log_every_steps=1, gradient_checkpointing=is_on), task)
        assert task.model.is_recomputed == is_on
    losses = [[line["loss"] for line in events(tmp_path / name, "step")] for name in "bc"]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_tensorboard_gets_the_curve_and_forgets_what_was_done_again(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = config_in(tmp_path, log_every_steps=1, trackers=("tensorboard",), checkpoint_every_steps=4)
    assert run(config, Toy(Options(interrupt_at=6))).interrupted
    run(config, Toy(Options()), resume=True)
    reader = accumulator.EventAccumulator(str(tmp_path / "emollama"))
    reader.Reload()
    logged = [(event.step, event.value) for event in reader.Scalars("training/loss")]
    assert logged == [(line["step"], pytest.approx(line["loss"], abs=1e-5)) for line in events(tmp_path, "step")]
    assert [event.step for event in reader.Scalars("validation/loss")] == [10, 20, 30]


def test_weights_and_biases_goes_on_in_the_same_run(tmp_path, monkeypatch):
    """accelerate's own tracker, on a stand-in for the package."""
    begun, logged, configs = [], [], []

    class FakeRun:
        def log(self, values, step=None, **_):
            logged.append((step, *values))

        def finish(self):
            logged.append("finished")

    def init(**options):
        begun.append(options)
        return FakeRun()

    fake = types.ModuleType("wandb")
    fake.init = init
    fake.config = types.SimpleNamespace(update=lambda values, **_: configs.append(values))
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setattr("train.trackers.find_spec", lambda name: object())
    monkeypatch.setattr("accelerate.tracking._available_trackers", [LoggerType.WANDB])
    config = config_in(tmp_path / "mine", trackers=("wandb",), log_every_steps=5)
    assert run(config, Toy(Options(interrupt_at=6))).interrupted
    run(config, Toy(Options()), resume=True)
    assert begun[0] == begun[1]
    assert (begun[0]["project"], begun[0]["resume"], begun[0]["name"]) == ("emollama", "allow", "mine")
    assert configs[0]["task.interrupt_at"] == -1  # nested settings by dotted name
    assert [entry[0] if entry != "finished" else entry for entry in logged] == [
        5, "finished", 10, 10, 15, 20, 20, 25, 30, 30, "finished",
    ]  # fmt: skip
    assert "training/loss" in logged[0]


def test_a_tracker_whose_package_is_absent_is_named_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("train.trackers.find_spec", lambda name: None)
    with pytest.raises(DependencyError, match="pip install wandb"):
        run(config_in(tmp_path / "run", trackers=("wandb",)), Toy(Options()))
    assert not (tmp_path / "run").exists()


def test_a_line_that_a_stop_falls_into_is_still_the_mean_over_all_its_steps(tmp_path):
    """Six steps a line, stopped in the middle of one: a resumed run logs what the straight one does."""
    straight = config_in(tmp_path / "straight", log_every_steps=6)
    run(straight, Toy(Options()))
    config = config_in(tmp_path / "stopped", log_every_steps=6)
    assert run(config, Toy(Options(interrupt_at=15))).interrupted
    run(config, Toy(Options()), resume=True)
    expected = {line["step"]: line["loss"] for line in events(tmp_path / "straight", "step")}
    found = {line["step"]: line["loss"] for line in events(tmp_path / "stopped", "step")}
    assert found == pytest.approx(expected, abs=1e-6)
