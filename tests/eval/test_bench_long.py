"""The bench of long clips makes what it says and tells it truly; and a longer clip takes hardly more memory."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from emollama.errors import InputError
from emollama.media import read_clip
from emollama.media_windows import clip_seconds, read_windows
from eval import bench_long
from eval.bench import sample_clip
from eval.bench_long import LongRun, analyzed, app, repeated, summarise

# What four minutes may take more than one. Were the pictures kept, it would be three times as much.
_MOST_GROWTH_MIB = 64.0


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_repeated_clip_is_the_short_one_again_and_again(media: Any, tmp_path: Path, name: str) -> None:
    short = media.video(tmp_path / name, seconds=2.0, fps=10, audio=2.0)
    path = repeated(short, tmp_path / "long", seconds=21.0)
    assert path.suffix == Path(name).suffix
    assert clip_seconds(path) == pytest.approx(21.0, abs=2.1)
    first = read_clip(short).frames
    assert first is not None
    windows = list(read_windows(path, seconds=4.0, fps=5.0))
    for window in windows:
        assert window.clip.warnings == ()
        assert window.clip.frames is not None
        assert window.clip.audio is not None
        assert window.clip.audio.seconds == pytest.approx(window.end - window.start, abs=0.1)
    grey = [int(image[-4, -4, 0]) for window in windows for image in window.clip.frames.images]  # type: ignore[union-attr]
    # It brightens in each round and begins anew.
    assert sum(after < before - 50 for before, after in itertools.pairwise(grey)) in (8, 9)


def test_what_does_not_work_is_told_with_the_words_of_the_process(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ended with 2: error: .*no-such-model"):
        analyzed(sample_clip(), model="no-such-model")
    result = CliRunner().invoke(app, [str(tmp_path / "none.mp4")])
    assert result.exit_code == 2
    assert "is not a file" in " ".join(result.output.split())


def test_the_report_holds_each_run_and_the_growth_from_the_shortest_to_the_longest(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lengths: list[float] = []

    def pretend(path: Path, **_: Any) -> LongRun:
        seconds = clip_seconds(path) or 0.0
        lengths.append(seconds)
        return LongRun(
            clip_seconds=seconds, clip_bytes=path.stat().st_size, seconds=9.0, analysis_seconds=6.0,
            peak_mib=1000.0 + seconds, memory=tuple((float(n), 900.0) for n in range(300)), num_windows=2,
            label="happiness", stages_seconds={"faces": 1.0},
        )  # fmt: skip

    monkeypatch.setattr(bench_long, "analyzed", pretend)
    log = tmp_path / "log.json"
    result = CliRunner().invoke(app, ["--minutes", "1", "--minutes", "0.3", "--json", str(log), "--note", "a busy day"])
    assert result.exit_code == 0, result.output
    document = json.loads(log.read_text())
    assert [run["clip_seconds"] for run in document["runs"]] == [round(seconds, 1) for seconds in lengths]
    assert lengths[0] == pytest.approx(60, abs=7)
    assert document["growth_mib"] == pytest.approx(lengths[0] - lengths[1], abs=0.1)
    assert document["runs"][0]["times_real_time"] == pytest.approx(lengths[0] / 6, abs=0.01)
    assert len(document["runs"][0]["memory_seconds_mib"]) == 60
    assert (document["note"], document["clip"]) == ("a busy day", "sample.mp4")
    assert {"command", "git_revision", "date", "load_average"} <= set(document)


@pytest.mark.slow
def test_four_minutes_take_hardly_more_memory_than_one(tmp_path: Path) -> None:
    runs = [analyzed(repeated(sample_clip(), tmp_path / str(n), seconds=60.0 * n)) for n in (1, 4)]
    assert [run.num_windows for run in runs] == [2, 8]
    assert all(run.peak_mib > 300 for run in runs)
    assert summarise(sample_clip(), runs, window=30.0)["growth_mib"] < _MOST_GROWTH_MIB
