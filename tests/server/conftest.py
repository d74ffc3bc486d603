"""A service with a stand-in for the model, over the ASGI interface or over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import signal
import socket
import sys
import threading
import time
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import httpx
import numpy as np
import pytest
import uvicorn
from fastapi import FastAPI

from emollama.errors import CheckpointError
from emollama.stages import Decoded, Done, FacesFound, Labelled, RationalePiece
from emollama.types import (
    Affect,
    Analysis,
    AudioUse,
    Box,
    Emotion,
    Evidence,
    FaceSummary,
    ModalityUse,
    Segment,
    TextUse,
    Transcript,
    TranscriptSegment,
    VisualUse,
)
from server.app import create_app
from server.settings import Settings

# Stands in for `python -m train.job`; see there for what it can be asked for.
FAKE_TRAINER = (sys.executable, "-I", "-S", str(Path(__file__).with_name("fake_trainer.py")))


def make_analysis(**changes: Any) -> Analysis:
    """An analysis in which every optional part is there."""
    scores = {"neutral": 0.25, "happiness": np.float32(0.75)}
    analysis = Analysis(
        id="an-1",
        model="nano",
        adapter=None,
        created=1_795_300_000,
        clip="clip.mp4",
        seconds=3.0,
        emotion=Emotion(label="happiness", confidence=0.75, abstained=False, scores=scores),
        open_vocabulary=("joy",),
        affect=Affect(valence=0.5, arousal=0.1, source="nano/face"),
        rationale="The person appears happy.",
        evidence={
            "visual": (
                Evidence(start=0.0, end=1.0, cue="a smile", reading="face", value=0.9, supports="happiness", track=0),
            ),
            "audio": (),
            "text": (Evidence(start=0.0, end=1.0, cue="glad words", reading="words", value="good news"),),
        },
        transcript=Transcript(
            text="good news", language="en", segments=(TranscriptSegment(start=0.0, end=1.0, text="good news"),)
        ),
        timeline=(
            Segment(start=0.0, end=3.0, label="happiness", scores=scores, valence=0.5, arousal=0.1, track=0),
        ),
        faces=(
            FaceSummary(
                track=0, share=1.0, is_main=True, chosen_because="the only face", times=(0.0,),
                boxes=(Box(x=1.0, y=2.0, width=3.0, height=4.0),),
            ),
        ),
        modalities=ModalityUse(
            visual=VisualUse(used=True, frames=12, faces=1),
            audio=AudioUse(used=False, seconds=0.0, voiced_seconds=0.0),
            text=TextUse(used=True, source="given"),
        ),
        warnings=("no sound",),
        timings_ms={"total": 12.5},
    )  # fmt: skip
    return dataclasses.replace(analysis, **changes)


class FakeAnalyzer:
    """Answers at once, raises ``error``, or (with ``hold``) works until released or asked to stop."""

    def __init__(self, *, error: Exception | None = None, hold: bool = False) -> None:
        self.error = error
        self.calls: list[dict[str, Any]] = []
        self.release = threading.Event()
        self.started = threading.Event()
        self.was_cancelled = threading.Event()
        if not hold:
            self.release.set()

    def analyze(self, source: Path, **options: Any) -> Analysis:
        cancelled = options.pop("cancelled")
        self.calls.append({"path": source, "bytes": source.read_bytes(), **options})
        self.started.set()
        while not self.release.wait(0.01):
            if cancelled():
                self.was_cancelled.set()
                raise RuntimeError("stopped")
        if self.error is not None:
            raise self.error
        return make_analysis(clip=options["name"], timeline=make_analysis().timeline if options["timeline"] else ())

    def stages(self, source: Path, **options: Any) -> Iterator[Any]:
        """The same, told in stages once it may answer."""
        yield from stages_of(self.analyze(source, **options))


def stages_of(analysis: Analysis) -> Iterator[Any]:
    """What `Analyzer.stages` tells on the way to an analysis; the rationale in two pieces."""
    yield Decoded(seconds=analysis.seconds, num_frames=12, has_audio=False, warnings=analysis.warnings)
    yield FacesFound(tracks=analysis.faces)
    yield Labelled(
        emotion=analysis.emotion, open_vocabulary=analysis.open_vocabulary, affect=analysis.affect,
        evidence=analysis.evidence, transcript=analysis.transcript,
    )  # fmt: skip
    yield RationalePiece(text=analysis.rationale[:10])
    yield RationalePiece(text=analysis.rationale[10:])
    yield Done(analysis=analysis)


@pytest.fixture(name="stages_of")
def _stages_of() -> Callable[[Analysis], Iterator[Any]]:
    return stages_of


@dataclasses.dataclass(frozen=True)
class Service:
    """A running service: how to call it, what stands in for its model, and what lies in its upload folder."""

    app: FastAPI
    client: httpx.AsyncClient
    analyzer: FakeAnalyzer
    temp_dir: Path

    def uploads(self) -> list[Path]:
        """Every file or folder of a request that is on the disk now."""
        return [path for path in self.temp_dir.glob("emollama-server-*/*") if path.name != "lock"]


@dataclasses.dataclass(frozen=True)
class LiveService:
    """The same over real sockets."""

    url: str
    port: int
    app: FastAPI
    analyzer: FakeAnalyzer
    temp_dir: Path

    def uploads(self) -> list[Path]:
        return [path for path in self.temp_dir.glob("emollama-server-*/*") if path.name != "lock"]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    for name in list(os.environ):
        if name.startswith("EMOLLAMA_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("EMOLLAMA_DATA_DIR", str(tmp_path_factory.mktemp("data")))
    monkeypatch.setenv("EMOLLAMA_JOB_POLL_SECONDS", "0.05")


@pytest.fixture
def root() -> Path:
    """The checkout."""
    return Path(__file__).resolve().parents[2]


@pytest.fixture
def analysis() -> Analysis:
    return make_analysis()


@pytest.fixture
def analyzer_type() -> type[FakeAnalyzer]:
    return FakeAnalyzer


_CLUSTER: pytest.StashKey[Any] = pytest.StashKey()


@pytest.fixture(scope="session")
def ray_cluster(pytestconfig: pytest.Config) -> Iterator[Any]:
    """The one cluster of a run of tests."""
    sys.path.insert(0, str(pytestconfig.rootpath))  # the replicas' stand-ins are found by their module's name
    from tests.server.ray.cluster import Cluster

    cluster = pytestconfig.stash[_CLUSTER] = Cluster()
    yield cluster
    cluster.close()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say what was asked of the services that stood before a cluster, and write it where --ray-log says."""
    cluster = config.stash.get(_CLUSTER, None)
    if cluster is None or not config.getoption("--ray"):
        return
    terminalreporter.section("asked through a cluster")
    for line in cluster.asked.lines():
        terminalreporter.write_line(line)
    if config.getoption("--ray-log") is not None:
        stats = terminalreporter.stats
        outcomes = {name: len(stats.get(name, ())) for name in ("passed", "failed", "error", "skipped")}
        skipped = [str(each.longrepr[2]).removeprefix("Skipped: ") for each in stats.get("skipped", ())]
        cluster.asked.write(config.getoption("--ray-log"), outcomes=outcomes, skipped=skipped)


