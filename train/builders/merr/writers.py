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
from train.builders.merr.observation import Observation
from train.builders.merr.prompts import Prompt

if TYPE_CHECKING:
    from emollama.analyze import Analyzer, Understanding
    from train.builders.merr.endpoint import ChatEndpoint

WRITERS = ("nano", "endpoint")


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """One sample to be explained; ``understand`` reads its clip when a writer wants more than the facts.

    ``questions`` are those that the explanation answers: the first attempt the first, and so on.
    """

    sample_id: str
    observation: Observation
    facts: tuple[str, ...]
    questions: tuple[str, ...]
    prompt: Prompt
    understand: Callable[[], Understanding]

    def question(self, attempt: int) -> str:
        return self.questions[attempt % len(self.questions)]


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A text and what wrote it (for the provenance); ``complete`` is false when it was cut off."""

    text: str
    by: dict[str, Any] = field(default_factory=dict)
    complete: bool = True


class Writer(Protocol):
    def write(self, assignment: Assignment, *, attempt: int) -> Draft: ...


class EndpointWriter:
    """Asks an OpenAI-compatible endpoint; every attempt has a seed of its own."""

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

    Every attempt asks another question, so that another answer comes.
    """

    def __init__(self, analyzer: Analyzer) -> None:
        self.analyzer = analyzer

    def write(self, assignment: Assignment, *, attempt: int) -> Draft:
        seen, known = assignment.understand(), assignment.observation
        question = assignment.question(attempt)
        told = replace(seen, cues=known.cues, emotion=replace(seen.emotion, label=known.label))
        text = self.analyzer.answer(told, question)
        parts = self.analyzer.parts
        return Draft(text=text, by={"writer": "nano", "model": parts.name, "adapter": parts.adapter})


class CallableWriter:
    """A function ``(assignment, attempt) -> text`` of the caller's own, such as another local model."""

    def __init__(self, function: Callable[[Assignment, int], str], *, name: str) -> None:
        self._function, self.name = function, name

    def write(self, assignment: Assignment, *, attempt: int) -> Draft:
        text = self._function(assignment, attempt)
        if not isinstance(text, str):
            raise InputError(f"{self.name} returned {type(text).__name__}; allowed: a text", field="writer")
        by = {"writer": self.name, "prompt_sha256": assignment.prompt.sha256, "attempt": attempt}
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
