"""The feature cache: nothing is read twice, nothing stale is believed, nothing half-written stays."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from emollama.errors import DatasetError, UnsupportedMediaError
from emollama.manifest import Sample, read_manifest, write_manifest
from emollama.types import Clip
from train.features import FeatureCache, clip_of
from train.trainees import Reading


class CountingTrainee:
    """Reads a clip as its length, and counts how often it was asked."""

    name = "counting"

    def __init__(self, version: str = "1") -> None:
        self.version = version
        self.calls: list[str] = []
        self.lock = threading.Lock()

    def read(self, clip: Clip) -> Reading:
        with self.lock:
            self.calls.append(clip.name)
        tokens = {"voice": np.full((1, 2), clip.seconds, np.float32)} if clip.seconds else {}
        return Reading(
            tokens=tokens, facts={"words": clip.transcript.text if clip.transcript else None}, seconds=clip.seconds
        )


@pytest.fixture
def manifest(tmp_path: Path, media: type) -> Callable[..., Path]:
    def make(*samples: Sample) -> Path:
        media.wav(tmp_path / "a.wav", seconds=2.0)
        write_manifest(tmp_path / "manifest.jsonl", samples or [Sample(id="a", clip="a.wav")])
        return tmp_path / "manifest.jsonl"

    return make


def test_a_clip_is_read_once_whatever_it_is_called(tmp_path: Path, manifest: Callable[..., Path]) -> None:
    trainee = CountingTrainee()
    whole = read_manifest(manifest(Sample(id="a", clip="a.wav"), Sample(id="again", clip="copy/b.wav")))
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "b.wav").write_bytes((tmp_path / "a.wav").read_bytes())
    first = FeatureCache(tmp_path / "cache", trainee).read_all(whole, whole.samples, workers=1)
    again = FeatureCache(tmp_path / "cache", CountingTrainee()).read_all(whole, whole.samples)
    assert trainee.calls == ["a"]
    assert first[0].seconds == again[1].seconds == pytest.approx(2.0)
    assert np.array_equal(first[0].tokens["voice"], again[1].tokens["voice"])
    assert not list((tmp_path / "cache").rglob("*.partial"))


def test_a_stretch_and_words_are_entries_of_their_own(tmp_path: Path, manifest: Callable[..., Path]) -> None:
    trainee = CountingTrainee()
    rows = [
        Sample(id="a", clip="a.wav"),
        Sample(id="b", clip="a.wav", start=0.5, end=1.0),
        Sample(id="c", clip="a.wav", transcript="well"),
        Sample(id="d", transcript="well"),
    ]
    whole = read_manifest(manifest(*rows))
    readings = FeatureCache(tmp_path / "cache", trainee).read_all(whole, whole.samples)
    assert sorted(trainee.calls) == ["a", "b", "c", "d"]
    assert [reading.seconds for reading in readings] == pytest.approx([2.0, 0.5, 2.0, 0.0])
    assert [reading.facts["words"] for reading in readings] == [None, None, "well", "well"]
    assert readings[3].tokens == {}


def test_another_version_reads_anew(tmp_path: Path, manifest: Callable[..., Path]) -> None:
    whole = read_manifest(manifest())
    FeatureCache(tmp_path / "cache", CountingTrainee()).read(whole, whole.samples[0])
    newer = CountingTrainee(version="2")
    FeatureCache(tmp_path / "cache", newer).read(whole, whole.samples[0])
    assert newer.calls == ["a"]


def test_a_damaged_entry_is_made_again(tmp_path: Path, manifest: Callable[..., Path]) -> None:
    whole = read_manifest(manifest())
    trainee = CountingTrainee()
    cache = FeatureCache(tmp_path / "cache", trainee)
    cache.read(whole, whole.samples[0])
    cache.path_of(whole, whole.samples[0]).write_bytes(b"\x10" * 40)
    assert cache.read(whole, whole.samples[0]).seconds == pytest.approx(2.0)
    assert len(trainee.calls) == 2


def test_a_clip_that_cannot_be_read_is_named(tmp_path: Path, manifest: Callable[..., Path]) -> None:
    whole = read_manifest(manifest(Sample(id="gone", clip="gone.wav")))
    cache = FeatureCache(tmp_path / "cache", CountingTrainee())
    with pytest.raises(DatasetError, match=r"'gone\.wav' of 'gone'"):
        cache.read(whole, whole.samples[0])
    (tmp_path / "gone.wav").write_bytes(b"RIFF" + b"\0" * 60)
    with pytest.raises(DatasetError, match="'gone'") as caught:
        cache.read(whole, whole.samples[0])
    assert isinstance(caught.value.__cause__, UnsupportedMediaError)


def test_progress_is_told_and_a_stop_keeps_what_was_done(tmp_path: Path, manifest: Callable[..., Path]) -> None:
    rows = [Sample(id=str(n), clip="a.wav", end=0.5 + n / 10) for n in range(6)]
    whole = read_manifest(manifest(*rows))
    trainee = CountingTrainee()
    cache = FeatureCache(tmp_path / "cache", trainee)
    told: list[tuple[int, int]] = []
    with pytest.raises(InterruptedError):
        cache.read_all(
            whole,
            whole.samples,
            workers=1,
            on_progress=lambda *now: told.append(now),
            stopped=lambda: len(trainee.calls) >= 3,
        )
    assert told[:2] == [(1, 6), (2, 6)]
    done = len(trainee.calls)
    assert 3 <= done < 6
    cache.read_all(whole, whole.samples, workers=2)
    assert len(trainee.calls) == 6


def test_the_words_of_the_manifest_go_with_the_clip(tmp_path: Path, manifest: Callable[..., Path]) -> None:
    whole = read_manifest(manifest(Sample(id="a", clip="a.wav", transcript=" so   it goes ", language="en")))
    clip = clip_of(whole, whole.samples[0])
    assert clip.transcript is not None
    assert (clip.transcript.text, clip.transcript.language) == ("so it goes", "en")
    assert dataclasses.replace(clip, transcript=None).audio is not None
