"""What was kept of all windows -> the answer for the whole clip, by the same prefill that judges a short one.

What stands for the clip is chosen by `emollama.long_clip.pooling`. The cues of the rationale are those of the whole:
the longest stretches of the face, smoothed over windows, where the voice was, and of the quotes that were found in
the windows the one that carried most. So a time in the rationale is one that was read.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from emollama import evidence as ev
from emollama import timeline as tl
from emollama.analyze import Analyzer, Understanding
from emollama.judge import Judgement, affect_of
from emollama.long_clip.analysis import LongAnalysis
from emollama.long_clip.chapters import chapters_of, course_of, turned
from emollama.long_clip.clock import clock, in_clock_times
from emollama.long_clip.kept import Gathered, KeptWindow, LongQuestion, Presence
from emollama.long_clip.pooling import SaidWords, joined_readings, pooled_face, pooled_voice, pooled_words
from emollama.long_clip.words import SpokenWords, joined
from emollama.prompt import (
    DEFAULT_QUESTION,
    MAX_TRANSCRIPT_TOKENS,
    NOTHING_TO_JUDGE,
    Cues,
    Source,
    WordsCue,
)
from emollama.types import (
    Affect,
    Analysis,
    AudioUse,
    Clip,
    Emotion,
    Evidence,
    FaceReadings,
    FaceSummary,
    Modality,
    ModalityUse,
    Segment,
    TextUse,
    Transcript,
    VisualUse,
    VoiceReadings,
)
from emollama.understanding import cues_of

_MAX_OTHER_TRACKS = 4  # faces that led no window get a timeline, too, the most present first
_MAX_QUOTES = 3
_MAX_STRETCHES = 12  # of the face, as evidence for the whole; the rest is in the windows and the timeline
_NOTHING = "In the whole clip there was no face, no voice and no words to judge, so no emotion is claimed."


def answer_whole(
    analyzer: Analyzer,
    windows: Sequence[KeptWindow],
    question: LongQuestion,
    *,
    cancelled: Callable[[], bool],
) -> LongAnalysis:
    """Judge the whole clip from what was kept of its windows, and put the answer together."""
    began = time.perf_counter()
    kept = Gathered.of(windows)
    whole = _Whole(analyzer, kept, SpokenWords(question.transcript), question.labels)
    seen = whole.understand(question.name or kept.name)
    rationale = NOTHING_TO_JUDGE
    extra: tuple[str, ...] = ()
    if seen.cues is not None:
        rationale = whole.say(seen, cancelled)
    else:
        extra = (_NOTHING,)
    chapters = chapters_of(kept.windows, window_seconds=question.window_seconds)
    chapters, points = turned(chapters, whole.face, window_seconds=question.window_seconds)
    spent = 1000 * (time.perf_counter() - began)
    told = {stage: round(milliseconds, 2) for stage, milliseconds in kept.timings_ms.items()}
    told["whole"] = round(spent, 2)
    told["total"] = round(told.get("total", 0.0) + spent, 2)
    by_label: dict[str, float] = {}
    for window in kept.windows:
        if window.emotion.label is not None:
            seconds = by_label.get(window.emotion.label, 0.0) + window.end - window.start
            by_label[window.emotion.label] = round(seconds, 3)
    return LongAnalysis(
        whole=whole.analysis(seen, rationale, timeline=question.timeline, warnings=extra, timings=told),
        window_seconds=question.window_seconds,
        windows=tuple(kept.windows),
        chapters=chapters,
        turning_points=points,
        course=course_of(chapters),
        time_by_label=dict(sorted(by_label.items(), key=lambda item: -item[1])),
        sha256=kept.sha256,
    )


class _Whole:
    """The whole clip as one question to the model."""

    def __init__(self, analyzer: Analyzer, kept: Gathered, words: SpokenWords, asked: tuple[str, ...] | None) -> None:
        self._analyzer, self._kept, self._asked = analyzer, kept, asked
        self.main = kept.presence.main()
        self.face = joined_readings(kept.mains, track_id=self.main or 0) if kept.mains else None
        self._untimed = words.transcript if not words.has_times else None
        self.transcript = words.transcript or joined([said.transcript for said in kept.words])
        self.warnings: list[str] = []

    def understand(self, name: str) -> Understanding:
        """Ask the model about what stands for the whole clip."""
        kept, analyzer = self._kept, self._analyzer
        used: dict[Source, Any] = {}
        face = pooled_face(kept.faces)
        if face is not None:
            used["face"] = face
        voice = pooled_voice(kept.voices)
        if voice is not None:
            used["voice"] = voice[0]
        text = self._words()
        if text:
            used["words"] = text
        readings = None if voice is None else voice[1]
        clip = Clip(name=name, seconds=kept.seconds, transcript=self.transcript)
        labels = self._asked or analyzer.labels
        even = 1.0 / len(labels)
        judged: Judgement | None = None
        cues: Cues | None = None
        coarse: tuple[Segment, ...] = ()
        items: dict[Modality, tuple[Evidence, ...]] = {"visual": (), "audio": (), "text": ()}
        emotion = Emotion(label=None, confidence=even, abstained=True, scores=dict.fromkeys(labels, even))
        affect = Affect(valence=None, arousal=None, source=None)
        if used:
            judged = analyzer.judge(used, labels)
            emotion, affect = judged.emotion, affect_of(self.face, judged)
            coarse = self._stretches()
            quotes = self._quotes(judged.words_label)
            cues = self._cues(judged, coarse, readings, quotes)
            visual = () if self.face is None else ev.face_evidence(self.face, _longest(coarse))
            audio = () if readings is None else ev.voice_evidence(readings)
            items["visual"], items["audio"] = tuple(told(i) for i in visual), tuple(told(i) for i in audio)
            items["text"] = tuple(self._quote_evidence(said) for said in quotes)
        return Understanding(
            clip=clip, tracks=(), readings=() if self.face is None else (self.face,), voice=readings,
            transcript=self.transcript, emotion=emotion, cues=cues, prefix=None if judged is None else judged.prefix,
            features={source: tokens for source, tokens in used.items() if source != "words"},
            open_vocabulary=() if judged is None else judged.open_vocabulary, affect=affect, evidence=items,
            asked=self._asked, warnings=(), timings_ms={},
        )  # fmt: skip

    def say(self, seen: Understanding, cancelled: Callable[[], bool]) -> str:
        """Have the rationale of the whole clip decoded; its times are told as a clock does."""
        return in_clock_times(self._analyzer.answer(seen, DEFAULT_QUESTION, cancelled=cancelled))

    def _words(self) -> str:
        """The words that stand for the whole clip, and what has to be said about that choice."""
        kept, renderer = self._kept, self._analyzer.parts.renderer
        if self._untimed is not None:
            if len(renderer.encode_untrusted(self._untimed.text)) > MAX_TRANSCRIPT_TOKENS:
                self.warnings.append("The transcript is long: its beginning and its end were read, not its middle.")
            self.warnings.append(
                "The transcript has no times, so its words count for the whole clip and not for single windows."
            )
            return self._untimed.text
        pooled = pooled_words(
            kept.words, num_tokens=lambda text: len(renderer.encode_untrusted(text)), max_tokens=MAX_TRANSCRIPT_TOKENS
        )
        if pooled is None:
            return ""
        chosen, text = pooled
        if len(chosen) < len(kept.words):
            self.warnings.append(
                f"The words are more than are read at once: for the whole clip, those of {len(chosen)} of "
                f"{len(kept.words)} windows stand for all."
            )
        return text

    def _stretches(self) -> tuple[Segment, ...]:
        """The face over the whole clip in few, long segments; what is short beside the clip is left to the timeline."""
        if self.face is None:
            return ()
        broad = min(60.0, max(0.5, self._kept.seconds / 40))
        options = tl.TimelineOptions(half_window_seconds=broad, min_seconds=min(60.0, 2 * broad), max_gap_seconds=60.0)
        return tl.segments(self.face, options=options, until=self._kept.seconds)

    def _quotes(self, label: str | None) -> tuple[SaidWords, ...]:
        """The quotes that carried most of what the words of the whole clip point to, in order of time."""
        fitting = [index for index, said in enumerate(self._kept.words) if said.quote and said.label == label]
        best = sorted(fitting, key=lambda index: -self._kept.words[index].drop)[:_MAX_QUOTES]
        return tuple(self._kept.words[index] for index in sorted(best))

    def _quote_evidence(self, said: SaidWords) -> Evidence:
        segments = [s for s in said.transcript.segments if said.quote.casefold() in s.text.casefold()]
        segments = segments or list(said.transcript.segments)
        start, end = (segments[0].start, segments[-1].end) if segments else (0.0, self._kept.seconds)
        return Evidence(
            start=round(start, 3), end=round(end, 3), cue=f"the words “{said.quote}”",
            reading="words.occlusion_drop_nats", value=said.drop, supports=said.label,
        )  # fmt: skip

    def _cues(
        self,
        judged: Judgement,
        coarse: Sequence[Segment],
        voice: VoiceReadings | None,
        quotes: Sequence[SaidWords],
    ) -> Cues:
        face = ev.face_cues(coarse)
        voice_cue = None if voice is None else ev.voice_cue(voice)
        words = None
        if judged.words_label is not None:
            best = max(quotes, key=lambda said: said.drop, default=None)
            words = WordsCue(label=judged.words_label, quote=best.quote if best is not None else "")
        return cues_of(
            judged,
            face=face,
            voice=voice_cue,
            words=words,
            confidence=self._analyzer.parts.calibration.band(judged.emotion.confidence),
            still=self._kept.is_still,
        )

    # ---- putting together ----------------------------------------------------------------------------------------

    def analysis(
        self,
        seen: Understanding,
        rationale: str,
        *,
        timeline: bool,
        warnings: Sequence[str],
        timings: Mapping[str, float],
    ) -> Analysis:
        """Return the ordinary analysis of the whole clip."""
        kept, parts = self._kept, self._analyzer.parts
        voiced = 0.0 if seen.voice is None else seen.voice.voiced_seconds
        text: Transcript | None = self.transcript
        return Analysis(
            id=f"ana_{uuid.uuid4().hex[:24]}",
            model=parts.name,
            adapter=parts.adapter,
            created=int(time.time()),
            clip=seen.clip.name,
            seconds=round(kept.seconds, 3),
            emotion=seen.emotion,
            open_vocabulary=seen.open_vocabulary,
            affect=seen.affect,
            rationale=rationale,
            evidence=seen.evidence,
            transcript=text,
            timeline=self._timeline() if timeline else (),
            faces=self._faces(),
            modalities=ModalityUse(
                visual=VisualUse(used=self.face is not None, frames=kept.num_frames, faces=len(kept.presence.by_track)),
                audio=AudioUse(
                    used=seen.voice is not None, seconds=round(kept.audio_seconds, 3), voiced_seconds=round(voiced, 3)
                ),
                text=TextUse(used=text is not None, source=None if text is None else text.source),
            ),
            warnings=tuple(dict.fromkeys((*kept.file_warnings, *self._about_windows(), *self.warnings, *warnings))),
            timings_ms=timings,
        )

    def _timeline(self) -> tuple[Segment, ...]:
        """Segments of every face that led a window and of the most present others, smoothed over windows' borders."""
        by_track: dict[int, list[FaceReadings]] = {}
        for readings in self._kept.readings:
            by_track.setdefault(readings.track_id, []).append(readings)
        presence = self._kept.presence.by_track
        led = [track for track in by_track if presence[track].num_led]
        beside = sorted((t for t in by_track if not presence[t].num_led), key=lambda t: -presence[t].num_frames)
        found: list[Segment] = []
        for track in sorted([*led, *beside[:_MAX_OTHER_TRACKS]]):
            readings = joined_readings(by_track[track], track_id=track)
            found.extend(tl.segments(readings, labels=self._asked, until=self._kept.seconds))
        return tuple(found)

    def _faces(self) -> tuple[FaceSummary, ...]:
        kept = self._kept
        return tuple(
            FaceSummary(
                track=track,
                share=round(one.num_frames / max(1, kept.num_frames), 4),
                is_main=track == self.main,
                chosen_because=self._reason(one) if one.num_led else "",
                times=tuple(one.times),
                boxes=tuple(one.boxes),
            )
            for track, one in sorted(kept.presence.by_track.items())
        )

    def _reason(self, one: Presence) -> str:
        return f"it led {one.num_led} of {len(self._kept.windows)} windows; in the first of them, {one.reason}"

    def _about_windows(self) -> list[str]:
        """What has to be said about the windows, once for all of them."""
        kept, told = self._kept, []
        without = [window for window in kept.windows if window.emotion.label is None]
        if without and len(without) < len(kept.windows):
            first = ", ".join(clock(window.start) for window in without[:5]) + (", …" if len(without) > 5 else "")
            told.append(
                f"In {len(without)} of {len(kept.windows)} windows there was no face, no voice and no word to judge "
                f"(from {first})."
            )
        leaders = {window.track for window in kept.windows if window.track is not None}
        if len(leaders) > 1:
            told.append(
                f"{len(leaders)} face tracks led the windows in turn; nobody is recognised again, so the answer for "
                "the whole is about whoever was the main face at the time."
            )
        unsure = sum(window.emotion.abstained for window in kept.windows) - len(without)
        if unsure:
            told.append(f"{unsure} of {len(kept.windows)} windows were too unsure to claim an emotion for them.")
        return told


def _longest(stretches: Sequence[Segment]) -> list[Segment]:
    """Return the longest and surest stretches, in order of time."""
    weight = {s: (stretch.end - stretch.start) * stretch.scores[stretch.label] for s, stretch in enumerate(stretches)}
    kept = sorted(weight, key=lambda s: -weight[s])[:_MAX_STRETCHES]
    return [stretches[s] for s in sorted(kept)]


def told(item: Evidence, *, not_before: float = 0.0) -> Evidence:
    """Return an item of evidence as a long clip tells it: with times as a clock's, and within its window."""
    start = max(item.start, not_before)
    return replace(item, start=round(start, 3), end=round(max(start, item.end), 3), cue=in_clock_times(item.cue))
