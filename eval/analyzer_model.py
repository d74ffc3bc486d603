"""The shipped analyzer, or an adapter on it, as a model that the engine can ask.

A closed set is scored by `Analyzer.understand` exactly as ``emollama analyze --labels`` does it; no rationale is
decoded unless the task asks for one. Several labels at once are the open vocabulary where it holds the task's labels.
What the analyzer abstains from still has a likeliest label, which is what a benchmark scores (its rules demand an
answer); the abstentions are counted beside it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emollama.abaw.beside import TunedFace
from emollama.errors import InputError
from emollama.labels import GOEMOTIONS_28, canonical
from emollama.prompt import DEFAULT_QUESTION
from emollama.watch import Check, unwatched
from eval.ask import LETTERS, Answer, Given
from eval.series import affect_at, labels_at, units_at
from eval.task import EvalTask

if TYPE_CHECKING:
    from emollama.analyze import Analyzer, Understanding
    from emollama.parts import Parts

# Multi-label over words that the open vocabulary does not hold: the likeliest label is given, and every other that is
# at least this share as likely as it.
LABELS_FROM = 0.5
_HASH_UP_TO = 1 << 29  # bytes; larger weights are told apart by name and size
_QUESTION = "Which emotion does the person show?"


class AnalyzerModel:
    """Asks an `Analyzer`. Readings of the clip that is being ablated are computed once (`remember`)."""

    def __init__(self, analyzer: Analyzer, *, name: str | None = None, weights: str | None = None) -> None:
        from emollama.analyze import Analyzer as Built

        parts = analyzer.parts
        self.name = name or "-".join(part for part in (parts.name, parts.adapter) if part)
        self.weights = weights
        self._decides_units = isinstance(parts.face, TunedFace) and "au" in parts.face.heads
        self.analyzer = Built(remember(parts))

    @classmethod
    def load(cls, model: str, *, base: str | None = None, device: str = "cpu") -> AnalyzerModel:
        """Load a model of the table by name, a model folder, or an adapter folder (on the base that it names)."""
        from emollama.adapter import AdapterInfo
        from emollama.analyze import Analyzer as Built

        folder = Path(model)
        if not (folder / "adapter_config.json").is_file():
            if base is not None:
                raise InputError(f"base {base!r} has no effect: {model!r} is no adapter folder", field="base")
            return cls(Built.load(model, device=device), weights=weights_digest(model))
        info = AdapterInfo.load(folder)
        under = base or (None if info is None else info.base)
        if under is None:
            raise InputError(f"adapter {folder} does not name its base; name it with --base", field="base")
        digest = hashlib.sha256((weights_digest(under) + weights_digest(folder)).encode()).hexdigest()
        return cls(Built.load(under, adapter=folder, device=device), weights=digest)

    def describe(self) -> dict[str, Any]:
        parts = self.analyzer.parts
        return {"kind": "analyzer", "name": parts.name, "adapter": parts.adapter, "weights_sha256": self.weights}

    def check(self, task: EvalTask) -> None:
        from eval.score_tasks import SCORE_TASKS

        if SCORE_TASKS[task.score].kind == "action_units" and not self._decides_units:
            raise InputError(
                f"model {self.name!r} has no tuned head for action units, so task {task.name!r} cannot ask it; put one "
                "beside its face model (docs/hsemotion.md), name an endpoint with --endpoint, or score a file of "
                "predictions with `emollama score`",
                field="model",
            )

    def answer(self, given: Given, task: EvalTask) -> Answer:
        how: dict[str, Callable[[Given, EvalTask], Answer]] = {
            "label": self._label,
            "labels": self._labels,
            "open": self._open,
            "affect": self._affect,
            "series": self._series,
            "choice": self._choice,
            "rationale": self._rationale,
        }
        return how[task.asks](given, task)

    # ---- the questions -------------------------------------------------------------------------------------------

    def _label(self, given: Given, task: EvalTask) -> Answer:
        seen, scores = self._scored(given, task.labels)
        if seen.emotion.label is None:
            return Answer(prediction=None, abstained=True)
        best: Any = max(scores, key=scores.__getitem__)
        limit = given.item.meta.get("valence_limit")
        if limit is not None:
            best = {"label": best, "valence": (seen.affect.valence or 0.0) * float(limit)}
        return Answer(prediction=best, probabilities=scores, abstained=seen.emotion.abstained)

    def _labels(self, given: Given, task: EvalTask) -> Answer:
        from eval.score_tasks import SCORE_TASKS

        seen, scores = self._scored(given, task.labels)
        if seen.emotion.label is None:
            return Answer(prediction=None, abstained=True)
        if SCORE_TASKS[task.score].kind == "intensities":
            return Answer(prediction=scores, probabilities=scores)
        top = max(scores.values())
        if set(task.labels) <= set(GOEMOTIONS_28):
            # the model's own answer in several words: every word from `judge.OPEN_FROM` of their probability on
            chosen = [word for word in seen.open_vocabulary if word in task.labels]
            chosen = chosen or [max(scores, key=scores.__getitem__)]
        else:
            chosen = [name for name, score in scores.items() if score >= LABELS_FROM * top]
        return Answer(prediction=chosen, probabilities=scores, abstained=seen.emotion.abstained)

    def _open(self, given: Given, task: EvalTask) -> Answer:
        seen = self._understand(given)
        if seen.emotion.label is None:
            return Answer(prediction=None, abstained=True)
        return Answer(prediction=_words(seen), abstained=seen.emotion.abstained)

    def _affect(self, given: Given, task: EvalTask) -> Answer:
        affect = self._understand(given).affect
        if affect.valence is None or affect.arousal is None:
            return Answer(prediction=None, abstained=True)
        return Answer(prediction={"valence": affect.valence, "arousal": affect.arousal})

    def _series(self, given: Given, task: EvalTask) -> Answer:
        """Answer for every listed frame from the main face's readings; a clip without a face has none but its own."""
        from eval.score_tasks import SCORE_TASKS

        seen = self._understand(given)
        times = np.asarray(given.item.gold["times"], np.float64)
        if not seen.readings:
            return Answer(prediction=[None] * len(times), abstained=True, notes={"frames_without_any_face": len(times)})
        step = 0.0 if given.clip.frames is None else _step(given.clip.frames.times)
        answers: list[Any]
        if SCORE_TASKS[task.score].kind == "valence_arousal":
            answers, num_missing = affect_at(seen.readings[0], times, step=step)
        elif SCORE_TASKS[task.score].kind == "action_units":
            answers, num_missing = units_at(seen.readings[0], times, step=step)
        else:
            answers, num_missing = labels_at(seen.readings[0], times, task.labels, step=step)
        return Answer(prediction=answers, notes={"frames_interpolated": num_missing} if num_missing else {})

    def _choice(self, given: Given, task: EvalTask) -> Answer:
        """Score every choice by the mean log-likelihood of its tokens after the question, on the clip's own prefix."""
        from emollama.parts import Query

        item = given.item
        if not 2 <= len(item.choices) <= len(LETTERS):
            raise InputError(f"item {item.id!r} has {len(item.choices)} choices; allowed: 2 to 26", field="choices")
        seen = self._understand(given, quote=True)
        if seen.cues is None or seen.emotion.label is None:
            return Answer(prediction=None, abstained=True)
        renderer = self.analyzer.parts.renderer
        question = item.question or task.instruction or _QUESTION
        marker = [renderer.token_id("<|label|>"), *renderer.followup(seen.emotion.label, seen.cues, question)]
        options = [renderer.encode_untrusted(text) for text in item.choices]
        if any(not option for option in options):
            raise InputError(f"item {item.id!r} has an empty choice", field="choices")
        (table,) = self.analyzer.parts.engine.score(seen.prefix, [Query(marker=marker, options=options)])
        scores = np.asarray(table[0], np.float64) / [len(option) for option in options]
        shares = np.exp(scores - np.logaddexp.reduce(scores))
        return Answer(
            prediction=LETTERS[int(scores.argmax())],
            probabilities={letter: float(share) for letter, share in zip(LETTERS, shares, strict=False)},
        )

    def _rationale(self, given: Given, task: EvalTask) -> Answer:
        seen = self._understand(given, quote=True)
        if seen.emotion.label is None:
            return Answer(prediction=None, abstained=True)
        text = self.analyzer.answer(seen, given.item.question or DEFAULT_QUESTION)
        return Answer(prediction={"text": text, "labels": _words(seen)}, abstained=seen.emotion.abstained, text=text)

    # ---- the analyzer --------------------------------------------------------------------------------------------

    def _understand(self, given: Given, labels: Sequence[str] | None = None, *, quote: bool = False) -> Understanding:
        clip = given.clip
        if clip.frames is None and clip.audio is None and clip.transcript is None:
            raise InputError(f"item {given.item.id!r} has neither picture, sound nor words", field="clip")
        return self.analyzer.understand(clip, labels=labels, quote=quote)

    def _scored(self, given: Given, labels: Sequence[str]) -> tuple[Understanding, dict[str, float]]:
        """Score a closed set. Names that mean one emotion to the model are asked once, as the first of them."""
        first: dict[str, str] = {}
        for name in labels:
            first.setdefault(canonical(name), name)
        seen = self._understand(given, tuple(first.values()))
        return seen, {name: float(seen.emotion.scores.get(name, 0.0)) for name in labels}


