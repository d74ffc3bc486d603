"""``emollama bench engine``: how fast tokens are decoded, beside transformers' ``generate``.

Both get the same weights (the adapter merged), the same prompts, float32, greedy choice, as many new tokens and as many
threads. Requests alone and several at once are measured: ours through `emollama.generate.Engine`, theirs as one padded
batch. The two take turns, whoever began last time goes second, and medians are reported with every single time. A time
is that of the whole reply, the prompt's computation included. Whether both said the same is told as well.

With ``--shape`` there is no model: weights of that shape are drawn, and their decoding is measured against the memory
of the device (`eval.bench_shape`).
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emollama.errors import EmoLlamaError, InputError

if TYPE_CHECKING:
    from emollama.runtime import Runtime

app = typer.Typer(help="Measure decoding beside transformers' generate.", add_completion=False)

# What people say, short and long: prompts of different lengths, as they come.
SENTENCES = (
    "I am so happy, this is the best day of my life!",
    "I did not see that coming at all.",
    "Please leave me alone, I have told you three times now that I do not want to talk about it.",
    "It rained all morning and we stayed inside, drank tea and waited for the bus that never came.",
    "How dare you say that to me, in front of everyone, after all I did for you and for your family last year?",
    "Well.",
    "She left yesterday and the house is quiet.",
    "There is a spider on the wall, a big one, and it is moving, please do something!",
)

Decode = Callable[[Sequence[Sequence[int]], int], list[list[int]]]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """So many requests at once: seconds of every repetition of both, and how many replies were the same."""

    num_requests: int
    num_tokens: int
    ours_seconds: tuple[float, ...]
    theirs_seconds: tuple[float, ...]
    num_same: int

    def tokens_per_second(self, seconds: Sequence[float]) -> float:
        return self.num_requests * self.num_tokens / statistics.median(seconds)

    def to_json_dict(self) -> dict[str, Any]:
        ours, theirs = (self.tokens_per_second(times) for times in (self.ours_seconds, self.theirs_seconds))
        return {
            **asdict(self),
            "ours_tokens_per_second": round(ours, 1),
            "theirs_tokens_per_second": round(theirs, 1),
            "times_as_fast": round(ours / theirs, 2),
        }


@app.command()
def bench_engine(
    model: Annotated[str, typer.Option(help="`nano`, or a model folder of its layout.")] = "nano",
    requests: Annotated[list[int] | None, typer.Option(min=1, help="How many at once; may be repeated.")] = None,
    tokens: Annotated[int, typer.Option(min=1, help="New tokens of each reply.")] = 64,
    runs: Annotated[int, typer.Option(min=1, help="Repetitions of each; medians are reported.")] = 7,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads; default: torch's own choice.")] = None,
    shape: Annotated[str | None, typer.Option(help="Random weights of this shape: llama-7b, llama-8b, ...")] = None,
    device: Annotated[str, typer.Option(help="With --shape: torch device.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="With --shape: float32, bfloat16 or float16.")] = "float32",
    batches: Annotated[str, typer.Option(help="With --shape: how many replies at once, comma-separated.")] = "1,64",
    prompt: Annotated[int, typer.Option(min=1, help="With --shape: tokens before each reply.")] = 128,
    bandwidth: Annotated[
        float | None, typer.Option(min=0.1, help="With --shape: the vendor's figure for the memory, in GB/s.")
    ] = None,
    seed: Annotated[int, typer.Option(help="With --shape: seed of weights and prompts.")] = 0,
    json_path: Annotated[Path | None, typer.Option("--json", help="Also write figures and origin here.")] = None,
) -> None:
    """Decode the same replies with this engine and with transformers' generate, and compare tokens per second.

    With --shape: decode with random weights and report tokens per second and the share of the memory's bandwidth.
    """
    import torch
    from rich.console import Console

    from eval.report import provenance, write_json

    console = Console()
    if threads is not None:
        torch.set_num_threads(threads)
    load_before = _load_average()
    if shape is not None:
        try:
            with console.status("decoding"):
                figures = measure_shape(
                    shape, device=device, dtype=dtype, batches=batches, tokens=tokens, prompt=prompt, runs=runs,
                    bandwidth=bandwidth, seed=seed,
                )  # fmt: skip
        except EmoLlamaError as error:
            Console(stderr=True).print(f"[red]error:[/red] {error}", highlight=False)
            raise typer.Exit(2) from error
        from eval.bench_shape import shape_table

        console.print(shape_table(figures["decoding"], title=f"{shape}, {dtype}, {figures['device']}"))
        if json_path is not None:
            load = {"before": load_before, "after": _load_average()}
            write_json(json_path, {**provenance(), **figures, "load_average": load})
            console.print(f"written to {json_path}")
        return
    try:
        ours, theirs, prompts = load_both(model)
        with console.status("decoding"):
            found = [
                compare(ours, theirs, [prompts[i % len(prompts)] for i in range(count)], num_tokens=tokens, runs=runs)
                for count in requests or (1, 16)
            ]
    except EmoLlamaError as error:
        Console(stderr=True).print(f"[red]error:[/red] {error}", highlight=False)
        raise typer.Exit(2) from error
    console.print(table_of(found, title=f"{model}: {tokens} tokens a reply, {torch.get_num_threads()} threads"))
    if json_path is not None:
        document = {
            "model": model,
            **provenance(),
            "threads": torch.get_num_threads(),
            "load_average": {"before": load_before, "after": _load_average()},
            "comparisons": [each.to_json_dict() for each in found],
        }
        write_json(json_path, document)
        console.print(f"written to {json_path}")


def measure_shape(
    name: str,
    *,
    device: str,
    dtype: str,
    batches: str,
    tokens: int,
    prompt: int,
    runs: int,
    bandwidth: float | None,
    seed: int,
) -> dict[str, Any]:
    """Return the figures of one shape as plain JSON types; ``bandwidth`` is the vendor's, in GB/s."""
    import torch

    from emollama.assemble import find_device
    from eval import bench_shape

    counts = [int(each) for each in batches.split(",") if each.strip().isdigit()]
    if len(counts) != len(batches.split(",")) or min(counts) < 1:
        raise InputError(f"batches is {batches!r}; allowed: numbers from 1 on, such as 1,64", field="batches")
    place = find_device(device)
    measured = bench_shape.measure_bandwidth(place)
    model = bench_shape.random_model(name, device=place, dtype=dtype, seed=seed)
    vendor = None if bandwidth is None else bandwidth * 1e9
    found = [
        bench_shape.measure_decoding(
            model, num_requests=count, num_tokens=tokens, prompt=prompt, runs=runs, seed=seed
        ).to_json_dict(bandwidth=measured, vendor=vendor)
        for count in counts
    ]
    return {
        "shape": name,
        "device": bench_shape.name_of(place),
        "dtype": dtype,
        "seed": seed,
        "prompt_tokens": prompt,
        "threads": torch.get_num_threads(),
        "bytes_of_weights": model.num_bytes,
        "gigabytes_per_second": {"measured_by_a_copy": round(measured / 1e9, 1), "vendor": bandwidth},
        "decoding": found,
    }


