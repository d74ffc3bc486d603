"""What the encoders make of a clip, and how a decoder takes it: the readings of face and voice without the pictures.

The encoders' half of an analyzer (`Senses`) decodes, follows faces, measures and encodes. What comes out, a
`Perception`, is a few kilobytes: boxes, readings and feature tokens. The decoders' half is an `Analyzer` whose encoders
are recordings: asked about the pictures and sound of such a perception, they answer what was read elsewhere. So there
is one code path from readings to answer, whether the encoders are in the same process or on another machine.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emollama.cores import CORES
from emollama.media import MediaLimits, read_clip
from emollama.stages import Clock, Decoded, FacesFound, StageEvent
from emollama.types import Audio, Clip, FaceReadings, FaceTrack, Features, Frames, VoiceReadings
from emollama.understanding import MAX_TIMELINE_TRACKS, summary_of
from emollama.watch import Check, Watch, unwatched
from server.media_worker import Decoding

if TYPE_CHECKING:
    from emollama.parts import FaceReader, Parts, Tracker, VoiceMeter, VoiceReader
    from server.ray.plan import Plan

Heard = tuple[VoiceReadings, Features | None]
Seen = tuple[FaceReadings, Features]


@dataclass(frozen=True, kw_only=True)
class Perception:
    """A clip as the encoders saw and heard it.

    ``tracks`` hold no crops, ``faces`` the readings by track, ``measured`` the voice as it was measured and ``voice``
    what the voice encoder made of it. ``clip`` holds no pictures and no samples: how many there were say
    ``frame_times`` [N] and ``num_samples``. ``digest`` names this perception, and nothing else.
    """

    clip: Clip
    digest: str = field(default_factory=lambda: uuid.uuid4().hex)
    frame_times: np.ndarray | None = None
    source_fps: float | None = None
    is_still: bool = False
    num_samples: int | None = None
    sample_rate: int = 16_000
    audio_start: float = 0.0
    tracks: tuple[FaceTrack, ...] = ()
    faces: Mapping[int, Seen] = field(default_factory=dict)
    measured: VoiceReadings | None = None
    voice: Heard | None = None
    timings_ms: Mapping[str, float] = field(default_factory=dict)

    def recorded_clip(self) -> Clip:
        """Return the clip whose pictures and sound `Recorded` parts can be asked about."""
        frames = audio = None
        if self.frame_times is not None:
            number = len(self.frame_times)
            frames = _RecordedFrames(
                images=np.empty((number, 0, 0, 3), np.uint8), times=self.frame_times, source_fps=self.source_fps,
                is_still=self.is_still, perception=self,
            )  # fmt: skip
        if self.num_samples is not None:
            silence = np.broadcast_to(np.float32(0), self.num_samples)  # takes no memory; only its length is asked for
            audio = _RecordedAudio(
                samples=silence, sample_rate=self.sample_rate, start=self.audio_start, perception=self
            )
        return replace(self.clip, frames=frames, audio=audio)


@dataclass(frozen=True, kw_only=True)
class _RecordedFrames(Frames):
    perception: Perception


@dataclass(frozen=True, kw_only=True)
class _RecordedAudio(Audio):
    perception: Perception


class _RecordedCrops(np.ndarray):
    """Crops of a face whose pictures are elsewhere, with what was read in them."""

    seen: Seen

    @classmethod
    def of(cls, track: FaceTrack, seen: Seen) -> _RecordedCrops:
        crops = np.empty((len(track.times), 0, 0, 3), np.uint8).view(cls)
        crops.seen = seen
        return crops


class RecordedFaces:
    """Stands in for tracker and face encoder, for clips of `Perception.recorded_clip`."""

    def __call__(
        self, frames: Frames, *, audio: Audio | None = None, check: Check = unwatched
    ) -> tuple[FaceTrack, ...]:
        assert isinstance(frames, _RecordedFrames)
        perception = frames.perception
        return tuple(
            replace(track, crops=_RecordedCrops.of(track, perception.faces[track.track_id]))
            if track.track_id in perception.faces
            else track
            for track in perception.tracks
        )

    def read(self, crops: np.ndarray, times: np.ndarray, track_id: int, *, check: Check = unwatched) -> Seen:
        assert isinstance(crops, _RecordedCrops)
        return crops.seen


class RecordedVoice:
    """Stands in for the measuring of a voice and the voice encoder."""

    def __call__(self, audio: Audio, *, check: Check = unwatched) -> VoiceReadings:
        assert isinstance(audio, _RecordedAudio)
        assert audio.perception.measured is not None
        return audio.perception.measured

    def read(self, audio: Audio, readings: VoiceReadings, *, check: Check = unwatched) -> Heard:
        assert isinstance(audio, _RecordedAudio)
        assert audio.perception.voice is not None
        return audio.perception.voice


def with_recorded_senses(parts: Parts) -> Parts:
    """Return the parts of an analyzer that takes recorded clips; the encoders themselves are let go."""
    faces, voice = RecordedFaces(), RecordedVoice()
    return replace(parts, track_faces=faces, face=faces, measure_voice=voice, voice=voice, recogniser=None)


class Senses:
    """The encoders of a model; any number of threads may ask."""

    def __init__(
        self, *, track_faces: Tracker, face: FaceReader, measure_voice: VoiceMeter, voice: VoiceReader
    ) -> None:
        self._track_faces, self._face = track_faces, face
        self._measure_voice, self._voice = measure_voice, voice

    def perceive(
        self,
        source: Path | Clip,
        *,
        name: str | None,
        limits: MediaLimits,
        decoding: Decoding,
        cancelled: Callable[[], bool],
    ) -> Iterator[StageEvent | Perception]:
        """Decode a file (or take a decoded clip), read every face that an answer may speak of, and the voice.

        Yields `Decoded` and `FacesFound` when they are known, and at the end the perception. Raises `MediaError` as
        decoding does, and `CancelledError` when ``cancelled`` says so.
        """
        clock = Clock(Watch(cancelled))
        with CORES.working():
            with clock.stage("decode"):
                clip = source
                if isinstance(clip, Path):
                    clip = decoding.decode(clip, name=name or clip.name, limits=limits, cancelled=cancelled)
                if isinstance(clip, Path):
                    clip = read_clip(clip, name=name, limits=limits)
            frames, audio = clip.frames, clip.audio
            yield Decoded(
                seconds=round(clip.seconds, 3),
                num_frames=0 if frames is None else len(frames.times),
                has_audio=audio is not None,
                warnings=clip.warnings,
            )
            tracks: tuple[FaceTrack, ...] = ()
            with clock.stage("faces"):
                if frames is not None:
                    tracks = self._track_faces(frames, audio=audio, check=clock.check)
            yield FacesFound(tracks=tuple(summary_of(track) for track in tracks))
            with clock.stage("encoders"):
                faces = {
                    track.track_id: self._face.read(track.crops, track.times, track.track_id, check=clock.check)
                    for track in _asked_about(tracks)
                }
                measured = voice = None
                if audio is not None:
                    measured = self._measure_voice(audio, check=clock.check)
                    if measured.segments:
                        voice = self._voice.read(audio, measured, check=clock.check)
        yield Perception(
            clip=replace(clip, frames=None, audio=None),
            frame_times=None if frames is None else frames.times,
            source_fps=None if frames is None else frames.source_fps,
            is_still=frames is not None and frames.is_still,
            num_samples=None if audio is None else len(audio.samples),
            sample_rate=16_000 if audio is None else audio.sample_rate,
            audio_start=0.0 if audio is None else audio.start,
            tracks=tuple(replace(track, crops=np.empty((len(track.times), 0, 0, 3), np.uint8)) for track in tracks),
            faces=faces,
            measured=measured,
            voice=voice,
            timings_ms=clock.ms,
        )


def _asked_about(tracks: tuple[FaceTrack, ...]) -> list[FaceTrack]:
    """The main face and the most present others: those that a timeline may hold."""
    main = [track for track in tracks if track.is_main]
    others = sorted((track for track in tracks if not track.is_main), key=lambda track: -track.share)
    return main + others[: MAX_TIMELINE_TRACKS - 1]


def load_senses(plan: Plan) -> Senses:
    """Load the encoders of a plan's model, and not its backbone."""
    from emollama.checkpoint import load_assets
    from emollama.encoders.face import FaceEncoder
    from emollama.encoders.voice import VoiceEncoder
    from emollama.faces import track_faces
    from emollama.prosody import measure

    assets = load_assets(plan.model)
    face: Any = FaceEncoder.load(assets.face, device=plan.encoders_device)
    return Senses(track_faces=track_faces, face=face, measure_voice=measure, voice=VoiceEncoder.load(assets.voice))
