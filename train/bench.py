"""``python -m train.bench``: how fast the loop trains nano, beside transformers' ``Trainer`` over a PEFT model.

Both get the same model, the same ready-made batches in the same order, the same optimiser settings and number of steps,
float32, no dropout and as many threads. They take turns; medians are reported. The speed is non-padding tokens per
second from the first batch to the last update. The losses, step by step, say whether both compute the same.

The samples are those of a manifest (``--manifest``) or made up: random readings, words of the grammar, and dialogues as
the recipe ``instruct`` writes them. What the features hold does not change the speed.
"""

from __future__ import annotations

import platform
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emollama.errors import EmoLlamaError
from emollama.labels import NANO_LABELS
from emollama.tensors import write_json
from train.run_dir import environment

if TYPE_CHECKING:
    from torch import Tensor, nn

    from train.clip_batch import ClipBatch
    from train.clip_task import ClipTask

app = typer.Typer(help="Measure training.", add_completion=False)

_RATE, _DECAY, _NORM = 2e-4, 0.01, 1.0


@dataclass(frozen=True, kw_only=True)
class Timed:
    """One run: seconds from the first batch to the last update, and the loss of every step."""

    seconds: float
    losses: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class TrainBench:
    """The result: tokens per second (medians) and what they come from."""

    steps: int
    batch_size: int
    tokens: int
    padded_tokens: int
    answer_tokens: int
    threads: int
    ours_tokens_per_second: float
    trainer_tokens_per_second: float
    ratio: float
    ours_runs: tuple[float, ...]
    trainer_runs: tuple[float, ...]
    ours_final_loss: float
    trainer_final_loss: float
    largest_loss_difference: float
    transformers: str
    peft: str
    machine: str


@app.command()
def bench(
    manifest: Annotated[Path | None, typer.Option(help="Samples to train on; default: made-up ones.")] = None,
    steps: Annotated[int, typer.Option(min=2, help="Updates in one run.")] = 24,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples in a batch.")] = 16,
    repetitions: Annotated[int, typer.Option(min=1, help="Runs of each, in turns; medians are reported.")] = 3,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch.")] = 2,
    output: Annotated[Path | None, typer.Option("--json", help="Also write the figures there as JSON.")] = None,
) -> None:
    """Compare the loop with transformers' Trainer and PEFT on the same batches."""
    try:
        result = compare(
            manifest=manifest, steps=steps, batch_size=batch_size, repetitions=repetitions, threads=threads
        )
    except EmoLlamaError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    if output is not None:
        document = {"command": shlex.join(["emollama", *sys.argv[1:]]), **environment(), **asdict(result)}
        write_json(output, document)
    typer.echo(table(result))


def compare(
    *, manifest: Path | None, steps: int, batch_size: int, repetitions: int, threads: int, seed: int = 7
) -> TrainBench:
    """Run both, in turns, on the same batches."""
    import torch

    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        task = build_task(manifest, folder=Path(folder), batch_size=batch_size, samples=steps * batch_size, seed=seed)
        batches = list(_cycle(task, steps, seed=seed))
        runs: dict[str, list[Timed]] = {"ours": [], "trainer": []}
        for repetition in range(repetitions):
            runs["ours"].append(run_ours(task, batches, folder=Path(folder) / f"run-{repetition}", seed=seed))
            runs["trainer"].append(run_trainer(task, batches, seed=seed))
    tokens = sum(batch.num_tokens for batch in batches)
    speeds = {name: tuple(round(tokens / run.seconds, 1) for run in timed) for name, timed in runs.items()}
    ours, trainer = (statistics.median(speeds[name]) for name in ("ours", "trainer"))
    mine, theirs = runs["ours"][-1].losses, runs["trainer"][-1].losses
    return TrainBench(
        steps=len(batches),
        batch_size=batch_size,
        tokens=tokens,
        padded_tokens=sum(batch.inputs.input_ids.numel() for batch in batches),
        answer_tokens=sum(batch.num_answers for batch in batches),
        threads=threads,
        ours_tokens_per_second=ours,
        trainer_tokens_per_second=trainer,
        ratio=round(ours / trainer, 3),
        ours_runs=speeds["ours"],
        trainer_runs=speeds["trainer"],
        ours_final_loss=mine[-1],
        trainer_final_loss=theirs[-1],
        largest_loss_difference=max(abs(a - b) for a, b in zip(mine, theirs, strict=True)),
        transformers=version("transformers"),
        peft=version("peft"),
        machine=f"{platform.system()} {platform.machine()}",
    )


def table(result: TrainBench) -> str:
    """The result for a person, in Markdown."""
    rows = [
        ("emollama train", result.ours_tokens_per_second, result.ours_final_loss),
        ("transformers Trainer + PEFT", result.trainer_tokens_per_second, result.trainer_final_loss),
    ]
    lines = ["| | tokens/s | last loss |", "|---|---:|---:|"]
    lines += [f"| {name} | {speed:,.0f} | {loss:.6f} |" for name, speed, loss in rows]
    lines.append(
        f"\n{result.ratio:.2f} times the speed; the losses of {result.steps} steps differ by at most "
        f"{result.largest_loss_difference:.1e}. {result.tokens:,} tokens in {result.padded_tokens:,} places, "
        f"{result.answer_tokens:,} of them answers; {result.threads} threads, float32."
    )
    return "\n".join(lines)


# ---- samples ---------------------------------------------------------------------------------------------------------


