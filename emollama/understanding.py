"""A clip read and judged before anything is said about it: decode, faces, encoders, one prefill, evidence and cues.

The modalities are prefilled once (`emollama.judge`); the label, the open vocabulary, the rationale and every further
question branch off that prefix. Times are seconds from the start of the clip.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emollama import evidence as ev
from emollama.errors import InputError
from emollama.judge import Judgement, affect_of
from emollama.labels import NANO_LABELS, parse_label_set
from emollama.media import MediaLimits, read_clip
from emollama.parts import Judging, Parts, Recogniser, Sensed
from emollama.prompt import (
    MAX_TRANSCRIPT_TOKENS,
    SOURCES,
    Confidence,
    Cues,
    FaceCue,
    Source,
    VoiceCue,
    WordsCue,
    longest,
)
from emollama.stages import Clock, Decoded, FacesFound, Labelled, StageEvent
from emollama.types import (
    Affect,
    Audio,
    Clip,
    Emotion,
    Evidence,
    FaceReadings,
    FaceSummary,
    FaceTrack,
    Features,
    Modality,
    Segment,
    Transcript,
    VoiceReadings,
)
from emollama.watch import Check

# A path, a file's bytes, a clip that was decoded elsewhere, or none with a transcript alone.
ClipSource = Path | str | bytes | Clip | None
MAX_TRANSCRIPT_CHARACTERS = 20_000
# Other faces than the main one get a timeline of their own, the most present first.
MAX_TIMELINE_TRACKS = 4
_NOTHING = "There was no face, no voice and no words to judge, so no emotion is claimed."


@dataclass(frozen=True, kw_only=True)
class Understanding:
    """A clip that has been read and judged, before anything is said about it. Questions branch off ``prefix``.

    ``cues`` and ``prefix`` are ``None`` when there was nothing to judge. ``readings`` holds the main face first;
    ``features`` are the tokens [T, D] that the backbone was given of face and voice.
    """

    clip: Clip
    tracks: tuple[FaceTrack, ...]
    readings: tuple[FaceReadings, ...]
    voice: VoiceReadings | None
    transcript: Transcript | None
    emotion: Emotion
    cues: Cues | None
    prefix: Any
    features: Mapping[str, np.ndarray]
    open_vocabulary: tuple[str, ...]
    affect: Affect
    evidence: Mapping[Modality, tuple[Evidence, ...]]
    asked: tuple[str, ...] | None
    warnings: tuple[str, ...]
    timings_ms: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is asked of a clip beside what it shows: words that are known, a closed set of labels, a recogniser.

    ``all_tracks`` reads the other faces, too; ``find_quote`` looks for the words that carry the verdict, and asks
    a model for words of its own where that is a question more.
    """

    name: str | None = None
    transcript: str | Transcript | None = None
    labels: str | Sequence[str] | None = None
    language: str | None = None
    limits: MediaLimits | None = None
    asr: str | None = None
    all_tracks: bool = False
    find_quote: bool = True


