"""Decoding in a process of its own: the same clip, and what a file that ends the process does, and does not do."""

from __future__ import annotations

import os
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import emollama
from emollama.errors import MediaLimitError, UndecodableMediaError, UnsupportedMediaError
from emollama.media import MediaLimits, read_clip
from emollama.types import Clip
from server.confined_process import WorkerLimits
from server.errors import ApiError
from server.followed import unpack
from server.media_worker import IS_SUPPORTED, InProcess, MediaPool, WorkerError

pytestmark = pytest.mark.skipif(not IS_SUPPORTED, reason="processes have no limits on this system")

LIMITS = MediaLimits()
SAMPLE = Path(emollama.__file__).parent / "assets" / "sample" / "sample.mp4"


@pytest.fixture(scope="module")
def pool() -> Iterator[MediaPool]:
    started = MediaPool(1)
    yield started
    started.close()


@pytest.fixture
def pretender(tmp_path: Path) -> Iterator[Callable[..., MediaPool]]:
    """``pretender(body)``: a pool whose process runs this code for each request; ``send(header, *blocks)`` answers."""
    pools = []

    def start(body: str, *, limits: WorkerLimits | None = None, **options: Any) -> MediaPool:
        script = tmp_path / "child.py"
        script.write_text(
            textwrap.dedent(
                """
                import json, os, struct, sys, time
                def send(header, *blocks):
                    text = header if isinstance(header, bytes) else json.dumps(header).encode()
                    sys.stdout.buffer.write(struct.pack("<I", len(text)) + text + b"".join(blocks))
                    sys.stdout.buffer.flush()
                GOOD = {"name": "a", "seconds": 1.0, "sha256": "x", "warnings": [], "frames": None, "audio": None}
                send({"ready": True})
                for line in sys.stdin:
                    request = json.loads(line)
                    if request["name"] == "good":
                        send(GOOD)
                        continue
                """
            )
            + textwrap.indent(textwrap.dedent(body), "    ")
        )
        command = (sys.executable, "-I", "-S", str(script))
        pools.append(MediaPool(1, limits=limits or WorkerLimits(), command=command, **options))
        return pools[-1]

    yield start
    for each in pools:
        each.close()


@pytest.mark.parametrize("kind", ["video", "wav", "image"])
def test_a_clip_is_the_same_as_when_it_is_decoded_here(pool: MediaPool, media: Any, tmp_path: Path, kind: str) -> None:
    path = {"video": media.video, "wav": media.wav, "image": media.image}[kind](
        tmp_path / {"video": "a.mp4", "wav": "a.wav", "image": "a.png"}[kind]
    )
    here, there = read_clip(path, name="clip"), pool.decode(path, name="clip", limits=LIMITS)
    assert (there.name, there.seconds, there.sha256, there.warnings) == (
        here.name, here.seconds, here.sha256, here.warnings,
    )  # fmt: skip
    for mine, its in ((here.frames, there.frames), (here.audio, there.audio)):
        assert (mine is None) == (its is None)
        for name, value in vars(mine).items() if mine is not None else ():
            if isinstance(value, np.ndarray):
                assert getattr(its, name).dtype == value.dtype
                assert getattr(its, name).flags.writeable
                np.testing.assert_array_equal(getattr(its, name), value)
            else:
                assert getattr(its, name) == value


def test_errors_of_the_library_come_back_as_they_are(pool: MediaPool, media: Any, tmp_path: Path) -> None:
    (pid,) = pool.pids()
    notes = tmp_path / "notes.txt"
    notes.write_text("no clip")
    with pytest.raises(UnsupportedMediaError):
        pool.decode(notes, name="notes.txt", limits=LIMITS)
    sound = media.wav(tmp_path / "a.wav", seconds=2.0)
    with pytest.raises(MediaLimitError, match="max_seconds is 1"):
        pool.decode(sound, name="a.wav", limits=MediaLimits(max_seconds=1.0))
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(media.video(tmp_path / "a.mp4").read_bytes()[:200])
    with pytest.raises(UndecodableMediaError) as refusal:
        pool.decode(cut, name="cut.mp4", limits=LIMITS)
    assert refusal.value.field == "file"
    assert pool.pids() == [pid], "a file that is refused ends no process"