def build_task(manifest: Path | None, *, folder: Path, batch_size: int, samples: int, seed: int) -> ClipTask:
    """Return the task of ``instruct`` over a manifest, or over made-up samples whose readings are random."""
    from emollama.manifest import Sample, write_manifest
    from train.clip_task import Known
    from train.recipes import load_recipe

    recipe = load_recipe("instruct")
    made_up = manifest is None
    rng = Random(seed)
    if made_up:
        manifest = folder / "manifest.jsonl"
        rows = [
            Sample(id=str(index), transcript=_words(rng), label=rng.choice(NANO_LABELS)) for index in range(samples)
        ]
        write_manifest(manifest, rows)
    options = replace(recipe.task, manifest=str(manifest), valid_share=0.0)
    task: ClipTask = replace(recipe, batch_size=batch_size, seed=seed, task=options).task.build(
        replace(recipe, batch_size=batch_size, seed=seed)
    )
    if made_up:
        known = []
        for sample in task.samples["train"]:
            reading = _reading(rng)
            known.append(Known(sample=sample, reading=reading, present=task.trainee.present(sample, reading)))
        task.known = {"train": known, "valid": []}
    return task


def _words(rng: Random) -> str:
    words = ("I", "you", "we", "never", "always", "saw", "heard", "that", "this", "was", "so", "good", "bad", "late")
    return " ".join(rng.choice(words) for _ in range(rng.randint(4, 24)))


def _reading(rng: Random) -> Any:
    """Face and voice tokens of random numbers, and random cues."""
    import numpy as np

    from emollama.checkpoint import load_assets
    from emollama.tensors import read_tensors
    from train.builders.cues import random_cues
    from train.trainees import Reading

    projectors = read_tensors(load_assets("nano").projectors)
    noise = np.random.default_rng(rng.getrandbits(32))
    tokens = {}
    for stream, count in (("face", rng.randint(4, 16)), ("voice", 1)):
        width = projectors[f"{stream}.norm.weight"].shape[0]
        tokens[stream] = noise.normal(scale=0.3, size=(count, width)).astype(np.float32)
    cues = asdict(random_cues(rng))
    return Reading(tokens=tokens, facts={"cues": {name: cues[name] for name in ("face", "voice", "words", "still")}})


def _cycle(task: ClipTask, steps: int, *, seed: int) -> Iterator[ClipBatch]:
    epoch = made = 0
    while True:
        for batch in task.batches(epoch=epoch, seed=seed):
            yield batch
            made += 1
            if made == steps:
                return
        epoch += 1


# ---- the two ways ----------------------------------------------------------------------------------------------------


class _Measured:
    """A task over ready-made batches that notes when they begin, when they end, and their losses."""

    def __init__(self, task: ClipTask, batches: Sequence[ClipBatch]) -> None:
        self.task, self.given = task, batches
        self.begun = self.ended = 0.0
        self.losses: list[Tensor] = []

    def build_model(self) -> nn.Module:
        return build_model(self.task)

    def batches(self, *, epoch: int, seed: int) -> _Measured:
        return self

    def __len__(self) -> int:
        return len(self.given)

    def __iter__(self) -> Iterator[ClipBatch]:
        return iter(self.given)

    def __getitem__(self, index: int) -> ClipBatch:
        self.begun = self.begun or time.perf_counter()
        return self.given[index]

    def loss(self, model: nn.Module, batch: ClipBatch) -> tuple[Tensor, Any]:
        loss, figures = self.task.loss(model, batch)
        self.losses.append(loss.detach())
        return loss, figures

    def validate(self, model: nn.Module) -> dict[str, float]:
        self.ended = time.perf_counter()
        return {"loss": 0.0}

    def export(self, model: nn.Module, folder: Path) -> None:
        pass


def build_model(task: ClipTask) -> nn.Module:
    """nano with the adapter that fine-tuning goes on from, without dropout."""
    from torch import nn

    model = task.build_model()
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Dropout):
                setattr(module, name, nn.Identity())
    return model


def run_ours(task: ClipTask, batches: Sequence[ClipBatch], *, folder: Path, seed: int) -> Timed:
    """Train with `train.loop.run`."""
    from train.config import TrainConfig
    from train.loop import run

    config = TrainConfig(
        recipe="bench", run_dir=str(folder), task=task.options, seed=seed, learning_rate=_RATE, schedule="constant",
        weight_decay=_DECAY, clip_norm=_NORM, device="cpu", log_every_steps=20, checkpoint_every_seconds=1e9,
    )  # fmt: skip
    measured = _Measured(task, batches)
    run(config, measured)
    return Timed(seconds=measured.ended - measured.begun, losses=tuple(float(loss) for loss in measured.losses))


def run_trainer(task: ClipTask, batches: Sequence[ClipBatch], *, seed: int) -> Timed:
    """Train with transformers' Trainer; the loss is that of `ClipTask.loss`, from the logits of every position."""
    import torch
    from torch.nn import functional as F

    from emollama.backbones.trainer import train_with_trainer

    tokens = torch.tensor(task.trainee.label_token_ids)

    def loss_of(logits: Tensor, batch: ClipBatch) -> Tensor:
        loss = logits.new_zeros(())
        labelled = batch.targets.sum(-1) > 0
        if labelled.any():
            at = logits[torch.arange(len(logits))[labelled], batch.label_at[labelled]][:, tokens]
            scores = at.masked_fill(~batch.asked[labelled], -1e4).log_softmax(-1)
            loss = loss - (batch.targets[labelled] * scores).sum(-1).mean()
        if batch.num_answers:
            labels = batch.inputs.labels
            assert labels is not None
            loss = loss + task.options.answer_weight * F.cross_entropy(
                logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100
            )
        return loss

    torch.manual_seed(seed)
    done = train_with_trainer(
        build_model(task), batches, loss_of, learning_rate=_RATE, weight_decay=_DECAY, clip_norm=_NORM, seed=seed
    )
    return Timed(seconds=done.seconds, losses=done.losses)


if __name__ == "__main__":
    app()
