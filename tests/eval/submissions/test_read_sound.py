"""Videos -> kept features of their sound, and crops that are read as an adaptive rate asks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from emollama.abaw.adaptive_rate import AdaptiveRate
from emollama.abaw.heads import Plan, TunedHeads
from emollama.datasets import frame_scores, sound_features
from emollama.encoders.face import FaceEncoder
from emollama.encoders.hubert import SoundOverTime
from emollama.errors import DatasetError, InputError, UnknownNameError
from emollama.types import Audio
from eval.submissions.answers import submit
from eval.submissions.read_crops import read_folder
from eval.submissions.read_sound import find_listener, read_videos, sound_of
from tests.conftest import make_video, tone


def loudness(audio: Audio) -> SoundOverTime:
    """A listener that is easily checked: the root mean square of every half second."""
    halves = audio.samples[: len(audio.samples) // 8000 * 8000].reshape(-1, 8000)
    times = audio.start + 0.25 + 0.5 * np.arange(len(halves))
    return SoundOverTime(times=times, features=np.sqrt((halves**2).mean(axis=1, keepdims=True)))


def test_videos_are_listened_to_once_and_those_without_sound_get_no_file(tmp_path: Path) -> None:
    (tmp_path / "batch1").mkdir()
    loud = np.concatenate([tone(2.0, level=0.1), tone(2.0, level=0.4)])
    make_video(tmp_path / "batch1" / "7-60.mp4", seconds=4.0, fps=25, audio=loud)
    make_video(tmp_path / "batch1" / "mute.mp4", seconds=1.0, fps=10)
    out = tmp_path / "sound"
    assert dict(read_videos(loudness, tmp_path, out)) == {"7-60": 8, "mute": 0}
    kept = sound_features.read(out)
    assert set(kept) == {"7-60"}
    assert kept["7-60"].fps == 25.0
    found = kept["7-60"].at_frames(np.array([10, 90])).ravel()  # at 0.36 and 3.56 s
    assert np.allclose(found, [0.1 / np.sqrt(2), 0.4 / np.sqrt(2)], atol=0.02)
    assert sound_features.find(kept, "7-60_left") is kept["7-60"]
    assert sound_features.find(kept, "mute") is None
    assert dict(read_videos(loudness, tmp_path, out)) == {"mute": 0}


def test_the_shipped_voice_model_listens_where_there_is_a_voice() -> None:
    from emollama.checkpoint import ASSETS

    listen = find_listener("voice", None)
    audio = sound_of(ASSETS / "sample" / "sample.mp4")
    assert audio is not None
    found = listen(audio)
    assert found is not None
    assert found.features.shape[1] > 6
    assert (np.diff(found.times) > 0).all()
    assert listen(Audio(samples=np.zeros(32_000, np.float32))) is None


def test_what_cannot_be_listened_to_is_said(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="hubert"):
        find_listener("vggish", None)
    with pytest.raises(DatasetError, match="--weights"):
        find_listener("hubert", None)
    with pytest.raises(DatasetError, match="holds no video"):
        dict(read_videos(loudness, tmp_path, tmp_path / "out"))


def test_crops_read_sparsely_give_the_submission_of_all(tmp_path: Path) -> None:
    torch.manual_seed(1)
    encoder = FaceEncoder.build("nano-face", debug=True)
    rng = np.random.default_rng(2)
    crops = tmp_path / "cropped" / "a"
    crops.mkdir(parents=True)
    (tmp_path / "cropped" / "empty").mkdir()
    numbers = [n for n in range(1, 71) if n % 9]
    for number in numbers:
        Image.fromarray(rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)).save(crops / f"{number:05d}.jpg")
    for _ in read_folder(encoder, tmp_path / "cropped", tmp_path / "all"):
        pass
    whole = frame_scores.read(tmp_path / "all")
    surest = np.median(whole["a"].probabilities().max(axis=1))
    heads = TunedHeads(
        task="expr", plan=Plan(rate=AdaptiveRate(strides=(10, 2, 1), thresholds=(float(surest), 0.99), reach=6))
    )
    assert dict(read_folder(encoder, tmp_path / "cropped", tmp_path / "few", heads=heads))["empty"] == 0
    few = frame_scores.read(tmp_path / "few")
    assert 0 < len(few["a"].frames) < len(numbers)
    (tmp_path / "list.txt").write_text("".join(f"{v}/{n:05d}.jpg\n" for v in ("a", "empty") for n in range(1, 75)))
    for name, readings in (("all.txt", whole), ("few.txt", few)):
        submit(tmp_path / name, "expr", readings, tmp_path / "list.txt", head=heads)
    assert (tmp_path / "all.txt").read_bytes() == (tmp_path / "few.txt").read_bytes()
    with pytest.raises(InputError, match=r"no adaptive frame rate"):
        dict(read_folder(encoder, tmp_path / "cropped", tmp_path / "no", heads=TunedHeads(task="expr")))


def test_sound_is_named_where_it_is_wanted_and_only_there(tmp_path: Path) -> None:
    from emollama.encoders.frame_head import FrameHead

    (tmp_path / "list.txt").write_text("a/00001.jpg\n")
    readings = {"a": frame_scores.FrameScores(video="a", frames=np.array([1]), scores=np.zeros((1, 10), np.float32))}
    head = FrameHead(task="va", reads="sound", weights=(np.zeros((2, 3)),), biases=(np.zeros(2),))
    with pytest.raises(InputError, match="name the folder"):
        submit(tmp_path / "x", "va", readings, tmp_path / "list.txt", head=TunedHeads(task="va", sound=head))
    with pytest.raises(InputError, match="no head listens"):
        submit(tmp_path / "x", "va", readings, tmp_path / "list.txt", sounds={})
