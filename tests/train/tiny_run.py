"""Whole runs of the loop at toy size in processes of their own, for tests that launch several or kill them.

``python tiny_run.py RUN_DIR key=value ...`` is one run. ``python tiny_run.py JOBS.json`` does jobs one after the other
in forked children (so that importing is paid once) and prints the exit statuses of each. A job has ``run_dir``,
``overrides``, ``processes``, ``environment`` and ``tries``: the run is tried again and again, each try killed with
SIGKILL: ``loss:n`` at the n-th batch, ``fsync:n`` and ``replace:n`` at the n-th such call (which is inside a
checkpoint's save), ``time:x`` from outside after x seconds, and an empty one left alone.

The model is an `EmoLlama` whose backbone is a few lines of torch; it has dropout, and its batches often lack a stream.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import save_file
from torch import nn

from emollama.config import ProjectorConfig
from emollama.model import EmoLlama, ModelBatch
from emollama.projectors import build_projector
from train.config import TrainConfig, override
from train.loop import run

WIDTH, VOCABULARY, STREAMS = 16, 20, {"face": 18, "voice": 19}


class TinyLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(WIDTH, WIDTH).requires_grad_(False)
        self.lora_a = nn.Parameter(0.1 * torch.randn(4, WIDTH))
        self.lora_b = nn.Parameter(torch.zeros(WIDTH, 4))
        self.norm = nn.LayerNorm(WIDTH)
        self.drop = nn.Dropout(0.2)

    def forward(self, x):
        return x + torch.tanh(self.base(self.norm(x)) + self.drop(x) @ self.lora_a.T @ self.lora_b.T)


class TinyBody(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TinyLayer() for _ in range(2))

    def forward(self, *, inputs_embeds, attention_mask, position_ids, use_cache):
        for layer in self.layers:
            inputs_embeds = layer(inputs_embeds)
        return SimpleNamespace(last_hidden_state=inputs_embeds + inputs_embeds.cumsum(1) / 8)


class TinyBackbone(nn.Module):
    _no_split_modules = ("TinyLayer",)

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH).requires_grad_(False)
        self.model = TinyBody()
        self.lm_head = nn.Linear(WIDTH, VOCABULARY, bias=False).requires_grad_(False)

    def get_input_embeddings(self):
        return self.embedding


@dataclass(frozen=True, kw_only=True)
class TinyBatch:
    inputs: ModelBatch
    weight: int
    num_tokens: int


@dataclass(frozen=True, kw_only=True)
class TinyOptions:
    num_batches: int = 9
    is_weighted: bool = True

    def build(self, config):
        return TinyTask(self)


class TinyTask:
    """Learns to say the next of a row of tokens; a batch has one to three rows, and each stream in half of them."""

    def __init__(self, options: TinyOptions) -> None:
        self.options = options
        self.on_loss = lambda: None

    def build_model(self):
        projectors = {name: build_projector(6, WIDTH, ProjectorConfig(kind="linear")) for name in STREAMS}
        return EmoLlama(TinyBackbone(), projectors, STREAMS)

    def batch(self, generator):
        rows, length = (int(torch.randint(low, high, (), generator=generator)) for low, high in ((1, 4), (5, 12)))
        start = torch.randint(0, 18, (rows, 1), generator=generator)
        ids = (start + torch.arange(length)) % 18
        labels = ids.clone()
        labels[:, :3] = -100
        features = {}
        for place, (name, placeholder) in enumerate(STREAMS.items()):
            if torch.rand((), generator=generator) < 0.5:
                ids[:, place] = placeholder
                features[name] = torch.randn(rows, 6, generator=generator)
        inputs = ModelBatch(input_ids=ids, features=features, labels=labels)
        weight = int((labels[:, 1:] != -100).sum()) if self.options.is_weighted else 1
        return TinyBatch(inputs=inputs, weight=weight, num_tokens=ids.numel())

    def batches(self, *, epoch, seed):
        generator = torch.Generator().manual_seed(1000 * seed + epoch)
        return [self.batch(generator) for _ in range(self.options.num_batches)]

    def loss(self, model, batch):
        self.on_loss()
        loss, _ = model.answer_loss(batch.inputs)
        return loss, {"terms": float(batch.weight)}

    def validate(self, model):
        batch = self.batch(torch.Generator().manual_seed(7))
        return {"loss": float(model.answer_loss(batch.inputs)[0])}

    def export(self, model, folder: Path) -> None:
        state = {name: p.detach().contiguous() for name, p in model.named_parameters() if p.requires_grad}
        save_file(state, folder / "tiny.safetensors")


def make_config(run_dir: Path, overrides: list[str]) -> TrainConfig:
    config = TrainConfig(
        recipe="tiny", run_dir=str(run_dir), task=TinyOptions(), device="cpu", threads=1, epochs=3, batch_size=3,
        learning_rate=0.02, warmup_steps=2, weight_decay=0.01, log_every_steps=1,
    )  # fmt: skip
    return override(config, overrides)


def _arm(kill: str, task: TinyTask) -> None:
    """Have this process killed at the n-th call of something."""
    what, _, number = kill.partition(":")
    calls = 0

    def counted(*_, **__):
        nonlocal calls
        calls += 1
        if calls == int(number):
            os.kill(os.getpid(), signal.SIGKILL)

    if what == "loss":
        task.on_loss = counted
    elif what in ("fsync", "replace"):
        before = getattr(os, what)
        setattr(os, what, lambda *a, **k: (counted(), before(*a, **k))[1])


def _start(job: dict, rank: int, port: int, kill: str) -> int:
    child = os.fork()
    if child:
        return child
    if job.get("processes", 1) > 1:
        launched = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": job["processes"], "MASTER_PORT": port}
        launched |= {"LOCAL_WORLD_SIZE": job["processes"], "MASTER_ADDR": "127.0.0.1"}
        os.environ.update({name: str(value) for name, value in launched.items()})
    os.environ.update(job.get("environment", {}))
    config = make_config(Path(job["run_dir"]), job.get("overrides", []))
    task = config.task.build(config)
    _arm(kill, task)
    run(config, task, resume=True)
    os._exit(0)


def do(job: dict) -> list[int]:
    """Return the exit statuses of a job's processes, try by try."""
    statuses = []
    for kill in job.get("tries", [""]):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        children = [_start(job, rank, port, kill) for rank in range(job.get("processes", 1))]
        if kill.startswith("time:"):
            time.sleep(float(kill.removeprefix("time:")))
            for child in children:
                os.kill(child, signal.SIGKILL)
        statuses += [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return statuses


def main() -> None:
    first, *rest = sys.argv[1:]
    if first.endswith(".json"):
        for module in ("torch._dynamo", "torch.distributed.fsdp", "torch.distributed.tensor", "accelerate.utils"):
            importlib.import_module(module)  # once here, not in every child
        print(json.dumps([do(job) for job in json.loads(Path(first).read_text())]))  # noqa: T201
        return
    config = make_config(Path(first), rest)
    run(config, config.task.build(config), resume=True)


if __name__ == "__main__":
    main()
