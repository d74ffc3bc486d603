"""One window read and judged, and who reads the windows of a clip: an analyzer here, or a service on other machines.

A window is understood like any clip (`Analyzer.understand`), with two things carried over: the ids of faces
(`emollama.long_clip.following`) and the place in time. What is left of it is a `KeptWindow`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from emollama.analyze import Analyzer, Understanding
from emollama.long_clip.analysis import LongAnalysis, WindowAnalysis
from emollama.long_clip.clock import in_clock_times
from emollama.long_clip.following import FollowedFaces, TrackIds
from emollama.long_clip.kept import KeptWindow, LongQuestion, SeenFace
from emollama.long_clip.pooling import SaidWords
from emollama.long_clip.whole import answer_whole, told
from emollama.prompt import DEFAULT_QUESTION
from emollama.types import Affect, Audio, Emotion, Modality, Transcript
from emollama.watch import Check, unwatched

if TYPE_CHECKING:
    from emollama.media_windows import ClipWindow
    from emollama.parts import Recogniser

Cancelled = Callable[[], bool]


class WindowReader(Protocol):
    """Reads the windows of one clip and judges the whole; blocks."""

    def read(
        self,
        window: ClipWindow,
        question: LongQuestion,
        *,
        said: Transcript | None,
        ids: TrackIds,
        cancelled: Cancelled,
    ) -> KeptWindow:
        """Read a window that is `placed`; ``said`` are its words, if there are any. Gives its faces their ``ids``."""
        ...

    def judge(self, windows: Sequence[KeptWindow], question: LongQuestion, *, cancelled: Cancelled) -> LongAnalysis:
        """Judge the whole from all windows, in order."""
        ...


def placed(window: ClipWindow) -> ClipWindow:
    """Return a window whose clip has the times of the file, so that everything read from it has them, too."""
    frames, audio = window.clip.frames, window.clip.audio
    if frames is not None and not frames.is_still:
        frames = replace(frames, times=frames.times + window.start)
    if audio is not None:
        audio = replace(audio, start=audio.start + window.start)
    return replace(window, clip=replace(window.clip, seconds=window.end, frames=frames, audio=audio))


class ReaderHere:
    """Reads with an analyzer of this process."""

    def __init__(self, analyzer: Analyzer) -> None:
        self._analyzer = analyzer
        self._ears = analyzer.attachments.setdefault(_Ears, _Ears(analyzer))

    def read(
        self,
        window: ClipWindow,
        question: LongQuestion,
        *,
        said: Transcript | None,
        ids: TrackIds,
        cancelled: Cancelled,
    ) -> KeptWindow:
        parts = self._analyzer.parts
        following = Analyzer(
            replace(
                parts,
                track_faces=FollowedFaces(parts.track_faces, ids),
                recogniser=None if parts.recogniser is None else self._ears.recogniser,
            )
        )
        return read_window(following, window, question, said=said, cancelled=cancelled)

    def judge(self, windows: Sequence[KeptWindow], question: LongQuestion, *, cancelled: Cancelled) -> LongAnalysis:
        return answer_whole(self._analyzer, windows, question, cancelled=cancelled)


def read_window(
    analyzer: Analyzer,
    window: ClipWindow,
    question: LongQuestion,
    *,
    said: Transcript | None,
    cancelled: Cancelled,
) -> KeptWindow:
    """Understand a window that is `placed`, and return what is kept of it; its `TrackIds` are for the caller to add."""
    clip, frames = window.clip, window.clip.frames
    kept = KeptWindow(
        start=window.start,
        end=window.end,
        share=window.share,
        is_last=window.is_last,
        name=clip.name,
        sha256=clip.sha256,
        file_warnings=clip.warnings,
        num_frames=0 if frames is None else len(frames.times),
        audio_seconds=0.0 if clip.audio is None else clip.audio.seconds,
        is_still=frames is not None and frames.is_still,
        analysis=_nothing(window, question.labels or analyzer.labels),
    )
    if frames is None and clip.audio is None and said is None:
        return kept
    seen = analyzer.understand(
        clip, transcript=said, labels=question.labels, language=question.language, asr=question.asr,
        all_tracks=question.timeline, cancelled=cancelled,
    )  # fmt: skip
    timings = {stage: spent for stage, spent in seen.timings_ms.items() if stage not in ("decode", "total")}
    rationale = None
    if question.rationales and seen.cues is not None:
        began = time.perf_counter()
        rationale = analyzer.answer(seen, DEFAULT_QUESTION, cancelled=cancelled)
        timings["decode_text"] = 1000 * (time.perf_counter() - began)
    return replace(
        kept,
        analysis=_analysis(window, seen, rationale),
        # Encoders elsewhere read every face, whether it is asked for or not.
        readings=seen.readings if question.timeline else seen.readings[:1],
        face_tokens=seen.features.get("face"),
        voice=seen.voice,
        voice_tokens=seen.features.get("voice"),
        words=None if seen.transcript is None else _said(seen),
        faces=tuple(SeenFace.of(track) for track in seen.tracks),
        timings_ms=timings,
    )


def _nothing(window: ClipWindow, labels: Sequence[str]) -> WindowAnalysis:
    """What is said of a window without pictures, sound and words."""
    even = 1.0 / len(labels)
    return WindowAnalysis(
        index=window.index,
        start=round(window.start, 3),
        end=round(window.end, 3),
        emotion=Emotion(label=None, confidence=even, abstained=True, scores=dict.fromkeys(labels, even)),
        open_vocabulary=(),
        affect=Affect(valence=None, arousal=None, source=None),
        evidence={"visual": (), "audio": (), "text": ()},
        used=(),
        track=None,
    )


def _analysis(window: ClipWindow, seen: Understanding, rationale: str | None) -> WindowAnalysis:
    used: list[Modality] = []
    if seen.readings:
        used.append("visual")
    if seen.voice is not None:
        used.append("audio")
    if seen.transcript is not None:
        used.append("text")
    about_file = set(window.clip.warnings)
    return WindowAnalysis(
        index=window.index,
        start=round(window.start, 3),
        end=round(window.end, 3),
        emotion=seen.emotion,
        open_vocabulary=seen.open_vocabulary,
        affect=seen.affect,
        evidence={
            modality: tuple(told(item, not_before=window.start) for item in items)
            for modality, items in seen.evidence.items()
        },
        used=tuple(used),
        track=seen.readings[0].track_id if seen.readings else None,
        rationale=None if rationale is None else in_clock_times(rationale),
        warnings=tuple(warning for warning in seen.warnings if warning not in about_file),
    )


def _said(seen: Understanding) -> SaidWords:
    assert seen.transcript is not None
    cue = None if seen.cues is None else seen.cues.words
    items = seen.evidence["text"]
    drop = items[0].value if items else 0.0
    return SaidWords(
        transcript=seen.transcript,
        label=None if cue is None else cue.label,
        quote="" if cue is None else cue.quote,
        drop=float(drop) if isinstance(drop, float) else 0.0,
    )


class _Ears:
    """The recognisers that long clips are heard with: each loaded once, and hearing one window at a time."""

    def __init__(self, analyzer: Analyzer) -> None:
        self._load = analyzer.parts.recogniser
        self._loaded: dict[str, Recogniser] = {}
        self._lock = threading.Lock()

    def recogniser(self, name: str) -> Recogniser:
        assert self._load is not None
        with self._lock:
            if name not in self._loaded:
                self._loaded[name] = self._load(name)
        recogniser = self._loaded[name]

        def hear(audio: Audio, *, language: str | None = None, check: Check = unwatched) -> Transcript | None:
            with self._lock:
                return recogniser(audio, language=language, check=check)

        return hear


def reader_of(analyzer: Any) -> WindowReader | None:
    """Return who reads the windows of a clip for an analyzer; ``None`` for one that looks at whole clips only."""
    parts = getattr(analyzer, "parts", None)
    if parts is not None:
        return ReaderHere(analyzer) if parts.senses is None else None
    elsewhere: WindowReader | None = getattr(analyzer, "window_reader", None)
    return elsewhere
