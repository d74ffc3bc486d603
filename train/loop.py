"""The one training loop, flat and read top to bottom; recipes configure it and tasks fill it.

Devices and data parallelism come from accelerate; bfloat16 is autocast (no loss scaling is needed for it). The rate is
a pure function of the step. Checkpoints hold what is trained (parameters with ``requires_grad`` and persistent
buffers), so a frozen backbone is not saved with its adapter. What the loop does not do: sharded (FSDP, DeepSpeed)
checkpoints.
"""

from __future__ import annotations

import itertools
import logging
import math
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn

from emollama.errors import CheckpointError, InputError
from train.config import TrainConfig
from train.run_dir import Checkpoint, RunDir
from train.task import Batches, Task

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
    finite raises `CheckpointError` and leaves the last checkpoint as it was.
    """
    run_dir = RunDir(config, resume=resume)
    if config.threads:
        torch.set_num_threads(config.threads)
    accelerator = Accelerator(cpu=config.device == "cpu")
    torch.manual_seed(config.seed)
    model = task.build_model().to(accelerator.device)
    optimizer = _build_optimizer(config, model)
    model, optimizer = accelerator.prepare(model, optimizer)
    plain: nn.Module = accelerator.unwrap_model(model)
    ema = {k: v.detach().clone() for k, v in trained_state(plain).items()} if config.ema_decay else {}

    num_batches = len(_share(task.batches(epoch=0, seed=config.seed), accelerator))
    steps_per_epoch = math.ceil(num_batches / config.accumulate_steps)
    total_steps = min(config.epochs * steps_per_epoch, config.max_steps or config.epochs * steps_per_epoch)
    if total_steps == 0:
        raise InputError("the task has no batches to train on", field="task")
    step = start_epoch = start_batch = stale = 0
    best: float | None = None
    metrics: dict[str, float] = {}
    if resume and run_dir.has("last"):
        checkpoint = run_dir.load("last")
        load_trained_state(plain, checkpoint.model)
        for name, tensor in checkpoint.ema.items():
            ema[name].copy_(tensor)
        state = checkpoint.state
        optimizer.load_state_dict(state["optimizer"])
        _set_generators(state["generators"])
        step, start_epoch, start_batch = state["step"], state["epoch"], state["batch"]
        best, stale, metrics = state["best"], state["stale"], state["metrics"]
        run_dir.log("resume", step=step, epoch=start_epoch, batch=start_batch)
    else:
        parameters = sum(p.numel() for p in plain.parameters())
        trained = sum(p.numel() for p in plain.parameters() if p.requires_grad)
        run_dir.log("start", parameters=parameters, trained=trained, total_steps=total_steps)

    def save(*, epoch: int, batch: int, is_best: bool = False) -> None:
        if not accelerator.is_main_process:
            return
        position = {"step": step, "epoch": epoch, "batch": batch, "best": best, "stale": stale, "metrics": metrics}
        state = {**position, "optimizer": optimizer.state_dict(), "generators": _generators()}
        run_dir.save(Checkpoint(model=trained_state(plain), ema=ema, state=state), best=is_best)

    saved_at = logged_at = time.monotonic()
    stopped = False
    console = Console(stderr=True)
    with _stop_signal() as stop, Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        bar = progress.add_task(config.recipe, total=total_steps, completed=step)
        for epoch in range(start_epoch, config.epochs):
            batches = _share(task.batches(epoch=epoch, seed=config.seed), accelerator)
            sums: dict[str, float] = {}
            count = 0
            model.train()
            for index, batch in _from(batches, start_batch):
                if step >= total_steps:
                    break
                update = (index + 1) % config.accumulate_steps == 0 or index + 1 == len(batches)
                with nullcontext() if update else accelerator.no_sync(model):
                    with _autocast(config, accelerator.device):
                        loss, figures = task.loss(model, batch)
                    accelerator.backward(loss / config.accumulate_steps)
                for name, value in {"loss": loss.detach().item(), **figures}.items():
                    sums[name] = sums.get(name, 0.0) + value
                count += 1
                if not update:
                    continue
                if not math.isfinite(sums["loss"]):
                    raise CheckpointError(
                        f"the loss is not finite at step {step} of {run_dir.path}; lower learning_rate"
                    )
                if config.clip_norm is not None:
                    accelerator.clip_grad_norm_(model.parameters(), config.clip_norm)
                rate = learning_rate(config, step=step, total_steps=total_steps)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                step += 1
                _average(ema, plain, decay=min(config.ema_decay, (1 + step) / (10 + step)))
                progress.update(
                    bar,
                    completed=step,
                    description=f"{config.recipe} epoch {epoch + 1} loss {sums['loss'] / count:.4f}",
                )
                now = time.monotonic()
                if step % config.log_every_steps == 0 or step == total_steps:
                    means = {name: round(value / count, 6) for name, value in sums.items()}
                    run_dir.log(
                        "step", step=step, epoch=epoch, learning_rate=rate, seconds=round(now - logged_at, 2), **means
                    )
                    sums, count, logged_at = {}, 0, now
                if stop.is_set() and step < total_steps:
                    stopped = True
                elif now - saved_at < config.checkpoint_every_seconds:
                    continue
                save(epoch=epoch, batch=index + 1)
                saved_at = now
                if stopped:
                    break
            if stopped:
                break
            start_batch = 0
            done = epoch + 1 == config.epochs or step >= total_steps
            if done or (epoch + 1) % config.validate_every_epochs == 0:
                with _averaged(plain, ema), torch.no_grad(), _autocast(config, accelerator.device):
                    plain.eval()
                    metrics = {name: float(value) for name, value in task.validate(plain).items()}
                if config.monitor_name not in metrics:
                    raise InputError(
                        f"monitor {config.monitor_name!r} is not measured; there are: {', '.join(metrics)}",
                        field="monitor",
                    )
                score = metrics[config.monitor_name]
                improved = best is None or config.monitor_sign * (score - best) > 0
                best, stale = (score, 0) if improved else (best, stale + 1)
                run_dir.log("validate", step=step, epoch=epoch, **{k: round(v, 6) for k, v in metrics.items()})
                logger.info("%s epoch %d/%d step %d %s", config.recipe, epoch + 1, config.epochs, step,
                            " ".join(f"{k} {v:.4f}" for k, v in metrics.items()))  # fmt: skip
                save(epoch=epoch + 1, batch=0, is_best=improved)
                saved_at = time.monotonic()
                if config.patience is not None and stale >= config.patience:
                    logger.info("no better %s for %d validations: stopping", config.monitor_name, stale)
                    done = True
            if done:
                break
            if stop.is_set():
                save(epoch=epoch + 1, batch=0)
                stopped = True
                break
    if stopped:
        run_dir.log("interrupt", step=step)
        return RunResult(run_dir=run_dir.path, steps=step, metrics=metrics, best=best, interrupted=True, export=None)

    folder = Path(config.export_dir) if config.export_dir else run_dir.path / "export"
    if accelerator.is_main_process:
        if config.export == "best":
            checkpoint = run_dir.load("best")
            load_trained_state(plain, checkpoint.ema or checkpoint.model)
        elif ema:
            load_trained_state(plain, ema)
        folder.mkdir(parents=True, exist_ok=True)
        task.export(plain.eval(), folder)
        run_dir.log("end", step=step, export=config.export, best=best, **{k: round(v, 6) for k, v in metrics.items()})
    accelerator.wait_for_everyone()
    return RunResult(run_dir=run_dir.path, steps=step, metrics=metrics, best=best, interrupted=False, export=folder)


def learning_rate(config: TrainConfig, *, step: int, total_steps: int) -> float:
    """Return the rate of a step (from 0): a linear warm-up, then the schedule down to its floor."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps)
    shape = {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1.0 + math.cos(math.pi * done))}[config.schedule]
    return config.learning_rate * (config.min_learning_rate_ratio + (1.0 - config.min_learning_rate_ratio) * shape)


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """Return what training changes, not copied: parameters with ``requires_grad`` (tied ones once), kept buffers."""
    state = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    persistent = model.state_dict().keys()
    return state | {name: b for name, b in model.named_buffers() if name in persistent}


