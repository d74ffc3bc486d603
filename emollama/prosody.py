"""Measures a voice from the signal: where it is, its pitch, loudness, speech rate, quality and spectrum.

Everything is numpy and scipy on mono 16 kHz sound. Where the methods come from:

- F0: the cumulative mean normalised difference of YIN (de Cheveigné & Kawahara, J. Acoust. Soc. Am. 111, 2002), several
  candidates a frame, then a choice near a running median so that octave errors do not survive.
- Syllables: peaks of the intensity envelope on voiced frames (Mermelstein, JASA 58, 1975; de Jong & Wempe, Behavior
  Research Methods 41, 2009).
- Functionals: in the manner of eGeMAPS (Eyben et al., IEEE Trans. Affective Computing 7, 2016). Jitter and shimmer are
  taken from 10 ms frames, not from single periods, so they are not comparable with Praat's. Formants are the peaks of
  a linear-prediction envelope. All functionals are free of the microphone's gain.

Levels. *Pitch* is "low" below 120 Hz and "high" above 220 Hz, about the means of men's and of women's conversational
speech (Baken & Orlikoff, Clinical Measurement of Speech and Voice, 2000): lower than the average man's is low for
anybody, higher than the average woman's is high for anybody. *Rate* is low below 3.4 and high above 4.8 counted nuclei
a second: read speech has about 4 to 6 syllables a second, of which the envelope merges about one in four. *Loudness*
cannot be read from dBFS, which is the recorder's gain; it is judged by vocal effort, the balance of 1-5 kHz against
50-1000 Hz (alpha ratio), which rises when people raise their voice (Traunmüller & Eriksson, JASA 107, 2000). And a
segment that departs clearly from the rest of its own clip (3 semitones, 5 dB, 1.5 syllables a second) moves one level
in that direction.

What it does not know: who speaks, which words, and singing or music from speech.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import gcd

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy import fft, ndimage, signal

from emollama.errors import InputError
from emollama.types import Audio, VoiceReadings, VoiceSegment
from emollama.watch import Check, unwatched

SAMPLE_RATE = 16_000
HOP = 160  # 10 ms
PITCH_FLOOR_HZ, PITCH_CEILING_HZ = 62.5, 600.0

PITCH_LEVELS_HZ = (120.0, 220.0)
EFFORT_LEVELS_DB = (-18.0, -10.0)  # alpha ratio of the voiced frames
RATE_LEVELS = (3.4, 4.8)

_SILENCE_DBFS = -75.0  # below it there is only dither and codec residue
_WINDOW = 400  # 25 ms, spectra
_FFT = 512
_LONG = 768  # 48 ms, F0: 32 ms are compared with themselves up to 16 ms later
_INTEGRATION = 512
_MAX_LAG = _LONG - _INTEGRATION
_MIN_LAG = int(SAMPLE_RATE / PITCH_CEILING_HZ)
_CANDIDATES = 6
_BLOCK = 2000  # frames a block: bounded memory for long sound
_NUM_MFCC = 13
_NUM_MEL = 26
_LPC_ORDER = 18


def _mel_filters() -> np.ndarray:
    """Triangular filters on the mel scale (O'Shaughnessy's formula), 20 to 8000 Hz: [26, 257]."""
    edges = 700 * (10 ** (np.linspace(0.0, 2595 * np.log10(1 + 8000 / 700), _NUM_MEL + 2) / 2595) - 1)
    hz = np.linspace(0, SAMPLE_RATE / 2, _FFT // 2 + 1)
    rising = (hz - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - hz) / (edges[2:] - edges[1:-1])[:, None]
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)


_HZ = np.linspace(0, SAMPLE_RATE / 2, _FFT // 2 + 1, dtype=np.float32)
_MEL = _mel_filters()
_HANN = np.hanning(_WINDOW).astype(np.float32)
_HANN_LONG = np.hanning(_LONG).astype(np.float32)
_PITCH_BAND = signal.butter(2, (60, 1200), btype="bandpass", fs=SAMPLE_RATE, output="sos")
_SYLLABLE_BAND = (_HZ >= 300) & (_HZ <= 3500)

# Per-frame measurements that get a mean and a standard deviation over the voiced frames.
_VOICED_DESCRIPTORS = (
    "jitter", "shimmer_db", "hnr_db", "h1_h2_db", "f1_hz", "f2_hz", "f3_hz", "a1_db", "a2_db", "a3_db",
    "alpha_ratio_db", "hammarberg_db", "slope_0_500", "slope_500_1500", "centroid_hz", "rolloff_hz", "flux",
    "flatness_db",
)  # fmt: skip
_UNVOICED_DESCRIPTORS = ("alpha_ratio_db", "hammarberg_db", "slope_500_1500", "centroid_hz", "flux")

FUNCTIONAL_NAMES: tuple[str, ...] = (
    "pitch_mean_st", "pitch_std_st", "pitch_p10_st", "pitch_p50_st", "pitch_p90_st", "pitch_range_st",
    "pitch_skew", "pitch_slope_st_per_s", "pitch_change_mean_st", "pitch_rise_mean", "pitch_rise_std",
    "pitch_fall_mean", "pitch_fall_std", "pitch_final_st",
    "loudness_std_db", "loudness_p10_db", "loudness_p90_db", "loudness_range_db", "loudness_skew",
    "loudness_slope_db_per_s", "loudness_change_mean_db", "loudness_rise_mean", "loudness_fall_mean",
    "loudness_final_db", "voiced_over_unvoiced_db",
    "syllables_per_second", "syllable_interval_std_s", "syllable_prominence_db", "voiced_share", "voiced_run_mean_s",
    "voiced_run_std_s", "unvoiced_run_mean_s", "unvoiced_run_std_s", "voiced_runs_per_second", "pause_share",
    *(f"{name}_{kind}" for name in _VOICED_DESCRIPTORS for kind in ("mean", "std")),
    *(f"{name}_unvoiced_mean" for name in _UNVOICED_DESCRIPTORS),
    *(f"mfcc{i}_{kind}" for i in range(1, _NUM_MFCC + 1) for kind in ("mean", "std")),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class VoiceFrames:
    """Measurements every 10 ms: frame t is centred at ``t * 0.01`` seconds.

    ``loudness_db`` [T] RMS in dBFS; ``pitch_hz`` [T] the best F0 of every frame, meaningful where ``voiced`` [T] is
    true; ``periodicity`` [T] 0 to 1; ``syllable_db`` [T] level of 300-3500 Hz; ``harmonics`` [T] share of the power
    above the first harmonic; ``mfcc`` [T, 13]; ``descriptors`` name -> [T].
    """

    loudness_db: np.ndarray
    pitch_hz: np.ndarray
    periodicity: np.ndarray
    voiced: np.ndarray
    syllable_db: np.ndarray
    harmonics: np.ndarray
    mfcc: np.ndarray
    descriptors: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.loudness_db)


def measure(audio: Audio, *, check: Check = unwatched) -> VoiceReadings:
    """Find the voice in a sound and measure it; no segments and no functionals when there is none.

    ``check`` is asked every few tens of seconds of sound.
    """
    samples = mono_16k(audio)
    frames = measure_frames(samples, check=check)
    spans = find_voice(frames)
    if not spans:
        return VoiceReadings(voiced_seconds=0.0, segments=())
    inside = _mask(spans, len(frames))
    segments = _segments(frames, spans, offset=audio.start, seconds=len(samples) / SAMPLE_RATE)
    voiced_seconds = float(np.count_nonzero(frames.voiced & inside)) * HOP / SAMPLE_RATE
    return VoiceReadings(voiced_seconds=voiced_seconds, segments=segments, functionals=functionals(frames, spans))


def mono_16k(audio: Audio) -> np.ndarray:
    """Return the samples [S] as finite float32 at 16 kHz; raises `InputError` for anything but one channel."""
    samples = np.asarray(audio.samples)
    if samples.ndim != 1:
        raise InputError(f"audio has shape {samples.shape}; allowed: one channel, [S]", field="audio")
    samples = np.nan_to_num(samples.astype(np.float32, copy=False), nan=0.0, posinf=1.0, neginf=-1.0)
    if audio.sample_rate != SAMPLE_RATE and len(samples):
        divisor = gcd(audio.sample_rate, SAMPLE_RATE)
        samples = signal.resample_poly(samples, SAMPLE_RATE // divisor, audio.sample_rate // divisor).astype(np.float32)
    return samples


# ---- frames -------------------------------------------------------------------------------------------------------


def measure_frames(samples: np.ndarray, *, check: Check = unwatched) -> VoiceFrames:
    """Measure every 10 ms of mono 16 kHz samples [S]: T = S // 160 + 1 frames."""
    num_frames = len(samples) // HOP + 1
    centred = samples - samples.mean() if len(samples) else samples
    padded = np.pad(centred, _LONG)
    loudness_db = np.empty(num_frames, np.float32)
    windows = sliding_window_view(padded, _WINDOW)[_LONG - _WINDOW // 2 :: HOP][:num_frames]
    for start in range(0, num_frames, _BLOCK):
        block = windows[start : start + _BLOCK]
        loudness_db[start : start + _BLOCK] = 10 * np.log10(np.einsum("tw,tw->t", block, block) / _WINDOW + 1e-12)
    level_db = float(np.percentile(loudness_db, 95))
    if level_db < _SILENCE_DBFS:
        return _silence(loudness_db)

    # Bring the clip to one level, so that what follows does not depend on the microphone's gain.
    scaled = (padded * np.float32(10 ** (-(level_db + 20) / 20))).astype(np.float32)
    low = np.empty_like(scaled)
    state = np.zeros((len(_PITCH_BAND), 2))
    for start in range(0, len(scaled), _BLOCK * HOP):
        part = slice(start, start + _BLOCK * HOP)
        low[part], state = signal.sosfilt(_PITCH_BAND, scaled[part], zi=state)
    long = slice(_LONG - _LONG // 2, None, HOP)
    blocks = {
        "short": sliding_window_view(scaled, _WINDOW)[_LONG - _WINDOW // 2 :: HOP][:num_frames],
        "long": sliding_window_view(scaled, _LONG)[long][:num_frames],
        "low": sliding_window_view(low, _LONG)[long][:num_frames],
    }
    lags, dips = _blockwise(blocks["low"], _pitch_candidates, check)
    pitch_hz, dip = _choose_pitch(lags, dips)
    voiced = _voicing(dip, loudness_db, level_db)

    descriptors, mfcc = _spectral_descriptors(blocks["short"], pitch_hz, check)
    harmonic = _blockwise_pitch(blocks["long"], pitch_hz, check)
    descriptors["h1_h2_db"] = harmonic[0]
    descriptors["hnr_db"] = 10 * np.log10(np.clip(1 - dip, 0.01, 0.999) / np.clip(dip, 0.001, 0.99))
    descriptors["jitter"] = _perturbation(1 / pitch_hz, relative=True)
    descriptors["shimmer_db"] = _perturbation(descriptors.pop("peak_db"), relative=False)
    syllable_db = descriptors.pop("syllable_db")
    return VoiceFrames(
        loudness_db=loudness_db,
        pitch_hz=pitch_hz,
        periodicity=np.clip(1 - dip, 0, 1),
        voiced=voiced,
        syllable_db=syllable_db,
        harmonics=harmonic[1],
        mfcc=mfcc,
        descriptors=descriptors,
    )


def _silence(loudness_db: np.ndarray) -> VoiceFrames:
    zeros = np.zeros(len(loudness_db), np.float32)
    return VoiceFrames(
        loudness_db=loudness_db,
        pitch_hz=zeros,
        periodicity=zeros,
        voiced=zeros > 0,
        syllable_db=zeros,
        harmonics=zeros,
        mfcc=np.zeros((len(loudness_db), _NUM_MFCC), np.float32),
        descriptors=dict.fromkeys(_VOICED_DESCRIPTORS, zeros),
    )


def _blockwise(
    windows: np.ndarray, function: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]], check: Check
) -> tuple[np.ndarray, np.ndarray]:
    parts = []
    for start in range(0, len(windows), _BLOCK):
        check()
        parts.append(function(windows[start : start + _BLOCK]))
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def _pitch_candidates(windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The deepest dips of YIN's normalised difference d' of windows [N, 768]: lags [N, K] in samples, d' [N, K]."""
    x = windows - windows.mean(1, keepdims=True)
    head = fft.rfft(x[:, :_INTEGRATION], _LONG)
    cross = fft.irfft(np.conj(head) * fft.rfft(x, _LONG), _LONG)[:, : _MAX_LAG + 1]
    energy = np.concatenate([np.zeros((len(x), 1), np.float32), np.cumsum(x * x, axis=1, dtype=np.float64)], axis=1)
    later = energy[:, _INTEGRATION : _INTEGRATION + _MAX_LAG + 1] - energy[:, : _MAX_LAG + 1]
    d = np.maximum(later[:, :1] + later - 2 * cross, 0)  # [N, 257]
    lag = np.arange(_MAX_LAG + 1)
    mean = np.cumsum(d, axis=1) / np.maximum(lag, 1)
    normalised = np.where(mean > 1e-9, d / np.maximum(mean, 1e-9), 1.0)
    inner = normalised[:, 1:-1]
    is_dip = (inner < normalised[:, :-2]) & (inner <= normalised[:, 2:])
    is_dip[:, : _MIN_LAG - 1] = False
    score = np.where(is_dip, inner, 9.0)
    best = np.argpartition(score, _CANDIDATES, axis=1)[:, :_CANDIDATES]  # index into lags from 1
    dips = np.take_along_axis(score, best, 1)
    left, mid, right = (np.take_along_axis(normalised, best + shift, 1) for shift in (0, 1, 2))
    curve = left - 2 * mid + right
    offset = np.where(np.abs(curve) > 1e-9, 0.5 * (left - right) / np.where(np.abs(curve) > 1e-9, curve, 1), 0)
    depth = np.minimum(dips, mid - 0.25 * (left - right) * offset)
    lags = best + 1 + np.clip(offset, -0.5, 0.5)
    there = dips < 9
    lags = np.where(there, lags, _MAX_LAG).astype(np.float32)
    return lags, np.where(there, np.clip(depth, 0, 2), 9.0).astype(np.float32)


def _choose_pitch(lags: np.ndarray, dips: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Choose one candidate a frame: YIN's first deep dip, then what fits a running median: F0 [T], d' [T]."""
    octaves = np.log2(SAMPLE_RATE / lags)
    close = dips <= dips.min(1, keepdims=True) + 0.08
    choice = np.where(close & (dips < 9), lags, 1e9).argmin(1)
    rows = np.arange(len(lags))
    for _ in range(2):
        sure = np.flatnonzero(dips[rows, choice] < 0.2)
        if len(sure) < 5:
            break
        contour = octaves[sure, choice[sure]]
        wide = ndimage.median_filter(contour, size=min(len(sure), 81), mode="nearest")
        near = ndimage.median_filter(contour, size=min(len(sure), 21), mode="nearest")
        reference = np.interp(rows, sure, 0.5 * (wide + near))
        choice = (dips + 0.3 * np.minimum(np.abs(octaves - reference[:, None]), 1.2)).argmin(1)
    return 2 ** octaves[rows, choice], np.minimum(dips[rows, choice], 1.0)


def _voicing(dip: np.ndarray, loudness_db: np.ndarray, level_db: float) -> np.ndarray:
    """Frames with a period: deep dips, spread to their less deep neighbours; runs under 30 ms are dropped."""
    floor_db = float(np.percentile(loudness_db, 5))
    audible = loudness_db > max(level_db - 32, min(floor_db + 4, level_db - 12))
    core = (dip < 0.22) & audible
    voiced = ndimage.binary_propagation(core, mask=(dip < 0.42) & audible)
    voiced = ndimage.binary_closing(np.pad(voiced, 2), np.ones(3))[2:-2]
    opened: np.ndarray = ndimage.binary_opening(np.pad(voiced, 3), np.ones(4))[3:-3]
    return opened & audible


def _spectral_descriptors(
    windows: np.ndarray, pitch_hz: np.ndarray, check: Check
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Everything that is read off the spectra of windows [T, 400], block by block: name -> [T], and MFCC [T, 13]."""
    parts: list[dict[str, np.ndarray]] = []
    for start in range(0, len(windows), _BLOCK):
        check()
        lead = min(start, 1)  # the flux wants the frame before
        part = slice(start - lead, start + _BLOCK)
        power = np.abs(fft.rfft(windows[part] * _HANN, _FFT)) ** 2 + np.float32(1e-6)  # 50 dB under the voice
        columns, mfcc = _spectral(power)
        _formants(power, pitch_hz[part], columns)
        columns["peak_db"] = 20 * np.log10(np.abs(windows[part]).max(1) + 1e-4)
        columns["syllable_db"] = 10 * np.log10(power[:, _SYLLABLE_BAND].sum(1))
        columns["mfcc"] = mfcc
        parts.append({name: column[lead:] for name, column in columns.items()})
    joined = {name: np.concatenate([columns[name] for columns in parts]) for name in parts[0]}
    return joined, joined.pop("mfcc")


def _spectral(power: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Shape of the power spectrum [T, 257]: descriptors and MFCC 1 to 13."""
    db = 10 * np.log10(power)
    bands = {name: _between(low, high) for name, (low, high) in _BANDS.items()}
    energy = {name: power[:, band].sum(1) for name, band in bands.items()}
    total = power.sum(1)
    cumulative = np.cumsum(power, axis=1)
    spectrum = np.sqrt(power / total[:, None])
    flux = np.zeros(len(power), np.float32)
    flux[1:] = np.sqrt(((spectrum[1:] - spectrum[:-1]) ** 2).sum(1))
    log_mel = np.log(power @ _MEL.T + 1e-6)
    mfcc = fft.dct(log_mel, type=2, norm="ortho", axis=1)[:, 1 : _NUM_MFCC + 1]
    speech = bands["speech"]
    descriptors = {
        "alpha_ratio_db": 10 * np.log10(energy["1k_5k"] / energy["50_1k"]),
        "hammarberg_db": db[:, bands["0_2k"]].max(1) - db[:, bands["2k_5k"]].max(1),
        "slope_0_500": _slope(db[:, bands["0_500"]], _HZ[bands["0_500"]] / 100),
        "slope_500_1500": _slope(db[:, bands["500_1500"]], _HZ[bands["500_1500"]] / 100),
        "centroid_hz": (power @ _HZ) / total,
        "rolloff_hz": _HZ[(cumulative < 0.85 * total[:, None]).sum(1).clip(max=len(_HZ) - 1)],
        "flux": flux,
        "flatness_db": db[:, speech].mean(1) - 10 * np.log10(power[:, speech].mean(1)),
    }
    return descriptors, mfcc.astype(np.float32)


_BANDS = {
    "50_1k": (50, 1000),
    "1k_5k": (1000, 5000),
    "0_2k": (50, 2000),
    "2k_5k": (2000, 5000),
    "0_500": (50, 500),
    "500_1500": (500, 1500),
    "speech": (100, 5000),
}


def _between(low: float, high: float) -> np.ndarray:
    """Mask [257] of the bins from ``low`` up to ``high`` Hz."""
    return np.greater_equal(_HZ, low) & np.less(_HZ, high)


def _slope(values: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Least-squares slope of every row of [T, N] over x [N]."""
    centred = x - x.mean()
    slope: np.ndarray = values @ (centred / (centred @ centred))
    return slope


def _blockwise_pitch(windows: np.ndarray, pitch_hz: np.ndarray, check: Check) -> tuple[np.ndarray, np.ndarray]:
    """First minus second harmonic in dB [T], and the share of the power above the first harmonic [T]."""
    step = SAMPLE_RATE / _LONG
    h1_h2 = np.empty(len(windows), np.float32)
    share = np.empty(len(windows), np.float32)
    for start in range(0, len(windows), _BLOCK):
        check()
        f0 = pitch_hz[start : start + _BLOCK]
        power = np.abs(fft.rfft(windows[start : start + _BLOCK] * _HANN_LONG, _LONG)) ** 2 + 1e-6
        rows = np.arange(len(f0))
        first, second = (
            np.max([power[rows, np.round(f0 * k / step).astype(int) + d] for d in (-1, 0, 1)], axis=0) for k in (1, 2)
        )
        cumulative = np.cumsum(power[:, :192], axis=1)  # to 4 kHz
        below = cumulative[rows, np.minimum(np.ceil(1.5 * f0 / step).astype(int), 191)]
        h1_h2[start : start + _BLOCK] = 10 * np.log10(first / second)
        share[start : start + _BLOCK] = 1 - below / cumulative[:, -1]
    return h1_h2, share


def _formants(power: np.ndarray, pitch_hz: np.ndarray, into: dict[str, np.ndarray]) -> None:
    """First three peaks of the linear-prediction envelope (200-4000 Hz) and their level against the first harmonic."""
    emphasis = np.abs(1 - 0.97 * np.exp(-2j * np.pi * _HZ / SAMPLE_RATE)).astype(np.float32) ** 2
    r = fft.irfft(power * emphasis, axis=1)[:, : _LPC_ORDER + 1].astype(np.float64)
    r[:, 0] *= 1.0001
    a = np.zeros_like(r)
    a[:, 0] = 1
    error = r[:, 0].copy()
    for order in range(1, _LPC_ORDER + 1):  # Levinson-Durbin, all frames at once
        k = -(a[:, :order] * r[:, order:0:-1]).sum(1) / error
        a[:, 1 : order + 1] += k[:, None] * a[:, order - 1 :: -1][:, :order]
        error *= np.maximum(1 - k * k, 1e-6)
    envelope = -20 * np.log10(np.abs(fft.rfft(a, _FFT, axis=1)) + 1e-9)  # [T, 257]
    inner = envelope[:, 1:-1]
    is_peak = (inner > envelope[:, :-2]) & (inner >= envelope[:, 2:])
    low, high = np.searchsorted(_HZ, (200, 4000))
    is_peak[:, : low - 1] = False
    is_peak[:, high:] = False
    order_of_peak = np.cumsum(is_peak, axis=1)
    rows = np.arange(len(power))
    at_pitch = envelope[rows, np.clip(np.round(pitch_hz / _HZ[1]).astype(int), 0, len(_HZ) - 1)]
    for number in (1, 2, 3):
        found = order_of_peak[:, -1] >= number
        index = (order_of_peak >= number).argmax(1) + 1
        into[f"f{number}_hz"] = np.where(found, _HZ[index], np.nan)
        into[f"a{number}_db"] = np.where(found, envelope[rows, index] - at_pitch, np.nan)


def _perturbation(values: np.ndarray, *, relative: bool) -> np.ndarray:
    """Departure of each frame from the mean of its two neighbours (as RAP), relative to its own value or absolute."""
    padded = np.pad(values, 1, mode="edge")
    departure = np.abs(values - (padded[:-2] + padded[2:]) / 2)
    return departure / np.abs(values) if relative else departure


# ---- where the voice is -------------------------------------------------------------------------------------------


def find_voice(frames: VoiceFrames) -> tuple[tuple[int, int], ...]:
    """Return the stretches of speech as (first, last + 1) frames, padded by 60 ms; gaps under 0.4 s are bridged.

    A stretch is a voice when at least 0.12 s of it is voiced with one run of 0.07 s; when it has harmonics above the
    first and most of its power below 4 kHz; and when it moves: a hum or a beep keeps its pitch and level.
    """
    labelled, count = ndimage.label(ndimage.binary_closing(np.pad(frames.voiced, 40), np.ones(40))[40:-40])
    spans = []
    for (where,) in ndimage.find_objects(labelled, count):
        if _is_voice(frames, where):
            spans.append((max(0, where.start - 6), min(len(frames), where.stop + 6)))
    merged: list[tuple[int, int]] = []
    for start, end in spans:
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
    return tuple(merged)


def _is_voice(frames: VoiceFrames, where: slice) -> bool:
    voiced = frames.voiced[where]
    count = int(np.count_nonzero(voiced))
    runs = _run_lengths(voiced)
    if count < 12 or max(runs) < 7:
        return False
    pitch = 12 * np.log2(frames.pitch_hz[where][voiced])
    loudness = frames.loudness_db[where][voiced]
    steady = float(np.percentile(pitch, 90) - np.percentile(pitch, 10)) < 0.25
    if steady and float(np.percentile(loudness, 90) - np.percentile(loudness, 10)) < 6:
        return False
    # The pitch of a voice glides; where noise looks periodic by chance it leaps from frame to frame.
    both = voiced[1:] & voiced[:-1]
    leaps = np.abs(np.diff(12 * np.log2(frames.pitch_hz[where])))[both]
    if float(np.mean(leaps > 1.5)) > 0.25:
        return False
    descriptors = frames.descriptors
    harmonics = float(np.median(frames.harmonics[where][voiced]))
    alpha_db = float(np.median(descriptors["alpha_ratio_db"][where][voiced]))
    periodic = float(np.median(frames.periodicity[where][voiced]))
    if float(np.percentile(pitch, 90) - np.percentile(pitch, 10)) < 1.0 and periodic < 0.85:
        return False  # a drone or a held chord: it hardly moves and is less periodic than a voice that is so even
    return harmonics > 0.02 and alpha_db < 6 and periodic > 0.72


def _run_lengths(mask: np.ndarray) -> np.ndarray:
    """Lengths of the runs of True in [T]; empty when there is none."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
    return edges[1::2] - edges[::2]


def _mask(spans: tuple[tuple[int, int], ...], length: int) -> np.ndarray:
    mask = np.zeros(length, bool)
    for start, end in spans:
        mask[start:end] = True
    return mask


def syllable_frames(frames: VoiceFrames) -> tuple[np.ndarray, np.ndarray]:
    """Return the frames of syllable nuclei, envelope peaks of 2 dB or more on voiced frames, and their prominence."""
    envelope = ndimage.gaussian_filter1d(frames.syllable_db, 2.5)
    floor = envelope[frames.voiced].max() - 25 if frames.voiced.any() else np.inf
    peaks, found = signal.find_peaks(envelope, prominence=2.0, distance=8, height=floor)
    keep = ndimage.binary_dilation(frames.voiced, np.ones(3))[peaks]
    return peaks[keep], found["prominences"][keep]


def _segments(
    frames: VoiceFrames, spans: tuple[tuple[int, int], ...], *, offset: float, seconds: float
) -> tuple[VoiceSegment, ...]:
    """Measure every stretch; levels also look at how a stretch departs from the others of its clip."""
    nuclei, _ = syllable_frames(frames)
    step = HOP / SAMPLE_RATE
    rows = []
    for start, end in spans:
        voiced = np.flatnonzero(frames.voiced[start:end]) + start
        pitch = 12 * np.log2(frames.pitch_hz[voiced])
        power = 10 ** (frames.loudness_db[voiced] / 10)
        rate = np.count_nonzero((nuclei >= start) & (nuclei < end)) / ((end - start) * step)
        rows.append(
            {
                "pitch": float(np.median(pitch)),
                "range": float(np.subtract(*np.percentile(pitch, (90, 10)))),
                "slope": float(_slope(pitch[None], voiced * step)[0]),
                "loudness": float(10 * np.log10(power.mean())),
                "effort": float(np.mean(frames.descriptors["alpha_ratio_db"][voiced])),
                "rate": float(rate),
                "weight": float(len(voiced)),
            }
        )
    weights = np.array([row["weight"] for row in rows])
    usual = {
        key: float(np.average([row[key] for row in rows], weights=weights)) for key in ("pitch", "loudness", "rate")
    }
    low_st, high_st = (12 * np.log2(hz) for hz in PITCH_LEVELS_HZ)
    segments = []
    for (start, end), row in zip(spans, rows, strict=True):
        level = {
            "pitch": _level(row["pitch"], (low_st, high_st), row["pitch"] - usual["pitch"], 3.0),
            "loudness": _level(row["effort"], EFFORT_LEVELS_DB, row["loudness"] - usual["loudness"], 5.0),
            "rate": _level(row["rate"], RATE_LEVELS, row["rate"] - usual["rate"], 1.5),
        }
        segments.append(
            VoiceSegment(
                start=offset + start * step,
                end=offset + min(end * step, seconds),
                pitch_hz=float(2 ** (row["pitch"] / 12)),
                pitch_range_semitones=row["range"],
                pitch_slope=row["slope"],
                loudness_dbfs=row["loudness"],
                syllables_per_second=row["rate"],
                level=level,
            )
        )
    return tuple(segments)


def _level(value: float, bounds: tuple[float, float], departure: float, step: float) -> str:
    rank = 0 if value < bounds[0] else 2 if value > bounds[1] else 1
    rank += (departure > step) - (departure < -step)
    return ("low", "medium", "high")[min(2, max(0, rank))]


# ---- functionals --------------------------------------------------------------------------------------------------


def functionals(frames: VoiceFrames, spans: tuple[tuple[int, int], ...]) -> np.ndarray:
    """Statistics of the voice inside ``spans``: [F] float32, one for each of `FUNCTIONAL_NAMES`, free of gain."""
    inside = _mask(spans, len(frames))
    voiced = frames.voiced & inside
    unvoiced = inside & ~frames.voiced & (frames.loudness_db > np.percentile(frames.loudness_db[voiced], 95) - 45)
    step = HOP / SAMPLE_RATE
    both = voiced[1:] & voiced[:-1]
    times = np.flatnonzero(voiced) * step

    pitch = 12 * np.log2(np.maximum(ndimage.median_filter(frames.pitch_hz, 3), 30.0) / 27.5)
    p = pitch[voiced]
    p10, p50, p90 = np.percentile(p, (10, 50, 90))
    pitch_change = np.diff(pitch)[both]
    loud = frames.loudness_db - 10 * np.log10(np.mean(10 ** (frames.loudness_db[voiced] / 10)))
    v = loud[voiced]
    l10, l90 = np.percentile(v, (10, 90))
    loud_change = np.diff(ndimage.uniform_filter1d(loud, 3))[both]
    last = max(1, len(p) // 5)

    nuclei, prominence = syllable_frames(frames)
    kept = inside[nuclei]
    nuclei, prominence = nuclei[kept], prominence[kept]
    intervals = np.diff(nuclei) * step
    intervals = intervals[intervals < 0.6]
    seconds = np.count_nonzero(inside) * step
    extent = (spans[-1][1] - spans[0][0]) * step
    runs = _run_lengths(voiced) * step
    gaps = _run_lengths(inside & ~frames.voiced) * step

    values = [
        p.mean(), p.std(), p10, p50, p90, p90 - p10, _skew(p), _slope(p[None], times)[0] if len(p) > 1 else 0.0,
        _mean(np.abs(pitch_change)), _mean(pitch_change[pitch_change > 0]), _std(pitch_change[pitch_change > 0]),
        _mean(-pitch_change[pitch_change < 0]), _std(pitch_change[pitch_change < 0]), p[-last:].mean() - p.mean(),
        v.std(), l10, l90, l90 - l10, _skew(v), _slope(v[None], times)[0] if len(v) > 1 else 0.0,
        _mean(np.abs(loud_change)), _mean(loud_change[loud_change > 0]), _mean(-loud_change[loud_change < 0]),
        v[-last:].mean() - v.mean(), v.mean() - _mean(loud[unvoiced]),
        len(nuclei) / seconds, _std(intervals), _mean(prominence), len(p) * step / seconds, _mean(runs), _std(runs),
        _mean(gaps), _std(gaps), len(runs) / seconds, 1 - seconds / extent,
    ]  # fmt: skip
    for name in _VOICED_DESCRIPTORS:
        column = frames.descriptors[name][voiced]
        column = column[np.isfinite(column)]
        values += [_mean(column), _std(column)]
    values += [_mean(frames.descriptors[name][unvoiced]) for name in _UNVOICED_DESCRIPTORS]
    mean, std = frames.mfcc[voiced].mean(0), frames.mfcc[voiced].std(0)
    values += [float(x) for pair in zip(mean, std, strict=True) for x in pair]
    return np.nan_to_num(np.asarray(values, np.float32))


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else 0.0


def _std(values: np.ndarray) -> float:
    return float(values.std()) if len(values) else 0.0


def _skew(values: np.ndarray) -> float:
    spread = float(values.std())
    return float((((values - values.mean()) / spread) ** 3).mean()) if spread > 1e-6 else 0.0
