"""``emollama bench live``: how soon and how often readings come when a browser's camera is read.

A service is started, and a headless Chromium opens its live view, whose camera and microphone show a clip again and
again. Each session begins with a press on Start; the first reading, and the first with a face in it, are timed by the
page from that press, so opening the camera and the connection count. Then readings are taken down for some seconds as
they arrive. Browser, service and model share the machine's cores, as they do on one person's computer.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from emollama.errors import DependencyError, EmoLlamaError, InputError

app = typer.Typer(help="Measure how soon and how often a camera is read.", add_completion=False)

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_PATIENCE_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class LiveRun:
    """One session: milliseconds from the press to the first reading, and to the first with a face; then the readings.

    ``arrivals`` are the seconds, from the first of them, at which readings came while it was watched; ``last`` is the
    last reading as it came.
    """

    first_reading_ms: float
    first_face_ms: float
    arrivals: tuple[float, ...]
    last: dict[str, Any]

    @property
    def readings_per_second(self) -> float:
        return (len(self.arrivals) - 1) / (self.arrivals[-1] - self.arrivals[0])

    @property
    def longest_gap_seconds(self) -> float:
        return max(after - before for before, after in zip(self.arrivals, self.arrivals[1:], strict=False))

    def to_json_dict(self) -> dict[str, Any]:
        return {
            "first_reading_ms": round(self.first_reading_ms),
            "first_face_ms": round(self.first_face_ms),
            "readings": len(self.arrivals),
            "readings_per_second": round(self.readings_per_second, 2),
            "longest_gap_seconds": round(self.longest_gap_seconds, 2),
            "pictures": self.last["pictures"],
            "last_timings_ms": self.last["timings_ms"],
            "last_used": self.last["used"],
        }


@app.command()
def bench_live(
    clip: Annotated[
        Path | None, typer.Argument(help="Clip that the camera shows; default: the bundled sample.")
    ] = None,
    sessions: Annotated[int, typer.Option(min=1, help="Sessions, one after the other.")] = 5,
    seconds: Annotated[float, typer.Option(min=2.0, help="How long readings are watched in each.")] = 8.0,
    model: Annotated[str, typer.Option(help="Preset or checkpoint folder.")] = "nano",
    json_path: Annotated[Path | None, typer.Option("--json", help="Also write figures and origin here.")] = None,
) -> None:
    """Open the live view in a browser with a camera that shows a clip, and time the readings."""
    from rich.console import Console

    from eval.bench import sample_clip
    from eval.report import flatten, print_rows, provenance, write_json

    console = Console()
    load_before = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    try:
        path = clip or sample_clip()
        if not path.is_file():
            raise InputError(f"clip {str(path)!r} is not a file", field="clip")
        with console.status("reading a camera"):
            runs, browser = watch(path, sessions=sessions, seconds=seconds, model=model)
    except EmoLlamaError as error:
        Console(stderr=True).print(f"[red]error:[/red] {error}", highlight=False)
        raise typer.Exit(2) from error
    figures = summarise(runs)
    print_rows(console, f"{model}, a camera that shows {path.name}", flatten(figures))
    if json_path is not None:
        document = {
            "model": model,
            "clip": path.name,
            **provenance(),
            "browser": browser,
            "load_average_before": None if load_before is None else round(load_before, 2),
            "watched_seconds": seconds,
            **figures,
            "sessions": [run.to_json_dict() for run in runs],
        }
        write_json(json_path, document)
        console.print(f"written to {json_path}")


def watch(clip: Path, *, sessions: int, seconds: float, model: str) -> tuple[list[LiveRun], str]:
    """Run the sessions against a service that is started for them; returns the browser's version, too."""
    import shutil

    from eval.bench_serve import started_service
    from eval.live_media import write_camera, write_microphone

    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError as exc:
        raise DependencyError("bench live drives a browser: pip install 'emollama[dev]'", field="browser") from exc
    program = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if program is None:
        raise DependencyError(f"bench live wants one of these in the path: {', '.join(_BROWSERS)}", field="browser")
    with tempfile.TemporaryDirectory(prefix="emollama-bench-") as folder:
        pictures, sound = Path(folder, "camera.y4m"), Path(folder, "microphone.wav")
        write_camera(clip, pictures)
        write_microphone(clip, sound)
        flags = [
            "--no-sandbox", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream",
            f"--use-file-for-fake-video-capture={pictures}", f"--use-file-for-fake-audio-capture={sound}",
        ]  # fmt: skip
        with started_service(model, places=1) as service, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=program, args=flags)
            try:
                return [_session(browser, service.url, seconds) for _ in range(sessions)], browser.version
            except Error as exc:
                raise InputError(f"the live view gave no readings: {str(exc).splitlines()[0]}", field="clip") from exc
            finally:
                browser.close()


def _session(browser: Any, url: str, seconds: float) -> LiveRun:
    """Open the page, press Start, and take down the readings."""
    came: list[tuple[float, dict[str, Any]]] = []

    def take(frame: Any) -> None:
        if isinstance(frame, str) and '"type":"reading"' in frame[:40]:
            came.append((time.perf_counter(), json.loads(frame)))

    page = browser.new_page()
    page.set_default_timeout(1000 * _PATIENCE_SECONDS)
    page.on("websocket", lambda socket: socket.on("framereceived", take))
    page.goto(f"{url}/#live")
    page.wait_for_selector("body[data-ready]")
    page.click("#live-toggle")
    page.wait_for_selector("#live[data-first-face-ms]")
    first, face = (float(page.locator("#live").get_attribute(f"data-first-{name}")) for name in ("ms", "face-ms"))
    began = len(came)
    page.wait_for_timeout(1000 * seconds)
    watched = came[max(0, began - 1) :]
    page.click("#live-toggle")
    page.locator(".live-idle").wait_for()
    page.close()
    if len(watched) < 2:
        raise InputError(f"{len(watched)} readings came in {seconds:g} s", field="clip")
    return LiveRun(
        first_reading_ms=first, first_face_ms=face, last=watched[-1][1],
        arrivals=tuple(at - watched[0][0] for at, _ in watched),
    )  # fmt: skip


def summarise(runs: Sequence[LiveRun]) -> dict[str, Any]:
    """Return medians and the worst of all sessions as plain JSON types; the units are in the names."""
    faces, rates = [run.first_face_ms for run in runs], [run.readings_per_second for run in runs]
    received = sum(run.last["pictures"]["received"] for run in runs)
    return {
        "first_reading_ms": {
            "median": round(statistics.median(run.first_reading_ms for run in runs)),
            "slowest": round(max(run.first_reading_ms for run in runs)),
        },
        "first_face_ms": {"median": round(statistics.median(faces)), "slowest": round(max(faces))},
        "readings_per_second": {"median": round(statistics.median(rates), 2), "lowest": round(min(rates), 2)},
        "longest_gap_seconds": round(max(run.longest_gap_seconds for run in runs), 2),
        "pictures_dropped_share": round(sum(run.last["pictures"]["dropped"] for run in runs) / received, 3),
    }