class Here:
    """Where an analyzer answers when there is no cluster: in the service itself."""

    options: ClassVar[dict[str, Any]] = {}

    def __call__(self, analyzer: Any) -> Any:
        return analyzer

    def watch(self, app: Any) -> None: ...


@pytest.fixture(scope="session")
def remote(request: pytest.FixtureRequest) -> Any:
    """Under --ray, puts an analyzer behind a cluster: the door is what the tests call, and they see no difference."""
    return request.getfixturevalue("ray_cluster") if request.config.getoption("--ray") else Here()


def made_app(given: Settings, remote: Any, *, analyzer: Any, load: Any, **options: Any) -> Any:
    """Build the application over an analyzer, or over what ``load`` loads; behind a cluster, where there is one."""
    answering = None if load else remote(analyzer)
    loading = None if load is None else lambda spec: remote(load(spec))
    app = create_app(given, answering, load=loading, **{**remote.options, **options})
    remote.watch(app)
    return app


@pytest.fixture
def service(tmp_path: Path, remote: Any) -> Callable[..., contextlib.AbstractAsyncContextManager[Service]]:
    """``async with service(analyzer, max_upload_mb=1) as s: await s.client.post(...)``."""

    @contextlib.asynccontextmanager
    async def start(analyzer: FakeAnalyzer | None = None, load: Any = None, **settings: Any) -> AsyncIterator[Service]:
        fake = analyzer or FakeAnalyzer()
        app = made_app(Settings(temp_dir=tmp_path, **settings), remote, analyzer=fake, load=load)
        transport = httpx.ASGITransport(app=app)
        async with app.router.lifespan_context(app):
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                yield Service(app, client, fake, tmp_path)

    return start


