"""The one training loop, flat and read top to bottom; recipes configure it and tasks fill it.

How many processes train, and what each holds, comes from the file given to ``accelerate launch`` (`train.strategy`);
``emollama train`` is one process. Every batch runs inside the prepared module's forward pass.

A step is one update over ``accumulate_steps`` batches of every process. Its loss is the mean over all their terms:
batches that say how many they have (``weight``, such as answer tokens) count by it, others count alike, whichever
process had them and however they were accumulated. With ``sam_rho`` the step's batches are gone through twice: for the
direction in which their loss rises, and for the gradient there (`train.sharpness`).

Before every batch torch's generators are seeded from (seed, epoch, number of the batch in the epoch over all
processes), and before every validation from (seed, step). Dropout thus depends neither on the rank nor on where a run
was resumed, and a checkpoint holds no generator: a run that was killed follows the undisturbed one.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.optim import Optimizer

from emollama.errors import InputError
from train.averaging import AveragedWeights
from train.config import TrainConfig
from train.display import Clock, Display
from train.failures import explained_memory, not_finite
from train.figures import Figures
from train.optimizer import build_optimizer, set_learning_rate, trained_parameters
from train.run_dir import Checkpoint, Position, RunDir
from train.shares import Share, Shares
from train.sharpness import at_sharpest, check_sharpness
from train.strategy import Strategy
from train.task import Task
from train.trackers import require_trackers, start_trackers
from train.trained_state import (
    gathered,
    load_optimizer_state,
    load_trained_state,
    optimizer_state,
    trained_state,
    whole_parameters,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """How a run ended. ``metrics`` are the last validation's; ``export`` is ``None`` when the run was interrupted."""

    run_dir: Path
    steps: int
    metrics: Mapping[str, float]
    best: float | None
    interrupted: bool
    export: Path | None


