"""`/v1/analyses` with clips that `/analyze` does not take: read window by window, beside everything else, and kept."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import emollama
from emollama.errors import CancelledError
from emollama.long_clip import LongAnalysis, analyze_long
from emollama.long_clip import analysis as nouns
from emollama.long_clip.durable import KeptFolder
from emollama.media_windows import ClipWindow
from server.app import create_app
from server.erasure import erase
from server.media_worker import IS_SUPPORTED, InProcess, MediaPool
from server.records import analyses
from server.schemas import long_clip as wire
from server.schemas.analyses import AnalysisTaskOut, LongClipResultOut
from server.schemas.analysis import AnalysisOut
from server.settings import Settings

pytestmark = pytest.mark.anyio

SAMPLE = Path(emollama.__file__).parent / "assets" / "sample" / "sample.mp4"
URL = "/v1/analyses"
SUBTITLES = "1\n00:00:02,000 --> 00:00:04,000\nI am so happy!\n\n2\n00:00:40,000 --> 00:00:42,000\nThis is awful.\n"


@pytest.fixture(scope="module")
def nano() -> Any:
    return emollama.load("nano")


@pytest.fixture(scope="module")
def minute(tmp_path_factory: pytest.TempPathFactory, long_video: Callable[..., Path]) -> Path:
    """65 s without a face, so that it is quickly looked through; with a tone that is no voice."""
    return long_video(tmp_path_factory.mktemp("clip") / "minute.mp4", seconds=65.0)


@pytest.fixture(scope="module")
def quarter(tmp_path_factory: pytest.TempPathFactory, long_video: Callable[..., Path]) -> Path:
    """The same for a quarter of an hour."""
    return long_video(tmp_path_factory.mktemp("clip") / "long.mp4", seconds=900.0)


@dataclasses.dataclass(frozen=True)
class Door:
    """A running service with a real model, or with what stands in for it."""

    app: Any
    client: httpx.AsyncClient

    async def send(self, path: Path, **fields: str) -> str:
        with path.open("rb") as clip:
            answer = await self.client.post(URL, files={"file": (path.name, clip)}, data=fields)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    async def get(self, analysis_id: str) -> dict[str, Any]:
        found: dict[str, Any] = (await self.client.get(f"{URL}/{analysis_id}")).json()
        return found

    async def until(self, analysis_id: str, is_so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        end = time.monotonic() + 60
        while not is_so(found := await self.get(analysis_id)):
            assert time.monotonic() < end, found
            await asyncio.sleep(0.01)
        return found

    async def ended(self, path: Path, **fields: str) -> dict[str, Any]:
        analysis_id = await self.send(path, **fields)
        found = await self.until(analysis_id, lambda found: found["status"] in analyses.ENDED)
        AnalysisTaskOut.model_validate(found)
        return found

    async def result(self, path: Path, **fields: str) -> dict[str, Any]:
        found = await self.ended(path, **fields)
        assert found["status"] == "succeeded", found["error"]
        return dict(found["result"])


@pytest.fixture
def opened(tmp_path: Path, remote: Any) -> Callable[..., contextlib.AbstractAsyncContextManager[Door]]:
    """``async with opened(analyzer, max_seconds=20) as door``; behind a cluster, where there is one."""

    @contextlib.asynccontextmanager
    async def start(analyzer: Any, *, decoder: Any = None, **settings: Any) -> AsyncIterator[Door]:
        decoder = decoder or remote.options.get("decoder")
        app = create_app(Settings(temp_dir=tmp_path, **settings), remote(analyzer), decoder=decoder)
        remote.watch(app)
        transport = httpx.ASGITransport(app=app)
        async with app.router.lifespan_context(app):
            async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=60) as client:
                yield Door(app, client)

    return start


async def test_a_long_clip_is_told_window_by_window_and_as_a_whole(nano: Any, minute: Path, opened: Any) -> None:
    async with opened(nano, max_seconds=20) as door:
        found = await door.ended(minute, transcript=SUBTITLES, labels="joy, anger, sadness")
        assert (found["status"], found["progress"], found["stage"]) == ("succeeded", 1.0, None)
        result = found["result"]
        here = analyze_long(nano, minute, transcript=SUBTITLES, labels="joy, anger, sadness").to_json_dict()
        assert result.pop("kind") == "long_clip"
        assert set(result) == set(here)
        for name in set(here) - {"id", "created", "timings_ms"}:
            assert result[name] == json.loads(json.dumps(here[name])), name
        assert [round(window["end"]) for window in result["windows"]] == [30, 60, 65]
        assert [window["used"] for window in result["windows"]] == [["text"], ["text"], []]
        assert list((door.app.state.data.analyses).iterdir()) == []


async def test_its_events_tell_the_windows_then_the_whole(nano: Any, minute: Path, opened: Any) -> None:
    async with opened(nano, max_seconds=20, job_poll_seconds=0.002) as door:
        analysis_id = await door.send(minute)
        answer = await door.client.get(f"{URL}/{analysis_id}/events")
        *told, done = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
        assert done == "[DONE]"
        events = [json.loads(event) for event in told]
        progress = [event["progress"] for event in events]
        assert progress == sorted(progress)
        assert any(0 < event["progress"] < 1 for event in events if event["stage"] == "windows")
        assert {event["stage"] for event in events} <= {None, "windows", "whole"}
        assert events[-1]["result"]["kind"] == "long_clip"


async def test_only_what_is_over_the_ordinary_limits_is_read_in_windows(nano: Any, opened: Any) -> None:
    async with opened(nano, max_seconds=7) as door:
        assert (await door.result(SAMPLE))["kind"] == "clip"
    async with opened(nano, max_seconds=5) as door:
        long = await door.result(SAMPLE)
        assert (long["kind"], len(long["windows"])) == ("long_clip", 1)
        assert long["timeline"]
        without = await door.result(SAMPLE, timeline="false")
        assert without["timeline"] == []
        assert without["emotion"] == long["emotion"]
        assert without["chapters"] == long["chapters"]
    async with opened(nano, max_upload_mb=0.05, analysis_max_mb=1) as door:
        assert (await door.result(SAMPLE))["kind"] == "long_clip"
        with SAMPLE.open("rb") as clip:
            refused = await door.client.post("/analyze", files={"file": clip})
        assert refused.status_code == 413


async def test_a_clip_that_declares_no_length_is_found_to_be_long(nano: Any, opened: Any) -> None:
    class Unknowing(InProcess):
        def length(self, path: Path, **_: Any) -> None:
            return None

    async with opened(nano, decoder=Unknowing(), max_seconds=4) as door:
        assert (await door.result(SAMPLE))["kind"] == "long_clip"


async def test_what_is_too_long_even_here_is_told_with_the_limit(nano: Any, minute: Path, opened: Any) -> None:
    async with opened(nano, max_seconds=5, analysis_max_seconds=20) as door:
        found = await door.ended(minute)
        assert (found["status"], found["error"]["code"]) == ("failed", "media_limit_exceeded")
        assert "max_seconds is 20" in found["error"]["message"]


async def test_who_reads_no_windows_says_so_and_what_can_be_done(
    minute: Path, opened: Any, analyzer_type: Any, nano: Any
) -> None:
    preset = type("Preset", (), {"parts": dataclasses.replace(nano.parts, senses=object())})()
    for analyzer in (analyzer_type(), preset):
        async with opened(analyzer, max_seconds=20) as door:
            found = await door.ended(minute)
            assert (found["status"], found["error"]["code"]) == ("failed", "media_limit_exceeded")
            assert "20 s" in found["error"]["message"]
            assert "shorter pieces" in found["error"]["message"]
    assert analyzer_type().calls == []


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
async def test_analyze_names_the_route_that_takes_a_long_clip(
    nano: Any, minute: Path, opened: Any, accept: str
) -> None:
    async def refusal(**settings: Any) -> str:
        async with opened(nano, max_seconds=5, **settings) as door:
            with minute.open("rb") as clip:
                answer = await door.client.post("/analyze", files={"file": clip}, headers={"accept": accept})
            assert (answer.status_code, answer.json()["error"]["code"]) == (422, "media_limit_exceeded")
            return str(answer.json()["error"]["message"])

    assert (await refusal()).endswith("max_seconds is 5; POST /v1/analyses takes clips of up to 7200 s")
    assert "/v1/analyses" not in await refusal(analysis_max_seconds=5)


async def test_words_of_an_hour_are_taken_and_too_many_for_a_short_clip_are_not(nano: Any, opened: Any) -> None:
    words = "one of very many words " * 4000  # 92,000 characters, as many bytes
    async with opened(nano, max_seconds=5) as door:
        result = await door.result(SAMPLE, transcript=words)
        assert result["transcript"]["text"] == words.strip()
        answer = await door.client.post(URL, json={"url": "https://a.example/a.mp4", "transcript": words * 3})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "transcript")
    async with opened(nano) as door:
        found = await door.ended(SAMPLE, transcript=words)
        assert (found["error"]["code"], found["error"]["param"]) == ("invalid_value", "transcript")


@pytest.mark.skipif(not IS_SUPPORTED, reason="processes have no limits on this system")
@pytest.mark.in_process(reason="encoders decode ordinary clips, and follow the faces themselves")
async def test_both_routes_follow_faces_where_the_clip_is_decoded_and_say_the_same(nano: Any, opened: Any) -> None:
    followed = []

    class Noting(MediaPool):
        def decode(self, path: Path, **options: Any) -> Any:
            clip = super().decode(path, **options)
            followed.append(clip.tracks is not None and not len(clip.frames.images))
            return clip

    async with opened(nano, decoder=Noting(1)) as door:
        later = await door.result(SAMPLE, transcript="I am so happy!")
        with SAMPLE.open("rb") as clip:
            answer = await door.client.post(
                "/analyze", files={"file": (SAMPLE.name, clip)}, data={"transcript": "I am so happy!"}
            )
        now = answer.json()
        assert followed == [True, True]
        assert later.pop("kind") == "clip"
        assert set(later) == set(now)
        for name in set(now) - {"id", "created", "timings_ms"}:
            assert later[name] == now[name], name


@pytest.mark.skipif(not IS_SUPPORTED, reason="processes have no limits on this system")
@pytest.mark.parametrize("way", ["delete", "cancel", "stop"])
async def test_a_long_clip_that_nobody_wants_on_is_let_go_of_between_two_looks(
    nano: Any, opened: Any, quarter: Path, way: str
) -> None:
    pool = MediaPool(1)
    async with opened(nano, decoder=pool, max_seconds=20) as door:
        analysis_id = await door.send(quarter)
        begun = await door.until(analysis_id, lambda found: found["stage"] == "windows" and found["progress"] > 0)
        assert begun["progress"] < 0.5
        assert len(pool._own) == 1
        if way == "delete":
            assert (await door.client.delete(f"{URL}/{analysis_id}")).status_code == 200
        elif way == "cancel":
            answer = await door.client.post(f"{URL}/{analysis_id}/cancel")
            assert answer.json()["status"] == "cancelled"
            assert answer.json()["progress"] < 0.9
        else:
            store = door.app.state.store
            await asyncio.to_thread(door.app.state.analyses.stop)
            record = analyses.find(store, analysis_id, now=time.time())
            assert record is not None
            assert (record.status, record.progress, record.num_starts) == ("queued", 0.0, 0)
        end = time.monotonic() + 20
        while pool._own:
            assert time.monotonic() < end, "its process still decodes"
            await asyncio.sleep(0.01)
        left = {path.name for path in door.app.state.data.analyses.iterdir()}
        assert left == ({analysis_id, f"{analysis_id}.windows"} if way == "stop" else set())


class Stalling(InProcess):
    """Gives two windows, and then nothing until it is told to stop."""

    def windows(self, path: Path, *, cancelled: Any = None, **options: Any) -> Iterator[ClipWindow]:
        yield from itertools.islice(super().windows(path, cancelled=cancelled, **options), 2)
        while not cancelled():
            time.sleep(0.01)
        raise CancelledError("stopped")


async def test_a_long_clip_whose_service_was_stopped_is_gone_on_with(nano: Any, minute: Path, opened: Any) -> None:
    async with opened(nano, decoder=Stalling(), max_seconds=20) as door:
        analysis_id = await door.send(minute, transcript=SUBTITLES)
        begun = await door.until(analysis_id, lambda found: found["progress"] > 0.8)
    async with opened(nano, decoder=Stalling(), max_seconds=20) as door:
        again = await door.until(analysis_id, lambda found: found["stage"] == "windows")
        assert again["progress"] == pytest.approx(begun["progress"])
    async with opened(nano, max_seconds=20) as door:
        found = await door.until(analysis_id, lambda found: found["status"] in analyses.ENDED)
        here = json.loads(json.dumps(analyze_long(nano, minute, transcript=SUBTITLES).to_json_dict()))
        for name in set(here) - {"id", "created", "timings_ms"}:
            assert found["result"][name] == here[name], name
        assert list(door.app.state.data.analyses.iterdir()) == []


@pytest.mark.parametrize("way", ["delete", "cancel", "erase"])
async def test_what_was_kept_of_a_clip_goes_with_it(nano: Any, minute: Path, opened: Any, way: str) -> None:
    async with opened(nano, decoder=Stalling(), max_seconds=20) as door:
        analysis_id = await door.send(minute)
        await door.until(analysis_id, lambda found: found["progress"] > 0.8)
        await asyncio.to_thread(door.app.state.analyses.stop)  # so that nobody is there to clear up behind himself
        folder, data = door.app.state.data.windows(analysis_id), door.app.state.data
        assert len(list(folder.iterdir())) == 2
        if way == "delete":
            assert (await door.client.delete(f"{URL}/{analysis_id}")).status_code == 200
        elif way == "cancel":
            assert (await door.client.post(f"{URL}/{analysis_id}/cancel")).json()["status"] == "cancelled"
        else:
            record = analyses.find(door.app.state.store, analysis_id, now=time.time())
            assert record is not None
            erased = await asyncio.to_thread(erase, door.app.state.store, data, record.owner, with_keys=False)
            assert erased.num_bytes > minute.stat().st_size
        assert list(data.analyses.iterdir()) == []


async def test_a_disk_that_is_full_costs_what_was_read_and_not_the_analysis(
    nano: Any, minute: Path, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Any, window: Any) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(KeptFolder, "add", fail)
    async with opened(nano, max_seconds=20) as door:
        assert len((await door.result(minute))["windows"]) == 3


# ---- a server that is killed ----------------------------------------------------------------------------------------


@pytest.fixture
def serve(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[Callable[[], tuple[subprocess.Popen[bytes], str]]]:
    running: list[subprocess.Popen[bytes]] = []

    def start() -> tuple[subprocess.Popen[bytes], str]:
        port = free_port()
        settings = {"data_dir": tmp_path / "data", "port": port, "max_seconds": 20, "job_lease_seconds": 1, "jobs": 0}
        names = {f"EMOLLAMA_{name.upper()}": str(value) for name, value in settings.items()}
        program = "import sys; from emollama.cli import main; sys.argv = ['emollama', 'serve']; sys.exit(main())"
        running.append(subprocess.Popen([sys.executable, "-c", program], env={**os.environ, **names}))
        url = f"http://127.0.0.1:{port}"
        end = time.monotonic() + 120
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{url}/ready", timeout=30).status_code == 200:
                    return running[-1], url + URL
            assert running[-1].poll() is None, "the server did not start"
            assert time.monotonic() < end
            time.sleep(0.1)

    yield start
    for process in running:
        process.kill()
        process.wait(60)


@pytest.mark.slow
@pytest.mark.in_process(reason="a process is started that has its models in itself")
def test_a_long_clip_survives_a_kill_and_what_was_read_of_it_too(
    serve: Any, nano: Any, quarter: Path, tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    first, url = serve()
    with quarter.open("rb") as file:
        analysis_id = httpx.post(url, files={"file": ("long.mp4", file)}, timeout=60).json()["id"]
    wait_until(lambda: httpx.get(f"{url}/{analysis_id}", timeout=30).json()["progress"] > 0.1, seconds=60)
    first.kill()
    first.wait(60)
    folder = tmp_path / "data" / "analyses" / f"{analysis_id}.windows"
    kept = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}
    assert 3 <= len(kept) < 30
    _, url = serve()
    wait_until(lambda: httpx.get(f"{url}/{analysis_id}", timeout=30).json()["stage"] is not None, seconds=60)
    assert httpx.get(f"{url}/{analysis_id}", timeout=30).json()["progress"] > 0.1
    wait_until(lambda: httpx.get(f"{url}/{analysis_id}", timeout=30).json()["status"] == "succeeded", seconds=120)
    result = httpx.get(f"{url}/{analysis_id}", timeout=30).json()["result"]
    assert (result["kind"], len(result["windows"]), round(result["windows"][-1]["end"])) == ("long_clip", 30, 900)
    here = json.loads(json.dumps(analyze_long(nano, quarter, name="long.mp4").to_json_dict()))
    for name in set(here) - {"id", "created", "timings_ms"}:
        assert result[name] == here[name], name
    assert list(folder.parent.iterdir()) == []


# ---- the wire -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("noun", "model"),
    [(nouns.Chapter, wire.ChapterOut), (nouns.TurningPoint, wire.TurningPointOut)],
)
def test_a_wire_type_has_the_fields_of_its_noun(noun: Any, model: Any) -> None:
    assert list(model.model_fields) == [field.name for field in dataclasses.fields(noun)]


def test_the_answer_has_the_fields_of_the_long_analysis() -> None:
    own = {field.name for field in dataclasses.fields(LongAnalysis)} - {"whole"}
    assert set(LongClipResultOut.model_fields) == own | set(AnalysisOut.model_fields) | {"kind"}
    window = {field.name for field in dataclasses.fields(nouns.WindowAnalysis)} - {"affect"}
    assert set(wire.WindowOut.model_fields) == window | {"valence", "arousal", "affect_source"}


def test_the_kind_of_a_result_tells_its_schema() -> None:
    document = create_app(Settings()).openapi()["components"]["schemas"]
    either, nothing = document["AnalysisTaskOut"]["properties"]["result"]["anyOf"]
    assert either["discriminator"]["propertyName"] == "kind"
    assert {name: ref.rpartition("/")[2] for name, ref in either["discriminator"]["mapping"].items()} == {
        "clip": "ClipResultOut", "long_clip": "LongClipResultOut",
    }  # fmt: skip
    assert nothing == {"type": "null"}
