"""Who writes the explanations: an endpoint, nano itself, or a function of the caller's own.

A writer gets the facts of one sample and the number of the attempt, and gives a draft; whether it is kept is not its
business (`train.builders.merr.checks`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from emollama.errors import InputError, UnknownNameError
from emollama.labels import canonical
from emollama.prompt import DEFAULT_QUESTION
from train.builders.merr.checks import MAX_WORDS
from train.builders.merr.observation import Observation
from train.builders.merr.prompts import Prompt

if TYPE_CHECKING:
    from emollama.analyze import Analyzer, Understanding
    from emollama.endpoint import ChatEndpoint

WRITERS = ("nano", "endpoint")


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """One sample to be explained; ``understand`` reads its clip when a writer wants more than the facts.

    ``questions`` are those that the explanation answers: the first attempt the first, and so on. ``movements`` are
    sentences about the action units at the peak, where they were measured, the longest first.
    """

    sample_id: str
    observation: Observation
    facts: tuple[str, ...]
    questions: tuple[str, ...]
    movements: tuple[str, ...]
    prompt: Prompt
    understand: Callable[[], Understanding]

    def question(self, attempt: int) -> str:
        return self.questions[attempt % len(self.questions)]


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A text and what wrote it (for the provenance); ``complete`` is false when it was cut off.

    ``question`` is what was asked when it was not the assignment's; ``refusal`` says why there will be no text at all.
    """

    text: str
    by: dict[str, Any] = field(default_factory=dict)
    complete: bool = True
    question: str | None = None
    refusal: str | None = None


class Writer(Protocol):
    """``wants_clips`` says whether `Assignment.understand` is called, so that a clip is not kept for nothing."""

    @property
    def wants_clips(self) -> bool: ...

    def write(self, assignment: Assignment, *, attempt: int) -> Draft: ...


class EndpointWriter:
    """Asks an OpenAI-compatible endpoint; every attempt has a seed of its own."""

    wants_clips = False

    def __init__(self, endpoint: ChatEndpoint) -> None:
        self.endpoint = endpoint

    def write(self, assignment: Assignment, *, attempt: int) -> Draft:
        done = self.endpoint.complete(assignment.prompt, seed=attempt)
        by = {
            "writer": "endpoint",
            "url": self.endpoint.options.url,
            "model": done.model or self.endpoint.options.model,
            "prompt_sha256": assignment.prompt.sha256,
            "request_sha256": done.request_sha256,
            "seed": self.endpoint.options.seed + attempt,
            "cached": done.cached,
            "time": done.created,
        }
        return Draft(text=done.text, by=by, complete=done.finish_reason != "length")


class NanoWriter:
    """nano's own answer, within what its readings support, with the sample's label as the verdict.

    A label that none of nano's readings bears out it cannot explain. What the action units show at the peak is added in
    the rules' words, because nano has no action units.
    """

    wants_clips = True

    def __init__(self, analyzer: Analyzer) -> None:
        self.analyzer = analyzer

    def write(self, assignment: Assignment, *, attempt: int) -> Draft:
        known = assignment.observation
        cues = known.cues
        verdicts = {cue.label for cue in cues.face}
        verdicts |= {cue.label for cue in (cues.voice, cues.words) if cue is not None}
        if canonical(known.label) not in {canonical(label) for label in verdicts}:
            said = ", ".join(sorted(verdicts)) or "nothing"
            return Draft(text="", refusal=f"nano reads {said}, so it cannot explain {known.label}; ask an endpoint")
        seen = assignment.understand()
        # nano was taught the plain question best, so it is asked when another one gave no full explanation
        question = assignment.question(attempt) if attempt != 1 else DEFAULT_QUESTION
        told = replace(seen, cues=cues, emotion=replace(seen.emotion, label=known.label))
        text = self.analyzer.answer(told, question)
        parts = self.analyzer.parts
        by = {"writer": "nano", "model": parts.name, "adapter": parts.adapter}
        first, stop, rest = text.partition(". ")
        for movement in assignment.movements if stop else ():
            longer = f"{first}{stop}{movement} {rest}"
            if len(longer.split()) <= MAX_WORDS:
                text, by = longer, {**by, "movement": "rules.action_units"}
                break
        return Draft(text=text, by=by, question=question)


class CallableWriter:
    """A function ``(assignment, attempt) -> text`` of the caller's own, such as another local model."""

    wants_clips = True

    def __init__(self, function: Callable[[Assignment, int], str], *, name: str) -> None:
        self._function, self.name = function, name

    def write(self, assignment: Assignment, *, attempt: int) -> Draft:
        text = self._function(assignment, attempt)
        if not isinstance(text, str):
            raise InputError(f"{self.name} returned {type(text).__name__}; allowed: a text", field="writer")
        by = {"writer": self.name, "prompt_sha256": assignment.prompt.sha256}
        return Draft(text=text, by=by)


def load_callable(name: str) -> CallableWriter:
    """Return the writer ``package.module:function``; an unknown name raises `UnknownNameError` with the choices."""
    module_name, separator, function_name = name.partition(":")
    if not separator:
        raise UnknownNameError("writer", name, (*WRITERS, "package.module:function"))
    try:
        function = getattr(import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"writer is {name!r}, which cannot be imported: {error}", field="writer") from error
    if not callable(function):
        raise InputError(f"writer is {name!r}, which is not a function", field="writer")
    return CallableWriter(function, name=name)