def run(config: TrainConfig, task: Task, *, resume: bool = False) -> RunResult:
    """Train a task to its end and export it; with ``resume``, go on from the run directory's last checkpoint, if any.

    SIGINT and SIGTERM save a checkpoint after the current step and return with ``interrupted``. A loss that is not
    finite, or too little memory, raises `TrainingError` and leaves the last checkpoint as it was.
    """
    require_trackers(config.trackers)
    strategy = Strategy(config)
    check_sharpness(config, strategy.kind)
    with strategy.main_first():
        run_dir = RunDir(config, resume=resume, writes=strategy.is_main)
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    model = task.build_model()
    if strategy.kind != "fsdp2":  # which moves a layer at a time, as it takes its part of it
        model = model.to(strategy.device)
    if config.gradient_checkpointing:
        _enable_gradient_checkpointing(model)
    prepared, optimizer = strategy.prepare(model, functools.partial(build_optimizer, config))
    parameters = trained_parameters(optimizer)
    average = AveragedWeights(model, decay=config.ema_decay)

    def shares_of(epoch: int) -> Shares:
        batches = task.batches(epoch=epoch, seed=config.seed)
        return Shares(batches, rank=strategy.rank, size=strategy.size, accumulate=config.accumulate_steps)

    first = shares_of(0)
    total_steps = min(config.epochs * len(first), config.max_steps or config.epochs * len(first))
    if total_steps == 0:
        raise InputError("the task has no batches to train on", field="task")
    at = Position(batches_per_step=first.per_step)
    if resume and run_dir.has("last"):
        at = _restore(strategy, run_dir, model, optimizer, average, batches_per_step=first.per_step)
    if resume and run_dir.is_new:
        logger.warning("%s holds no run to resume: a new one begins", run_dir.path)
    if resume and not run_dir.is_new:
        run_dir.log("resume", step=at.step, epoch=at.epoch, batch=at.batch, from_byte=at.log_bytes)
    if at.step == 0:
        sizes = [(getattr(p, "ds_numel", p.numel()), p.requires_grad) for p in model.parameters()]
        parameter_count, trained = sum(n for n, _ in sizes), sum(n for n, is_trained in sizes if is_trained)
        run_dir.log("start", parameters=parameter_count, trained=trained, total_steps=total_steps,
                    strategy=strategy.kind, processes=strategy.size)  # fmt: skip
    start_trackers(strategy.accelerator, config, run_dir, step=at.step)
    display = Display(
        recipe=config.recipe, epochs=config.epochs, total_steps=total_steps, step=at.step, shows=strategy.is_main
    )

    figures = Figures()
    if strategy.is_main:
        figures.restore(at.figures)

    def is_finished() -> bool:
        return at.step >= total_steps or (config.patience is not None and at.stale >= config.patience)

    def save(*, is_best: bool = False) -> None:
        with strategy.main_first():
            partial = run_dir.begin_checkpoint(at.step)
        strategy.save_optimizer(partial)
        at.figures = figures.pending(strategy)
        if strategy.is_sharded or strategy.is_main:
            weights, averaged = trained_state(model), gathered(average.state)
            tensors = optimizer_state(model, optimizer) if strategy.kind != "deepspeed" else {}
        if strategy.is_main:
            broken = [name for name, value in weights.items() if not bool(value.isfinite().all())]
            if broken:  # a loss that nobody looked at yet has spoilt the weights
                raise not_finite(config, run_dir, f"{broken[0]} is not finite after step {at.step}")
            run_dir.save(Checkpoint(model=weights, ema=averaged, optimizer=tensors, position=at), best=is_best)
        strategy.wait()

    def export(folder: Path) -> None:
        whole = trained_state(model) if strategy.is_sharded else {}
        if strategy.is_main:
            with whole_parameters(model, whole):
                task.export(model, folder)
        strategy.wait()

    def validate() -> None:
        seed_generators(strategy.device, config.seed, "validation", at.step)
        prepared.eval()
        with average.in_place(), torch.no_grad():
            measured: Mapping[str, float] = {}
            if strategy.is_sharded:
                measured = prepared(task.validate)
            elif strategy.is_main:
                with torch.autocast(strategy.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                    measured = task.validate(model)
            at.metrics = {name: float(value) for name, value in strategy.from_main(measured).items()}
            if config.monitor_name not in at.metrics:
                raise InputError(
                    f"monitor {config.monitor_name!r} is not measured; there are: {', '.join(at.metrics)}",
                    field="monitor",
                )
            score = at.metrics[config.monitor_name]
            is_best = at.best is None or config.monitor_sign * (score - at.best) > 0
            at.best, at.best_step, at.stale = (score, at.step, 0) if is_best else (at.best, at.best_step, at.stale + 1)
            at.validation_due = False
            name = ""
            if config.keep_exports:
                partial = run_dir.begin_export(at.step)
                export(partial)
                name = run_dir.keep_export(partial, newest=config.keep_exports, best_step=at.best_step)
        rounded = {k: round(v, 6) for k, v in at.metrics.items()}
        run_dir.log("validate", step=at.step, epoch=epoch, best=is_best, **rounded)
        if name:
            run_dir.log("checkpoint", step=at.step, export=name)
        strategy.accelerator.log({f"validation/{k}": v for k, v in at.metrics.items()}, step=at.step)
        display.validated(at.metrics, step=at.step, is_best=is_best)
        save(is_best=is_best)
        if is_finished() and at.step < total_steps:
            logger.info("no better %s for %d validations: stopping", config.monitor_name, at.stale)

    def learn(share: Share, weight: float, *, counts: bool) -> None:
        """Add up the gradients of a step's batches; ``counts``: what they report is a figure of the run."""
        for turn, micro in enumerate(share.micro_batches, 1):
            seed_generators(strategy.device, config.seed, epoch, micro.index)
            with strategy.accumulating(prepared, is_update=turn == len(share.micro_batches)):
                loss, reported = prepared(task.loss, micro.batch)
                strategy.backward(loss * (micro.weight * strategy.size / weight))
            if micro.weight and counts:
                figures.watch(at.step + 1, loss.detach())
                figures.add({"loss": loss.detach(), **reported}, weight=micro.weight)

    stopped = False
    clock, saved_at = Clock(), time.monotonic()
    with _stop_signal() as stop, display, explained_memory(config):
        epoch = at.epoch
        if at.validation_due:
            validate()
        for epoch in range(at.epoch, config.epochs):
            if is_finished() or stopped:
                break
            for share in shares_of(epoch).steps(at.batch):
                prepared.train()
                rate = set_learning_rate(config, optimizer, step=at.step, total_steps=total_steps)
                weight, tokens = strategy.sum(share.weight, share.num_tokens)
                if weight <= 0:
                    raise InputError(f"the batches of step {at.step + 1} have no term to learn", field="task")
                learn(share, weight, counts=True)
                if config.sam_rho is not None:
                    with at_sharpest(model, optimizer, rho=config.sam_rho):
                        learn(share, weight, counts=False)
                norm = strategy.update(optimizer, parameters)
                if norm is not None:
                    figures.add({"gradient_norm": norm}, weight=1.0)

                at.step += 1
                at.epoch, at.batch = (epoch + 1, 0) if share.is_last else (epoch, share.next_index)
                at.validation_due = (
                    at.step == total_steps
                    or (share.is_last and (epoch + 1) % config.validate_every_epochs == 0)
                    or _is_turn(at.step, config.validate_every_steps)
                )
                average.update(step=at.step)
                clock.step(tokens=tokens)
                left = clock.seconds_left(total_steps - at.step)
                display.stepped(step=at.step, epoch=epoch, seconds_left=left)
                logs = _is_turn(at.step, config.log_every_steps) or at.step == total_steps
                is_time = strategy.is_main and time.monotonic() - saved_at >= config.checkpoint_every_seconds
                saves = is_time or _is_turn(at.step, config.checkpoint_every_steps)
                # On a GPU every look at a loss is a wait for it.
                looks = logs or saves or at.validation_due or strategy.device.type == "cpu"
                broken = figures.first_not_finite() if looks else None
                stops, saves, breaks = (n > 0 for n in strategy.sum(stop.is_set(), saves, broken is not None))
                if breaks:
                    raise not_finite(config, run_dir, f"the loss is not finite at step {broken or at.step}")
                if logs:
                    means = {name: round(value, 6) for name, value in figures.take(strategy).items()}
                    means |= {"learning_rate": rate, **clock.lap(), "seconds_left": left}
                    run_dir.log("step", step=at.step, epoch=epoch, **means)
                    strategy.accelerator.log({f"training/{k}": v for k, v in means.items()}, step=at.step)
                    display.logged(
                        step=at.step, epoch=epoch, loss=means["loss"], learning_rate=rate, seconds_left=left,
                        tokens_per_second=means["tokens_per_second"],
                    )  # fmt: skip
                stopped = stops and at.step < total_steps
                if not (at.validation_due or saves or stopped):
                    continue
                with clock.paused():
                    if at.validation_due and not stopped:
                        validate()
                    else:
                        save()
                saved_at = time.monotonic()
                if stopped or is_finished():
                    break
    if stopped:
        run_dir.log("interrupt", step=at.step)
        _end(strategy)
        return RunResult(
            run_dir=run_dir.path, steps=at.step, metrics=at.metrics, best=at.best, interrupted=True, export=None
        )

    folder = Path(config.export_dir) if config.export_dir else run_dir.path / "export"
    if config.export == "best":
        checkpoint = run_dir.load("best")
        load_trained_state(model, checkpoint.ema or checkpoint.model)
    elif average.state:
        load_trained_state(model, average.state)
    if strategy.is_main:
        folder.mkdir(parents=True, exist_ok=True)
    prepared.eval()
    if strategy.is_sharded and config.export == "best" and at.best_step != at.step:
        with torch.no_grad():  # by all processes, so that what the task says of its export is said of these weights
            prepared(task.validate)
    export(folder)
    run_dir.log("end", step=at.step, export=config.export, best=at.best,
                **{k: round(v, 6) for k, v in at.metrics.items()})  # fmt: skip
    _end(strategy)
    return RunResult(
        run_dir=run_dir.path, steps=at.step, metrics=at.metrics, best=at.best, interrupted=False, export=folder
    )


def seed_generators(device: torch.device, *parts: int | str) -> None:
    """Seed torch's generators of the host and of a device from what names a moment of a run."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    seed = int.from_bytes(digest, "big") >> 1  # 63 bits: a seed is signed
    # Not torch.manual_seed: for each kind of device that is not in use it keeps the call and its stack, every time.
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


def _is_turn(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0


def _enable_gradient_checkpointing(model: nn.Module) -> None:
    enable = getattr(model, "enable_gradient_checkpointing", None)
    if enable is None:
        raise InputError(
            f"gradient_checkpointing is true; allowed with {type(model).__name__}: false",
            field="gradient_checkpointing",
        )
    enable()


def _restore(
    strategy: Strategy,
    run_dir: RunDir,
    model: nn.Module,
    optimizer: Optimizer,
    average: AveragedWeights,
    *,
    batches_per_step: int,
) -> Position:
    """Put the last checkpoint into a fresh run; the optimiser's state is left out when another strategy kept it."""
    checkpoint = run_dir.load("last")
    before = checkpoint.position.batches_per_step
    if before != batches_per_step:
        raise InputError(
            f"accumulate_steps times processes is {batches_per_step}; allowed in this run_dir: {before}",
            field="accumulate_steps",
        )
    load_trained_state(model, checkpoint.model)
    average.load(checkpoint.ema)
    folder = run_dir.checkpoint_folder("last")
    if (folder / "deepspeed").is_dir() != (strategy.kind == "deepspeed"):
        logger.warning("the optimiser's state was saved by another strategy: only the weights go on")
    elif strategy.kind == "deepspeed":
        strategy.load_optimizer(folder)
    else:
        load_optimizer_state(model, optimizer, checkpoint.optimizer)
    return checkpoint.position


def _end(strategy: Strategy) -> None:
    """Finish the trackers and let the processes part."""
    if strategy.size > 1 or strategy.accelerator.trackers:
        cast(Any, strategy.accelerator).end_training()


@contextmanager
def _stop_signal() -> Iterator[threading.Event]:
    """Turn SIGINT and SIGTERM into an event while training; elsewhere than in the main thread they are left alone."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    previous = {s: signal.signal(s, lambda *_: event.set()) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
