"""``emollama batch``: many clips into one folder of answers."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emollama.clip_options import AdapterOption, DeviceOption, LabelsOption, ModelOption
from emollama.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from emollama.batch.run import Summary
    from emollama.batch.workers import Factory, PoolSize, Workers

_FAILED, _INTERRUPTED = 1, 130
_GPU_THREADS = 4

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def batch(
    ctx: typer.Context,
    source: Annotated[
        Path, typer.Argument(metavar="MANIFEST", help="A manifest (JSONL), a table, a list of paths, or a folder.")
    ],
    out: Annotated[Path, typer.Option(help="The folder of the answers; a run goes on where it ended.")],
    root: Annotated[
        Path | None, typer.Option(help="Where relative paths of the list start (default: beside it).")
    ] = None,
    labels: LabelsOption = None,
    language: Annotated[
        str | None, typer.Option(help="Language of words that have none of their own, e.g. en.")
    ] = None,
    model: ModelOption = "nano",
    adapter: AdapterOption = None,
    device: DeviceOption = "cpu",
    asr: Annotated[
        str | None, typer.Option(help="Listen to words that are not given with this recogniser, e.g. whisper-base.")
    ] = None,
    no_rationale: Annotated[
        bool, typer.Option("--no-rationale", help="Labels and scores only: no sentences, which is faster.")
    ] = False,
    timelines: Annotated[
        str | None, typer.Option(help="Write each clip's timeline into timelines/: csv, srt, vtt or json.")
    ] = None,
    table: Annotated[str, typer.Option(help="The summary: csv, parquet, or both with a comma.")] = "csv",
    limit: Annotated[int | None, typer.Option(help="Only the first so many clips; later runs may raise it.")] = None,
    shard: Annotated[
        str | None, typer.Option(help="Only one part of the list, such as 2/8, into a folder of its own.")
    ] = None,
    retry_errors: Annotated[bool, typer.Option("--retry-errors", help="Do failed clips again.")] = False,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stop at the first clip that fails.")] = False,
    processes: Annotated[
        int | None, typer.Option(help="Processes that hold the model (default: one for each core; on a GPU, one).")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Clips at once in each process (default: 1; on a GPU, 4).")
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds that one clip may take.")] = 3600.0,
    no_long: Annotated[
        bool, typer.Option("--no-long", help="A clip over the limits is an error, not read window by window.")
    ] = False,
    max_seconds: Annotated[float, typer.Option(help="Longest stretch, and clip that is not read by windows.")] = 600.0,
    ray: Annotated[bool, typer.Option("--ray", help="Run on a Ray cluster, or on this machine by Ray.")] = False,
    ray_address: Annotated[
        str | None, typer.Option(help="With --ray: the cluster, e.g. auto (default: a Ray of its own, here).")
    ] = None,
) -> None:
    """Label many clips into one folder: resumable, each clip once, errors as data."""
    # Before numpy is loaded, here and in the processes: OpenBLAS's own threads wait by spinning on others' cores.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from rich.console import Console

    from emollama.batch.labelling import Labelling
    from emollama.batch.progress import progress_on
    from emollama.batch.run import RunOptions, Shard, run_batch
    from emollama.batch.sources import read_source
    from emollama.batch.tables import parse_tables
    from emollama.labels import parse_label_set
    from emollama.timeline import WRITERS

    if timelines is not None and timelines not in WRITERS:
        raise InputError(f"timelines is {timelines!r}; allowed: {', '.join(WRITERS)}", field="timelines")
    if ray_address is not None and not ray:
        raise InputError("--ray-address needs --ray", field="ray_address")
    make: Callable[..., Labelling] = ctx.obj if ctx.obj is not None else Labelling
    labelling = make(
        model=model, adapter=None if adapter is None else str(adapter), device=device,
        labels=None if labels is None else parse_label_set(labels), language=language, asr=asr,
        rationale=not no_rationale, timelines=timelines, long=not no_long,
        max_seconds=max_seconds,
    )  # fmt: skip
    options = RunOptions(
        shard=None if shard is None else Shard.parse(shard), limit=limit, tables=parse_tables(table),
        fail_fast=fail_fast, retry_errors=retry_errors,
    )  # fmt: skip
    size = _size(device, processes, threads, timeout)
    found = read_source(source, root=root)
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])

    def make_workers() -> Workers:
        return _workers(labelling, size, ray=ray, address=ray_address, uses_gpu=device != "cpu")

    console = Console(stderr=True)
    with _stoppable(console) as stopped:
        summary = run_batch(
            found, out, labelling, make_workers, options=options, command=command, progress=progress_on(console),
            stopped=stopped,
        )  # fmt: skip
    for line in _told(summary, out, command):
        console.out(line, highlight=False)
    if summary.ended == "interrupted":
        raise typer.Exit(_INTERRUPTED)
    if summary.failed:
        raise typer.Exit(_FAILED)


def _size(device: str, processes: int | None, threads: int | None, timeout: float) -> PoolSize:
    from emollama.batch.workers import PoolSize
    from emollama.cores import usable_cores

    is_cpu = device == "cpu"
    return PoolSize(
        processes=processes if processes is not None else usable_cores() if is_cpu else 1,
        threads=threads if threads is not None else 1 if is_cpu else _GPU_THREADS,
        timeout_seconds=timeout,
    )


def _workers(factory: Factory, size: PoolSize, *, ray: bool, address: str | None, uses_gpu: bool) -> Workers:
    if ray:
        from emollama.batch.ray_workers import RayWorkers

        return RayWorkers(factory, size, address=address, uses_gpu=uses_gpu)
    from emollama.batch.workers import ProcessPool

    return ProcessPool(factory, size)


@contextmanager
def _stoppable(console: Console) -> Iterator[Callable[[], bool]]:
    """Yield what says whether an interrupt or a request to end has come; the second one breaks off whatever is done."""
    signals = [signal.SIGINT, signal.SIGTERM]
    seen: list[int] = []

    def note(number: int, frame: Any) -> None:
        seen.append(number)
        if len(seen) > 1:
            raise KeyboardInterrupt
        console.out("stopping; what is done is kept", highlight=False)

    before = {number: signal.signal(number, note) for number in signals}
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _told(summary: Summary, out: Path, command: str) -> Iterator[str]:
    yield (
        f"{out}: {summary.done} of {summary.total} clips labelled, {summary.failed} failed, {summary.left} left; "
        f"{summary.num_new} in {summary.seconds:.1f} s ({summary.clips_per_second:.2f}/s), "
        f"{summary.num_copied} of them duplicates"
    )
    if summary.failures:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(summary.failures.items()))
        yield f"errors.jsonl says what failed and what to do: {kinds}; do them again with --retry-errors"
    if summary.left:
        yield f"go on with: {command}"
