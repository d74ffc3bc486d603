"""Which frame shows most: by action units as the paper says, without them by the distance from neutral."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from emollama.adapter import AdapterInfo
from emollama.analyze import Analyzer
from emollama.checkpoint import ASSETS
from emollama.config import preset
from emollama.encoders.frame_head import FrameHead
from emollama.errors import InputError
from emollama.peak_frame import PeakFrame, check_picture, peak_index
from emollama.preset_senses import PresetSenses
from emollama.types import FaceReadings, FaceTrack

READINGS = FaceReadings(
    track_id=0,
    times=np.array([0.0, 0.5, 1.0, 1.5]),
    labels=("neutral", "anger"),
    probabilities=np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.2, 0.8]]),
    valence=np.zeros(4),
    arousal=np.zeros(4),
)


def test_without_units_the_peak_is_farthest_from_neutral_and_the_first_of_equals() -> None:
    assert peak_index(READINGS) == 1
    with pytest.raises(InputError, match="does not know neutral"):
        peak_index(dataclasses.replace(READINGS, labels=("joy", "anger")))


def test_with_units_it_is_where_most_are_active_and_then_where_they_are_surest() -> None:
    units = np.array([[0.9, 0.9, 0.0], [0.6, 0.6, 0.6], [0.6, 0.9, 0.7], [0.4, 0.45, 0.49]])
    seen = dataclasses.replace(READINGS, action_units=("AU1", "AU2", "AU4"), units=units)
    assert peak_index(seen) == 2  # three, as in the frame before, but surer
    assert peak_index(seen, thresholds=(0.8, 0.8, 0.8)) == 0  # by thresholds that were tuned


def test_the_heads_own_thresholds_are_taken(tmp_path: Path) -> None:
    for name in ("face.safetensors", "face.json"):
        shutil.copyfile(ASSETS / "nano" / name, tmp_path / name)
    width = PeakFrame.load().face.embedding_width
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(12, width)) / np.sqrt(width)
    thresholds = tuple(rng.uniform(0.3, 0.7, size=12).tolist())
    FrameHead(task="au", reads="embeddings", weights=(weight,), biases=(np.zeros(12),), thresholds=thresholds).save(
        tmp_path / "face.au.safetensors"
    )
    finder = PeakFrame.load(tmp_path)
    crops = rng.integers(0, 255, (9, 48, 48, 3), dtype=np.uint8)
    track = FaceTrack(track_id=0, times=np.arange(9) / 2, boxes=(), crops=crops, share=1.0, is_main=True)
    head = FrameHead.load(tmp_path / "face.au.safetensors")
    values = head(finder.face.embed(crops).embedding)
    active = (values > np.array(thresholds)).sum(axis=1) + values.sum(axis=1) / 100
    assert finder.time(track) == pytest.approx(active.argmax() / 2)
    assert finder.time(None) is None
    assert finder.time(dataclasses.replace(track, crops=crops[:0], times=track.times[:0])) is None


def test_what_is_no_picture() -> None:
    check_picture("peak", preset("emotion-llama-7b"))
    with pytest.raises(InputError, match="allowed: first, peak"):
        check_picture("last", preset("emotion-llama-7b"))
    with pytest.raises(InputError, match="looks at 8 frames"):
        check_picture("peak", preset("emollama-8b"))


def test_a_folder_says_which_frame_its_model_is_shown(tiny_preset, tmp_path: Path) -> None:
    shown = {}
    for picture in ("first", "peak"):
        folder = tmp_path / picture
        shutil.copytree(tiny_preset("emotion-llama-7b"), folder)
        info = AdapterInfo.load(folder)
        assert info is not None
        assert info.picture == "first"
        dataclasses.replace(info, picture=picture).save(folder)
        senses = Analyzer.load(folder).parts.senses
        assert isinstance(senses, PresetSenses)
        shown[picture] = senses.peak
    assert shown["first"] is None
    assert isinstance(shown["peak"], PeakFrame)
    wrong = tmp_path / "wrong"
    shutil.copytree(tiny_preset("emollama-8b"), wrong)
    info = AdapterInfo.load(wrong)
    assert info is not None
    dataclasses.replace(info, picture="peak").save(wrong)
    with pytest.raises(InputError, match="looks at 8 frames"):
        Analyzer.load(wrong)
