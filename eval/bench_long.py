"""``emollama bench long``: what a clip of ten minutes and one of an hour take, in time and above all in memory.

The clips are made of a short one by writing its packets again and again with later times, so they are compressed like
the short one and hold its faces and voices. Each is analysed by ``emollama analyze --window`` in a process of its own;
told are its seconds from start to end, how much faster than the clip plays it was analysed, the peak of its resident
memory as the system counts it, and samples of that memory over time. What matters is how much more the longer clip
took than the shorter one: that is to stay small, while the length grows.

The bench itself holds no model and only one round of packets: Linux counts the memory of the parent at the moment of
the fork into the child's peak, so the parent must be small.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import typer

from emollama.errors import EmoLlamaError, InputError
from eval.bench import PROGRAM, sample_clip
from eval.bench_serve import resident_mib

app = typer.Typer(help="Measure long clips: seconds and memory.", add_completion=False)

_CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mp4"}
_NUM_SAMPLES = 60  # of the memory over time, in the report
_LOOK_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class LongRun:
    """One clip analysed by a process: what it cost, and what the answer says, as evidence that the work was done.

    ``seconds`` are those of the process with loading the model, ``analysis_seconds`` those that the answer counts;
    ``memory`` are (seconds since the start, resident MiB).
    """

    clip_seconds: float
    clip_bytes: int
    seconds: float
    analysis_seconds: float
    peak_mib: float
    memory: tuple[tuple[float, float], ...]
    num_windows: int
    label: str | None
    stages_seconds: dict[str, float]

    def to_json_dict(self) -> dict[str, Any]:
        every = max(1, -(-len(self.memory) // _NUM_SAMPLES))
        return {
            "clip_seconds": round(self.clip_seconds, 1),
            "clip_mb": round(self.clip_bytes / 1e6, 1),
            "seconds": round(self.seconds, 1),
            "analysis_seconds": round(self.analysis_seconds, 1),
            "times_real_time": round(self.clip_seconds / self.analysis_seconds, 2) if self.analysis_seconds else None,
            "peak_mib": round(self.peak_mib, 1),
            "windows": self.num_windows,
            "label": self.label,
            "stages_seconds": self.stages_seconds,
            "memory_seconds_mib": [[round(at, 1), round(mib, 1)] for at, mib in self.memory[::every]],
        }


@app.command()
def bench_long(
    clip: Annotated[Path | None, typer.Argument(help="Clip to repeat; default: the bundled sample.")] = None,
    minutes: Annotated[
        list[float] | None, typer.Option(min=0.1, help="Length of a clip; may be repeated. Default: 10 and 60.")
    ] = None,
    window: Annotated[float, typer.Option(min=2, max=300, help="Seconds of a window.")] = 30.0,
    model: Annotated[str, typer.Option(help="A name of `emollama models`, or a folder.")] = "nano",
    note: Annotated[str | None, typer.Option(help="What else was going on; goes into the file.")] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Also write figures and origin here.")] = None,
) -> None:
    """Analyse clips of growing length, each in a process of its own, and compare their peaks of memory."""
    from rich.console import Console

    from eval.report import provenance, write_json

    console = Console()
    runs: list[LongRun] = []
    origin = provenance()  # of the code that begins to run, whatever changes meanwhile
    load_before = _load_average()
    try:
        source = clip or sample_clip()
        if not source.is_file():
            raise InputError(f"clip {str(source)!r} is not a file", field="clip")
        with tempfile.TemporaryDirectory(prefix="emollama-bench-") as folder:
            for each in minutes or (10.0, 60.0):
                with console.status(f"{each:g} minutes"):
                    path = repeated(source, Path(folder) / "long", seconds=60 * each)
                    runs.append(analyzed(path, model=model, window=window))
                    path.unlink()
    except EmoLlamaError as error:
        Console(stderr=True).print(f"[red]error:[/red] {error}", highlight=False)
        raise typer.Exit(2) from error
    figures = summarise(source, runs, window=window)
    console.print(table_of(runs, title=f"{model} on {source.name}, repeated"))
    if json_path is not None:
        load = {"before": load_before, "after": _load_average()}
        write_json(json_path, {"model": model, **origin, "load_average": load, "note": note, **figures})
        console.print(f"written to {json_path}")


def repeated(source: Path, target: Path, *, seconds: float) -> Path:
    """Write the packets of a short clip again and again, at most for ``seconds``; returns the file's path.

    Nothing is encoded anew. Each round lasts as long as the longer of its tracks, so that they stay together.
    """
    import av

    suffix = ".mp4" if source.suffix.lower() in _CONTAINERS else ".mkv"
    path = target.with_suffix(suffix)
    with (
        av.open(str(source)) as given,
        av.open(str(path), "w", format="mp4" if suffix == ".mp4" else "matroska") as new,
    ):
        streams = [*given.streams.video[:1], *given.streams.audio[:1]]
        if not streams:
            raise InputError(f"{source.name} has neither pictures nor sound", field="clip")
        to = {stream.index: new.add_stream_from_template(stream) for stream in streams}
        start = min((float(s.start_time * s.time_base) for s in streams if s.start_time is not None), default=0.0)
        round_seconds = max(_end(given, stream) for stream in streams) - start
        if round_seconds <= 0:
            raise InputError(f"{source.name} has no length", field="clip")
        last: dict[int, int] = {}
        for number in range(max(1, int(seconds / round_seconds))):
            given.seek(0)
            for packet in given.demux(*streams):
                if packet.dts is None or packet.time_base is None:
                    continue
                shift = round(Fraction(number * round_seconds) / packet.time_base)
                index = packet.stream.index
                if packet.dts + shift <= last.get(index, packet.dts + shift - 1):
                    continue  # what an encoder of sound writes before its beginning
                packet.dts += shift
                packet.pts = None if packet.pts is None else packet.pts + shift
                last[index] = packet.dts
                packet.stream = to[index]
                new.mux(packet)
    return path


def _end(container: Any, stream: Any) -> float:
    """Return the second at which the last packet of a track ends; one of sound holds a whole frame in any case."""
    container.seek(0)
    whole = 0.0
    if stream.type == "audio" and stream.codec_context.frame_size:
        whole = stream.codec_context.frame_size / stream.codec_context.sample_rate
    ends = [
        float((packet.pts if packet.pts is not None else packet.dts) * packet.time_base)
        + max(whole, float((packet.duration or 0) * packet.time_base))
        for packet in container.demux(stream)
        if packet.dts is not None
    ]
    return max(ends, default=0.0)


def analyzed(path: Path, *, model: str = "nano", window: float = 30.0) -> LongRun:
    """Analyse a clip window by window in a process of its own; one that fails raises `InputError` with its words."""
    import av

    with av.open(str(path)) as container:
        clip_seconds = (container.duration or 0) / av.time_base
    command = [
        sys.executable, "-c", PROGRAM, "analyze", str(path), "--window", f"{window:g}", "--model", model, "--json",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="emollama-bench-") as folder:
        answer, complaint = Path(folder, "answer"), Path(folder, "complaint")
        started = time.perf_counter()
        with answer.open("wb") as out, complaint.open("wb") as err:
            code, peak_mib, memory = _watched(command, out, err)
        seconds = time.perf_counter() - started
        if code:
            last = complaint.read_text("utf-8", errors="replace").strip().splitlines()[-1:] or ["no message"]
            raise InputError(f"emollama analyze ended with {code}: {last[0][:300]}", field="model")
        document = json.loads(answer.read_bytes())
    timings = {name: round(value / 1000, 1) for name, value in document["timings_ms"].items()}
    return LongRun(
        clip_seconds=clip_seconds,
        clip_bytes=path.stat().st_size,
        seconds=seconds,
        analysis_seconds=document["timings_ms"]["total"] / 1000,
        peak_mib=peak_mib,
        memory=memory,
        num_windows=len(document["windows"]),
        label=document["emotion"]["label"],
        stages_seconds=timings,
    )


def _watched(command: Sequence[str], out: Any, err: Any) -> tuple[int, float, tuple[tuple[float, float], ...]]:
    """Run a process to its end; returns its exit code, the peak of its resident MiB, and samples of them."""
    started = time.perf_counter()
    memory: list[tuple[float, float]] = []
    with subprocess.Popen(command, stdout=out, stderr=err) as process:
        try:
            while True:
                ended, status, usage = os.wait4(process.pid, os.WNOHANG)
                if ended:
                    process.returncode = os.waitstatus_to_exitcode(status)
                    break
                memory.append((time.perf_counter() - started, resident_mib(process.pid)))
                time.sleep(_LOOK_SECONDS)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            raise
    unit = 1024 if sys.platform != "darwin" else 1  # Linux counts kibibytes, macOS bytes
    return process.returncode, usage.ru_maxrss * unit / 2**20, tuple(memory)


def summarise(source: Path, runs: Sequence[LongRun], *, window: float) -> dict[str, Any]:
    """Return the figures as plain JSON types; ``growth_mib`` is from the shortest clip's peak to the longest's."""
    ordered = sorted(runs, key=lambda run: run.clip_seconds)
    return {
        "clip": source.name,
        "window_seconds": window,
        "runs": [run.to_json_dict() for run in runs],
        "growth_mib": round(ordered[-1].peak_mib - ordered[0].peak_mib, 1),
    }


def table_of(runs: Sequence[LongRun], *, title: str) -> Any:
    """Return the runs as a table for a terminal."""
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for name in ("minutes", "MB", "seconds", "times real time", "peak, MiB", "windows", "label"):
        table.add_column(name, justify="right")
    for run in runs:
        figures = run.to_json_dict()
        table.add_row(
            f"{run.clip_seconds / 60:.1f}", f"{figures['clip_mb']:.1f}", f"{run.seconds:.0f}",
            "-" if figures["times_real_time"] is None else f"{figures['times_real_time']:.1f}",
            f"{run.peak_mib:.0f}", str(run.num_windows), str(run.label),
        )  # fmt: skip
    return table


def _load_average() -> float | None:
    """How busy the machine is (one minute's load), where the system tells it."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
