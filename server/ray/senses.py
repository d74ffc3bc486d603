"""What the encoders make of a clip, and how a decoder takes it: the readings of face and voice without the pictures.

The encoders' half of an analyzer (`Senses`) decodes, follows faces, measures and encodes. What comes out, a
`Perception`, is a few kilobytes: boxes, readings and feature tokens. The decoders' half is an `Analyzer` whose encoders
are recordings: asked about the pictures and sound of such a perception, they answer what was read elsewhere. So there
is one code path from readings to answer, whether the encoders are in the same process or on another machine.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from emollama.cores import CORES
from emollama.long_clip.following import Looks, TrackIds
from emollama.media import MediaLimits, read_clip
from emollama.parts import Parts, Sensed
from emollama.stages import Clock, Decoded, FacesFound, StageEvent
from emollama.types import Audio, Clip, FaceTrack, Frames
from emollama.understanding import Understander, summary_of
from emollama.watch import Check, Watch, unwatched
from server.media_worker import Decoding

if TYPE_CHECKING:
    from server.ray.plan import Plan


@dataclass(frozen=True, kw_only=True)
class Perception:
    """A clip as the encoders saw and heard it.

    ``clip`` has no pictures and no samples; how many there were say ``frame_times`` [N] and ``num_samples``. ``tracks``
    have no crops; how each looks at its ends say ``looks``. ``digest`` names this perception, and nothing else.
    """

    clip: Clip
    sensed: Sensed
    tracks: tuple[FaceTrack, ...] = ()
    looks: tuple[Looks, ...] = ()
    frame_times: np.ndarray | None = None
    source_fps: float | None = None
    is_still: bool = False
    num_samples: int | None = None
    sample_rate: int = 16_000
    audio_start: float = 0.0
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    digest: str = field(default_factory=lambda: uuid.uuid4().hex)

    @classmethod
    def of(
        cls, clip: Clip, tracks: Sequence[FaceTrack], sensed: Sensed, *, timings_ms: Mapping[str, float]
    ) -> Perception:
        """Keep what a decoder asks for, and let go of the pictures and the sound."""
        frames, audio = clip.frames, clip.audio
        return cls(
            clip=replace(clip, frames=None, audio=None, tracks=None),
            sensed=sensed,
            tracks=tuple(replace(track, crops=track.crops[:, :0, :0]) for track in tracks),
            looks=tuple(Looks.of(track) for track in tracks if len(track.crops)),
            frame_times=None if frames is None else frames.times,
            source_fps=None if frames is None else frames.source_fps,
            is_still=frames is not None and frames.is_still,
            num_samples=None if audio is None else len(audio.samples),
            sample_rate=16_000 if audio is None else audio.sample_rate,
            audio_start=0.0 if audio is None else audio.start,
            timings_ms=timings_ms,
        )

    def with_ids(self, ids: TrackIds) -> Perception:
        """Return the perception of a window of a long clip with its faces named as the clip's."""
        if self.frame_times is None:
            return self
        tracks = ids.given(self.tracks, self.looks, last=float(self.frame_times[-1]))
        new = {before.track_id: now.track_id for before, now in zip(self.tracks, tracks, strict=True)}
        face, others = self.sensed.face, self.sensed.others
        sensed = replace(
            self.sensed,
            face=None if face is None else replace(face, track_id=new[face.track_id]),
            others=tuple(replace(each, track_id=new[each.track_id]) for each in others),
        )
        return replace(self, tracks=tracks, sensed=sensed)

    def recorded_clip(self) -> Clip:
        """Return the clip for an analyzer whose senses are `RecordedSenses`."""
        frames = audio = None
        if self.frame_times is not None:
            nothing = np.empty((len(self.frame_times), 0, 0, 3), np.uint8)
            frames = _RecordedFrames(
                images=nothing, times=self.frame_times, source_fps=self.source_fps, is_still=self.is_still,
                tracks=self.tracks,
            )  # fmt: skip
        if self.num_samples is not None:
            silence = np.broadcast_to(np.float32(0), self.num_samples)  # takes no memory; only its length is asked for
            audio = Audio(samples=silence, sample_rate=self.sample_rate, start=self.audio_start)
        shown = {each.name: getattr(self.clip, each.name) for each in fields(self.clip)}
        return _RecordedClip(**{**shown, "frames": frames, "audio": audio}, sensed=self.sensed)


@dataclass(frozen=True, kw_only=True)
class _RecordedFrames(Frames):
    tracks: tuple[FaceTrack, ...]


@dataclass(frozen=True, kw_only=True)
class _RecordedClip(Clip):
    sensed: Sensed


class RecordedSenses:
    """Stands in for the encoders of an analyzer, for clips of `Perception.recorded_clip`."""

    def track_faces(
        self, frames: Frames, *, audio: Audio | None = None, check: Check = unwatched
    ) -> tuple[FaceTrack, ...]:
        """Return the faces that were followed elsewhere."""
        assert isinstance(frames, _RecordedFrames)
        return frames.tracks

    def read(self, clip: Clip, main: FaceTrack | None, *, check: Check = unwatched) -> Sensed:
        """Return what was read elsewhere; of a clip of words alone there is nothing to read."""
        return clip.sensed if isinstance(clip, _RecordedClip) else Sensed()


def with_recorded_senses(parts: Parts) -> Parts:
    """Return the parts of an analyzer that takes recorded clips; the encoders themselves are let go."""
    recorded, nobody = RecordedSenses(), cast(Any, None)
    return replace(
        parts, senses=recorded, track_faces=recorded.track_faces, face=nobody, voice=nobody, measure_voice=nobody,
        recogniser=None,
    )  # fmt: skip


class Senses:
    """The encoders of a model; any number of threads may ask."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._reader = Understander(parts, cast(Any, None))  # it is never asked for a judgement

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
                if clip.tracks is not None:
                    tracks = clip.tracks
                elif frames is not None:
                    tracks = self._parts.track_faces(frames, audio=audio, check=clock.check)
            yield FacesFound(tracks=tuple(summary_of(track) for track in tracks))
            with clock.stage("encoders"):
                main = next((track for track in tracks if track.is_main), None)
                sensed = self._reader.sense(clip, main, tracks, clock.check)
        yield Perception.of(clip, tracks, sensed, timings_ms=clock.ms)


def load_senses(plan: Plan) -> Senses:
    """Load the encoders of a plan's model, and nothing else of it."""
    from emollama.abaw.beside import with_heads
    from emollama.checkpoint import load_assets
    from emollama.encoders.face import FaceEncoder
    from emollama.encoders.voice import VoiceEncoder
    from emollama.faces import track_faces
    from emollama.preset_parts import is_preset, load_preset_senses
    from emollama.prompt import Renderer
    from emollama.prosody import measure

    nobody, device = cast(Any, None), plan.encoders_device
    if is_preset(plan.model):
        senses = load_preset_senses(plan.model, device=device)
        return Senses(
            Parts(
                name=plan.model, renderer=nobody, engine=nobody, face=nobody, voice=nobody, measure_voice=measure,
                track_faces=track_faces, senses=senses,
            )
        )  # fmt: skip
    assets = load_assets(plan.model)
    return Senses(
        Parts(
            name=assets.name,
            renderer=Renderer.load(assets.tokenizer),
            engine=nobody,
            face=with_heads(FaceEncoder.load(assets.face, device=device), assets.face),
            voice=VoiceEncoder.load(assets.voice),
            measure_voice=measure,
            track_faces=track_faces,
        )
    )
