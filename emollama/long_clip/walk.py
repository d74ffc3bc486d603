"""A long clip from beginning to end: window after window is read and judged, and then the whole from all of them.

Of a window its readings, tokens and words are kept, not its pictures and sound, so that memory stays where one window
needs it. A window is understood like any clip (`Analyzer.understand`), with two things carried over: the ids of faces
(`emollama.long_clip.following`) and the place in time. The whole is asked of the same model by the same prefill, from
what stands for all windows (`emollama.long_clip.whole`).
"""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, cast

from emollama.analyze import Analyzer, Understanding
from emollama.errors import CancelledError, DeadlineError, InputError
from emollama.labels import parse_label_set
from emollama.long_clip.analysis import LongAnalysis, WindowAnalysis
from emollama.long_clip.clock import in_clock_times
from emollama.long_clip.following import FollowedFaces
from emollama.long_clip.pooling import FaceTokens, SaidWords, VoiceTokens
from emollama.long_clip.whole import Gathered, answer_whole, told
from emollama.long_clip.words import SpokenWords
from emollama.media import MediaLimits
from emollama.media_windows import LONG_FPS, LONG_LIMITS, WINDOW_SECONDS, ClipWindow, read_windows
from emollama.parts import Recogniser
from emollama.prompt import DEFAULT_QUESTION
from emollama.types import Audio, Clip, FaceReadings, FaceTrack, Modality, Transcript
from emollama.watch import Check, Watch, unwatched

LongSource = Path | str | bytes | BinaryIO | Iterable[ClipWindow]
_MAX_TRACKS = 4  # faces of a window that get a timeline, the main one among them
_WHOLE_SHARE = 0.02  # of the progress


def reads_long_clips(analyzer: Any) -> bool:
    """Tell whether an analyzer can be asked for the windows of a clip: one in this process that reads as nano does."""
    parts = getattr(analyzer, "parts", None)
    return parts is not None and parts.senses is None


