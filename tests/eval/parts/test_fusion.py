"""A fusion classifier on spoiled clips: only what was spoiled is read anew, and what cannot be read is absent."""

from __future__ import annotations

import numpy as np
import pytest

from emollama.errors import InputError
from emollama.fusion.classifier import FusionClassifier, FusionConfig, FusionNet
from emollama.fusion.nano_vectors import NanoVectors
from emollama.fusion.utterances import Utterances
from emollama.types import Audio, Clip, Frames, Transcript
from eval.parts.fusion import _macro_f1, _replaced, _spoilt_row
from eval.robustness import Condition


def clip() -> Clip:
    picture = np.random.default_rng(0).integers(0, 255, (1, 48, 48, 3), np.uint8)
    return Clip(
        name="valid-0000:a+b+c",
        seconds=1.0,
        frames=Frames(images=picture, times=np.zeros(1), source_fps=None, is_still=True),
        audio=Audio(samples=0.1 * np.sin(np.arange(16_000) * 2.0).astype(np.float32)),
        transcript=Transcript(text="I miss her and I cry every single day"),
    )


def test_only_what_was_spoiled_is_read_anew() -> None:
    vectors, whole = NanoVectors(), clip()
    blurred = _spoilt_row(whole, Condition(corruption="blur", level="4"), vectors, seed=0)
    assert set(blurred) == {"face"}
    assert not np.allclose(blurred["face"], vectors.each_face(whole.frames.images)[0])
    deleted = _spoilt_row(whole, Condition(corruption="words", level="0.5"), vectors, seed=0)
    assert set(deleted) == {"words"}
    np.testing.assert_array_equal(
        deleted["words"], _spoilt_row(whole, Condition(corruption="words", level="0.5"), vectors, seed=0)["words"]
    )
    noisy = _spoilt_row(whole, Condition(corruption="noise_white", level="0"), vectors, seed=0)
    assert noisy == {"voice": None}  # a tone in noise holds no voice: absent, not zeros


def test_the_figure_is_that_of_the_spoiled_vectors() -> None:
    features = {"face": np.array([[-1.0], [1.0]], np.float32), "voice": np.zeros((2, 1), np.float32)}
    clips = Utterances(names=("a", "b"), features=features, labels=("anger", "fear"), groups=("s", "s"))
    turned = _replaced(clips, [{"face": np.array([1.0])}, {"voice": None}])
    assert turned.features["face"].tolist() == [[1.0], [1.0]]
    assert turned.present.tolist() == [[True, True], [True, False]]
    assert clips.features["face"].tolist() == [[-1.0], [1.0]]
    net = FusionNet(FusionConfig(labels=("anger", "disgust"), widths={"face": 1, "voice": 1}, hidden=2))
    with pytest.raises(InputError, match="does not know 'fear'"):
        _macro_f1(FusionClassifier([net]), clips)