def load_trained_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy `trained_state` back in place; names or shapes that differ raise `CheckpointError`."""
    own = trained_state(model)
    if own.keys() != state.keys():
        differing = sorted(own.keys() ^ state.keys())
        raise CheckpointError(f"the checkpoint does not fit the model; differing names: {', '.join(differing[:8])}")
    for name, tensor in own.items():
        if tensor.shape != state[name].shape:
            raise CheckpointError(
                f"{name} has shape {tuple(state[name].shape)} in the checkpoint, {tuple(tensor.shape)} in the model"
            )
        tensor.copy_(state[name])


def _build_optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},  # biases, norms
    ]
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise InputError("the model has no parameter to train", field="task")
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum, nesterov=True)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas)


def _autocast(config: TrainConfig, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.precision == "bf16")


def _average(ema: dict[str, Tensor], model: nn.Module, *, decay: float) -> None:
    if not ema:
        return
    for name, value in trained_state(model).items():
        if value.is_floating_point():
            ema[name].lerp_(value, 1.0 - decay)
        else:
            ema[name].copy_(value)


@contextmanager
def _averaged(model: nn.Module, ema: Mapping[str, Tensor]) -> Iterator[None]:
    """Put the averaged weights into the model for a while."""
    if not ema:
        yield
        return
    current = {name: value.clone() for name, value in trained_state(model).items()}
    load_trained_state(model, ema)
    try:
        yield
    finally:
        load_trained_state(model, current)


class _Share:
    """Every n-th batch, for one of n processes; the rest at the end is dropped so that all do as many steps."""

    def __init__(self, batches: Batches, *, rank: int, size: int) -> None:
        self.batches, self.rank, self.size = batches, rank, size

    def __len__(self) -> int:
        return len(self.batches) // self.size

    def __iter__(self) -> Iterator[Any]:
        return itertools.islice(self.batches, self.rank, len(self) * self.size, self.size)


def _share(batches: Batches, accelerator: Accelerator) -> Batches:
    if accelerator.num_processes == 1:
        return batches
    return _Share(batches, rank=accelerator.process_index, size=accelerator.num_processes)


def _from(batches: Batches, start: int) -> Iterator[tuple[int, Any]]:
    """Yield ``(index, batch)`` from ``start`` on, jumping there when the batches can be indexed."""
    item = getattr(batches, "__getitem__", None)
    if item is not None:
        return ((index, item(index)) for index in range(start, len(batches)))
    return itertools.islice(enumerate(batches), start, None)


def _generators() -> dict[str, Any]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"torch": torch.get_rng_state(), "cuda": cuda}


def _set_generators(state: Mapping[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


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
