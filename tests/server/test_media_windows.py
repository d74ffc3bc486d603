"""A long clip decoded in a process of its own: the same windows, the same limits, and nobody else has to wait."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emollama.errors import CancelledError, MediaLimitError, UndecodableMediaError, UnsupportedMediaError
from emollama.media import MediaLimits
from emollama.media_windows import ClipWindow, read_windows
from server.confined_process import WorkerLimits
from server.media_worker import IS_SUPPORTED, InProcess, MediaPool

pytestmark = pytest.mark.skipif(not IS_SUPPORTED, reason="processes have no limits on this system")

LIMITS = MediaLimits(max_seconds=3600.0)


@pytest.fixture(scope="module")
def pool() -> Iterator[MediaPool]:
    started = MediaPool(1)
    yield started
    started.close()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory, long_video: Callable[..., Path]) -> Path:
    return long_video(tmp_path_factory.mktemp("clip") / "a.mp4", seconds=10.0)


def test_the_windows_are_those_that_are_decoded_here(pool: MediaPool, clip: Path) -> None:
    here = list(read_windows(clip, name="a", seconds=4.0, limits=LIMITS))
    there = list(pool.windows(clip, name="a", seconds=4.0, fps=2.0, limits=LIMITS))
    assert len(here) == 3
    for mine, its in zip(here, there, strict=True):
        assert (mine.index, mine.start, mine.end, mine.is_last) == (its.index, its.start, its.end, its.is_last)
        assert (mine.clip.sha256, mine.clip.warnings) == (its.clip.sha256, its.clip.warnings)
        np.testing.assert_array_equal(mine.clip.frames.images, its.clip.frames.images)
        np.testing.assert_array_equal(mine.clip.frames.times, its.clip.frames.times)
        np.testing.assert_array_equal(mine.clip.audio.samples, its.clip.audio.samples)
    assert pool.length(clip) == pytest.approx(10.0, abs=0.2) == InProcess().length(clip)


def test_who_wants_a_short_clip_does_not_wait_for_a_long_one(pool: MediaPool, clip: Path) -> None:
    others = children()  # the pool's idle process, and what other tests have left running
    windows = pool.windows(clip, name="a", seconds=4.0, fps=2.0, limits=LIMITS)
    next(windows)
    (idle,) = pool.pids()
    assert pool.decode(clip, name="short", limits=LIMITS).name == "short"
    assert pool.pids() == [idle]
    own = children() - others
    assert own
    windows.close()
    assert not own & children(), "the process of a clip that nobody wants on is ended"


def children() -> set[int]:
    import psutil

    return {child.pid for child in psutil.Process(os.getpid()).children() if child.status() != psutil.STATUS_ZOMBIE}


def test_errors_come_when_they_are_met_and_say_what_they_say_here(pool: MediaPool, clip: Path, tmp_path: Path) -> None:
    with pytest.raises(MediaLimitError, match="max_seconds is 5") as caught:
        list(pool.windows(clip, name="a", seconds=4.0, fps=2.0, limits=MediaLimits(max_seconds=5.0)))
    assert caught.value.limit == "max_seconds"
    notes = tmp_path / "notes.txt"
    notes.write_text("no clip")
    with pytest.raises(UnsupportedMediaError):
        list(pool.windows(notes, name="a", seconds=4.0, fps=2.0, limits=LIMITS))
    with pytest.raises(UnsupportedMediaError):
        pool.length(notes)


def test_a_cancelled_clip_ends_between_windows(pool: MediaPool, clip: Path) -> None:
    gone = []
    windows = pool.windows(clip, name="a", seconds=4.0, fps=2.0, limits=LIMITS, cancelled=lambda: bool(gone))
    next(windows)
    gone.append(True)
    with pytest.raises(CancelledError):
        for _ in windows:
            pass


def test_a_clip_that_is_gone_is_an_error_that_names_no_path(pool: MediaPool, tmp_path: Path) -> None:
    gone = tmp_path / "gone.mp4"
    with pytest.raises(UndecodableMediaError, match="deleted") as refusal:
        next(pool.windows(gone, name="a", seconds=4.0, fps=2.0, limits=LIMITS))
    assert str(tmp_path) not in str(refusal.value)


@pytest.fixture
def pretender(tmp_path: Path) -> Iterator[Callable[..., MediaPool]]:
    """A pool whose process answers number ``n`` of a long clip's requests by this code."""
    pools = []

    def start(body: str, **options: Any) -> MediaPool:
        script = tmp_path / "child.py"
        script.write_text(
            textwrap.dedent(
                """
                import json, struct, sys, time
                def send(header):
                    text = json.dumps(header).encode()
                    sys.stdout.buffer.write(struct.pack("<I", len(text)) + text)
                    sys.stdout.buffer.flush()
                GOOD = {"name": "a", "seconds": 4.0, "sha256": "x", "warnings": [], "frames": None, "audio": None}
                def window(n, **changes):
                    told = {"index": n, "start": 4.0 * n, "end": 4.0 * n + 4, "share": 0.5, "is_last": False} | changes
                    send(GOOD | {"window": told})
                send({"ready": True})
                for n, line in enumerate(sys.stdin):
                """
            )
            + textwrap.indent(textwrap.dedent(body), "    ")
        )
        command = (sys.executable, "-I", "-S", str(script))
        pools.append(MediaPool(1, command=command, **options))
        return pools[-1]

    yield start
    for each in pools:
        each.close()


def test_an_error_of_a_clip_that_nobody_wants_any_more_is_none(pretender: Any, tmp_path: Path) -> None:
    left = tmp_path / "left"
    pool = pretender(
        f"open({str(left)!r}, 'w').close(); "
        "send({'error': 'UndecodableMediaError', 'message': 'it was deleted', 'field': 'file'})"
    )
    options = {"name": "a", "seconds": 4.0, "fps": 2.0, "limits": LIMITS}
    with pytest.raises(CancelledError):
        next(pool.windows(tmp_path / "a.mp4", cancelled=left.exists, **options))


@pytest.mark.parametrize(
    ("body", "kind", "reason"),
    [
        ("window(n) if n < 2 else sys.exit()", UndecodableMediaError, "crash"),
        ("window(n) if n < 2 else time.sleep(60)", MediaLimitError, "timeout"),
        ("time.sleep(0.2); window(n)", MediaLimitError, "timeout"),
        ("window(n) if n < 2 else window(n, start=0.0)", UndecodableMediaError, "protocol"),
        ("window(0)", UndecodableMediaError, "protocol"),
        ("window(n, end=4.0 * n)", UndecodableMediaError, "protocol"),
        ("window(n, share=float('nan'))", UndecodableMediaError, "protocol"),
        ("send(GOOD)", UndecodableMediaError, "protocol"),
    ],
)
def test_a_file_that_ends_its_process_ends_nothing_else(
    pretender: Callable[..., MediaPool], tmp_path: Path, body: str, kind: type[Exception], reason: str
) -> None:
    heard: list[str] = []
    pool = pretender(body, limits=WorkerLimits(seconds=0.5, long_seconds=0.7), ended=heard.append)
    idle = pool.pids()
    got: list[ClipWindow] = []
    with pytest.raises(kind) as refusal:
        got.extend(pool.windows(tmp_path / "bad", name="bad", seconds=4.0, fps=2.0, limits=LIMITS))
    assert heard == [reason]
    assert str(tmp_path) not in str(refusal.value)
    assert pool.pids() == idle
