"""``emollama bench serve``: how a service of its own, on the loopback address, bears load.

A process is started as ``emollama serve`` would be, with its data in a temporary folder. First one client asks after
each answer (what a request takes alone), then several do at once (closed loop), and so on in turns, since many machines
are slower at one time than at another, which then falls on both. With a rate, requests also come by the
clock whether others were answered or not (open loop: exponential gaps from a seed, and a request that was sent late
counts from when it was due). The same clip is sent each time, and the last answers are read, so that what is counted
is work that was done. The resident memory of the process and its children is taken while it goes.

The clients run on the same machine and take a little of it.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from emollama.errors import EmoLlamaError, InputError
from eval.bench import PROGRAM, sample_clip

app = typer.Typer(help="Measure the service under load.", add_completion=False)

_START_SECONDS, _STOP_SECONDS, _REQUEST_SECONDS = 120.0, 30.0, 300.0
_MEMORY_EVERY_SECONDS = 0.5
_SETTLED_AFTER = 100  # requests after which memory should have found its level
_PERCENTILES = (50, 90, 99)


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One request: seconds from when it was due to its answer, and the status, or the name of what went wrong."""

    seconds: float
    outcome: str

    @property
    def is_good(self) -> bool:
        return self.outcome == "200"


@dataclass(frozen=True, kw_only=True)
class Load:
    """What one way of asking gave: ``how`` it was asked, the replies, and the seconds from first to last."""

    how: str
    replies: tuple[Reply, ...]
    seconds: float

    def to_json_dict(self) -> dict[str, Any]:
        good = sorted(reply.seconds for reply in self.replies if reply.is_good)
        failed = Counter(reply.outcome for reply in self.replies if not reply.is_good)
        return {
            "how": self.how,
            "requests": len(self.replies),
            "answered": len(good),
            "failed": dict(sorted(failed.items())),
            "seconds": round(self.seconds, 3),
            "answers_per_second": round(len(good) / self.seconds, 3) if self.seconds > 0 else None,
            "latency_ms": {f"p{share}": round(1000 * percentile(good, share), 1) for share in _PERCENTILES if good}
            | ({"slowest": round(1000 * good[-1], 1)} if good else {}),
        }


@dataclass(frozen=True, kw_only=True)
class MemorySample:
    """Resident memory of the service when so many requests had been answered in all."""

    num_requests: int
    mib: float


@dataclass
class Watch:
    """Counts answers and notes the memory of a process tree now and then."""

    pid: int
    num_requests: int = 0
    samples: list[MemorySample] = field(default_factory=list)

    def note(self) -> None:
        self.samples.append(MemorySample(num_requests=self.num_requests, mib=round(resident_mib(self.pid), 1)))

    async def run(self) -> None:
        while True:
            self.note()
            await asyncio.sleep(_MEMORY_EVERY_SECONDS)


