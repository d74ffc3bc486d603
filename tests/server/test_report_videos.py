"""`POST /v1/reports/video`: the clip comes back written anew, from a process of its own, and nothing of it stays."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import httpx
import pytest

from emollama.errors import CancelledError, InputError, MediaLimitError, UndecodableMediaError
from emollama.media import MediaLimits
from emollama.reports.video import VideoOptions
from server.confined_process import WorkerLimits
from server.media_worker import IS_SUPPORTED
from server.reports.desk import ReportDesk
from server.reports.video_worker import VideoHere, VideoOrder, VideoProcesses

pytestmark = pytest.mark.anyio
URL = "/v1/reports/video"
NOTHING: dict[str, Any] = {"faces": [], "timeline": [], "emotion": {"scores": {}}}


@pytest.fixture
def clip(media: Any, tmp_path: Path) -> Path:
    return Path(media.video(tmp_path / "talk.mp4", seconds=3.0, fps=5, audio=3.0))


def order(clip: Path, **changes: Any) -> VideoOrder:
    given = {"source": clip, "name": "talk.mp4", "document": NOTHING, "limits": MediaLimits()}
    return VideoOrder(**{**given, "options": VideoOptions(blur=True), **changes})


def num_pictures(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


class Held:
    """Writes nothing until it is told to, or asked to stop."""

    def __init__(self) -> None:
        self.started, self.release, self.was_cancelled = threading.Event(), threading.Event(), threading.Event()
        self.orders: list[VideoOrder] = []

    def write(self, order: VideoOrder, target: Path, *, cancelled: Callable[[], bool]) -> None:
        self.orders.append(order)
        self.started.set()
        while not self.release.wait(0.01):
            if cancelled():
                self.was_cancelled.set()
                raise CancelledError("stopped")
        target.write_bytes(b"a video")


def with_writer(app: Any, writer: Any) -> Any:
    app.state.reports = ReportDesk(gate=app.state.reports.gate, videos=writer)
    return writer


# ---- the process --------------------------------------------------------------------------------------------------

needs_processes = pytest.mark.skipif(not IS_SUPPORTED, reason="processes have no limits on this system")


@needs_processes
def test_a_process_writes_what_is_written_here(clip: Path, tmp_path: Path) -> None:
    VideoProcesses(limits=WorkerLimits()).write(order(clip), tmp_path / "there.mp4", cancelled=lambda: False)
    VideoHere().write(order(clip), tmp_path / "here.mp4", cancelled=lambda: False)
    assert num_pictures(tmp_path / "there.mp4") == num_pictures(tmp_path / "here.mp4") == 15


@needs_processes
def test_what_the_library_says_of_a_clip_is_said_by_its_name(media: Any, clip: Path, tmp_path: Path) -> None:
    processes = VideoProcesses(limits=WorkerLimits())
    sound = media.wav(tmp_path / "a.wav")
    with pytest.raises(InputError, match=r"song.wav has no video"):
        processes.write(order(sound, name="song.wav"), tmp_path / "out.mp4", cancelled=lambda: False)
    short = order(clip, limits=MediaLimits(max_seconds=1.0))
    with pytest.raises(MediaLimitError) as caught:
        processes.write(short, tmp_path / "out.mp4", cancelled=lambda: False)
    assert caught.value.limit == "max_seconds"
    assert not (tmp_path / "out.mp4").exists()


def scripted(tmp_path: Path, body: str) -> tuple[str, ...]:
    script = tmp_path / "child.py"
    script.write_text(f"import struct, sys, time\nsys.stdin.readline()\n{body}\n")
    return (sys.executable, "-I", "-S", str(script))


def says(**header: Any) -> str:
    text = json.dumps(header).encode()
    return f"sys.stdout.buffer.write(struct.pack('<I', {len(text)}) + {text!r})"


@needs_processes
@pytest.mark.parametrize(
    ("body", "limits", "kind", "told", "reason"),
    [
        ("time.sleep(60)", {"seconds": 0.3}, MediaLimitError, "not written within 0.3 s", "timeout"),
        ("x = bytearray(200 << 20); time.sleep(60)", {"memory_bytes": 100 << 20}, MediaLimitError, "100 MiB", "memory"),
        ("", {}, UndecodableMediaError, "ended the process", "crash"),
        ("sys.stdout.buffer.write(b'\\xff' * 64)", {}, UndecodableMediaError, "ended", "protocol"),
        (says(error="SystemExit"), {}, UndecodableMediaError, "ended", "protocol"),
        (says(num_bytes=-1), {}, UndecodableMediaError, "ended", "protocol"),
        (says(num_bytes=9_999_999_999), {}, UndecodableMediaError, "ended", "protocol"),
        (says(num_bytes="many"), {}, UndecodableMediaError, "ended", "protocol"),
        (says(num_bytes=10) + "; print(1)", {}, UndecodableMediaError, "ended", "crash"),
    ],
)
def test_a_process_that_misbehaves_is_ended_and_its_clip_is_told(
    clip: Path, tmp_path: Path, body: str, limits: dict[str, Any], kind: type[Exception], told: str, reason: str
) -> None:
    heard: list[str] = []
    processes = VideoProcesses(limits=WorkerLimits(**limits), ended=heard.append, command=scripted(tmp_path, body))
    with pytest.raises(kind, match=told):
        processes.write(order(clip), tmp_path / "out.mp4", cancelled=lambda: False)
    assert heard == [reason]


@needs_processes
def test_a_video_that_nobody_waits_for_is_not_written_on(clip: Path, tmp_path: Path) -> None:
    heard: list[str] = []
    command = scripted(tmp_path, "time.sleep(60)")
    asked: Iterator[bool] = iter([False] * 5 + [True] * 1000)
    with pytest.raises(CancelledError):
        VideoProcesses(limits=WorkerLimits(), ended=heard.append, command=command).write(
            order(clip), tmp_path / "out.mp4", cancelled=lambda: next(asked)
        )
    assert heard == []


# ---- the route ----------------------------------------------------------------------------------------------------


async def test_a_clip_comes_back_and_nothing_stays(service: Any, analyzer_type: Any, clip: Path) -> None:
    async with service(analyzer_type()) as s:
        sent = {"file": ("talk at noon.mp4", clip.read_bytes())}
        answer = await s.client.post(URL, files=sent, data={"blur": "true", "voice": "mute", "marks": "false"})
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "video/mp4"
        assert "talk%20at%20noon.report.mp4" in answer.headers["content-disposition"]
        assert answer.headers["cache-control"] == "no-store"
        assert s.analyzer.calls == [], "nothing is analysed where nothing is drawn"
        assert s.uploads() == []
        (s.temp_dir / "answer.mp4").write_bytes(answer.content)
        assert num_pictures(s.temp_dir / "answer.mp4") == 15


async def test_a_clip_is_analysed_first_or_a_kept_analysis_is_drawn(
    service: Any, analyzer_type: Any, clip: Path
) -> None:
    async with service(analyzer_type()) as s:
        writer = with_writer(s.app, Held())
        writer.release.set()
        sent = {"file": ("talk.mp4", clip.read_bytes())}
        assert (await s.client.post(URL, files=sent)).content == b"a video"
        assert [call["name"] for call in s.analyzer.calls] == ["talk.mp4"]
        assert writer.orders[0].document["faces"][0]["track"] == 0
        made = (await s.client.post("/v1/analyses", files=sent)).json()
        for _ in range(500):
            kept = (await s.client.get(f"/v1/analyses/{made['id']}")).json()
            if kept["status"] == "succeeded":
                break
            await asyncio.sleep(0.01)
        answer = await s.client.post(URL, files=sent, data={"analysis_id": made["id"]})
        assert answer.status_code == 200, answer.text
        assert writer.orders[1].document["faces"] == kept["result"]["faces"]
        assert len(s.analyzer.calls) == 2, "it is not analysed again"


async def test_what_cannot_be_drawn_is_refused_by_its_field(
    service: Any, analyzer_type: Any, media: Any, clip: Path
) -> None:
    async with service(analyzer_type()) as s:
        writer = with_writer(s.app, Held())
        writer.release.set()
        sent = {"file": ("talk.mp4", clip.read_bytes())}

        async def told(**data: str) -> tuple[int, str, str | None]:
            answer = await s.client.post(URL, files=sent, data=data)
            error = answer.json()["error"]
            return answer.status_code, error["code"], error["param"]

        assert await told(voice="robot") == (400, "invalid_value", "voice")
        assert await told(blurr="true") == (400, "unknown_field", "blurr")
        assert await told(analysis_id="analysis-none") == (404, "analysis_not_found", "analysis_id")
        assert (await told(analysis_id="a", model="nano"))[:2] == (400, "invalid_value")
        assert await told(model="other") == (404, "model_not_found", "model")
        long = media.video(s.temp_dir / "long.mp4", seconds=6.0, fps=5)
        made = (await s.client.post("/v1/analyses", files=sent)).json()
        for _ in range(500):
            if (await s.client.get(f"/v1/analyses/{made['id']}")).json()["status"] == "succeeded":
                break
            await asyncio.sleep(0.01)
        sent = {"file": ("long.mp4", long.read_bytes())}
        assert await told(analysis_id=made["id"]) == (400, "invalid_value", "analysis_id")
        assert writer.orders == []
        assert s.uploads() == []


async def test_a_clip_that_is_analysed_needs_its_consent_where_others_do(
    service: Any, analyzer_type: Any, clip: Path
) -> None:
    async with service(analyzer_type(), require_consent=True) as s:
        with_writer(s.app, Held()).release.set()
        sent = {"file": ("talk.mp4", clip.read_bytes())}
        refused = await s.client.post(URL, files=sent)
        assert refused.json()["error"]["code"] == "consent_required"
        assert (await s.client.post(URL, files=sent, data={"marks": "false", "blur": "true"})).status_code == 200
        given = {"consent_reference": "register/17"}
        assert (await s.client.post(URL, files=sent, data=given)).status_code == 200
        assert len(s.analyzer.calls) == 1


async def test_few_videos_are_written_at_once_and_one_that_takes_too_long_ends(
    service: Any, analyzer_type: Any, clip: Path
) -> None:
    async with service(analyzer_type(), report_queue_size=0, report_seconds=1.0) as s:
        writer = with_writer(s.app, Held())
        sent = {"file": ("talk.mp4", clip.read_bytes())}
        first = asyncio.create_task(s.client.post(URL, files=sent, data={"marks": "false"}))
        await asyncio.to_thread(writer.started.wait, 10)
        second = await s.client.post(URL, files=sent, data={"marks": "false"})
        assert (second.status_code, second.json()["error"]["code"]) == (429, "busy")
        assert "reports are being written" in second.json()["error"]["message"]
        assert int(second.headers["retry-after"]) >= 1
        ended = await first
        assert (ended.status_code, ended.json()["error"]["code"]) == (504, "deadline_exceeded")
        assert await asyncio.to_thread(writer.was_cancelled.wait, 10)
        assert s.uploads() == []


async def test_a_client_that_leaves_ends_the_writing(live: Any, clip: Path) -> None:
    s = live()
    writer = with_writer(s.app, Held())
    async with httpx.AsyncClient(base_url=s.url, timeout=30) as client:
        task = asyncio.create_task(
            client.post(URL, files={"file": ("talk.mp4", clip.read_bytes())}, data={"marks": "false"})
        )
        await asyncio.to_thread(writer.started.wait, 10)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert await asyncio.to_thread(writer.was_cancelled.wait, 10)
    for _ in range(200):
        if s.uploads() == []:
            break
        await asyncio.sleep(0.02)
    assert s.uploads() == []
