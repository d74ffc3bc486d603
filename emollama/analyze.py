"""One clip end to end: decode -> faces -> encoders -> one prefill -> calibrated label -> evidence -> checked rationale.

The modalities are prefilled once (`emollama.judge`); the label, the open vocabulary, the rationale and every further
question branch off that prefix.

A rationale is checked against the cues it was given (`emollama.evidence.check_rationale`). One that fails is decoded
again with sampling, and when that fails too it is replaced by the readings' own sentences, and the answer says so.

Times are seconds from the start of the clip. `Analyzer` may be called from several threads: their clips are worked on
side by side, each on its share of the cores (`emollama.cores`), and their replies are decoded as one batch.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emollama import evidence as ev
from emollama import timeline as tl
from emollama.cores import CORES
from emollama.errors import EmoLlamaError, InputError
from emollama.judge import Judge, Judgement, affect_of
from emollama.labels import NANO_LABELS, parse_label_set
from emollama.media import MediaLimits, read_clip
from emollama.parts import Engine, Parts, PromptRow, Query, Recogniser, VoiceReader
from emollama.phrases import supported_answers
from emollama.prompt import (
    DEFAULT_QUESTION,
    MAX_TRANSCRIPT_TOKENS,
    NOTHING_TO_JUDGE,
    SOURCES,
    Cues,
    Slots,
    Source,
    WordsCue,
    longest,
)
from emollama.questions import kinds_for
from emollama.types import (
    Affect,
    Analysis,
    Audio,
    AudioUse,
    Clip,
    Emotion,
    Evidence,
    FaceReadings,
    FaceSummary,
    FaceTrack,
    Features,
    Modality,
    ModalityUse,
    Segment,
    TextUse,
    Transcript,
    VisualUse,
    VoiceReadings,
)

__all__ = [
    "Analyzer", "CancelledError", "Engine", "Parts", "PromptRow", "Query", "Understanding", "VoiceReader", "load",
]  # fmt: skip

MAX_RATIONALE_TOKENS = 192
MAX_TRANSCRIPT_CHARACTERS = 20_000
MAX_QUESTION_CHARACTERS = 2_000
# Other faces than the main one get a timeline of their own, the most present first.
MAX_TIMELINE_TRACKS = 4
# How many phrasings the decoder may choose among: rationales of one clip, and answers of each kind of question.
_RATIONALES, _ANSWERS_OF_A_KIND = 64, 12
_ATTEMPTS = ((0.0, 0), (0.7, 1), (0.7, 2))  # (temperature, seed)


_NOTHING = "There was no face, no voice and no words to judge, so no emotion is claimed."


class CancelledError(EmoLlamaError):
    """The caller's ``cancelled`` said that nobody waits for the answer any more."""


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
    features: Mapping[Source, np.ndarray]
    open_vocabulary: tuple[str, ...]
    affect: Affect
    evidence: Mapping[Modality, tuple[Evidence, ...]]
    asked: tuple[str, ...] | None
    warnings: tuple[str, ...]
    timings_ms: Mapping[str, float]


class _Clock:
    """Milliseconds by stage; asks between stages whether to go on."""

    def __init__(self, cancelled: Callable[[], bool] | None) -> None:
        self.ms: dict[str, float] = {}
        self._cancelled = cancelled
        self._started = time.perf_counter()

    def check(self) -> None:
        if self._cancelled is not None and self._cancelled():
            raise CancelledError("the analysis was cancelled")

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.check()
        CORES.divide()
        started = time.perf_counter()
        yield
        self.ms[name] = round(self.ms.get(name, 0.0) + 1000 * (time.perf_counter() - started), 2)

    def total(self) -> dict[str, float]:
        return {**self.ms, "total": round(1000 * (time.perf_counter() - self._started), 2)}


Source_ = Path | str | bytes | Clip | None