@app.command()
def bench_serve(
    clip: Annotated[Path | None, typer.Argument(help="Clip to send; default: the bundled sample.")] = None,
    clients: Annotated[int, typer.Option(min=1, help="Clients that ask at once in the closed loop.")] = 16,
    requests: Annotated[int, typer.Option(min=1, help="Requests of the closed loop.")] = 200,
    alone: Annotated[int, typer.Option(min=1, help="Requests of one client alone.")] = 30,
    turns: Annotated[int, typer.Option(min=1, help="How often one client and several take turns.")] = 1,
    rate: Annotated[
        float | None, typer.Option(min=0.01, help="Also an open loop of so many requests a second.")
    ] = None,
    cut: Annotated[
        float | None,
        typer.Option(min=0.5, metavar="SECONDS", help="Send only the clip's beginning, encoded anew."),
    ] = None,
    model: Annotated[str, typer.Option(help="Model of the service.")] = "nano",
    seed: Annotated[int, typer.Option(help="Seed of the open loop's gaps.")] = 0,
    json_path: Annotated[Path | None, typer.Option("--json", help="Also write figures and origin here.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Also draw memory and latencies: NAME.svg or NAME.png.")] = None,
) -> None:
    """Start a service, load it, and report latency percentiles, throughput, failures and memory."""
    from rich.console import Console

    from eval.report import provenance, write_json

    console = Console()
    try:
        path = clip or sample_clip()
        if not path.is_file():
            raise InputError(f"clip {str(path)!r} is not a file", field="clip")
        if turns > min(alone, requests):
            raise InputError(f"turns is {turns}; allowed: 1 to {min(alone, requests)}, a request each", field="turns")
        if plot is not None:
            _require_plot(plot)
        content = path.read_bytes() if cut is None else beginning_of(path, seconds=cut)
        with console.status("loading the service"), started_service(model, places=max(clients, 64)) as service:
            measuring = measure(
                service, path.name, content, clients=clients, requests=requests, alone=alone, turns=turns, rate=rate,
                seed=seed,
            )  # fmt: skip
            loads, memory = asyncio.run(measuring)
    except EmoLlamaError as error:
        Console(stderr=True).print(f"[red]error:[/red] {error}", highlight=False)
        raise typer.Exit(2) from error
    # no seconds: the whole clip
    figures = {"clip_seconds": cut, "turns": turns, **summarise(path, loads=loads, memory=memory)}
    console.print(table_of(loads, title=f"{model} on {path.name}"))
    growth = figures["memory"]["growth_mib"]
    console.print(
        f"at once against alone: {figures['times_as_many_answers']} times as many answers a second; memory "
        + (
            f"after {_SETTLED_AFTER} requests and at the end: {growth:+} MiB"
            if growth is not None
            else "too few requests"
        )
    )
    if json_path is not None:
        write_json(json_path, {"model": model, **provenance(), **figures})
        console.print(f"written to {json_path}")
    if plot is not None:
        draw(figures, plot)
        console.print(f"drawn in {plot}")


def beginning_of(path: Path, *, seconds: float) -> bytes:
    """Return the first seconds of a clip as an MP4 of its own; raises `InputError` when it is no video."""
    import io

    import av
    import av.error

    held = io.BytesIO()
    try:
        with av.open(str(path)) as source, av.open(held, "w", format="mp4") as target:
            if not source.streams.video:
                raise InputError(f"clip {str(path)!r} has no picture; --cut takes videos", field="clip")
            video = source.streams.video[0]
            rate = video.average_rate or 25
            pictures: Any = target.add_stream("libx264", rate=rate)
            pictures.width, pictures.height, pictures.pix_fmt = video.width // 2 * 2, video.height // 2 * 2, "yuv420p"
            audio = source.streams.audio[0] if source.streams.audio else None
            sound: Any = None if audio is None else target.add_stream("aac", rate=audio.rate)
            kept = [stream for stream in (video, audio) if stream is not None]
            for packet in source.demux(kept):
                for frame in packet.decode():
                    if frame.time is None or frame.time >= seconds:
                        continue
                    is_picture = isinstance(frame, av.VideoFrame)
                    if is_picture:
                        frame = frame.reformat(pictures.width, pictures.height, "yuv420p")
                        frame.pict_type = av.video.frame.PictureType.NONE
                    target.mux((pictures if is_picture else sound).encode(frame))
            for stream in (pictures, sound):
                if stream is not None:
                    target.mux(stream.encode(None))
    except av.error.FFmpegError as error:
        raise InputError(f"clip {str(path)!r} cannot be cut: {error}", field="clip") from error
    return held.getvalue()


def _require_plot(path: Path) -> None:
    """Raise `InputError` for a name that cannot be drawn to, before anything is measured."""
    from importlib.util import find_spec

    if path.suffix not in (".svg", ".png"):
        raise InputError(f"plot is {str(path)!r}; allowed: a name that ends with .svg or .png", field="plot")
    if find_spec("matplotlib") is None:
        raise InputError("--plot draws with matplotlib: pip install 'emollama[train]'", field="plot")


