"""One clip end to end: decode -> faces -> encoders -> one prefill -> calibrated label -> evidence -> checked rationale.

`Analyzer.stages` is the walk (`emollama.understanding` reads and judges, `emollama.narrator` says); `Analyzer.analyze`
is the same walk for those who want its end alone.

Times are seconds from the start of the clip. `Analyzer` may be called from several threads: their clips are worked on
side by side, each on its share of the cores (`emollama.cores`), and their replies are decoded as one batch.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from emollama import timeline as tl
from emollama.cores import CORES
from emollama.errors import CancelledError, InputError
from emollama.judge import Judge, Judgement
from emollama.media import MediaLimits
from emollama.narrator import Narrator, Told
from emollama.parts import Engine, Parts, PromptRow, Query, VoiceReader
from emollama.prompt import DEFAULT_QUESTION, NOTHING_TO_JUDGE, Source
from emollama.stages import Clock, Done, RationalePiece, StageEvent
from emollama.types import Analysis, AudioUse, ModalityUse, TextUse, Transcript, VisualUse
from emollama.understanding import MAX_TIMELINE_TRACKS, ClipSource, Understander, Understanding, Wanted, summary_of
from emollama.watch import Watch

if TYPE_CHECKING:
    from emollama.preset_parts import Bases

__all__ = [
    "MAX_TIMELINE_TRACKS", "Analyzer", "CancelledError", "Engine", "Parts", "PromptRow", "Query", "Understanding",
    "VoiceReader", "load",
]  # fmt: skip

MAX_QUESTION_CHARACTERS = 2_000
T = TypeVar("T")


class Analyzer:
    """Reads a clip and says what the person in it appears to feel. Build it with `load`; tests hand in `Parts`."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self._judge = parts.judge or Judge(parts.renderer, parts.engine, parts.calibration)
        self._understander = Understander(parts, self._judge)
        self._narrator = Narrator(parts)
        # What other modules keep with an analyzer for as long as it lives, by type.
        self.attachments: dict[type, Any] = {}

    @property
    def labels(self) -> tuple[str, ...]:
        """The label set that is answered with when none is asked for."""
        return self._understander.labels

    @property
    def takes_followed_faces(self) -> bool:
        """Whether a clip may come with its faces followed by `emollama.faces` and without its pictures."""
        from emollama.faces import track_faces

        return self.parts.senses is None and self.parts.track_faces is track_faces

    @classmethod
    def load(
        cls,
        model: str | Path = "nano",
        *,
        adapter: str | Path | None = None,
        device: str = "cpu",
        engine: str = "auto",
        bases: Bases | None = None,
    ) -> Analyzer:
        """Load a model by its name in the table of models, or from a folder, with its own or another LoRA adapter.

        ``engine`` "lean" is our own, which every model has; the large presets have "paged", too, and "auto" chooses.
        Through ``bases`` several adapters of a preset share what lies under them (`emollama.preset_parts`).
        """
        from emollama.assemble import load_parts

        if str(model) != "nano":
            from emollama.preset_parts import is_preset, load_preset_parts

            if is_preset(model):
                return cls(load_preset_parts(model, adapter=adapter, device=device, engine=engine, bases=bases))
        if engine not in ("auto", "lean"):
            raise InputError(f"engine is {engine!r}; allowed for this model: auto, lean", field="engine")
        return cls(load_parts(model, adapter=adapter, device=device))

    # ---- analysing -----------------------------------------------------------------------------------------------

    def stages(
        self,
        source: ClipSource,
        *,
        name: str | None = None,
        transcript: str | Transcript | None = None,
        labels: str | Sequence[str] | None = None,
        language: str | None = None,
        timeline: bool = True,
        limits: MediaLimits | None = None,
        cancelled: Callable[[], bool] | None = None,
        deadline: float | None = None,
        asr: str | None = None,
    ) -> Generator[StageEvent, None, None]:
        """Analyse one clip and yield what is known as soon as it is; the last event holds the whole answer.

        The clip is a path, its bytes, a decoded `Clip`, or ``None`` with a transcript alone. ``labels`` is a closed set
        (names, a comma-separated string or a taxonomy's name); the answer keeps the caller's words. ``asr`` names a
        recogniser to hear the words with. ``cancelled`` is asked between stages, within long ones, and between tokens;
        ``deadline``, a reading of `time.monotonic`, is looked at as often.

        The work is done by whoever iterates, between two events; closing the iterator ends it. Raises, when it is
        iterated, `MediaError` for a file that cannot be read, `InputError` for a wrong argument, and `CancelledError`
        and `DeadlineError` when the work was to end.
        """
        clock = Clock(Watch(cancelled, deadline=deadline))
        wanted = Wanted(
            name=name, transcript=transcript, labels=labels, language=language, limits=limits, asr=asr,
            all_tracks=timeline,
        )  # fmt: skip
        with CORES.working():
            seen = yield from self._understander.read(clock, source, wanted)
            told = Told(text=NOTHING_TO_JUDGE)
            if seen.cues is None:
                yield RationalePiece(text=told.text)
            else:
                told = yield from self._narrate(seen, clock)
        yield Done(analysis=self._assemble(seen, told, timeline=timeline, clock=clock))

    def analyze(
        self,
        source: ClipSource,
        *,
        name: str | None = None,
        transcript: str | Transcript | None = None,
        labels: str | Sequence[str] | None = None,
        language: str | None = None,
        timeline: bool = True,
        limits: MediaLimits | None = None,
        cancelled: Callable[[], bool] | None = None,
        deadline: float | None = None,
        asr: str | None = None,
    ) -> Analysis:
        """Analyse one clip and return the whole answer; the arguments and errors are those of `stages`."""
        events = self.stages(
            source, name=name, transcript=transcript, labels=labels, language=language, timeline=timeline,
            limits=limits, cancelled=cancelled, deadline=deadline, asr=asr,
        )  # fmt: skip
        with closing(events):
            last = [event for event in events if isinstance(event, Done)]
        return last[0].analysis

    def understand(
        self,
        source: ClipSource,
        *,
        name: str | None = None,
        transcript: str | Transcript | None = None,
        labels: str | Sequence[str] | None = None,
        language: str | None = None,
        limits: MediaLimits | None = None,
        cancelled: Callable[[], bool] | None = None,
        asr: str | None = None,
        quote: bool = True,
        all_tracks: bool = False,
    ) -> Understanding:
        """Read and judge a clip without saying anything yet; `answer` questions about it, as many as wanted.

        ``quote=False`` does not look for the words that carry the verdict: the judgement is the same and comes sooner,
        for those who want no sentences. ``all_tracks`` reads the most present of the other faces, too.
        """
        wanted = Wanted(
            name=name, transcript=transcript, labels=labels, language=language, limits=limits, asr=asr,
            find_quote=quote, all_tracks=all_tracks,
        )  # fmt: skip
        with CORES.working():
            return _end_of(self._understander.read(Clock(Watch(cancelled)), source, wanted))

    # ---- asking --------------------------------------------------------------------------------------------------

    def answer(self, seen: Understanding, question: str, *, cancelled: Callable[[], bool] | None = None) -> str:
        """Answer a question about a clip that was understood; a claim that no reading supports is not let through."""
        if not question.strip() or len(question) > MAX_QUESTION_CHARACTERS:
            raise InputError(
                f"question has {len(question.strip())} characters; allowed: 1 to {MAX_QUESTION_CHARACTERS}",
                field="question",
            )
        if seen.cues is None:
            return NOTHING_TO_JUDGE
        return _end_of(self._narrator.say(seen, question, Watch(cancelled), must_state=False)).text

    def ask(self, source: ClipSource | Understanding, question: str, **options: Any) -> str:
        """Answer one question about a clip; ``options`` are those of `understand`."""
        seen = source if isinstance(source, Understanding) else self.understand(source, **options)
        return self.answer(seen, question)

    def judge(self, used: Mapping[Source, Any], labels: Sequence[str]) -> Judgement:
        """Judge tokens [T, D] of face and voice, and words, over a closed set of labels; no encoder runs."""
        judged: Judgement = self._judge.judge(used, tuple(labels))
        return judged

    # ---- the end of the walk -------------------------------------------------------------------------------------

    def _narrate(self, seen: Understanding, clock: Clock) -> Generator[StageEvent, None, Told]:
        """Yield the pieces of the rationale; the time that passes while somebody takes them is not the stage's."""
        with closing(self._narrator.say(seen, DEFAULT_QUESTION, clock.check)) as saying:
            while True:
                with clock.stage("decode_text"):
                    try:
                        piece = next(saying)
                    except StopIteration as end:
                        told: Told = end.value
                        break
                yield RationalePiece(text=piece)
        return told

    def _assemble(self, seen: Understanding, told: Told, *, timeline: bool, clock: Clock) -> Analysis:
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
            rationale=told.text,
            evidence=seen.evidence,
            transcript=seen.transcript,
            timeline=tuple(found),
            faces=tuple(summary_of(track) for track in seen.tracks),
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
            warnings=(*seen.warnings, *told.warnings),
            timings_ms=clock.total(),
        )


def _end_of(walk: Generator[Any, None, T]) -> T:
    """Walk to the end and return what is there, for those whom the way does not interest."""
    with closing(walk):
        while True:
            try:
                next(walk)
            except StopIteration as end:
                value: T = end.value
                return value


def load(name: str | Path = "nano", *, adapter: str | Path | None = None, device: str = "cpu") -> Analyzer:
    """Load an analyzer: ``emollama.load("nano").analyze("clip.mp4")``."""
    return Analyzer.load(name, adapter=adapter, device=device)
