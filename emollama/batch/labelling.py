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

from emollama.batch.items import Task
from emollama.batch.outcome import Outcome, clip_name, failure, result_line
from emollama.errors import CheckpointError, DependencyError, EmoLlamaError
from emollama.media import MediaLimits
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

    ``timelines`` is a format of `emollama.timeline.WRITERS`; ``max_seconds`` the length of a clip or a stretch.
    """

    model: str = "nano"
    adapter: str | None = None
    device: str = "cpu"
    labels: tuple[str, ...] | None = None
    language: str | None = None
    asr: str | None = None
    rationale: bool = True
    timelines: str | None = None
    max_seconds: float = MediaLimits.max_seconds

    def load(self) -> Labels:
        """Load the model; raises what `emollama.load` raises."""
        from emollama.analyze import load

        return Labeller(load(self.model, adapter=self.adapter, device=self.device), self)


class Labeller:
    """An analyzer and what it is asked for each clip."""

    def __init__(self, analyzer: Analyzer, labelling: Labelling) -> None:
        self._analyzer, self._labelling = analyzer, labelling
        self._limits = MediaLimits(max_seconds=labelling.max_seconds)

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
        clip = self._read(task, words)
        decoding_ms = round(1000 * (time.perf_counter() - started), 2)
        asked: dict[str, Any] = {"labels": options.labels, "language": language, "asr": options.asr}
        write = _writer(options.timelines)
        if options.rationale:
            analysis = self._analyzer.analyze(clip, **asked)
            facts = analysis.to_json_dict()
            for name in ("id", "created"):
                del facts[name]
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

    def _read(self, task: Task, words: Transcript | None) -> Clip:
        item = task.item
        if item.path is None:
            return Clip(name=clip_name(item), seconds=0.0, transcript=words)
        from emollama.media import read_clip

        return read_clip(
            Path(item.path), name=clip_name(item), limits=self._limits, transcript=words, start=item.start,
            end=item.end,
        )  # fmt: skip


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