def test_the_process_has_no_secrets_and_may_write_nothing(
    media: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMOLLAMA_ADMIN_KEY", "a secret of the service, long enough")
    pool = MediaPool(1)
    try:
        pool.decode(media.wav(tmp_path / "a.wav"), name="a", limits=LIMITS)
        (pid,) = pool.pids()
        if sys.platform == "linux":
            assert b"EMOLLAMA" not in Path(f"/proc/{pid}/environ").read_bytes()
            limits = Path(f"/proc/{pid}/limits").read_text()
            rows = {line[:26].strip(): line[26:].split()[0] for line in limits.splitlines()}
            assert (rows["Max file size"], rows["Max core file size"]) == ("0", "0")
            assert int(rows["Max open files"]) <= 64
            assert rows["Max address space"] != "unlimited"
            assert rows["Max cpu time"] != "unlimited"
            assert os.getpriority(os.PRIO_PROCESS, pid) >= 5
    finally:
        pool.close()


@pytest.mark.parametrize(
    ("body", "kind", "reason"),
    [
        ("os.abort()", UndecodableMediaError, "crash"),
        ("sys.exit()", UndecodableMediaError, "crash"),
        ("import resource; resource.setrlimit(resource.RLIMIT_CPU, (1, 1))\nwhile True: pass",
         UndecodableMediaError, "crash"),
        ("time.sleep(60)", MediaLimitError, "timeout"),
        ("send(GOOD | {'audio': {'length': 100, 'sample_rate': 16000, 'start': 0.0}}, bytes(40)); time.sleep(60)",
         MediaLimitError, "timeout"),
        ("block = b'x' * (300 << 20); time.sleep(60)", MediaLimitError, "memory"),
        ("send(b'no json')", UndecodableMediaError, "protocol"),
        ("send([])", UndecodableMediaError, "protocol"),
        ("send({})", UndecodableMediaError, "protocol"),
        ("send(b' ' * (1 << 21))", UndecodableMediaError, "protocol"),
        ("send({'error': 'SystemExit', 'message': 'x', 'field': None})", UndecodableMediaError, "protocol"),
        ("send(GOOD | {'seconds': float('nan')})", UndecodableMediaError, "protocol"),
        ("send(GOOD | {'frames': {'shape': [float('inf'), 2, 2, 3], 'source_fps': 1, 'is_still': False}})",
         UndecodableMediaError, "protocol"),
        ("send(GOOD | {'frames': {'shape': [1, 2, 2], 'source_fps': 1, 'is_still': False}})",
         UndecodableMediaError, "protocol"),
        ("send(GOOD | {'frames': {'shape': [1 << 20, 1 << 20, 9, 3], 'source_fps': 1, 'is_still': False}})",
         UndecodableMediaError, "protocol"),
        ("send(GOOD | {'frames': {'shape': [-1, 2, 2, 3], 'source_fps': 1, 'is_still': False}})",
         UndecodableMediaError, "protocol"),
        ("send(GOOD | {'audio': {'length': -4, 'sample_rate': 16000, 'start': 0.0}})",
         UndecodableMediaError, "protocol"),
    ],
)  # fmt: skip
def test_a_file_that_ends_its_process_ends_nothing_else(
    pretender: Any, tmp_path: Path, body: str, kind: type[Exception], reason: str
) -> None:
    heard: list[str] = []
    limits = WorkerLimits(seconds=0.4 if reason == "timeout" else 30.0, memory_bytes=200 * 2**20)
    pool = pretender(body, limits=limits, ended=heard.append)
    (pid,) = pool.pids()
    with pytest.raises(kind) as refusal:
        pool.decode(tmp_path / "bad", name="bad", limits=LIMITS)
    assert heard == [reason]
    assert str(tmp_path) not in str(refusal.value)
    assert pool.pids() != [pid]
    assert pool.decode(tmp_path / "good", name="good", limits=LIMITS).seconds == 1.0
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_work_that_nobody_waits_for_is_ended(pretender: Any, tmp_path: Path, wait_until: Any) -> None:
    pool = pretender("time.sleep(60)")
    gone = threading.Event()
    caught: list[BaseException] = []

    def decode(name: str) -> None:
        try:
            pool.decode(tmp_path / "a", name=name, limits=LIMITS, cancelled=gone.is_set)
        except ApiError as exc:
            caught.append(exc)

    # One is being decoded, the other waits for the process.
    threads = [threading.Thread(target=decode, args=("slow",)) for _ in range(2)]
    for thread in threads:
        thread.start()
    wait_until(lambda: pool.pids() == [])
    gone.set()
    for thread in threads:
        thread.join(20)
    assert [exc.code for exc in caught if isinstance(exc, ApiError)] == ["client_closed_request"] * 2
    assert pool.decode(tmp_path / "good", name="good", limits=LIMITS).name == "a"


def test_a_file_that_is_gone_is_an_error_and_the_process_stays(pool: MediaPool, media: Any, tmp_path: Path) -> None:
    sound = media.wav(tmp_path / "a.wav")
    pool.decode(sound, name="a", limits=LIMITS)
    (pid,) = pool.pids()
    sound.unlink()
    with pytest.raises(UndecodableMediaError, match="deleted") as refusal:
        pool.decode(sound, name="a", limits=LIMITS)
    assert str(tmp_path) not in str(refusal.value)
    with pytest.raises(UndecodableMediaError, match="deleted"):
        pool.length(sound)
    with pytest.raises(ApiError) as left:
        pool.decode(sound, name="a", limits=LIMITS, cancelled=lambda: True)
    assert left.value.code == "client_closed_request"
    assert pool.pids() == [pid]


def test_a_process_that_starts_while_its_client_leaves_takes_the_next_clip(tmp_path: Path) -> None:
    heard: list[str] = []
    script, go = tmp_path / "child.py", tmp_path / "go"
    script.write_text(
        textwrap.dedent(
            f"""
            import json, os, struct, sys, time
            while not os.path.exists({str(go)!r}):
                time.sleep(0.01)
            for answer in ({{"ready": True}}, {{"seconds": 3.0}}):
                text = json.dumps(answer).encode()
                os.write(1, struct.pack("<I", len(text)) + text)
                sys.stdin.readline()
            """
        )
    )
    pool = MediaPool(1, command=(sys.executable, "-I", "-S", str(script)), ended=heard.append)
    try:
        (pid,) = pool.pids()
        for _ in range(2):
            with pytest.raises(ApiError) as left:
                pool.length(tmp_path / "a", cancelled=lambda: True)
            assert left.value.code == "client_closed_request"
        assert pool.pids() == [pid]
        go.touch()
        assert pool.length(tmp_path / "a") == 3.0
        assert (pool.pids(), heard) == ([pid], [])
    finally:
        pool.close()


def test_a_process_that_cannot_start_is_the_services_fault(tmp_path: Path) -> None:
    pool = MediaPool(1, command=(sys.executable, "-c", "raise SystemExit"))
    try:
        with pytest.raises(WorkerError):
            pool.decode(tmp_path / "a", name="a", limits=LIMITS)
    finally:
        pool.close()


def test_processes_end_with_their_pool(media: Any, tmp_path: Path) -> None:
    pool = MediaPool(2)
    pool.decode(media.wav(tmp_path / "a.wav"), name="a", limits=LIMITS)
    pids = pool.pids()
    pool.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_without_processes_the_analyzer_gets_the_file(tmp_path: Path) -> None:
    assert InProcess().decode(tmp_path / "a", name="a", limits=LIMITS) == tmp_path / "a"


@pytest.mark.anyio
async def test_the_analyzer_gets_the_decoded_clip_and_the_answer_its_time(
    tmp_path: Path, analysis: Any, media: Any, pool: MediaPool
) -> None:
    import dataclasses

    import httpx

    from server.app import create_app
    from server.settings import Settings

    seen: list[Any] = []

    class Analyzer:
        def analyze(self, source: Any, **options: Any) -> Any:
            seen.append(source)
            return dataclasses.replace(analysis, timings_ms={"faces": 1.0, "total": 2.0})

    class Slow:
        def decode(self, path: Path, **options: Any) -> Any:
            time.sleep(0.05)
            return pool.decode(path, **options)

        def close(self) -> None: ...

    app = create_app(Settings(temp_dir=tmp_path / "uploads"), Analyzer(), decoder=Slow())
    sound = media.wav(tmp_path / "a.wav").read_bytes()
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as client,
    ):
        answer = await client.post("/analyze", files={"file": ("a.wav", sound)})
        refused = await client.post("/analyze", files={"file": ("notes.txt", b"no clip")})
    assert answer.status_code == 200
    assert isinstance(seen[0], Clip)
    assert answer.json()["timings_ms"]["decode"] >= 50
    assert answer.json()["timings_ms"]["total"] >= 52
    assert (refused.status_code, refused.json()["error"]["code"]) == (415, "unsupported_media")
    assert len(seen) == 1


