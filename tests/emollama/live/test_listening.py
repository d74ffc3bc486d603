"""Sound in chunks: every stretch is read once, gaps end one, silence leaves nothing, and the window forgets."""

from __future__ import annotations

import numpy as np
import pytest

from emollama.errors import InputError
from emollama.live.listening import Listener
from emollama.types import Audio, Features, VoiceReadings, VoiceSegment

RATE = 8_000


class Ear:
    """Hears a voice wherever it is not silent; writes down what it was given."""

    def __init__(self) -> None:
        self.heard: list[tuple[float, float]] = []
        self.samples: list[np.ndarray] = []

    def __call__(self, audio: Audio) -> tuple[VoiceReadings | None, Features | None]:
        self.heard.append((round(audio.start, 3), round(audio.seconds, 3)))
        self.samples.append(audio.samples)
        if not np.any(audio.samples):
            return VoiceReadings(voiced_seconds=0.0, segments=()), None
        segment = VoiceSegment(
            start=audio.start, end=audio.start + audio.seconds, pitch_hz=200.0, pitch_range_semitones=4.0,
            pitch_slope=0.0, loudness_dbfs=-20.0, syllables_per_second=4.0, level={},
        )  # fmt: skip
        readings = VoiceReadings(
            voiced_seconds=audio.seconds, segments=(segment,), labels=("calm", "loud"),
            probabilities=np.array([0.2, 0.8]),
        )  # fmt: skip
        return readings, Features(encoder="ear", tokens=np.ones((1, 3), np.float32))


def listener(ear: Ear, **options: float) -> Listener:
    return Listener(ear, **{"sample_rate": RATE, "stretch_seconds": 2.0, "window_seconds": 4.0, **options})  # type: ignore[arg-type]


def say(to: Listener, seconds: float, *, start: float, level: int = 1000, jitter: float = 0.0) -> None:
    for index in range(round(seconds * 10)):
        late = jitter * (index % 2)
        to.take(np.full(RATE // 10, level, np.int16), start + index / 10 + late)


def test_every_stretch_is_read_once_and_nothing_between_them_is_lost() -> None:
    ear = Ear()
    say(listener(ear), 7.0, start=0.5, jitter=0.05)
    assert ear.heard == [(0.5, 2.0), (2.5, 2.0), (4.5, 2.0)]
    assert all(np.allclose(samples, 1000 / 32_768) for samples in ear.samples)


def test_chunks_of_any_length_make_the_same_stretches() -> None:
    ear, whole = Ear(), np.random.default_rng(0).integers(-9000, 9000, 5 * RATE).astype(np.int16)
    to = listener(ear)
    at = 0
    for length in (1, 999, 12_345, 8000, 20_000):
        to.take(whole[at : at + length], at / RATE)
        at += length
    assert ear.heard == [(0.0, 2.0), (2.0, 2.0)]
    assert np.allclose(np.concatenate(ear.samples), whole[: 4 * RATE] / 32_768)


def test_the_voice_is_that_of_the_window() -> None:
    to = listener(Ear())
    assert to.voice(0.0) is None
    say(to, 6.0, start=0.0)
    token, readings = to.voice(6.0) or pytest.fail("no voice")
    assert token.shape == (1, 3)
    assert readings.voiced_seconds == pytest.approx(6.0)
    assert dict(zip(readings.labels, readings.probabilities, strict=True))["loud"] == pytest.approx(0.8)
    assert to.voice(9.0)[1].voiced_seconds == pytest.approx(2.0)  # type: ignore[index]
    assert to.voice(20.0) is None


def test_silence_leaves_nothing() -> None:
    to = listener(Ear())
    say(to, 4.0, start=0.0, level=0)
    assert to.voice(4.0) is None


def test_a_gap_ends_a_stretch_which_is_read_when_there_is_enough_of_it() -> None:
    ear = Ear()
    to = listener(ear)
    say(to, 1.0, start=0.0)
    say(to, 0.3, start=5.0)
    say(to, 2.0, start=9.0)
    assert ear.heard == [(0.0, 1.0), (9.0, 2.0)]  # 0.3 s are too short to be read
    assert to.end == pytest.approx(11.0)


def test_what_is_wrong_is_said() -> None:
    to = listener(Ear())
    say(to, 5.0, start=10.0)
    with pytest.raises(InputError, match=r"time is 3\.000; allowed: from 15\.000 on"):
        to.take(np.zeros(80, np.int16), 3.0)
    with pytest.raises(InputError, match="one channel"):
        to.take(np.zeros((80, 2), np.int16), 16.0)
    with pytest.raises(InputError, match="sample_rate is 96000; allowed: 8000 to 48000"):
        listener(Ear(), sample_rate=96_000)