class Analyzer:
    """Reads a clip and says what the person in it appears to feel. Build it with `load`; tests hand in `Parts`."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self._listening = threading.Lock()  # a recogniser is loaded once and hears one clip at a time
        self._judge = Judge(parts.renderer, parts.engine, parts.calibration)
        self._recognisers: dict[str, Recogniser] = {}
        # What other modules keep with an analyzer for as long as it lives, by type.
        self.attachments: dict[type, Any] = {}
        # Tokens of the prompt's structure and slots; an answer may hold only the slots that were measured.
        added = parts.renderer.tokenizer.get_added_tokens_decoder()
        self._markers = frozenset(token_id for token_id, token in added.items() if token.special)

    @property
    def labels(self) -> tuple[str, ...]:
        """The label set that is answered with when none is asked for."""
        return self.parts.labels or NANO_LABELS

    @classmethod
    def load(cls, model: str | Path = "nano", *, adapter: str | Path | None = None, device: str = "cpu") -> Analyzer:
        """Load a model by its name in the table of models, or from a folder, with its own or another LoRA adapter."""
        from emollama.assemble import load_parts

        return cls(load_parts(model, adapter=adapter, device=device))

    # ---- asking --------------------------------------------------------------------------------------------------

    def analyze(
        self,
        source: Source_,
        *,
        name: str | None = None,
        transcript: str | Transcript | None = None,
        labels: str | Sequence[str] | None = None,
        language: str | None = None,
        timeline: bool = True,
        limits: MediaLimits | None = None,
        cancelled: Callable[[], bool] | None = None,
        asr: str | None = None,
    ) -> Analysis:
        """Analyse one clip: a path, its bytes, a decoded `Clip`, or ``None`` with a transcript alone.

        ``labels`` is a closed set (names, a comma-separated string or a taxonomy's name); the answer keeps the caller's
        words. ``asr`` names a recogniser to hear the words with. ``cancelled`` is asked between stages and tokens.
        Raises `MediaError` for a file that cannot be read and `InputError` for a wrong argument.
        """
        clock = _Clock(cancelled)
        with CORES.working():
            seen = self._understand(
                clock, source, name=name, transcript=transcript, labels=labels, language=language, limits=limits,
                asr=asr, all_tracks=timeline,
            )  # fmt: skip
            warnings = list(seen.warnings)
            with clock.stage("decode_text"):
                rationale = NOTHING_TO_JUDGE
                if seen.cues is not None:
                    rationale, problems = self._say(seen, DEFAULT_QUESTION, clock)
                    warnings.extend(problems)
        return self._assemble(seen, rationale, warnings, timeline=timeline, clock=clock)

    def understand(
        self,
        source: Source_,
        *,
        name: str | None = None,
        transcript: str | Transcript | None = None,
        labels: str | Sequence[str] | None = None,
        language: str | None = None,
        limits: MediaLimits | None = None,
        cancelled: Callable[[], bool] | None = None,
        asr: str | None = None,
        quote: bool = True,
    ) -> Understanding:
        """Read and judge a clip without saying anything yet; `answer` questions about it, as many as wanted.

        ``quote=False`` does not look for the words that carry the verdict: the judgement is the same and comes sooner,
        for those who want no sentences.
        """
        with CORES.working():
            return self._understand(
                _Clock(cancelled), source, name=name, transcript=transcript, labels=labels, language=language,
                limits=limits, asr=asr, all_tracks=False, find_quote=quote,
            )  # fmt: skip

    def answer(self, seen: Understanding, question: str, *, cancelled: Callable[[], bool] | None = None) -> str:
        """Answer a question about a clip that was understood; a claim that no reading supports is not let through."""
        if not question.strip() or len(question) > MAX_QUESTION_CHARACTERS:
            raise InputError(
                f"question has {len(question.strip())} characters; allowed: 1 to {MAX_QUESTION_CHARACTERS}",
                field="question",
            )
        if seen.cues is None:
            return NOTHING_TO_JUDGE
        return self._say(seen, question, _Clock(cancelled), must_state=False)[0]

    def ask(self, source: Source_ | Understanding, question: str, **options: Any) -> str:
        """Answer one question about a clip; ``options`` are those of `understand`."""
        seen = source if isinstance(source, Understanding) else self.understand(source, **options)
        return self.answer(seen, question)

    def judge(self, used: Mapping[Source, Any], labels: Sequence[str]) -> Judgement:
        """Judge tokens [T, D] of face and voice, and words, over a closed set of labels; no encoder runs."""
        return self._judge.judge(used, tuple(labels))

    # ---- understanding -------------------------------------------------------------------------------------------

    def _understand(
        self,
        clock: _Clock,
        source: Source_,
        *,
        name: str | None,
        transcript: str | Transcript | None,
        labels: str | Sequence[str] | None,
        language: str | None,
        limits: MediaLimits | None,
        asr: str | None,
        all_tracks: bool,
        find_quote: bool = True,
    ) -> Understanding:
        asked = None if labels is None else parse_label_set(labels)
        given = _transcript(transcript, language=language)
        with clock.stage("decode"):
            clip = _decode(source, name=name, transcript=given, limits=limits)
        warnings = list(clip.warnings)
        with clock.stage("faces"):
            tracks = self.parts.track_faces(clip.frames, audio=clip.audio) if clip.frames is not None else ()
        main = next((track for track in tracks if track.is_main), None)
        with clock.stage("encoders"):
            face, face_features, others = self._see(main, tracks if all_tracks else ())
            voice, voice_features = self._hear(clip.audio)
            words = clip.transcript
            if words is None and asr is not None and clip.audio is not None:
                words = self._recognise(asr, clip.audio, language=language)
                if words is None:
                    warnings.append(f"The recogniser {asr} heard no words.")
        warnings.extend(self._warnings(clip, main, tracks, voice, words))
        used: dict[Source, Any] = {}
        if face is not None and face_features is not None:
            used["face"] = face_features.tokens
        if voice is not None and voice_features is not None:
            used["voice"] = voice_features.tokens
        if words is not None:
            used["words"] = words.text
        if not used:
            names = asked or self.labels
            even = 1.0 / len(names)
            return Understanding(
                clip=clip, tracks=tracks, readings=(), voice=None, transcript=words,
                emotion=Emotion(label=None, confidence=even, abstained=True, scores=dict.fromkeys(names, even)),
                cues=None, prefix=None, features={}, open_vocabulary=(),
                affect=Affect(valence=None, arousal=None, source=None),
                evidence={"visual": (), "audio": (), "text": ()}, asked=asked,
                warnings=(*warnings, _NOTHING),
                timings_ms=clock.total(),
            )  # fmt: skip
        with clock.stage("prefill"):
            judged = self._judge.judge(used, asked or self.labels)
            segments = () if face is None else ev.segments_of(face, until=clip.seconds)
            quote = None
            if words is not None and find_quote:
                quote = self._judge.quote(words.text, judged.words_label)
            cues = self._cues(judged, clip, segments, voice, quote, present=tuple(used))
        items: dict[Modality, tuple[Evidence, ...]] = {
            "visual": () if face is None else ev.face_evidence(face, segments),
            "audio": () if "voice" not in used or voice is None else ev.voice_evidence(voice),
            "text": (),
        }
        if words is not None and quote is not None and cues.words is not None:
            item = ev.words_evidence(words, quote, label=cues.words.label, clip_seconds=clip.seconds)
            items["text"] = (item,)
        return Understanding(
            clip=clip,
            tracks=tracks,
            readings=() if face is None else (face, *others),
            voice=voice if "voice" in used else None,
            transcript=words,
            emotion=judged.emotion,
            cues=cues,
            prefix=judged.prefix,
            features={source: tokens for source, tokens in used.items() if source != "words"},
            open_vocabulary=judged.open_vocabulary,
            affect=affect_of(face, judged),
            evidence=items,
            asked=asked,
            warnings=tuple(warnings),
            timings_ms=clock.total(),
        )

    def _see(
        self, main: FaceTrack | None, tracks: Sequence[FaceTrack]
    ) -> tuple[FaceReadings | None, Features | None, tuple[FaceReadings, ...]]:
        if main is None:
            return None, None, ()
        readings, features = self.parts.face.read(main.crops, main.times, main.track_id)
        beside = sorted((track for track in tracks if not track.is_main), key=lambda track: -track.share)
        others = [self.parts.face.read(t.crops, t.times, t.track_id)[0] for t in beside[: MAX_TIMELINE_TRACKS - 1]]
        return readings, features, tuple(others)

    def _hear(self, audio: Audio | None) -> tuple[VoiceReadings | None, Features | None]:
        if audio is None:
            return None, None
        measured = self.parts.measure_voice(audio)
        if not measured.segments:
            return measured, None
        return self.parts.voice.read(audio, measured)

    def _recognise(self, name: str, audio: Audio, *, language: str | None) -> Transcript | None:
        with self._listening:
            if name not in self._recognisers:
                if self.parts.recogniser is None:
                    raise InputError(f"asr is {name!r}; this model has no recogniser", field="asr")
                self._recognisers[name] = self.parts.recogniser(name)
            heard = self._recognisers[name](audio, language=language)
        return heard if heard is not None and heard.text.strip() else None

    def _warnings(
        self,
        clip: Clip,
        main: FaceTrack | None,
        tracks: Sequence[FaceTrack],
        voice: VoiceReadings | None,
        words: Transcript | None,
    ) -> list[str]:
        found = []
        if clip.frames is not None and main is None:
            found.append("No face was found in the picture, so the picture was not used.")
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
        label = judged.emotion.label
        assert label is not None
        face = ev.face_cues(segments)
        voice_cue = ev.voice_cue(voice) if voice is not None and "voice" in present else None
        words = WordsCue(label=judged.words_label, quote=quote.text if quote else "") if judged.words_label else None
        verdicts: dict[Source, str] = {}
        if face:
            verdicts["face"] = longest(face).label
        if voice_cue is not None:
            verdicts["voice"] = voice_cue.label
        if words is not None:
            verdicts["words"] = words.label
        return Cues(
            label=label,
            confidence=self.parts.calibration.band(judged.emotion.confidence),
            face=face,
            voice=voice_cue,
            words=words,
            agreement=ev.agreement_of(verdicts),
            lead=ev.lead_of(label, verdicts, judged.support),
            absent=tuple(source for source in SOURCES if source not in verdicts),
            others=ev.others_of(label, judged.emotion.scores),
            abstained=judged.emotion.abstained,
            still=clip.frames is not None and clip.frames.is_still,
        )

    # ---- saying --------------------------------------------------------------------------------------------------

    def _say(
        self, seen: Understanding, question: str, clock: _Clock, *, must_state: bool = True
    ) -> tuple[str, list[str]]:
        """Decode an answer that passes its check; return it and what has to be said about how it came to be.

        nano decodes within the answers that the cues support; an adapter that was taught words of its own writes them,
        and they are checked.
        """
        cues, renderer = seen.cues, self.parts.renderer
        assert cues is not None
        assert seen.emotion.label is not None
        label_marker = renderer.token_id("<|label|>")
        ids = [label_marker, *renderer.followup(seen.emotion.label, cues, question)]
        banned = self._markers - {renderer.token_id(slot) for slot in Slots.of(cues).values} - {renderer.stop_id}
        choices = None
        if self.parts.answers == "supported":
            kinds, count = (("why",), _RATIONALES) if must_state else (kinds_for(question), _ANSWERS_OF_A_KIND)
            choices = [renderer.encode(text) for text in supported_answers(cues, kinds=kinds, count=count)]
        first: list[str] = []
        for temperature, seed in _ATTEMPTS:
            tokens = []
            for token in self.parts.engine.generate(
                seen.prefix, ids, stop_id=renderer.stop_id, max_new_tokens=MAX_RATIONALE_TOKENS,
                temperature=temperature, seed=seed, banned=banned, choices=choices,
            ):  # fmt: skip
                clock.check()
                tokens.append(token)
            text = renderer.decode(tokens, cues)
            problems = ev.check_rationale(text, cues, must_state=must_state)
            if len(tokens) >= MAX_RATIONALE_TOKENS:
                problems.append("The rationale did not come to an end.")
            if not problems:
                return text, []
            first = first or problems
        return ev.plain_rationale(cues), [
            "The decoded rationale made a claim that no reading supports "
            f"({' '.join(first)}) so it was replaced by sentences made from the readings."
        ]

    def _assemble(
        self, seen: Understanding, rationale: str, warnings: Sequence[str], *, timeline: bool, clock: _Clock
    ) -> Analysis:
        until = seen.clip.seconds
        found = [
            s for readings in seen.readings for s in tl.segments(readings, labels=seen.asked, until=until) if timeline
        ]
        audio = seen.clip.audio
        return Analysis(
            id=f"ana_{uuid.uuid4().hex[:24]}",
            model=self.parts.name,
            adapter=self.parts.adapter,
            created=int(time.time()),
            clip=seen.clip.name,
            seconds=round(seen.clip.seconds, 3),
            emotion=seen.emotion,
            open_vocabulary=seen.open_vocabulary,
            affect=seen.affect,
            rationale=rationale,
            evidence=seen.evidence,
            transcript=seen.transcript,
            timeline=tuple(found),
            faces=tuple(
                FaceSummary(
                    track=track.track_id,
                    share=round(track.share, 4),
                    is_main=track.is_main,
                    chosen_because=track.chosen_because,
                    times=tuple(round(float(t), 3) for t in track.times),
                    boxes=track.boxes,
                )
                for track in seen.tracks
            ),
            modalities=ModalityUse(
                visual=VisualUse(
                    used=bool(seen.readings),
                    frames=0 if seen.clip.frames is None else len(seen.clip.frames.times),
                    faces=len(seen.tracks),
                ),
                audio=AudioUse(
                    used=seen.voice is not None,
                    seconds=0.0 if audio is None else round(audio.seconds, 3),
                    voiced_seconds=0.0 if seen.voice is None else round(seen.voice.voiced_seconds, 3),
                ),
                text=TextUse(
                    used=seen.transcript is not None,
                    source=None if seen.transcript is None else seen.transcript.source,
                ),
            ),
            warnings=tuple(warnings),
            timings_ms=clock.total(),
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


def _decode(source: Source_, *, name: str | None, transcript: Transcript | None, limits: MediaLimits | None) -> Clip:
    if isinstance(source, Clip):
        if transcript is None:
            return source
        import dataclasses

        return dataclasses.replace(source, transcript=transcript)
    if source is None:
        if transcript is None:
            raise InputError("there is no clip and no transcript; give one of them", field="source")
        return Clip(name=name or "words", seconds=0.0, transcript=transcript)
    return read_clip(source, name=name, limits=limits or MediaLimits(), transcript=transcript)


def load(name: str | Path = "nano", *, adapter: str | Path | None = None, device: str = "cpu") -> Analyzer:
    """Load an analyzer: ``emollama.load("nano").analyze("clip.mp4")``."""
    return Analyzer.load(name, adapter=adapter, device=device)