def test_faces_are_followed_where_the_clip_is_decoded(pool: MediaPool) -> None:
    from emollama.faces import track_faces

    path = SAMPLE
    here = read_clip(path, name="clip")
    assert here.frames is not None
    there = pool.decode(path, name="clip", limits=LIMITS, follow_faces=True)
    assert there.frames is not None
    assert there.frames.images.shape == (0, *here.frames.images.shape[1:])
    np.testing.assert_array_equal(there.frames.times, here.frames.times)
    mine, its = track_faces(here.frames, audio=here.audio), there.tracks
    assert its is not None
    assert len(mine) == len(its) == 1
    for one, other in zip(mine, its, strict=True):
        np.testing.assert_array_equal(one.crops, other.crops)
        np.testing.assert_array_equal(one.times, other.times)
        assert (one.boxes, one.share, one.chosen_because) == (other.boxes, other.share, other.chosen_because)
        assert other.is_main


def test_a_sound_has_no_faces_to_follow(pool: MediaPool, media: Any, tmp_path: Path) -> None:
    clip = pool.decode(media.wav(tmp_path / "a.wav"), name="a", limits=LIMITS, follow_faces=True)
    assert (clip.frames, clip.tracks) == (None, None)
    assert clip.audio is not None


_TRACK = {
    "track_id": 0, "boxes": [[1.0, 2.0, 3.0, 3.0]], "crop_size": 2, "share": 1.0, "is_main": True,
    "chosen_because": "it is the only face",
}  # fmt: skip