class Understander:
    """Reads and judges clips with an analyzer's parts; may be asked by several threads at once."""

    def __init__(self, parts: Parts, judge: Judging) -> None:
        self.parts = parts
        self._judge = judge
        self._listening = threading.Lock()  # a recogniser is loaded once and hears one clip at a time
        self._recognisers: dict[str, Recogniser] = {}

    @property
    def labels(self) -> tuple[str, ...]:
        """The label set that is answered with when none is asked for."""
        return self.parts.labels or NANO_LABELS

    def read(self, clock: Clock, source: ClipSource, wanted: Wanted) -> Generator[StageEvent, None, Understanding]:
        """Yield `Decoded`, `FacesFound` and `Labelled` when each is known, and return the understanding."""
        asked = None if wanted.labels is None else parse_label_set(wanted.labels)
        given = _transcript(wanted.transcript, language=wanted.language)
        with clock.stage("decode"):
            clip = _decode(source, name=wanted.name, transcript=given, limits=wanted.limits)
        yield Decoded(
            seconds=round(clip.seconds, 3),
            num_frames=0 if clip.frames is None else len(clip.frames.times),
            has_audio=clip.audio is not None,
            warnings=clip.warnings,
        )
        warnings = list(clip.warnings)
        tracks: tuple[FaceTrack, ...] = ()
        with clock.stage("faces"):
            if clip.tracks is not None:  # they were followed where the clip was decoded
                tracks = clip.tracks
            elif clip.frames is not None:
                tracks = self.parts.track_faces(clip.frames, audio=clip.audio, check=clock.check)
        yield FacesFound(tracks=tuple(summary_of(track) for track in tracks))
        main = next((track for track in tracks if track.is_main), None)
        with clock.stage("encoders"):
            sensed = self.sense(clip, main, tracks if wanted.all_tracks else (), clock.check)
            face, others, voice = sensed.face, sensed.others, sensed.voice
            words = clip.transcript
            if words is None and wanted.asr is not None and clip.audio is not None:
                words = self._recognise(wanted.asr, clip.audio, clock.check, language=wanted.language)
                if words is None:
                    warnings.append(f"The recogniser {wanted.asr} heard no words.")
        warnings.extend(self._warnings(clip, main, tracks, sensed, words))
        used: dict[Any, Any] = dict(sensed.tokens)
        present = sensed.present
        if words is not None:
            used["words"] = words.text
            present = (*present, "words")
        if not used:
            seen = self._nothing(clip, tracks, words, asked, (*warnings, _NOTHING), clock)
            yield _labelled(seen)
            return seen
        with clock.stage("prefill"):
            judged: Judgement = self._judge.judge(used, asked or self.labels)
            clock.check()
            segments = () if face is None else ev.segments_of(face, until=clip.seconds)
            if face is None and main is not None and "face" in judged.alone:
                segments = (ev.opinion_of(judged.alone["face"], main),)
            if voice is not None and voice.probabilities is None and "voice" in judged.alone:
                heard = judged.alone["voice"]
                voice = dataclasses.replace(voice, labels=tuple(heard), probabilities=np.array(list(heard.values())))
            quote = None
            if words is not None and wanted.find_quote:
                quote = self._judge.quote(words.text, judged.words_label)
            open_words = judged.open_vocabulary
            if wanted.find_quote:
                open_words = self._judge.open_words(used, judged, check=clock.check)
            cues = self._cues(judged, clip, segments, voice, quote, present=present)
        items: dict[Modality, tuple[Evidence, ...]] = {
            "visual": ev.opinion_evidence(segments) if face is None else ev.face_evidence(face, segments),
            "audio": () if "voice" not in present or voice is None else ev.voice_evidence(voice),
            "text": (),
        }
        if words is not None and quote is not None and cues.words is not None:
            item = ev.words_evidence(words, quote, label=cues.words.label, clip_seconds=clip.seconds)
            items["text"] = (item,)
        seen = Understanding(
            clip=clip,
            tracks=tracks,
            readings=() if face is None else (face, *others),
            voice=voice if "voice" in present else None,
            transcript=words,
            emotion=judged.emotion,
            cues=cues,
            prefix=judged.prefix,
            features=dict(sensed.tokens),
            open_vocabulary=open_words,
            affect=affect_of(face, judged),
            evidence=items,
            asked=asked,
            warnings=tuple(warnings),
            timings_ms=clock.total(),
        )
        yield _labelled(seen)
        return seen

    def _nothing(
        self,
        clip: Clip,
        tracks: tuple[FaceTrack, ...],
        words: Transcript | None,
        asked: tuple[str, ...] | None,
        warnings: tuple[str, ...],
        clock: Clock,
    ) -> Understanding:
        names = asked or self.labels
        even = 1.0 / len(names)
        return Understanding(
            clip=clip, tracks=tracks, readings=(), voice=None, transcript=words,
            emotion=Emotion(label=None, confidence=even, abstained=True, scores=dict.fromkeys(names, even)),
            cues=None, prefix=None, features={}, open_vocabulary=(),
            affect=Affect(valence=None, arousal=None, source=None),
            evidence={"visual": (), "audio": (), "text": ()}, asked=asked, warnings=warnings,
            timings_ms=clock.total(),
        )  # fmt: skip

    def sense(self, clip: Clip, main: FaceTrack | None, tracks: Sequence[FaceTrack], check: Check) -> Sensed:
        """Read what is seen and heard, by face and voice or by a preset's own encoders."""
        if self.parts.senses is not None:
            return self.parts.senses.read(clip, main, check=check)
        face, face_features, others = self._see(main, tracks, check)
        voice, voice_features = self._hear(clip.audio, check)
        tokens: dict[str, np.ndarray] = {}
        present: list[Source] = []
        if face_features is not None:
            tokens["face"] = face_features.tokens
            present.append("face")
        if voice_features is not None:
            tokens["voice"] = voice_features.tokens
            present.append("voice")
        return Sensed(face=face, others=others, voice=voice, tokens=tokens, present=tuple(present))

    def _see(
        self, main: FaceTrack | None, tracks: Sequence[FaceTrack], check: Check
    ) -> tuple[FaceReadings | None, Features | None, tuple[FaceReadings, ...]]:
        if main is None:
            return None, None, ()
        readings, features = self.parts.face.read(main.crops, main.times, main.track_id, check=check)
        beside = sorted((track for track in tracks if not track.is_main), key=lambda track: -track.share)
        others = [
            self.parts.face.read(track.crops, track.times, track.track_id, check=check)[0]
            for track in beside[: MAX_TIMELINE_TRACKS - 1]
        ]
        return readings, features, tuple(others)

    def _hear(self, audio: Audio | None, check: Check) -> tuple[VoiceReadings | None, Features | None]:
        if audio is None:
            return None, None
        check()
        measured = self.parts.measure_voice(audio, check=check)
        if not measured.segments:
            return measured, None
        return self.parts.voice.read(audio, measured, check=check)

    def _recognise(self, name: str, audio: Audio, check: Check, *, language: str | None) -> Transcript | None:
        with self._listening:
            check()
            if name not in self._recognisers:
                if self.parts.recogniser is None:
                    raise InputError(f"asr is {name!r}; this model has no recogniser", field="asr")
                self._recognisers[name] = self.parts.recogniser(name)
            heard = self._recognisers[name](audio, language=language, check=check)
        return heard if heard is not None and heard.text.strip() else None

    def _warnings(
        self,
        clip: Clip,
        main: FaceTrack | None,
        tracks: Sequence[FaceTrack],
        sensed: Sensed,
        words: Transcript | None,
    ) -> list[str]:
        found, voice = [], sensed.voice
        if clip.frames is not None and main is None:
            rest = "only the scene was looked at" if "face" in sensed.present else "the picture was not used"
            found.append(f"No face was found in the picture, so {rest}.")
        if main is not None and len(tracks) > 1:
            found.append(f"{len(tracks)} faces were seen; this follows face {main.track_id}: {main.chosen_because}.")
        if voice is not None and not voice.segments:
            found.append("No voice was heard in the sound, so the sound was not used.")
        if words is not None:
            language = (words.language or "").lower().split("-")[0]
            if language and language not in self.parts.languages:
                known = ", ".join(self.parts.languages)
                found.append(f"The words are in {language!r}; {self.parts.name} was trained on words in {known} only.")
            if len(self.parts.renderer.encode_untrusted(words.text)) > MAX_TRANSCRIPT_TOKENS:
                found.append("The transcript is long: its beginning and its end were read, not its middle.")
        return found

    def _cues(
        self,
        judged: Judgement,
        clip: Clip,
        segments: Sequence[Segment],
        voice: VoiceReadings | None,
        quote: ev.Quote | None,
        *,
        present: Sequence[Source],
    ) -> Cues:
        face = ev.face_cues(segments)
        voice_cue = ev.voice_cue(voice) if voice is not None and "voice" in present else None
        words = WordsCue(label=judged.words_label, quote=quote.text if quote else "") if judged.words_label else None
        return cues_of(
            judged,
            face=face,
            voice=voice_cue,
            words=words,
            confidence=self.parts.calibration.band(judged.emotion.confidence),
            still=clip.frames is not None and clip.frames.is_still,
        )