class AdapterAnalyzer(FakeAnalyzer):
    """Answers as the model or adapter that it was loaded from; an adapter without weights is refused, as a real one."""

    def __init__(self, spec: Any) -> None:
        super().__init__()
        self.spec = spec
        if spec.adapter is not None and not (spec.adapter / "adapter_model.safetensors").is_file():
            raise CheckpointError(f"{spec.adapter} has no adapter_model.safetensors")

    def analyze(self, source: Path, **options: Any) -> Analysis:
        name = None if self.spec.adapter is None else self.spec.name
        return dataclasses.replace(super().analyze(source, **options), adapter=name)


def words_manifest(*, labels: Sequence[str] = ("joy", "anger"), rows: int = 4, **fields: Any) -> bytes:
    """A manifest of words without clips, which needs no media to be valid; every row has ``fields`` too."""
    lines = [
        {"id": f"r{index}", "clip": None, "transcript": f"word {index}", "label": labels[index % len(labels)], **fields}
        for index in range(rows)
    ]
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


@dataclasses.dataclass(frozen=True)
class FineTuning:
    """A running service as the official client sees it, and its data folder."""

    service: LiveService
    client: Any
    data: Path

    @property
    def url(self) -> str:
        return self.service.url

    def upload(self, content: bytes | None = None, name: str = "train.jsonl") -> str:
        content = words_manifest() if content is None else content
        return str(self.client.files.create(file=(name, content), purpose="fine-tune").id)

    def create(self, *, steps: int = 8, pause: float = 0.001, suffix: str | None = None, **options: Any) -> Any:
        """Start a job of the stand-in trainer: so many steps, so many seconds each."""
        chosen = {**as_hyperparameters(steps), "learning_rate_multiplier": pause}
        method = {"type": "supervised", "supervised": {"hyperparameters": chosen}}
        options = {"training_file": None, "model": "nano", "method": method, **options}
        options["training_file"] = options["training_file"] or self.upload()
        return self.client.fine_tuning.jobs.create(suffix=suffix or openai_omit(), **options)

    def job(self, job_id: str) -> Any:
        return self.client.fine_tuning.jobs.retrieve(job_id)

    def wait(self, job_id: str, *states: str, seconds: float = 30.0) -> Any:
        """Wait until the job is in one of the states (default: until it has ended) and return it."""
        wanted = states or ("succeeded", "failed", "cancelled")
        wait_until(lambda: self.job(job_id).status in wanted, seconds=seconds)
        return self.job(job_id)

    def messages(self, job_id: str) -> list[str]:
        """What happened to a job, oldest first."""
        events = self.client.fine_tuning.jobs.list_events(job_id, limit=1000).data
        return [event.message for event in reversed(events)]

    def analyze(self, model: str) -> httpx.Response:
        files = {"file": ("clip.mp4", b"the clip", "video/mp4")}
        return httpx.post(f"{self.url}/analyze", files=files, data={"model": model}, timeout=30)

    def run_dir(self, job_id: str) -> Path:
        return self.data / "jobs" / job_id

    def go(self, job_id: str) -> None:
        """Let a job go on that was created with the suffix "waits" and has done eleven steps."""
        (self.run_dir(job_id) / "go").touch()

    def starts(self, job_id: str) -> list[int]:
        """The process ids of the trainers that a job has had."""
        log = self.run_dir(job_id) / "starts.log"
        return [int(line.split()[1]) for line in log.read_text().splitlines()] if log.is_file() else []