@pytest.mark.parametrize(
    ("told", "arrays"),
    [
        ([_TRACK], None),
        ([_TRACK | {"boxes": [[1.0, 2.0, 3.0, 3.0]] * 3}], b"\0" * 1000),  # more than the clip has pictures
        ([_TRACK | {"boxes": []}], b"\0" * 1000),
        ([_TRACK | {"boxes": [[1.0, 2.0, 3.0]]}], b"\0" * 1000),
        ([_TRACK | {"boxes": [[float("nan"), 2.0, 3.0, 3.0]]}], b"\0" * 1000),
        ([_TRACK | {"crop_size": 1 << 14}], b"\0" * 1000),
        ([_TRACK | {"is_main": False}], b"\0" * 1000),
        ([_TRACK] * 65, b"\0" * 10_000),
        ([_TRACK], np.array([np.inf]).tobytes() + b"\0" * 12),
        ([{}], b""),
    ],
)
def test_followed_faces_are_not_believed(told: list[dict[str, Any]], arrays: bytes | None) -> None:
    content = np.array([0.2]).tobytes() + bytes(range(12)) if arrays is None else arrays
    view = memoryview(content)

    def read(length: int) -> memoryview:
        nonlocal view
        assert length <= len(view)
        part, view = view[:length], view[length:]
        return part

    if arrays is None:
        (track,) = unpack(told, read, num_pictures=2)
        assert track.times.tolist() == [0.2]
        assert track.crops.ravel().tolist() == list(range(12))
    else:
        with pytest.raises((ValueError, KeyError, TypeError)):
            unpack(told, read, num_pictures=2)
