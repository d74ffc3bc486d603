from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from scipy import signal

from emollama import prosody
from emollama.errors import InputError
from emollama.prosody import FUNCTIONAL_NAMES, find_voice, measure, measure_frames, syllable_frames
from emollama.types import Audio

RATE = 16_000


def vowel(pitch_hz, seconds, *, formants=((700, 90), (1200, 110), (2600, 160)), level=0.2):
    """A vowel by source and filter; ``pitch_hz`` is a number or one value a sample."""
    phase = np.cumsum(np.broadcast_to(pitch_hz, int(seconds * RATE))) / RATE
    pulses = np.diff(np.floor(phase), prepend=0.0)
    sound = signal.lfilter([1.0], [1.0, -0.95], pulses)
    for hz, bandwidth in formants:
        radius = np.exp(-np.pi * bandwidth / RATE)
        sound = signal.lfilter([1.0], [1.0, -2 * radius * np.cos(2 * np.pi * hz / RATE), radius**2], sound)
    sound = signal.lfilter([1.0, -1.0], [1.0], sound)
    return (sound / np.abs(sound).max() * level).astype(np.float32)


@lru_cache
def utterance(pitch_hz=150.0, num_syllables=8, syllable_seconds=0.2, level=0.2):
    """Syllables with a gliding pitch and silence around them."""
    seconds = num_syllables * syllable_seconds
    t = np.arange(int(seconds * RATE)) / RATE
    voice = vowel(pitch_hz * (1 + 0.12 * np.sin(2 * np.pi * 0.8 * t)), seconds, level=level)
    envelope = 0.05 + np.sin(np.pi * t / syllable_seconds) ** 2
    noise = 1e-4 * np.random.default_rng(0).standard_normal(len(t) + RATE)
    noise[RATE // 2 : RATE // 2 + len(t)] += voice * envelope
    return noise.astype(np.float32)


def segments(samples):
    return measure(Audio(samples=np.asarray(samples, np.float32))).segments


@pytest.mark.parametrize("pitch_hz", [80, 123, 220, 350, 520])
def test_pitch_is_within_two_percent(pitch_hz):
    frames = measure_frames(vowel(pitch_hz, 1.0))
    middle = frames.pitch_hz[20:-20]
    assert frames.voiced[20:-20].all()
    assert np.all(np.abs(middle / pitch_hz - 1) < 0.02)


def test_pitch_survives_noise():
    noise = np.random.default_rng(0).standard_normal(RATE)
    frames = measure_frames((vowel(180, 1.0) + 0.02 * noise).astype(np.float32))
    assert np.median(frames.pitch_hz[frames.voiced]) == pytest.approx(180, rel=0.02)


def test_a_voice_is_found_where_it_is():
    (found,) = measure(Audio(samples=utterance(), start=3.0)).segments
    assert found.start == pytest.approx(3.5, abs=0.12)
    assert found.end == pytest.approx(3.5 + 1.6, abs=0.15)
    assert found.pitch_hz == pytest.approx(150, rel=0.1)
    assert found.syllables_per_second == pytest.approx(5, abs=1.0)


@pytest.mark.parametrize("num", [5, 10])
def test_syllables_are_counted(num):
    frames = measure_frames(utterance(num_syllables=num))
    assert abs(len(syllable_frames(frames)[0]) - num) <= 1


def test_a_long_pause_parts_two_segments():
    both = np.concatenate([utterance(), utterance(pitch_hz=260.0)])
    low, high = segments(both)
    assert high.start - low.end > 0.7
    assert (low.level["pitch"], high.level["pitch"]) == ("low", "high")


def test_a_rising_and_a_falling_voice_are_told_apart():
    t = np.linspace(0, 1, RATE)
    rising = vowel(120 * 2 ** (t / 2), 1.0)
    assert segments(rising)[0].pitch_slope == pytest.approx(6, abs=1.5)
    assert segments(vowel(120 * 2 ** ((1 - t) / 2), 1.0))[0].pitch_slope == pytest.approx(-6, abs=1.5)


def _pink(rng, power):
    spectrum = np.fft.rfft(rng.standard_normal(3 * RATE))
    spectrum[1:] /= np.arange(1, len(spectrum)) ** power
    spectrum[0] = 0
    noise = np.fft.irfft(spectrum)
    return 0.4 * noise / np.abs(noise).max()


def _voiceless():
    rng = np.random.default_rng(7)
    t = np.arange(3 * RATE) / RATE
    click, clicks = np.zeros(3 * RATE), np.zeros(3 * RATE)
    click[RATE] = 1.0
    clicks[:: RATE // 2] = 0.9
    hum = sum(np.sin(2 * np.pi * 50 * k * t) / k for k in range(1, 9))
    return {
        "nothing": np.zeros(0),
        "very short": 0.1 * rng.standard_normal(100),
        "digital silence": np.zeros(3 * RATE),
        "dither": 1e-5 * rng.standard_normal(3 * RATE),
        "white noise": 0.1 * rng.standard_normal(3 * RATE),
        "pink noise": _pink(rng, 0.5),
        "brown noise": _pink(rng, 1.0),
        "noise that pulses": 0.1 * rng.standard_normal(3 * RATE) * (1 + np.sin(2 * np.pi * 4 * t)),
        "hum": 0.1 * np.sin(2 * np.pi * 50 * t),
        "hum with overtones": 0.1 * hum,
        "hum of 100 Hz": 0.1 * sum(np.sin(2 * np.pi * 100 * k * t) / k for k in range(1, 9)),
        "click": click,
        "clicks": clicks,
        "tone": 0.1 * np.sin(2 * np.pi * 440 * t),
        "beeps": 0.1 * np.sin(2 * np.pi * 440 * t) * (np.sin(2 * np.pi * 2 * t) > 0),
        "drone in noise": 0.1 * hum + 0.1 * rng.standard_normal(3 * RATE),
    }


@pytest.mark.parametrize("kind", list(_voiceless()))
def test_what_is_no_voice_is_not_called_one(kind):
    readings = measure(Audio(samples=_voiceless()[kind].astype(np.float32)))
    assert readings.segments == ()
    assert readings.functionals is None
    assert readings.voiced_seconds == 0.0


def test_functionals_do_not_depend_on_the_gain():
    loud = measure(Audio(samples=utterance()))
    soft = measure(Audio(samples=utterance() * np.float32(0.03)))
    assert loud.functionals.shape == (len(FUNCTIONAL_NAMES),)
    assert np.allclose(loud.functionals, soft.functionals, rtol=0.02, atol=0.02)
    assert loud.segments[0].level == soft.segments[0].level
    assert loud.segments[0].loudness_dbfs - soft.segments[0].loudness_dbfs == pytest.approx(30.5, abs=0.3)


def test_functionals_say_what_their_names_say():
    def value(samples, name):
        return measure(Audio(samples=samples)).functionals[FUNCTIONAL_NAMES.index(name)]

    assert value(utterance(pitch_hz=300.0), "pitch_mean_st") - value(utterance(), "pitch_mean_st") == pytest.approx(
        12, abs=1
    )
    slow = utterance(num_syllables=5, syllable_seconds=0.4)
    assert value(utterance(), "syllables_per_second") > value(slow, "syllables_per_second") + 1
    dark = vowel(150 + 20 * np.sin(np.linspace(0, 9, RATE)), 1.0, formants=((350, 60), (800, 80)))
    bright = vowel(150 + 20 * np.sin(np.linspace(0, 9, RATE)), 1.0, formants=((800, 60), (2500, 80)))
    assert value(bright, "alpha_ratio_db_mean") > value(dark, "alpha_ratio_db_mean") + 6
    assert value(bright, "f1_hz_mean") > value(dark, "f1_hz_mean") + 200
    assert np.isfinite(measure(Audio(samples=bright)).functionals).all()
    assert 80 <= len(set(FUNCTIONAL_NAMES)) == len(FUNCTIONAL_NAMES) <= 120


def test_long_sound_is_measured_in_blocks_as_in_one(monkeypatch):
    sound = np.tile(utterance(), 3)
    whole = measure(Audio(samples=sound))
    monkeypatch.setattr(prosody, "_BLOCK", 64)
    parts = measure(Audio(samples=sound))
    assert np.allclose(whole.functionals, parts.functionals, rtol=1e-3, atol=1e-3)
    assert [s.start for s in whole.segments] == [s.start for s in parts.segments]


def test_another_rate_is_resampled():
    high = signal.resample_poly(utterance(), 3, 1).astype(np.float32)
    (found,) = measure(Audio(samples=high, sample_rate=48_000)).segments
    assert found.pitch_hz == pytest.approx(segments(utterance())[0].pitch_hz, rel=0.02)


def test_stereo_is_refused_and_broken_samples_are_borne():
    with pytest.raises(InputError, match="one channel"):
        measure(Audio(samples=np.zeros((2, RATE), np.float32)))
    broken = utterance().copy()
    broken[100] = np.nan
    assert len(segments(broken)) == 1


def test_frames_of_silence_have_every_descriptor():
    frames = measure_frames(np.zeros(RATE, np.float32))
    assert len(frames) == 101
    assert find_voice(replace(frames)) == ()
    assert all(len(column) == 101 for column in frames.descriptors.values())