def as_hyperparameters(steps: int) -> dict[str, int]:
    """The hyper-parameters with which the stand-in trainer does so many steps."""
    epochs = 1 if steps <= 250 else steps // 100
    return {"n_epochs": epochs, "batch_size": steps // epochs}


def openai_omit() -> Any:
    import openai

    return openai.omit


def start_fine_tuning(services: LiveServices, data: Path, **settings: Any) -> FineTuning:
    import openai

    service = services.start(**{"load": AdapterAnalyzer, "data_dir": data, **settings})
    client = openai.OpenAI(base_url=f"{service.url}/v1", api_key="unused", max_retries=0, timeout=60)
    return FineTuning(service, client, data)


@pytest.fixture
def fine_tuning(tmp_path: Path, tmp_path_factory: Any, remote: Any) -> Iterator[Callable[..., FineTuning]]:
    """``fine_tuning(job_concurrency=2)`` starts a service whose jobs are run by a stand-in for the trainer."""
    services, started = LiveServices(tmp_path, remote), []

    def start(data: Path | None = None, **settings: Any) -> FineTuning:
        started.append(start_fine_tuning(services, data or tmp_path_factory.mktemp("data"), **settings))
        return started[-1]

    yield start
    for each in started:
        each.client.close()
    services.stop()


@pytest.fixture(scope="module")
def queueing(tmp_path_factory: Any, remote: Any) -> Iterator[FineTuning]:
    """A service for a whole module that takes jobs and runs none."""
    services = LiveServices(tmp_path_factory.mktemp("temp"), remote)
    started = start_fine_tuning(services, tmp_path_factory.mktemp("data"), jobs=False)
    yield started
    started.client.close()
    services.stop()


@pytest.fixture
def is_alive() -> Callable[[int], bool]:
    """Whether a process runs (one that has ended and waits to be reaped does not)."""
    import psutil

    def ask(pid: int) -> bool:
        try:
            return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False

    return ask


@pytest.fixture
def kill() -> Callable[[int], None]:
    return lambda pid: os.kill(pid, signal.SIGKILL)


@pytest.fixture
def bundle_of_clips() -> Callable[..., bytes]:
    """``bundle_of_clips(media, folder)``: a zip of four short sounds and the manifest that names them."""

    def pack(media: Any, folder: Path) -> bytes:
        rows = []
        with zipfile.ZipFile(folder / "bundle.zip", "w") as archive:
            for index in range(4):
                name = f"clips/{index}.wav"
                archive.write(media.wav(folder / f"{index}.wav", seconds=0.3 + 0.1 * index), name)
                rows.append({"id": f"c{index}", "clip": name, "label": ("boredom", "joy")[index % 2]})
            archive.writestr("manifest.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        return (folder / "bundle.zip").read_bytes()

    return pack


@pytest.fixture
def manifest() -> Callable[..., bytes]:
    return words_manifest


class LiveServices:
    """Services over real sockets; `stop` ends all that were started."""

    def __init__(self, temp_dir: Path, remote: Any) -> None:
        self._temp_dir, self._remote = temp_dir, remote
        self._running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(self, analyzer: FakeAnalyzer | None = None, load: Any = None, **settings: Any) -> LiveService:
        fake = analyzer or FakeAnalyzer()
        port = free_port()
        given = Settings(temp_dir=self._temp_dir, port=port, **settings)
        app = made_app(given, self._remote, analyzer=fake, load=load, trainer=FAKE_TRAINER)
        config = uvicorn.Config(app, port=port, log_config=None, access_log=False, timeout_graceful_shutdown=2)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run)
        thread.start()
        self._running.append((server, thread))
        wait_until(lambda: server.started)
        return LiveService(f"http://127.0.0.1:{port}", port, app, fake, self._temp_dir)

    def stop(self) -> None:
        for server, thread in self._running:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()


@pytest.fixture
def live(tmp_path: Path, remote: Any) -> Iterator[Callable[..., LiveService]]:
    """``live(analyzer, max_upload_mb=1)`` starts uvicorn on a free port; all are stopped at the end of the test."""
    services = LiveServices(tmp_path, remote)
    yield services.start
    services.stop()


@pytest.fixture(scope="module")
def module_live(tmp_path_factory: Any, remote: Any) -> Iterator[Callable[..., LiveService]]:
    """The same for all tests of a module."""
    services = LiveServices(tmp_path_factory.mktemp("temp"), remote)
    yield lambda *given, **settings: services.start(*given, **{"data_dir": tmp_path_factory.mktemp("data"), **settings})
    services.stop()


def places_of(marker: str, *roots: Path) -> set[str]:
    """Every file under the folders in which, or in whose name, the marker is; the service may delete meanwhile."""
    for _ in range(20):
        with contextlib.suppress(FileNotFoundError):  # what went while it was looked at: look again
            return {
                path.relative_to(root).parts[0]
                for root in roots
                for path in root.rglob("*")
                if marker in path.name or (path.is_file() and marker.encode() in path.read_bytes())
            }
    raise AssertionError("files do not stop vanishing")


@pytest.fixture(name="places_of", scope="session")
def _places_of() -> Callable[..., set[str]]:
    return places_of


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(name="free_port", scope="session")
def _free_port() -> Callable[[], int]:
    return free_port


def wait_until(condition: Callable[[], bool], *, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


@pytest.fixture(name="wait_until", scope="session")
def _wait_until() -> Callable[..., None]:
    return wait_until


@pytest.fixture
def eventually() -> Callable[..., Any]:
    """The same for a coroutine."""

    async def wait(condition: Callable[[], bool], *, seconds: float = 20.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "waited in vain"
            await asyncio.sleep(0.01)

    return wait
