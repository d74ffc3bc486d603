"""``emollama bench``: how long an analysis takes, where the time goes, and how much memory it needs.

Three things are measured. Processes started from nothing (``emollama --help``, ``emollama analyze``) give start-up
time and peak memory; then the model is loaded once in this process and the same clip is analysed again and again,
which gives the warm latency and its parts as `Analysis.timings_ms` names them. Medians are reported, never the best.

The processes are measured first on purpose: Linux counts the memory of the parent at the moment of the fork into the
child's peak, so the parent must still be small.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol

import typer

from emollama.errors import DependencyError, EmoLlamaError, InputError
from emollama.types import Analysis

SAMPLE = "assets/sample/sample.mp4"
PROGRAM = "import sys; from emollama.cli import main; sys.argv[0] = 'emollama'; sys.exit(main())"

app = typer.Typer(help="Measure latency, start-up time and memory.", add_completion=False)


@dataclass(frozen=True, kw_only=True)
class ProcessRun:
    """One process from start to end: wall time, and peak resident memory where the system tells it."""

    seconds: float
    peak_mib: float | None


@dataclass(frozen=True, kw_only=True)
class WarmRuns:
    """Repeated analyses of one clip in one process: milliseconds of each run and of its parts."""

    total_ms: tuple[float, ...]
    parts_ms: Mapping[str, float]  # medians


class Analyzes(Protocol):
    """What the bench asks of an analyzer."""

    def analyze(self, source: Path) -> Analysis: ...


@app.command()
def bench(
    clip: Annotated[Path | None, typer.Argument(help="Clip to analyse; default: the bundled sample.")] = None,
    runs: Annotated[int, typer.Option(min=1, help="Warm runs; the median is reported.")] = 9,
    starts: Annotated[int, typer.Option(min=1, help="Processes started from nothing, of each kind.")] = 3,
    model: Annotated[str, typer.Option(help="Preset or checkpoint folder.")] = "nano",
    json_path: Annotated[
        Path | None, typer.Option("--json", help="Also write the figures and their origin here.")
    ] = None,
) -> None:
    """Measure latency, start-up time and memory on one clip."""
    from rich.console import Console

    from eval.report import flatten, print_rows, provenance, write_json

    console = Console()
    try:
        path = clip or sample_clip()
        if not path.is_file():
            raise InputError(f"clip {str(path)!r} is not a file", field="clip")
        with console.status("starting processes"):
            helps = [start_process(["--help"]) for _ in range(starts)]
            colds = [start_process(["analyze", str(path), "--model", model, "--json"]) for _ in range(starts)]
        with console.status("analysing"):
            analyzer, load_seconds = load_timed(model)
            warm = warm_runs(analyzer, path, runs=runs)
    except EmoLlamaError as error:
        Console(stderr=True).print(f"[red]error:[/red] {error}", highlight=False)
        raise typer.Exit(2) from error
    figures = summarise(path, helps=helps, colds=colds, warm=warm, load_seconds=load_seconds)
    print_rows(console, f"{model} on {path.name}", flatten(figures))
    if json_path is not None:
        write_json(json_path, {"model": model, **provenance(), **figures})
        console.print(f"written to {json_path}")


def sample_clip() -> Path:
    """Return the bundled sample clip."""
    from importlib.resources import files

    path = Path(str(files("emollama").joinpath(SAMPLE)))
    if not path.is_file():
        raise DependencyError(f"the bundled clip {SAMPLE} is not in this installation; name a clip", field="clip")
    return path


def start_process(arguments: Sequence[str]) -> ProcessRun:
    """Run ``emollama`` in a process of its own; one that fails raises `InputError` with its last words."""
    command = [sys.executable, "-c", PROGRAM, *arguments]
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        complaint = process.stderr.read().decode(errors="replace")
        peak_mib = None
        if hasattr(os, "wait4"):
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            unit = 1024 if sys.platform != "darwin" else 1  # Linux counts kibibytes, macOS bytes
            peak_mib = usage.ru_maxrss * unit / 2**20
        process.wait()
    seconds = time.perf_counter() - started
    if process.returncode:
        last = complaint.strip().splitlines()[-1:] or ["no message"]
        raise InputError(f"emollama {' '.join(arguments)} ended with {process.returncode}: {last[0]}")
    return ProcessRun(seconds=seconds, peak_mib=peak_mib)


def load_timed(model: str) -> tuple[Any, float]:
    """Load a model in this process; returns the analyzer and the seconds it took."""
    import emollama

    started = time.perf_counter()
    analyzer = emollama.load(model)
    return analyzer, time.perf_counter() - started


def warm_runs(analyzer: Analyzes, path: Path, *, runs: int) -> WarmRuns:
    """Analyse once to warm up, then ``runs`` times, and keep every time."""
    analyzer.analyze(path)
    totals: list[float] = []
    parts: dict[str, list[float]] = {}
    for _ in range(runs):
        started = time.perf_counter()
        analysis = analyzer.analyze(path)
        totals.append((time.perf_counter() - started) * 1000)
        for name, milliseconds in analysis.timings_ms.items():
            parts.setdefault(name, []).append(milliseconds)
    return WarmRuns(
        total_ms=tuple(totals), parts_ms={name: statistics.median(values) for name, values in parts.items()}
    )


def summarise(
    path: Path, *, helps: Sequence[ProcessRun], colds: Sequence[ProcessRun], warm: WarmRuns, load_seconds: float
) -> dict[str, Any]:
    """Return the figures as plain JSON types; the units are in the names."""
    peaks = [run.peak_mib for run in colds if run.peak_mib is not None]
    return {
        "clip": path.name,
        "help_seconds": round(statistics.median(run.seconds for run in helps), 3),
        "cold_start_to_answer_seconds": round(statistics.median(run.seconds for run in colds), 3),
        "cold_peak_memory_mib": round(max(peaks), 1) if peaks else None,
        "load_seconds": round(load_seconds, 3),
        "warm_median_ms": round(statistics.median(warm.total_ms), 1),
        "warm_slowest_ms": round(max(warm.total_ms), 1),
        "warm_parts_median_ms": {name: round(value, 1) for name, value in warm.parts_ms.items()},
        "warm_runs_ms": [round(value, 1) for value in warm.total_ms],
    }
