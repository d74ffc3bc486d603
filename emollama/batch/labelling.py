"""One clip of a batch: read its stretch, analyse it, and make its line.

`Labelling` is what a process is told; `Labeller` is what it then holds, an analyzer among it. Answers depend on the
clip and on the options alone, so a line says nothing of when it was made but ``timings_ms``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from emollama.batch.items import Item, Task
from emollama.batch.outcome import Outcome, clip_name, failure, result_line
from emollama.errors import CheckpointError, DependencyError, EmoLlamaError, MediaLimitError
from emollama.media import MediaLimits
from emollama.media_windows import LONG_LIMITS
from emollama.types import Clip, Transcript

if TYPE_CHECKING:
    from emollama.analyze import Analyzer, Understanding

# What is wrong with these is wrong for every clip.
FATAL = (CheckpointError, DependencyError)


class Labels(Protocol):
    """Answers one task after the other; may be called by several threads."""

    def label(self, task: Task) -> Outcome: ...


@dataclass(frozen=True, kw_only=True)
class Labelling:
    """What every clip of a run shares. ``rationale=False`` wants labels and scores only, and is much faster.

    ``timelines`` is a format of `emollama.timeline.WRITERS`. A clip over the limits of an ordinary one is read window
    by window (`emollama.long_clip`) where ``long`` is set; ``max_seconds`` is the ordinary length, also of a stretch.
    """

    model: str = "nano"
    adapter: str | None = None
    device: str = "cpu"
    labels: tuple[str, ...] | None = None
    language: str | None = None
    asr: str | None = None
    rationale: bool = True
    timelines: str | None = None
    long: bool = True
    max_seconds: float = MediaLimits.max_seconds

    def load(self, *, num_cores: int | None = None) -> Labels:
        """Load the model; ``num_cores`` is what decoding a clip may use. Raises what `emollama.load` raises."""
        from emollama.analyze import load

        return Labeller(load(self.model, adapter=self.adapter, device=self.device), self, num_cores=num_cores)


class Labeller:
    """An analyzer and what it is asked for each clip."""

    def __init__(self, analyzer: Analyzer, labelling: Labelling, *, num_cores: int | None = None) -> None:
        self._analyzer, self._labelling, self._num_cores = analyzer, labelling, num_cores
        self._limits = MediaLimits(max_seconds=labelling.max_seconds)
        # The file of a stretch may be as long as any: what lies outside of the stretch is not decoded.
        self._stretch_limits = replace(LONG_LIMITS, max_seconds=labelling.max_seconds)

    def label(self, task: Task) -> Outcome:
        """Return the clip's line, of its answer or of its error; raises only what is wrong for every clip."""
        try:
            facts, timeline = self._answer(task)
        except FATAL:
            raise
        except (EmoLlamaError, OSError) as error:
            return failure(task.item, error, task=task)
        return Outcome(index=task.item.index, failed=False, line=result_line(task, facts), timeline=timeline)

    def _answer(self, task: Task) -> tuple[dict[str, Any], str | None]:
        options = self._labelling
        language = task.item.language or options.language
        words = task.transcript
        if words is not None and words.language is None and language is not None:
            words = replace(words, language=language)
        started = time.perf_counter()
        try:
            clip = self._read(task, words)
        except MediaLimitError:
            if not options.long or task.item.path is None or _is_stretch(task.item):
                raise
            return self._answer_long(task, words, language)
        decoding_ms = round(1000 * (time.perf_counter() - started), 2)
        asked: dict[str, Any] = {"labels": options.labels, "language": language, "asr": options.asr}
        write = _writer(options.timelines)
        if options.rationale:
            analysis = self._analyzer.analyze(clip, **asked)
            facts = _without_its_making(analysis.to_json_dict())
            segments = analysis.timeline
        else:
            seen = self._analyzer.understand(clip, quote=False, **asked)
            facts = _brief(seen, self._analyzer)
            segments = () if write is None else _timeline(seen)
        timings = facts["timings_ms"]
        facts["timings_ms"] = {
            **timings, "decode": decoding_ms, "total": round(timings.get("total", 0.0) + decoding_ms, 2)
        }  # fmt: skip
        return facts, None if write is None else write(segments)

    def _answer_long(
        self, task: Task, words: Transcript | None, language: str | None
    ) -> tuple[dict[str, Any], str | None]:
        """Return the answer about the whole clip, with its windows, and its timeline."""
        from emollama.long_clip import analyze_long

        options = self._labelling
        assert task.item.path is not None
        answer = analyze_long(
            self._analyzer, Path(task.item.path), name=clip_name(task.item), transcript=words, labels=options.labels,
            language=language, asr=options.asr, rationales=options.rationale,
        )  # fmt: skip
        facts = _without_its_making(answer.to_json_dict())
        del facts["sha256"]
        write = _writer(options.timelines)
        return facts, None if write is None else write(answer.whole.timeline)

    def _read(self, task: Task, words: Transcript | None) -> Clip:
        item = task.item
        if item.path is None:
            return Clip(name=clip_name(item), seconds=0.0, transcript=words)
        from emollama.media import read_clip

        limits = self._stretch_limits if _is_stretch(item) else self._limits
        return read_clip(
            Path(item.path), name=clip_name(item), limits=limits, transcript=words, threads=self._num_cores,
            start=item.start, end=item.end,
        )  # fmt: skip