def analyze_long(
    analyzer: Analyzer,
    source: LongSource,
    *,
    name: str | None = None,
    window_seconds: float = WINDOW_SECONDS,
    fps: float = LONG_FPS,
    transcript: str | Transcript | None = None,
    labels: str | Sequence[str] | None = None,
    language: str | None = None,
    asr: str | None = None,
    rationales: bool = True,
    timeline: bool = True,
    limits: MediaLimits = LONG_LIMITS,
    progress: Callable[[float], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
    deadline: float | None = None,
) -> LongAnalysis:
    """Analyse a clip of any length, window by window and as a whole, in memory that hardly grows with its length.

    ``source`` is a path, bytes, an open file, or windows that were decoded elsewhere. ``transcript`` may be words, the
    text of a subtitle file, or a `Transcript`; with times, words go to the windows in which they are said, without
    they count for the whole alone. ``rationales=False`` leaves out the sentences about single windows, which take time,
    ``timeline=False`` the timeline of the whole, for which other faces than the main one are read.
    ``progress`` hears how much is done, in [0, 1], rising. ``cancelled`` is asked several times a second; ``deadline``
    is a reading of `time.monotonic`.

    Raises what `read_clip` and `Analyzer.analyze` raise, `CancelledError`, and `DeadlineError`; and `InputError` for a
    large preset, whose encoders look at whole clips.
    """
    if not reads_long_clips(analyzer):
        raise InputError(f"model {analyzer.parts.name!r} reads no long clips; nano does", field="model")
    asked = None if labels is None else parse_label_set(labels)
    words = SpokenWords.given(transcript, language=language)
    watch = Watch(cancelled, deadline=deadline)
    windows: Iterable[ClipWindow]
    if isinstance(source, (str, Path, bytes, io.IOBase)):
        windows = read_windows(
            cast("Path | str | bytes | BinaryIO", source), name=name, seconds=window_seconds, fps=fps, limits=limits,
            cancelled=_asker(watch),
        )  # fmt: skip
    else:
        windows = cast("Iterable[ClipWindow]", source)
    walk = _Walk(
        analyzer, words=words, asked=asked, language=language, asr=asr, rationales=rationales, all_tracks=timeline,
        watch=watch,
    )  # fmt: skip
    tell = _Progress(progress)
    try:
        for window in windows:
            watch()
            walk.read(window)
            tell(window.share * (1 - _WHOLE_SHARE))
        answer = answer_whole(
            analyzer, walk.gathered, words=words, asked=asked, window_seconds=window_seconds,
            name=name, timeline=timeline, timings=walk.timings, cancelled=_asker(watch),
        )  # fmt: skip
    except CancelledError:
        watch()  # a time that has passed is told as what it is
        raise
    tell(1.0)
    return answer


def _asker(watch: Watch) -> Callable[[], bool]:
    """Ask a watch without its errors: for those who want a yes or no."""

    def is_over() -> bool:
        try:
            watch()
        except (CancelledError, DeadlineError):
            return True
        return False

    return is_over


class _Progress:
    """Tells a listener how much is done: never less than before, and not for changes that nobody sees."""

    def __init__(self, listener: Callable[[float], None] | None) -> None:
        self._listener, self._told = listener, -1.0

    def __call__(self, share: float) -> None:
        share = min(1.0, max(share, self._told))
        if self._listener is not None and (share > self._told):
            self._told = share
            self._listener(share)


class _Walk:
    """Reads one window after the other, and keeps of each what the whole is made of."""

    def __init__(
        self,
        analyzer: Analyzer,
        *,
        words: SpokenWords,
        asked: tuple[str, ...] | None,
        language: str | None,
        asr: str | None,
        rationales: bool,
        all_tracks: bool,
        watch: Watch,
    ) -> None:
        self._words, self._asked, self._language, self._asr = words, asked, language, asr
        self._rationales, self._all_tracks, self._cancelled = rationales, all_tracks, _asker(watch)
        ears = analyzer.attachments.setdefault(_Ears, _Ears(analyzer))
        self._analyzer = Analyzer(
            replace(
                analyzer.parts,
                track_faces=FollowedFaces(analyzer.parts.track_faces),
                recogniser=None if analyzer.parts.recogniser is None else ears.recogniser,
            )
        )
        self.gathered = Gathered()
        self.timings: dict[str, float] = {}
        self._began = time.perf_counter()
        self._left = self._began  # when the last window was done with

    def read(self, window: ClipWindow) -> None:
        """Understand a window and let go of it."""
        arrived = time.perf_counter()
        self._spent("decode", arrived - self._left)
        clip = _placed(window)
        said = self._words.between(window.start, window.end, is_last=window.is_last)
        rationale = None
        if clip.frames is None and clip.audio is None and said is None:
            seen = None
        else:
            seen = self._analyzer.understand(
                clip, transcript=said, labels=self._asked, language=self._language, asr=self._asr,
                cancelled=self._cancelled,
            )  # fmt: skip
            for stage, milliseconds in seen.timings_ms.items():
                if stage not in ("decode", "total"):
                    self._spent(stage, milliseconds / 1000)
            if self._rationales and seen.cues is not None:
                began = time.perf_counter()
                rationale = self._analyzer.answer(seen, DEFAULT_QUESTION, cancelled=self._cancelled)
                self._spent("decode_text", time.perf_counter() - began)
        self._keep(window, clip, seen, rationale)
        self._left = time.perf_counter()
        self._spent("total", self._left - arrived)

    def _spent(self, stage: str, seconds: float) -> None:
        self.timings[stage] = self.timings.get(stage, 0.0) + 1000 * seconds
        if stage == "decode":
            self.timings["total"] = self.timings.get("total", 0.0) + 1000 * seconds

    def _keep(self, window: ClipWindow, clip: Clip, seen: Understanding | None, rationale: str | None) -> None:
        kept = self.gathered
        kept.name, kept.seconds = clip.name, window.end
        kept.sha256 = clip.sha256 or kept.sha256
        kept.file_warnings.extend(clip.warnings)
        kept.num_frames += 0 if clip.frames is None else len(clip.frames.times)
        kept.audio_seconds += 0.0 if clip.audio is None else clip.audio.seconds
        kept.is_still = clip.frames is not None and clip.frames.is_still
        if seen is None:
            kept.windows.append(kept.empty_window(window, self._asked or self._analyzer.labels))
            return
        others = self._others(seen) if self._all_tracks else []
        main = seen.readings[0] if seen.readings else None
        if main is not None:
            kept.mains.append(main)
            if "face" in seen.features:
                kept.faces.append(FaceTokens(tokens=seen.features["face"], readings=main))
        kept.readings.extend(([main] if main is not None else []) + others)
        for track in seen.tracks:
            kept.presence.add(track)
        if seen.voice is not None and "voice" in seen.features:
            kept.voices.append(VoiceTokens(tokens=seen.features["voice"], readings=seen.voice))
        if seen.transcript is not None:
            kept.words.append(_said(seen))
        used: list[Modality] = []
        if main is not None:
            used.append("visual")
        if seen.voice is not None:
            used.append("audio")
        if seen.transcript is not None:
            used.append("text")
        about_file = set(clip.warnings)
        kept.windows.append(
            WindowAnalysis(
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
                track=None if main is None else main.track_id,
                rationale=None if rationale is None else in_clock_times(rationale),
                warnings=tuple(warning for warning in seen.warnings if warning not in about_file),
            )
        )

    def _others(self, seen: Understanding) -> list[FaceReadings]:
        """Read the faces beside the main one, the most present first, for the timeline."""
        beside: list[FaceTrack] = sorted((t for t in seen.tracks if not t.is_main), key=lambda track: -track.share)
        return [
            self._analyzer.parts.face.read(track.crops, track.times, track.track_id)[0]
            for track in beside[: _MAX_TRACKS - 1]
        ]


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


def _placed(window: ClipWindow) -> Clip:
    """Return a window's clip with the times of the file, so that everything read from it has them, too."""
    frames, audio = window.clip.frames, window.clip.audio
    if frames is not None and not frames.is_still:
        frames = replace(frames, times=frames.times + window.start)
    if audio is not None:
        audio = replace(audio, start=audio.start + window.start)
    return replace(window.clip, seconds=window.end, frames=frames, audio=audio)


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
