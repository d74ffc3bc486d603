"""`Strategy`: how many processes train and what each of them holds, as the file given to ``accelerate launch`` says.

``single`` (no launcher), ``ddp`` (every process has the whole model), ``fsdp2`` (torch's ``fully_shard``: parameters,
gradients and optimiser state in parts) and ``deepspeed`` (ZeRO). accelerate sets up processes, devices and DDP, the
other two are `train.sharding`.

What all processes have to decide alike (stop, save, a loss that is not finite) is summed over a gloo group on the host,
so that no decision waits for the device.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch import Tensor, nn
from torch.optim import Optimizer

from emollama.errors import InputError
from train.config import TrainConfig
from train.sharding import build_engine, shard

logger = logging.getLogger(__name__)

Kind = Literal["single", "ddp", "fsdp2", "deepspeed"]
T = TypeVar("T")

# One process may validate or export for long while the others wait for it.
_PATIENCE = timedelta(hours=6)


class Through(nn.Module):
    """The module that strategies prepare: its forward pass runs a function of the plain model.

    So every way of training (and, where weights are sharded, of validating) goes through the hooks of DDP, FSDP2 or
    DeepSpeed, whatever methods of its model a task calls. bfloat16 is autocast here; it needs no loss scaling.
    """

    def __init__(self, model: nn.Module, *, device: torch.device, is_bf16: bool) -> None:
        super().__init__()
        self.model = model
        self._device, self._is_bf16 = device, is_bf16

    def forward(self, function: Callable[..., T], *arguments: Any) -> T:
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._is_bf16):
            return function(self.model, *arguments)


class Strategy:
    """The processes of one run; see the module. ``rank`` of ``size``; ``device`` is where this process computes."""

    def __init__(self, config: TrainConfig) -> None:
        is_launched = int(os.environ.get("WORLD_SIZE", "1")) > 1
        uses_deepspeed = os.environ.get("ACCELERATE_USE_DEEPSPEED", "false") == "true"
        self.accelerator = Accelerator(
            # Without a GPU accelerate takes launched processes for single ones unless it is told of the CPU.
            cpu=config.device == "cpu" or (is_launched and not torch.cuda.is_available()),
            mixed_precision="no",  # `Through` says what is computed in bfloat16
            log_with=list(config.trackers) or None,
            project_dir=config.run_dir,
            kwargs_handlers=[
                DistributedDataParallelKwargs(gradient_as_bucket_view=True),
                InitProcessGroupKwargs(timeout=_PATIENCE),
            ],
        )
        self.config = config
        self.rank, self.size = self.accelerator.process_index, self.accelerator.num_processes
        self.device: torch.device = self.accelerator.device
        self.kind: Kind = "ddp" if self.size > 1 else "single"
        if uses_deepspeed:
            self.kind = "deepspeed"
        elif self.size > 1 and os.environ.get("ACCELERATE_USE_FSDP", "false") == "true":
            self.kind = "fsdp2"
        self._host: Any = None
        if self.size > 1:
            self._host = torch.distributed.new_group(backend="gloo", timeout=_PATIENCE)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def is_sharded(self) -> bool:
        """Whether no process has the whole model, so that all of them must run every forward pass."""
        return self.kind in ("fsdp2", "deepspeed")

    # ---- model -------------------------------------------------------------------------------------------------------

    def prepare(
        self, model: nn.Module, build_optimizer: Callable[[nn.Module], Optimizer]
    ) -> tuple[nn.Module, Optimizer]:
        """Return the module to call (a prepared `Through`) and the optimiser of the parameters that are trained."""
        is_bf16 = self.config.precision == "bf16"
        through: Any = Through(model, device=self.device, is_bf16=is_bf16)
        if self.kind == "fsdp2":
            shard(through)
            return through, build_optimizer(model)
        optimizer = build_optimizer(model)
        if self.kind == "deepspeed":
            self._engine = build_engine(through, optimizer, self.config)
            return self._engine, self._engine.optimizer
        # Buffers that are not kept (rotary frequencies) never change, so no step has to send them around.
        nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(
            through, list(_passing_buffers(through))
        )
        return self.accelerator.prepare_model(through), optimizer

    def accumulating(self, prepared: nn.Module, *, is_update: bool) -> AbstractContextManager[None]:
        """Around forward and backward of one batch: gradients are exchanged only with a step's last batch."""
        if self.kind == "ddp" and not is_update:
            return cast(AbstractContextManager[None], cast(Any, prepared).no_sync())
        if self.kind == "fsdp2":
            cast(Any, prepared).set_requires_gradient_sync(is_update)
        if self.kind == "deepspeed":
            self._engine.set_gradient_accumulation_boundary(is_boundary=is_update)
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        if self.kind == "deepspeed":
            self._engine.backward(loss)
        else:
            loss.backward()

    def update(self, optimizer: Optimizer, parameters: Sequence[nn.Parameter]) -> Tensor | float | None:
        """Clip the gradients to a common norm of ``clip_norm`` at most, update, and forget them; return that norm."""
        if self.kind == "deepspeed":
            self._engine.step()
            return self._engine.get_global_grad_norm()
        norm = None
        if self.config.clip_norm is not None:
            norm = nn.utils.clip_grad_norm_(parameters, self.config.clip_norm)
            norm = cast(Any, norm).full_tensor() if hasattr(norm, "full_tensor") else norm
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return norm

    # ---- between processes -------------------------------------------------------------------------------------------

    def sum(self, *values: float) -> list[float]:
        """Add numbers of the host over the processes."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        torch.distributed.all_reduce(total, group=self._host)
        return total.tolist()

    def gather(self, value: T) -> list[T]:
        """Return every process's (picklable) value, in order of rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(values, value, group=self._host)
        return values

    def from_main(self, value: T) -> T:
        """Return the main process's value in all of them."""
        return self.gather(value)[0]

    def wait(self) -> None:
        """Wait until every process is here."""
        self.sum(0.0)

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Let the main process do a thing before the others do it."""
        if not self.is_main:
            self.wait()
        yield
        if self.is_main:
            self.wait()

    # ---- DeepSpeed's own files ---------------------------------------------------------------------------------------

    def save_optimizer(self, folder: Path) -> None:
        """With DeepSpeed, let every process write its part of the optimiser's state; otherwise do nothing."""
        if self.kind == "deepspeed":
            self._engine.save_checkpoint(str(folder), tag="deepspeed", exclude_frozen_parameters=True)

    def load_optimizer(self, folder: Path) -> None:
        """Read `save_optimizer`, with as many processes as wrote it."""
        path, _ = self._engine.load_checkpoint(str(folder), tag="deepspeed", load_module_strict=False)
        if path is None:
            raise InputError(f"{folder} has no state of DeepSpeed; resume with the strategy it was saved with")


def _passing_buffers(model: nn.Module) -> Iterator[str]:
    for prefix, module in model.named_modules():
        yield from (f"{prefix}.{name}" for name in module._non_persistent_buffers_set)