def _words(seen: Understanding) -> list[str]:
    """The open words; where none is likely enough to be reported, the label."""
    label = seen.emotion.label
    return list(seen.open_vocabulary) or ([] if label is None else [label])


def _step(times: np.ndarray) -> float:
    return float(np.median(np.diff(times))) if len(times) > 1 else 0.0


# ---- readings once ------------------------------------------------------------------------------------------------


def remember(parts: Parts) -> Parts:
    """Return parts that keep the readings of the last clip, so that its ablations track and encode nothing again.

    A clip whose sound was dropped shares its pictures' array with the whole one, and is recognised by it; the last two
    answers of each part are kept, by thread.
    """
    return dataclasses.replace(
        parts,
        track_faces=_Last(parts.track_faces),
        measure_voice=_Last(parts.measure_voice),
        face=_Reader(_Last(parts.face.read)),
        voice=_Reader(_Last(parts.voice.read)),
    )


class _Last:
    """A function of objects that remembers its last two answers by the identity of its arguments.

    It does not keep the arguments alive: the pictures of a long clip are a gigabyte, and may go when the clip is done.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._kept = threading.local()

    def __call__(self, *arguments: Any, check: Check = unwatched, **named: Any) -> Any:
        given = (*arguments, *named.values())
        kept: list[tuple[list[Callable[[Any], bool]], Any]] = getattr(self._kept, "answers", [])
        for known, answer in kept:
            if len(known) == len(given) and all(is_it(value) for is_it, value in zip(known, given, strict=True)):
                return answer
        answer = self._function(*arguments, check=check, **named)
        self._kept.answers = [*kept[-1:], ([_identity(value) for value in given], answer)]
        return answer


def _identity(value: Any) -> Callable[[Any], bool]:
    """Return a test for being this very object, which holds on to it only where it is small (``None``, a number)."""
    try:
        held = weakref.ref(value)
    except TypeError:
        return lambda other: other is value
    return lambda other: other is not None and held() is other


class _Reader:
    def __init__(self, read: Callable[..., Any]) -> None:
        self.read = read


def weights_digest(model: str | Path) -> str:
    """Return a sha256 that tells a model's or an adapter's files apart; large weights count by name and size."""
    from emollama.checkpoint import sha256_of

    folder = Path(model)
    if not folder.is_dir():
        if str(model) != "nano":
            return hashlib.sha256(str(model).encode()).hexdigest()
        from emollama.checkpoint import ASSETS

        folder = ASSETS / "nano"
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.suffix in (".safetensors", ".json") and p.is_file()):
        size = path.stat().st_size
        content = sha256_of(path) if size <= _HASH_UP_TO else str(size)
        digest.update(f"{path.relative_to(folder).as_posix()} {content}\n".encode())
    return digest.hexdigest()