def draw(figures: dict[str, Any], path: Path) -> None:
    """Draw the memory against answered requests, and the latencies of each load as cumulative shares."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawing, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    left.plot(*zip(*figures["memory"]["samples"], strict=True))
    left.set(xlabel="requests answered", ylabel="resident memory, MiB", ylim=(0, None))
    for how, latencies in figures["latencies_ms"].items():
        ordered = sorted(latencies)
        right.step(ordered, [(place + 1) / len(ordered) for place in range(len(ordered))], where="post", label=how)
    right.set(xlabel="latency, ms", ylabel="share of requests", xlim=(0, None), ylim=(0, 1))
    right.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    drawing.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(drawing)


@dataclass(frozen=True, kw_only=True)
class Service:
    """A service that was started: where it listens, and its process."""

    url: str
    pid: int


@contextmanager
def started_service(model: str, *, places: int) -> Iterator[Service]:
    """Start ``emollama serve`` on a free port and end it with the block; raises `InputError` when it does not start."""
    import httpx

    with tempfile.TemporaryDirectory(prefix="emollama-bench-") as folder:
        port = _free_port()
        command = [sys.executable, "-c", PROGRAM, "serve", "--port", str(port), "--model", model]
        surroundings = {
            **os.environ, "EMOLLAMA_DATA_DIR": str(Path(folder, "data")), "EMOLLAMA_QUEUE_SIZE": str(places),
            "EMOLLAMA_MAX_UPLOADS": str(places), "EMOLLAMA_LOG_LEVEL": "error",
        }  # fmt: skip
        log = Path(folder, "log")
        with log.open("wb") as sink, subprocess.Popen(command, env=surroundings, stdout=sink, stderr=sink) as process:
            url = f"http://127.0.0.1:{port}"
            try:
                deadline = time.monotonic() + _START_SECONDS
                while True:
                    if process.poll() is not None or time.monotonic() > deadline:
                        last = log.read_text("utf-8", errors="replace").strip().splitlines()[-1:] or ["no message"]
                        raise InputError(f"the service did not start: {last[0][:300]}", field="model")
                    try:
                        ready = httpx.get(f"{url}/ready", timeout=5)
                        if ready.status_code == 200:
                            break
                        if "model_load_failed" in ready.text:
                            raise InputError(f"the service could not load the model {model!r}", field="model")
                    except httpx.TransportError:
                        pass
                    time.sleep(0.2)
                yield Service(url=url, pid=process.pid)
            finally:
                process.terminate()
                try:
                    process.wait(_STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()


async def measure(
    service: Service,
    name: str,
    content: bytes,
    *,
    clients: int,
    requests: int,
    alone: int,
    turns: int,
    rate: float | None,
    seed: int,
) -> tuple[list[Load], list[MemorySample]]:  # fmt: skip
    """Send the loads, those of the closed loop in turns; one request before them warms up and must be answered."""
    import httpx

    watch = Watch(service.pid)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=clients)
    async with httpx.AsyncClient(base_url=service.url, timeout=_REQUEST_SECONDS, limits=limits) as client:

        async def ask(due: float) -> Reply:
            try:
                response = await client.post("/analyze", files={"file": (name, content)})
                outcome = str(response.status_code)
                if outcome == "200" and "emotion" not in json.loads(response.content):
                    outcome = "no emotion in the answer"
            except httpx.TransportError as error:
                outcome = type(error).__name__
            watch.num_requests += 1
            return Reply(seconds=time.perf_counter() - due, outcome=outcome)

        first = await ask(time.perf_counter())
        if not first.is_good:
            raise InputError(f"the service answers {name} with {first.outcome}", field="clip")
        memory = asyncio.create_task(watch.run())
        try:
            loads = await in_turns(ask, [(1, alone), (clients, requests)], turns=turns)
            if rate is not None:
                loads.append(await open_loop(ask, rate=rate, requests=requests, seed=seed))
        finally:
            memory.cancel()
    watch.note()
    return loads, watch.samples


Ask = Callable[[float], Awaitable[Reply]]


async def closed_loop(ask: Ask, *, clients: int, requests: int) -> Load:
    """Let ``clients`` ask again as soon as they are answered, until ``requests`` have been asked."""
    replies: list[Reply] = []
    left = iter(range(requests))

    async def client() -> None:
        for _ in left:
            replies.append(await ask(time.perf_counter()))

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    how = "one client" if clients == 1 else f"{clients} clients"
    return Load(how=how, replies=tuple(replies), seconds=time.perf_counter() - started)


async def in_turns(ask: Ask, loads: Sequence[tuple[int, int]], *, turns: int) -> list[Load]:
    """Send closed loops of (clients, requests) in so many turns, an equal part of each load in every turn."""
    parts: list[list[Load]] = [[] for _ in loads]
    for turn in range(turns):
        for (clients, requests), sent in zip(loads, parts, strict=True):
            share = requests * (turn + 1) // turns - requests * turn // turns
            sent.append(await closed_loop(ask, clients=clients, requests=share))
    return [
        Load(
            how=sent[0].how,
            replies=tuple(reply for part in sent for reply in part.replies),
            seconds=sum(part.seconds for part in sent),
        )
        for sent in parts
    ]


async def open_loop(ask: Ask, *, rate: float, requests: int, seed: int) -> Load:
    """Ask ``rate`` times a second on average, at random moments, however long the answers take."""
    draw, started = random.Random(seed), time.perf_counter()
    due, asked = started, []
    for _ in range(requests):
        due += draw.expovariate(rate)
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        asked.append(asyncio.ensure_future(ask(due)))
    replies = await asyncio.gather(*asked)
    return Load(how=f"{rate:g} a second", replies=tuple(replies), seconds=time.perf_counter() - started)


def percentile(ordered: Sequence[float], share: int) -> float:
    """Return the value that ``share`` percent of the ordered values do not exceed (nearest rank)."""
    return ordered[max(0, -(-len(ordered) * share // 100) - 1)]


def resident_mib(pid: int) -> float:
    """Return the resident memory of a process and its children; those that have just ended count nothing."""
    import psutil  # type: ignore[import-untyped]

    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0.0
    total = 0
    for each in family:
        try:
            total += each.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total / 2**20


def memory_growth(samples: Sequence[MemorySample]) -> float | None:
    """Return by how many MiB memory grew from when it should have settled to the end; ``None`` with too few requests.

    Both ends are medians of the samples of 20 requests, so that one clip in work does not count.
    """
    if not samples or samples[-1].num_requests < _SETTLED_AFTER + 40:
        return None
    last = samples[-1].num_requests
    early = [each.mib for each in samples if _SETTLED_AFTER <= each.num_requests <= _SETTLED_AFTER + 20]
    late = [each.mib for each in samples if each.num_requests >= last - 20]
    return round(statistics.median(late) - statistics.median(early), 1) if early and late else None


def summarise(path: Path, *, loads: Sequence[Load], memory: Sequence[MemorySample]) -> dict[str, Any]:
    """Return the figures as plain JSON types; units are in the names."""
    tables = [load.to_json_dict() for load in loads]
    alone, together = (table["answers_per_second"] for table in tables[:2])
    return {
        "clip": path.name,
        "loads": tables,
        "times_as_many_answers": round(together / alone, 2) if alone and together else None,
        "memory": {
            "growth_mib": memory_growth(memory),
            "peak_mib": max((each.mib for each in memory), default=None),
            "samples": [[each.num_requests, each.mib] for each in memory],
        },
        "latencies_ms": {load.how: [round(1000 * reply.seconds, 1) for reply in load.replies] for load in loads},
    }


def table_of(loads: Sequence[Load], *, title: str) -> Any:
    """Return the loads as a table for a terminal."""
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for name in ("load", "answers", "failed", "answers/s", *(f"p{share}, ms" for share in _PERCENTILES), "slowest, ms"):
        table.add_column(name, justify="right")
    for load in loads:
        figures = load.to_json_dict()
        latency = figures["latency_ms"]
        names = (*(f"p{share}" for share in _PERCENTILES), "slowest")
        table.add_row(
            load.how, str(figures["answered"]), str(sum(figures["failed"].values())),
            "-" if figures["answers_per_second"] is None else f"{figures['answers_per_second']:.2f}",
            *(f"{latency[name]:.0f}" if name in latency else "-" for name in names),
        )  # fmt: skip
    return table


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
