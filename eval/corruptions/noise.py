"""Noise for sound at 16 kHz: made by rule from a seed, or taken from a folder of recordings such as MUSAN.

MUSAN (Snyder et al., 2015, openslr.org/17) is what the MER challenges add; it is not shipped. What is made here stands
in for it and says so: white noise, noise with about the long-term spectrum of speech, and a babble of synthetic talkers
(buzzing voices with syllables and formants, no words). Results with made noise are not those of MUSAN.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any, Literal

import numpy as np

from emollama.errors import DatasetError, InputError

SAMPLE_RATE = 16_000
SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".m4a")
Kind = Literal["white", "speech_shaped", "babble"]
NUM_TALKERS = 6
_LONGEST_SECONDS = 7200.0
_SILENT = 1e-5  # RMS of full scale, -100 dBFS


def make_noise(kind: Kind, num_samples: int, seed: int) -> np.ndarray:
    """Make noise [num_samples] float64 of RMS 1; the same kind, length and seed give the same samples."""
    random = np.random.default_rng(seed)
    if kind == "white":
        samples = random.standard_normal(num_samples)
    elif kind == "speech_shaped":
        samples = _shaped(random.standard_normal(num_samples))
    elif kind == "babble":
        samples = sum((_talker(num_samples, random) for _ in range(NUM_TALKERS)), np.zeros(num_samples))
    else:
        raise InputError(f"noise {kind!r} is not known; one of white, speech_shaped, babble", field="kind")
    return samples / max(rms(samples), 1e-12)


def rms(samples: np.ndarray) -> float:
    """Return the root mean square of samples; 0 of none."""
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) if len(samples) else 0.0


def mix(clean: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """Add noise so that the RMS of sound over noise is ``snr_db``; a mix beyond full scale is scaled down as a whole.

    Both are [S]; the rule of MERTools' ``main-noise.py``: RMS over the whole clip, and where the sum would clip, all of
    it is made quieter, which leaves the ratio as it is. Returns float32 in [-1, 1].
    """
    gain = rms(clean) / (10 ** (snr_db / 20) * rms(noise))
    mixed = clean.astype(np.float64) + gain * noise
    peak = float(np.abs(mixed).max())
    return (mixed / max(1.0, peak)).astype(np.float32)


def _shaped(white: np.ndarray) -> np.ndarray:
    """Give white noise the slope of long-term speech: little below 100 Hz, flat to 500 Hz, then -9 dB an octave.

    The slope is our reading of Byrne et al., J. Acoust. Soc. Am. 96, 1994, not their table.
    """
    spectrum = np.fft.rfft(white)
    hz = np.fft.rfftfreq(len(white), 1 / SAMPLE_RATE)
    gain = np.minimum(1.0, hz / 100.0) ** 2 * np.maximum(1.0, hz / 500.0) ** (-9 / (20 * np.log10(2)))
    return np.fft.irfft(spectrum * gain, len(white))


def _talker(num_samples: int, random: np.random.Generator) -> np.ndarray:
    """Make one buzzing voice: syllables of 0.12 to 0.3 s with a pitch that glides and two formants, and pauses."""
    from scipy.signal import lfilter

    voice = np.zeros(num_samples)
    base_hz = random.uniform(90.0, 240.0)
    start = int(random.uniform(0.0, 0.3) * SAMPLE_RATE)
    while start < num_samples:
        length = int(random.uniform(0.12, 0.30) * SAMPLE_RATE)
        begin, finish = (float(end) for end in random.uniform(0.85, 1.15, 2))
        glide = np.linspace(begin, finish, length)
        phase = np.cumsum(base_hz * glide) / SAMPLE_RATE
        syllable = 2.0 * (phase % 1.0) - 1.0 + 0.1 * random.standard_normal(length)
        for hz, width in ((random.uniform(300, 800), 90.0), (random.uniform(900, 2300), 140.0)):
            radius = np.exp(-np.pi * width / SAMPLE_RATE)
            poles = [1.0, -2.0 * radius * np.cos(2 * np.pi * hz / SAMPLE_RATE), radius**2]
            syllable = lfilter([1.0 - radius], poles, syllable)
        syllable *= np.hanning(length) / max(rms(syllable), 1e-9)
        end = min(start + length, num_samples)
        voice[start:end] += syllable[: end - start]
        pause = random.uniform(0.2, 0.7) if random.random() < 0.15 else random.uniform(0.0, 0.06)
        start += length + int(pause * SAMPLE_RATE)
    return voice


class NoiseFolder:
    """Recordings of noise below a folder, sub-folders too; for MUSAN as in the challenges, name its ``speech`` folder.

    Raises `DatasetError` for a folder that does not exist or holds no sound.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise DatasetError(f"noise folder {folder} does not exist; MUSAN is at openslr.org/17", field="noise")
        found = (path for path in self.folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        self.names = sorted(path.relative_to(self.folder).as_posix() for path in found)
        if not self.names:
            raise DatasetError(f"noise folder {folder} holds no {', '.join(SUFFIXES)} file", field="noise")
        self._hash = lru_cache(maxsize=None)(self._hash_of)
        self._read = lru_cache(maxsize=4)(self._read_whole)

    def draw(self, random: Random) -> dict[str, Any]:
        """Draw a recording and where in it the noise begins, as a share of its length."""
        name = self.names[random.randrange(len(self.names))]
        return {"file": name, "sha256": self._hash(name), "offset": round(random.random(), 6)}

    def read(self, drawn: Mapping[str, Any], num_samples: int) -> np.ndarray:
        """Return the noise [num_samples] from the drawn place on, in a loop; silence there is passed over.

        Raises `DatasetError` when the file is not the one that was drawn, or holds nothing but silence.
        """
        name = str(drawn["file"])
        if name not in self.names:
            raise DatasetError(f"{self.folder} does not hold {name}, which the manifest names", field="noise")
        if self._hash(name) != drawn["sha256"]:
            raise DatasetError(
                f"{self.folder / name} is not the file that was drawn: sha256 {self._hash(name)[:12]}... instead of "
                f"{str(drawn['sha256'])[:12]}...",
                field="noise",
            )
        whole = self._read(name)
        first = int(float(drawn["offset"]) * len(whole))
        for step in range(0, len(whole), max(1, num_samples)):
            piece = np.resize(np.roll(whole, -(first + step)), num_samples)
            if rms(piece) > _SILENT:
                return piece
        raise DatasetError(f"{self.folder / name} is silent; noise wants a sound", field="noise")

    def _hash_of(self, name: str) -> str:
        with (self.folder / name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def _read_whole(self, name: str) -> np.ndarray:
        from emollama.media import MediaLimits, read_clip
        from emollama.prosody import mono_16k

        limits = MediaLimits(max_bytes=2 * 10**9, max_seconds=_LONGEST_SECONDS)
        audio = read_clip(self.folder / name, limits=limits).audio
        if audio is None or not len(audio.samples):
            raise DatasetError(f"{self.folder / name} holds no sound", field="noise")
        return mono_16k(audio)