def cues_of(
    judged: Judgement,
    *,
    face: Sequence[FaceCue],
    voice: VoiceCue | None,
    words: WordsCue | None,
    confidence: Confidence,
    still: bool,
) -> Cues:
    """Return what an answer may speak of: the cues of each modality, whether they agree, and which of them led."""
    label = judged.emotion.label
    assert label is not None
    verdicts: dict[Source, str] = {}
    if face:
        verdicts["face"] = longest(face).label
    if voice is not None:
        verdicts["voice"] = voice.label
    if words is not None:
        verdicts["words"] = words.label
    return Cues(
        label=label,
        confidence=confidence,
        face=tuple(face),
        voice=voice,
        words=words,
        agreement=ev.agreement_of(verdicts),
        lead=ev.lead_of(label, verdicts, judged.support),
        absent=tuple(source for source in SOURCES if source not in verdicts),
        others=ev.others_of(label, judged.emotion.scores),
        abstained=judged.emotion.abstained,
        still=still,
    )


def summary_of(track: FaceTrack) -> FaceSummary:
    """Return what an answer tells of a face that was followed."""
    return FaceSummary(
        track=track.track_id,
        share=round(track.share, 4),
        is_main=track.is_main,
        chosen_because=track.chosen_because,
        times=tuple(round(float(t), 3) for t in track.times),
        boxes=track.boxes,
    )


def _labelled(seen: Understanding) -> Labelled:
    return Labelled(
        emotion=seen.emotion,
        open_vocabulary=seen.open_vocabulary,
        affect=seen.affect,
        evidence=seen.evidence,
        transcript=seen.transcript,
    )


def _transcript(given: str | Transcript | None, *, language: str | None) -> Transcript | None:
    if isinstance(given, str):
        given = Transcript(text=" ".join(given.split()), language=language, source="given")
    if given is None or not given.text.strip():
        return None
    if len(given.text) > MAX_TRANSCRIPT_CHARACTERS:
        raise InputError(
            f"transcript has {len(given.text)} characters; allowed: at most {MAX_TRANSCRIPT_CHARACTERS}",
            field="transcript",
        )
    return given


def _decode(source: ClipSource, *, name: str | None, transcript: Transcript | None, limits: MediaLimits | None) -> Clip:
    if isinstance(source, Clip):
        if transcript is None:
            return source
        return dataclasses.replace(source, transcript=transcript)
    if source is None:
        if transcript is None:
            raise InputError("there is no clip and no transcript; give one of them", field="source")
        return Clip(name=name or "words", seconds=0.0, transcript=transcript)
    return read_clip(source, name=name, limits=limits or MediaLimits(), transcript=transcript)
