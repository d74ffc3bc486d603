"""`emollama bench live`: what it reports, and what it takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from emollama.errors import InputError
from eval import bench_live
from eval.bench_live import LiveRun, app, summarise
from eval.live_media import write_camera, write_microphone

LAST = {
    "pictures": {"received": 40, "read": 38, "dropped": 2, "refused": 0}, "timings_ms": {"judge": 10.0},
    "used": ["face"],
}  # fmt: skip


def run(first: float, *arrivals: float) -> LiveRun:
    return LiveRun(first_reading_ms=first, first_face_ms=first + 100, arrivals=arrivals, last=LAST)


def test_rates_and_gaps_are_those_of_the_arrivals() -> None:
    figures = summarise([run(400.0, 0.0, 0.4, 0.8, 1.6), run(900.0, 0.0, 0.5, 1.0), run(500.0, 0.0, 0.4, 0.8)])
    assert figures["first_reading_ms"] == {"median": 500, "slowest": 900}
    assert figures["first_face_ms"] == {"median": 600, "slowest": 1000}
    assert figures["readings_per_second"] == {"median": 2.0, "lowest": 1.88}
    assert figures["longest_gap_seconds"] == 0.8
    assert figures["pictures_dropped_share"] == 0.05


def test_the_log_has_every_session_and_its_origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_live, "watch", lambda *given, **options: ([run(400.0, 0.0, 0.5)], "150.0"))
    target = tmp_path / "live.json"
    result = CliRunner().invoke(app, ["--json", str(target)])
    assert result.exit_code == 0, result.output
    document = json.loads(target.read_text())
    assert {"command", "git_revision", "versions", "machine", "date", "browser", "clip"} <= set(document)
    assert document["sessions"][0]["readings_per_second"] == 2.0


def test_a_clip_that_is_not_there_is_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [str(tmp_path / "gone.mp4")])
    assert result.exit_code == 2


def test_a_clip_becomes_what_a_browser_takes_for_a_camera(tmp_path: Path, media: Any) -> None:
    clip = media.video(tmp_path / "clip.mp4", seconds=1.0, audio=1.0)
    write_camera(clip, tmp_path / "camera.y4m")
    content = (tmp_path / "camera.y4m").read_bytes()
    head, _, rest = content.partition(b"\n")
    assert head.startswith(b"YUV4MPEG2 W640 H480 F15:1 ")
    size = len(b"FRAME\n") + 640 * 480 * 3 // 2
    assert len(rest) % size == 0
    assert len(rest) // size in (14, 15)
    luma = np.frombuffer(rest[6 : 6 + 640 * 480], np.uint8).reshape(480, 640)
    assert luma.max() > 100
    write_microphone(clip, tmp_path / "microphone.wav")
    assert (tmp_path / "microphone.wav").stat().st_size == pytest.approx(96_000, rel=0.1)
    silent = media.video(tmp_path / "silent.mp4", seconds=0.5)
    write_microphone(silent, tmp_path / "silence.wav")
    assert not any((tmp_path / "silence.wav").read_bytes()[44:])
    with pytest.raises(InputError, match="no picture"):
        write_camera(media.wav(tmp_path / "sound.wav"), tmp_path / "none.y4m")
