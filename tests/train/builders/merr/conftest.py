"""Stand-ins: a chat endpoint on localhost, OpenFace files with a known peak, observations without a clip."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emollama.prompt import Cues, FaceCue, VoiceCue, WordsCue
from train.builders.merr.observation import FaceReading, Observation, PeakFrame, UnitReading, VoiceReading
from train.builders.merr.rules import RulesFile, load_rules

REGRESSIONS = ("01", "02", "04", "05", "06", "07", "09", "10", "12", "14", "15", "17", "20", "23", "25", "26", "45")


@pytest.fixture(scope="session")
def rules() -> RulesFile:
    return load_rules()


def answer_of(text: str, **more: Any) -> dict[str, Any]:
    """The body of a chat completion."""
    return {
        "model": "fake-1",
        "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 50},
        **more,
    }


@dataclass
class FakeEndpoint:
    """Answers by ``reply(body, number of the request)`` -> (status, headers, body as dict or raw text)."""

    url: str = ""
    reply: Callable[[dict[str, Any], int], tuple[int, dict[str, str], Any]] = lambda body, n: (200, {}, answer_of("x"))
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)


@pytest.fixture
def endpoint() -> Iterator[FakeEndpoint]:
    fake = FakeEndpoint()
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                fake.bodies.append(body)
                fake.headers.append(dict(self.headers))
                fake.paths.append(self.path)
                number = len(fake.bodies)
            status, headers, content = fake.reply(body, number)
            raw = (content if isinstance(content, str) else json.dumps(content)).encode()
            try:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)
            except OSError:
                pass  # the client has given up, as some tests want

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    fake.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    yield fake
    server.shutdown()
    server.server_close()
    thread.join()


def write_openface(
    path: Path,
    *,
    active: dict[str, float],
    seconds: float = 3.0,
    peak: float = 1.5,
    fps: int = 30,
    more: dict[str, np.ndarray] | None = None,
) -> Path:
    """Write an OpenFace CSV in which the ``active`` units rise to their intensity at ``peak`` and fall again."""
    names = [f"AU{code}_r" for code in REGRESSIONS] + [f"AU{code}_c" for code in sorted((*REGRESSIONS, "28"))]
    lines = ["frame, face_id, timestamp, confidence, success, " + ", ".join(names)]
    for index in range(round(seconds * fps)):
        time = index / fps
        bump = float(np.exp(-(((time - peak) / 0.3) ** 2)))
        level = {code: round(min(5.0, active.get(code, 0.0) * bump), 2) for code in (*REGRESSIONS, "28")}
        for code, values in (more or {}).items():
            level[code] = float(values[index])
        cells = [
            f"{level[name[2:4]]:.2f}" if name.endswith("r") else str(int(level[name[2:4]] >= 0.8)) for name in names
        ]
        lines.append(", ".join([str(index + 1), "0", f"{time:.3f}", "0.98", "1", *cells]))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def observe(
    *,
    label: str = "sad",
    face: str | None = "sadness",
    p: float = 0.9,
    voice: str | None = None,
    words: tuple[str, str] | None = None,
    units: dict[str, tuple[float | None, bool]] | None = None,
    source: str = "manifest",
    confidence: float = 1.0,
    peak_reached: bool = True,
    **more: Any,
) -> Observation:
    """An observation: ``face`` and ``voice`` are verdicts, ``words`` is (transcript, verdict)."""
    there = {"face": face is not None, "voice": voice is not None, "words": words is not None}
    voice_cue = None
    if voice is not None:
        voice_cue = VoiceCue(start=0.5, end=3.0, label=voice, pitch="low", loudness="low", rate="low")
    cues = Cues(
        label=label,
        confidence="high",
        face=() if face is None else (FaceCue(start=0.0, end=4.0, label=face, strength="high"),),
        voice=voice_cue,
        words=None if words is None else WordsCue(label=words[1], quote=words[0][:12].strip()),
        absent=tuple(name for name in ("face", "voice", "words") if not there[name]),  # type: ignore[arg-type]
    )
    reading = None
    if face is not None:
        rest = {"neutral": 1 - p} if face != "neutral" else {"sadness": 1 - p}
        reading = FaceReading(at_peak={face: p, **rest}, mean={face: p, **rest}, valence=-0.5, arousal=-0.2)
    seen: dict[str, Any] = {
        "seconds": 4.0,
        "label": label,
        "label_source": source,
        "label_confidence": confidence,
        "abstained": False,
        "cues": cues,
        "peak": None
        if face is None and not units
        else PeakFrame(time=1.2, value=p, basis="expression", what="x", reached=peak_reached, peaks=(1.2,)),
        "units": tuple(UnitReading(code=c, intensity=i, present=on) for c, (i, on) in (units or {}).items()),
        "units_source": "openface:x.csv" if units else None,
        "units_sha256": "0" * 64 if units else None,
        "face": reading,
        "voice": None
        if voice is None
        else VoiceReading(start=0.5, end=3.0, pitch="low", loudness="low", rate="low", melody="low", verdict=voice),
        "transcript": None if words is None else words[0],
        "transcript_source": None if words is None else "given",
        "curves": {},
        "model": "nano",
        "clip_sha256": "1" * 64,
        "warnings": (),
    }
    return Observation(**{**seen, **more})


GOOD = (
    "The person appears sad. At 1.2 s, its clearest moment, the face looks plainly sorrowful, and nothing in the rest "
    "of the clip speaks against it. There was no voice to listen to and no words to read, so this rests on the face "
    "alone."
)


@pytest.fixture
def openface() -> Callable[..., Path]:
    return write_openface


@pytest.fixture
def seen() -> Callable[..., Observation]:
    return observe


@pytest.fixture
def completion() -> Callable[..., dict[str, Any]]:
    return answer_of


@pytest.fixture
def good() -> str:
    """An explanation of `observe`'s clip that passes every check."""
    return GOOD
