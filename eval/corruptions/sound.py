"""Spoiled sound: noise at a signal-to-noise ratio, a narrow band, a part that is missing."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar, Literal

import numpy as np

from emollama.errors import InputError
from emollama.types import Audio, Clip, Modality
from eval.corruptions.corruption import Noises, changed, read_number, untouched
from eval.corruptions.noise import Kind, make_noise, mix, rms

_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)")


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Noise added at an SNR in dB. ``kind`` ``None``: recordings where a folder was named, made babble where not.

    A level is a number, ``5..10`` (an integer drawn from these, as MER2023-NOISE and MER2024-NOISE were made) or
    ``0|10|20`` (one of them drawn, the mix of MERBench).
    """

    modality: ClassVar[Modality] = "audio"
    levels: ClassVar[tuple[str, ...]] = ("20", "10", "5..10", "0")
    unit: ClassVar[str] = "dB SNR"
    kind: Kind | None = None

    def check(self, level: str) -> None:
        _choices(level)

    def draw(self, level: str, random: Random, noises: Noises | None) -> dict[str, Any]:
        if self.kind is None and noises is not None:
            source = noises.draw(random)
        else:
            source = {"made": self.kind or "babble", "seed": random.randrange(2**32)}
        return {**source, "snr_db": random.choice(_choices(level))}

    def apply(self, clip: Clip, drawn: Mapping[str, Any], noises: Noises | None) -> Clip:
        if clip.audio is None:
            return untouched(clip, "the clip has no sound")
        if rms(clip.audio.samples) == 0.0:
            return untouched(clip, "the sound is silent, so no noise can be scaled to it")
        audio = _at_16k(clip.audio)
        num_samples = len(audio.samples)
        if "file" in drawn:
            if noises is None:
                raise InputError(f"noise {drawn['file']!r} wants the folder it was drawn from", field="noise")
            noise = noises.read(drawn, num_samples)
        else:
            noise = make_noise(drawn["made"], num_samples, int(drawn["seed"]))
        samples = mix(audio.samples, noise, float(drawn["snr_db"]))
        return changed(clip, "noise", drawn, audio=dataclasses.replace(audio, samples=samples))


def _choices(level: str) -> list[float]:
    """Return the SNRs that a level lets be drawn."""
    found = _RANGE.fullmatch(level)
    if found and int(found[1]) <= int(found[2]):
        return [float(value) for value in range(int(found[1]), int(found[2]) + 1)]
    try:
        return [read_number(part, name="noise", low=-30.0, high=60.0) for part in level.split("|")]
    except InputError as error:
        raise InputError(
            f"noise level {level!r} is not allowed; dB from -30 to 60, such as 10, 5..10 or 0|10|20", field="corrupt"
        ) from error


def _at_16k(audio: Audio) -> Audio:
    from emollama.prosody import SAMPLE_RATE, mono_16k

    return dataclasses.replace(audio, samples=mono_16k(audio), sample_rate=SAMPLE_RATE)


@dataclass(frozen=True, kw_only=True)
class BandLimit:
    """Sound that went through a lower sampling rate: 8000 is a telephone's, nothing above 4 kHz is left."""

    modality: ClassVar[Modality] = "audio"
    levels: ClassVar[tuple[str, ...]] = ("8000",)
    unit: ClassVar[str] = "Hz sampling rate"

    def check(self, level: str) -> None:
        if read_number(level, name="band", low=2000, high=16_000) % 1:
            raise InputError(f"band level {level!r} is not allowed; a whole number of Hz", field="corrupt")

    def draw(self, level: str, random: Random, noises: Noises | None) -> dict[str, Any]:
        return {"sample_rate": int(float(level))}

    def apply(self, clip: Clip, drawn: Mapping[str, Any], noises: Noises | None) -> Clip:
        from math import gcd

        from scipy.signal import resample_poly

        if clip.audio is None:
            return untouched(clip, "the clip has no sound")
        audio, rate = _at_16k(clip.audio), int(drawn["sample_rate"])
        up, down = rate // gcd(rate, audio.sample_rate), audio.sample_rate // gcd(rate, audio.sample_rate)
        narrow = resample_poly(audio.samples.astype(np.float64), up, down)
        samples = np.clip(resample_poly(narrow, down, up)[: len(audio.samples)], -1.0, 1.0)
        return changed(clip, "band", drawn, audio=dataclasses.replace(audio, samples=samples.astype(np.float32)))


@dataclass(frozen=True, kw_only=True)
class AudioCut:
    """A share of the sound is missing: its beginning or end is not there, its middle is silent, as in a lost call.

    Times stay true: what is left of the sound begins where it began.
    """

    modality: ClassVar[Modality] = "audio"
    levels: ClassVar[tuple[str, ...]] = ("0.25", "0.5")
    unit: ClassVar[str] = "of the sound missing"
    where: Literal["first", "middle", "last"]

    def check(self, level: str) -> None:
        read_number(level, name=f"cut_{self.where}", low=0.0, high=1.0)

    def draw(self, level: str, random: Random, noises: Noises | None) -> dict[str, Any]:
        return {"share": float(level), "where": self.where}

    def apply(self, clip: Clip, drawn: Mapping[str, Any], noises: Noises | None) -> Clip:
        if clip.audio is None:
            return untouched(clip, "the clip has no sound")
        audio, total = clip.audio, len(clip.audio.samples)
        missing = round(float(drawn["share"]) * total)
        if missing == total:
            return changed(clip, "cut", drawn, audio=None)
        if self.where == "first":
            start = audio.start + missing / audio.sample_rate
            cut = dataclasses.replace(audio, samples=audio.samples[missing:], start=start)
        elif self.where == "last":
            cut = dataclasses.replace(audio, samples=audio.samples[: total - missing])
        else:
            samples, first = audio.samples.copy(), (total - missing) // 2
            samples[first : first + missing] = 0.0
            cut = dataclasses.replace(audio, samples=samples)
        return changed(clip, "cut", drawn, audio=cut)
