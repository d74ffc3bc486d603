"""Reads a sample's clip through an `Analyzer` and makes its `Observation`: label, peak frame, units, voice, words.

The clip is decoded once and cut to the sample's stretch. An OpenFace CSV is looked for by the sample's id and then by
its clip's name. Everything an explanation may later rest on is measured here; nothing is written but the peak frame's
picture.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from emollama import prosody
from emollama.errors import DatasetError
from emollama.evidence import agreement_of, lead_of
from emollama.labels import canonical
from emollama.manifest import Manifest, Sample
from emollama.media import MediaLimits, read_clip
from emollama.prompt import Cues, Source, longest
from emollama.timeline import smooth
from emollama.types import Audio, Clip, FaceReadings, Frames, VoiceReadings
from train.builders.merr.action_units import ActionUnits, read_openface
from train.builders.merr.observation import (
    Curve,
    FaceReading,
    LabelSource,
    Observation,
    PeakFrame,
    UnitReading,
    VoiceReading,
)
from train.builders.merr.peaks import Peak, PeakOptions, action_unit_peak, expression_peak
from train.builders.merr.rules import Rules

if TYPE_CHECKING:
    from emollama.analyze import Analyzer, Understanding

CURVE_POINTS = 160
PICTURE_LONG_SIDE = 640


@dataclass(frozen=True, kw_only=True)
class Read:
    """What reading one sample gave: the observation, what the analyzer understood, and the peak frame as a JPEG."""

    observation: Observation
    understanding: Understanding
    picture: bytes | None


class ClipReader:
    """Reads samples of one manifest; may be called from several threads, as the analyzer may."""

    def __init__(
        self,
        analyzer: Analyzer,
        manifest: Manifest,
        *,
        rules: Rules,
        openface: Path | None = None,
        labels: Sequence[str] | None = None,
        asr: str | None = None,
        peaks: PeakOptions | None = None,
        limits: MediaLimits | None = None,
    ) -> None:
        self.analyzer, self.manifest, self.rules = analyzer, manifest, rules
        self._openface, self._labels, self._asr, self._peaks = openface, labels, asr, peaks or PeakOptions()
        self._limits = limits or MediaLimits()

    def understand(self, sample: Sample) -> Understanding:
        """Read the sample's clip and judge it, without the builder's own measurements."""
        path = self.manifest.clip_path(sample)
        clip = None
        if path is not None:
            clip = cut(read_clip(path, name=sample.id, limits=self._limits), start=sample.start, end=sample.end)
        transcript = sample.transcript if (sample.transcript or "").strip() else None
        asr = self._asr if clip is not None and clip.audio is not None else None
        return self.analyzer.understand(
            clip, name=sample.id, transcript=transcript, language=sample.language, labels=self._labels, asr=asr
        )

    def read(self, sample: Sample) -> Read:
        """Read one sample; raises `MediaError` or `DatasetError` for a file that is missing or damaged."""
        seen = self.understand(sample)
        if seen.cues is None:
            raise NothingToJudgeError(f"{sample.id}: no face, no voice and no words", field="clip")
        label, source, confidence = _label(sample, seen)
        readings = seen.readings[0] if seen.readings else None
        units = self._units(sample)
        speech = [(segment.start, segment.end) for segment in seen.voice.segments] if seen.voice else []
        rule = self.rules.emotion(label)
        expressions = () if rule is None else rule[1].expressions
        face_peak = (
            None if readings is None else expression_peak(readings, expressions=expressions, options=self._peaks)
        )
        unit_peak = None
        if units is not None:
            unit_peak = action_unit_peak(units, rules=self.rules, options=self._peaks, speech=speech)
        peak = unit_peak or face_peak
        picture = None if peak is None else _picture(seen.clip.frames, peak.time)
        still = seen.clip.frames is not None and seen.clip.frames.is_still
        observation = Observation(
            seconds=round(seen.clip.seconds, 3),
            label=label,
            label_source=source,
            label_confidence=round(confidence, 6),
            abstained=source == "pseudo" and seen.emotion.abstained,
            cues=conditioned(seen, label),
            peak=None if peak is None or still else _peak_frame(peak),
            units=() if units is None or unit_peak is None else _unit_readings(units, unit_peak.index),
            units_source=None if unit_peak is None or units is None else units.source,
            units_sha256=None if unit_peak is None or units is None else units.sha256,
            face=None if readings is None else _face_reading(readings, peak, self._peaks),
            voice=None if seen.voice is None else self._voice(seen.voice),
            transcript=None if seen.transcript is None else seen.transcript.text,
            transcript_source=None if seen.transcript is None else seen.transcript.source,
            curves=_curves(seen.clip.audio, peak, still=still),
            model=self.analyzer.parts.name,
            clip_sha256=seen.clip.sha256,
            warnings=seen.warnings,
        )
        return Read(observation=observation, understanding=seen, picture=picture)

    def _units(self, sample: Sample) -> ActionUnits | None:
        if self._openface is None:
            return None
        stems = [sample.id] if sample.clip is None else [sample.id, Path(sample.clip).stem]
        names = [f"{stem}.csv" for stem in stems if os.sep not in stem]
        for name in names:
            path = self._openface / name
            if path.is_file():
                units = read_openface(path, rules=self.rules)
                return units.between(sample.start or 0.0, sample.end)
        return None

    def _voice(self, voice: VoiceReadings) -> VoiceReading | None:
        from emollama.evidence import voice_cue

        cue = voice_cue(voice)
        if cue is None:
            return None
        weights = [segment.end - segment.start for segment in voice.segments]
        semitones = float(np.average([s.pitch_range_semitones for s in voice.segments], weights=weights))
        return VoiceReading(
            start=cue.start,
            end=cue.end,
            pitch=cue.pitch,
            loudness=cue.loudness,
            rate=cue.rate,
            melody=self.rules.melody(semitones),
            verdict=cue.label,
        )


class NothingToJudgeError(DatasetError):
    """The clip shows no face, and there is no voice and no transcript: nothing can be said about it."""


def cut(clip: Clip, *, start: float | None, end: float | None) -> Clip:
    """Return a stretch of a clip, its times counted from ``start``; raises `DatasetError` when nothing is in it."""
    if start is None and end is None:
        return clip
    first, last = start or 0.0, clip.seconds if end is None else min(end, clip.seconds)
    if last <= first:
        raise DatasetError(
            f"{clip.name}: start is {first:g} s, but the clip ends after {clip.seconds:g} s", field="start"
        )
    frames, audio = clip.frames, clip.audio
    if frames is not None and not frames.is_still:
        keep = (frames.times >= first - 1e-6) & (frames.times < last)
        frames = replace(frames, images=frames.images[keep], times=frames.times[keep] - first) if keep.any() else None
    if audio is not None:
        begin = max(0, round((first - audio.start) * audio.sample_rate))
        samples = audio.samples[begin : max(0, round((last - audio.start) * audio.sample_rate))]
        audio = replace(audio, samples=samples, start=max(0.0, audio.start - first)) if len(samples) else None
    return replace(clip, seconds=last - first, frames=frames, audio=audio)


def conditioned(seen: Understanding, label: str) -> Cues:
    """Return the cues with the sample's label as the verdict, and with what then leads and stands beside it."""
    cues = seen.cues
    assert cues is not None
    verdicts: dict[Source, str] = {}
    if cues.face:
        verdicts["face"] = longest(cues.face).label
    if cues.voice is not None:
        verdicts["voice"] = cues.voice.label
    if cues.words is not None:
        verdicts["words"] = cues.words.label
    same = seen.emotion.label is not None and canonical(seen.emotion.label) == canonical(label)
    return replace(
        cues,
        label=label,
        agreement=agreement_of(verdicts),
        # nano's own lead and rivals belong to its own verdict
        lead=cues.lead if same else lead_of(label, verdicts, {}),
        others=cues.others if same else (),
        abstained=False,
    )