def load_both(model: str) -> tuple[Decode, Decode, list[list[int]]]:
    """Load a model twice; returns our decoder, theirs, and prompts."""
    from emollama.assemble import load_parts
    from emollama.backbones.reference import ReferenceLlama
    from emollama.checkpoint import load_assets
    from emollama.runtime import Runtime

    parts, assets = load_parts(model), load_assets(model)
    loaded: Any = parts.engine
    # without end tokens, so that every reply has the same length; the forbidding of tokens would cost time
    runtime = Runtime(loaded.runtime.backbone, loaded.runtime.projectors, loaded.runtime.placeholder_ids, eos_ids=())
    reference = ReferenceLlama.load(assets.backbone, adapter=assets.adapter)
    prompts = [parts.renderer.modalities(transcript=sentence) for sentence in SENTENCES]
    return (
        lambda rows, count: decode(runtime, rows, num_tokens=count),
        lambda rows, count: reference.generate(rows, num_tokens=count),
        prompts,
    )


def decode(runtime: Runtime, prompts: Sequence[Sequence[int]], *, num_tokens: int) -> list[list[int]]:
    """Decode replies to all prompts at once with the engine, greedily."""
    from emollama.generate import Engine, Request
    from emollama.runtime import Row, Sampling

    engine = Engine(runtime, max_rows=len(prompts), max_waiting=len(prompts))
    sampling = Sampling(max_tokens=num_tokens)
    names = [engine.add(Request(row=Row(prompt), sampling=sampling)) for prompt in prompts]
    found: dict[str, list[int]] = {name: [] for name in names}
    while engine.has_work:
        for event in engine.step():
            if event.error is not None:
                raise event.error
            if event.token_id is not None:
                found[event.request_id].append(event.token_id)
    return [found[name] for name in names]


def compare(
    ours: Decode, theirs: Decode, prompts: Sequence[Sequence[int]], *, num_tokens: int, runs: int
) -> Comparison:
    """Decode once each to warm up and to compare what is said, then ``runs`` times each in turns."""
    said = ours(prompts, num_tokens), theirs(prompts, num_tokens)
    seconds: dict[Decode, list[float]] = {ours: [], theirs: []}
    for run in range(runs):
        for decoder in (ours, theirs) if run % 2 == 0 else (theirs, ours):
            started = time.perf_counter()
            decoder(prompts, num_tokens)
            seconds[decoder].append(time.perf_counter() - started)
    return Comparison(
        num_requests=len(prompts),
        num_tokens=num_tokens,
        ours_seconds=tuple(round(value, 5) for value in seconds[ours]),
        theirs_seconds=tuple(round(value, 5) for value in seconds[theirs]),
        num_same=sum(a == b for a, b in zip(*said, strict=True)),
    )


def table_of(found: Sequence[Comparison], *, title: str) -> Any:
    """Return the comparisons as a table for a terminal."""
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for name in ("requests at once", "ours, tokens/s", "generate, tokens/s", "times as fast", "same replies"):
        table.add_column(name, justify="right")
    for each in found:
        figures = each.to_json_dict()
        table.add_row(
            str(each.num_requests),
            f"{figures['ours_tokens_per_second']:.0f}",
            f"{figures['theirs_tokens_per_second']:.0f}",
            f"{figures['times_as_fast']:.2f}",
            f"{each.num_same} of {each.num_requests}",
        )
    return table


def _load_average() -> float | None:
    """How busy the machine is (one minute's load), where the system tells it: figures of a busy one say little."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