def _is_stretch(item: Item) -> bool:
    return item.start is not None or item.end is not None


def _without_its_making(facts: dict[str, Any]) -> dict[str, Any]:
    """Leave out the number and the date that every analysis gets: the same clip has the same line."""
    return {name: value for name, value in facts.items() if name not in ("id", "created")}


def _writer(name: str | None) -> Callable[..., str] | None:
    from emollama.timeline import WRITERS

    return None if name is None else WRITERS[name]


def _timeline(seen: Understanding) -> tuple[Any, ...]:
    from emollama.timeline import segments

    return tuple(
        s for readings in seen.readings for s in segments(readings, labels=seen.asked, until=seen.clip.seconds)
    )


def _brief(seen: Understanding, analyzer: Analyzer) -> dict[str, Any]:
    """Return the label, the scores and what they rest on, under the names that a whole analysis has for them."""
    from emollama.types import SCHEMA_VERSION

    clip, emotion = seen.clip, seen.emotion
    words = seen.transcript
    return {
        "model": analyzer.parts.name,
        "adapter": analyzer.parts.adapter,
        "clip": clip.name,
        "seconds": round(clip.seconds, 3),
        "emotion": {
            "label": emotion.label,
            "confidence": emotion.confidence,
            "abstained": emotion.abstained,
            "scores": dict(emotion.scores),
        },
        "open_vocabulary": list(seen.open_vocabulary),
        "rationale": None,
        "transcript": None
        if words is None
        else {
            "text": words.text,
            "language": words.language,
            "segments": [{"start": s.start, "end": s.end, "text": s.text} for s in words.segments],
            "source": words.source,
        },
        "modalities": {
            "visual": {
                "used": bool(seen.readings),
                "frames": 0 if clip.frames is None else len(clip.frames.times),
                "faces": len(seen.tracks),
            },
            "audio": {
                "used": seen.voice is not None,
                "seconds": 0.0 if clip.audio is None else round(clip.audio.seconds, 3),
                "voiced_seconds": 0.0 if seen.voice is None else round(seen.voice.voiced_seconds, 3),
            },
            "text": {"used": words is not None, "source": None if words is None else words.source},
        },
        "warnings": list(seen.warnings),
        "timings_ms": dict(seen.timings_ms),
        "schema_version": SCHEMA_VERSION,
        "valence": seen.affect.valence,
        "arousal": seen.affect.arousal,
        "affect_source": seen.affect.source,
    }