def _label(sample: Sample, seen: Understanding) -> tuple[str, LabelSource, float]:
    if sample.label is not None:
        return sample.label, "manifest", 1.0
    if sample.distribution is not None:
        top = sample.top_label
        assert top is not None
        return top, "distribution", sample.distribution[top]
    assert seen.emotion.label is not None
    return seen.emotion.label, "pseudo", seen.emotion.confidence


def _peak_frame(peak: Peak) -> PeakFrame:
    return PeakFrame(
        time=round(peak.time, 3),
        value=round(peak.value, 4),
        basis=peak.basis,
        what=peak.what,
        reached=peak.reached,
        peaks=tuple(round(t, 3) for t in peak.peaks),
    )


def _unit_readings(units: ActionUnits, index: int) -> tuple[UnitReading, ...]:
    return tuple(
        UnitReading(code=code, intensity=intensity, present=present)
        for code, (intensity, present) in units.at(index).items()
    )


def _face_reading(readings: FaceReadings, peak: Peak | None, options: PeakOptions) -> FaceReading:
    times = np.asarray(readings.times, dtype=np.float64)
    row = 0 if peak is None else int(np.abs(times - peak.time).argmin())
    smoothed = smooth(times, readings.probabilities, half_window_seconds=options.half_window_seconds)
    return FaceReading(
        at_peak={name: round(float(p), 4) for name, p in zip(readings.labels, smoothed[row], strict=True)},
        mean={name: round(float(p), 4) for name, p in zip(readings.labels, smoothed.mean(axis=0), strict=True)},
        valence=round(float(readings.valence[row]), 4),
        arousal=round(float(readings.arousal[row]), 4),
    )


def _picture(frames: Frames | None, time: float) -> bytes | None:
    if frames is None:
        return None
    from PIL import Image

    image = Image.fromarray(frames.images[int(np.abs(frames.times - time).argmin())])
    image.thumbnail((PICTURE_LONG_SIDE, PICTURE_LONG_SIDE))
    content = io.BytesIO()
    image.save(content, format="JPEG", quality=85)
    return content.getvalue()


def _curves(audio: Audio | None, peak: Peak | None, *, still: bool) -> dict[str, Curve]:
    curves: dict[str, Curve] = {}
    if peak is not None and not still:
        picks = np.unique(np.linspace(0, len(peak.curve) - 1, CURVE_POINTS).round().astype(int))
        curves["face"] = _curve(peak.curve_times[picks], peak.curve[picks], None)
    if audio is not None and len(audio.samples):
        frames = prosody.measure_frames(prosody.mono_16k(audio))
        if frames.voiced.any():
            picks = np.unique(np.linspace(0, len(frames) - 1, CURVE_POINTS).round().astype(int))
            times = audio.start + picks * prosody.HOP / prosody.SAMPLE_RATE
            curves["pitch"] = _curve(times, frames.pitch_hz[picks], frames.voiced[picks])
            curves["loudness"] = _curve(times, frames.loudness_db[picks], None)
    return curves


def _curve(times: np.ndarray, values: np.ndarray, shown: np.ndarray | None) -> Curve:
    there = np.ones(len(times), dtype=bool) if shown is None else shown
    return Curve(
        times=tuple(round(float(t), 2) for t in times),
        values=tuple(round(float(v), 2) if ok else None for v, ok in zip(values, there, strict=True)),
    )
