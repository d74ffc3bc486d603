"""Windows on the disk: who goes on behind them gives the answer that it would have given in one go."""

from __future__ import annotations

import numpy as np
import pytest

from emollama.errors import CancelledError, InputError
from emollama.long_clip import analyze_long
from emollama.long_clip.durable import KeptFolder
from emollama.types import Transcript, TranscriptSegment

ABOUT = {"labels": None}
WORDS = Transcript(
    text="I hate this, this is wonderful",
    segments=(
        TranscriptSegment(start=1.0, end=2.0, text="I hate this"),
        TranscriptSegment(start=41.0, end=42.0, text="this is wonderful"),
    ),
)


def scene(t):
    """Two faces, the second of which leaves; then one in another place; then nobody."""
    if t >= 50:
        return []
    faces = [(1, "sadness" if t < 34 else "happiness", 5 if t < 40 else 65)]
    return [*faces, (2, "anger", 60)] if t < 25 else faces


def told(answer):
    document = answer.to_json_dict()
    return {name: value for name, value in document.items() if name not in ("id", "created", "timings_ms")}


@pytest.fixture
def whole(painted, film):
    return analyze_long(painted(), film(scene, 60.0), window_seconds=10.0, transcript=WORDS)


@pytest.fixture
def folder(painted, film, tmp_path):
    """A folder with all six windows."""
    kept = KeptFolder(tmp_path, about=ABOUT)
    analyze_long(painted(), film(scene, 60.0), window_seconds=10.0, transcript=WORDS, keep=kept.add)
    return kept


@pytest.mark.parametrize("number", [1, 3, 5, 6])
def test_who_goes_on_reads_the_rest_and_says_the_same(painted, film, whole, tmp_path, number):
    kept, read = KeptFolder(tmp_path, about=ABOUT), []

    def keep(window):
        kept.add(window)
        read.append(window.analysis.index)

    asking = {"window_seconds": 10.0, "transcript": WORDS}
    with pytest.raises(CancelledError):
        analyze_long(painted(), film(scene, 60.0), keep=keep, cancelled=lambda: len(read) == number, **asking)
    assert read == list(range(number))
    done = KeptFolder(tmp_path, about=ABOUT).load()
    assert len(done) == number
    heard = []
    answer = analyze_long(painted(), film(scene, 60.0), done=done, keep=keep, progress=heard.append, **asking)
    assert read == list(range(6))
    assert told(answer) == told(whole)
    assert len({window.track for window in answer.windows}) > 1, "nothing was carried over a border"
    assert heard == sorted(heard)
    for stage, milliseconds in answer.whole.timings_ms.items():
        assert milliseconds >= 0, stage
    assert list(tmp_path.glob(".*")) == []


def test_every_field_comes_back_as_it_was(painted, film, folder):
    before = []
    analyze_long(painted(), film(scene, 60.0), window_seconds=10.0, transcript=WORDS, keep=before.append)
    for mine, its in zip(before, folder.load(), strict=True):
        assert (mine.analysis, mine.words, mine.faces) == (its.analysis, its.words, its.faces)
        assert len(mine.readings) == len(its.readings)
        for reading, same in zip(mine.readings, its.readings, strict=True):
            assert reading.labels == same.labels
            np.testing.assert_array_equal(reading.probabilities, same.probabilities)
            assert reading.probabilities.dtype == same.probabilities.dtype
        assert [ending.box for ending in mine.endings] == [ending.box for ending in its.endings]
    assert any(window.words is not None for window in before)
    assert any(len(window.readings) == 2 for window in before)


def test_what_is_damaged_or_missing_is_read_again_with_all_behind_it(folder, tmp_path):
    assert len(folder.load()) == 6
    torn = tmp_path / "000004.safetensors"
    torn.write_bytes(torn.read_bytes()[:-7])
    assert len(folder.load()) == 4
    (tmp_path / "000001.safetensors").unlink()
    (tmp_path / ".000001.safetensors.77.partial").write_bytes(b"half")
    assert len(folder.load()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["000000.safetensors"]
    (tmp_path / "000000.safetensors").write_bytes(b"")
    assert folder.load() == ()


def test_windows_of_another_question_are_not_taken(folder, tmp_path):
    assert KeptFolder(tmp_path, about={"labels": "joy, anger"}).load() == ()
    assert list(tmp_path.iterdir()) == []


def test_windows_of_another_clip_are_not_taken(painted, film, folder):
    with pytest.raises(InputError, match="is not of this clip"):
        analyze_long(painted(), film(scene, 60.0, windows=7.0), window_seconds=7.0, done=folder.load()[:2])


def test_where_the_folder_was_removed_nothing_is_written(folder, tmp_path):
    (window, *_) = folder.load()
    gone = KeptFolder(tmp_path / "gone", about=ABOUT)
    with pytest.raises(FileNotFoundError):
        gone.add(window)
    assert not (tmp_path / "gone").exists()
