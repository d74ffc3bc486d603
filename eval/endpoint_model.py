"""An OpenAI-compatible endpoint as a model that the engine can ask: one chat completion an item, read by one parser.

The clip travels inside the request (`eval.clip_parts`), its words as text. The reply is read by `emollama.parse` and by
the small readers here; what they cannot read is unparseable and counts as wrong, never as a default. There are no
probabilities, so such a run has no calibration figures. Temperature is 0.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from emollama.endpoint import AnswerCache, ChatEndpoint, EndpointOptions, Prompt
from emollama.errors import InputError
from emollama.labels import canonical
from emollama.parse import parse_reply
from eval.ask import LETTERS, Answer, Given
from eval.choices import find_choice
from eval.clip_parts import media_parts
from eval.score_tasks import SCORE_TASKS
from eval.task import EvalTask

_WORD = "Which emotion does the person in this clip show?"
_FENCE = re.compile(r"^```[a-z]*\s*|\s*```$")


class EndpointModel:
    """Asks an endpoint. Close it when done."""

    def __init__(self, endpoint: ChatEndpoint) -> None:
        self.endpoint = endpoint
        self.name = endpoint.options.model

    @classmethod
    def open(cls, base_url: str, model: str, *, cache: Path, timeout_seconds: float = 120.0) -> EndpointModel:
        """Connect to ``base_url``; answers are kept in ``cache``, the key is read from ``OPENAI_API_KEY``."""
        options = EndpointOptions(
            base_url=base_url, model=model, temperature=0.0, max_tokens=512, timeout_seconds=timeout_seconds
        )
        return cls(ChatEndpoint(options, cache=AnswerCache(cache)))

    def close(self) -> None:
        self.endpoint.close()

    def describe(self) -> dict[str, Any]:
        return {"kind": "endpoint", "name": self.name, "url": self.endpoint.options.url}

    def check(self, task: EvalTask) -> None:
        if task.asks == "series":
            raise InputError(
                f"task {task.name!r} wants an answer for every frame, which an endpoint is not asked for; score a file "
                "of predictions with `emollama score`",
                field="endpoint",
            )

    def answer(self, given: Given, task: EvalTask) -> Answer:
        prompt = Prompt(messages=({"role": "user", "content": self._content(given, task)},), sha256="")
        text = self.endpoint.complete(prompt, seed=0).text
        readers: dict[str, Callable[[str, Given, EvalTask], Any]] = {
            "label": _read_label,
            "labels": _read_labels,
            "open": _read_words,
            "affect": _read_affect,
            "choice": _read_choice,
            "rationale": _read_rationale,
        }
        found = readers[task.asks](text, given, task)
        return Answer(prediction=found, unparseable=found is None, text=text)

    def _content(self, given: Given, task: EvalTask) -> list[dict[str, Any]]:
        parts = media_parts(given)
        words = given.clip.transcript
        lines = []
        if words is not None:
            lines.append(f"What is said or written: {json.dumps(words.text, ensure_ascii=False)}")
        lines.append(question_of(given, task))
        return [*parts, {"type": "text", "text": "\n".join(lines)}]


def question_of(given: Given, task: EvalTask) -> str:
    """Return the question of an item and the form that the reply is to have."""
    question = given.item.question or task.instruction or _WORD
    if task.asks == "label":
        wanted = f"Answer with exactly one of these words and nothing else: {', '.join(task.labels)}."
        if SCORE_TASKS[task.score].with_valence:
            wanted = (
                f'Answer in JSON: {{"label": one of {json.dumps(list(task.labels))}, "valence": a number from -1 '
                "(unpleasant) to 1 (pleasant)}."
            )
    elif task.asks == "labels":
        if SCORE_TASKS[task.score].kind == "intensities":
            wanted = f"Answer in JSON, a number from 0 to 1 for each of: {json.dumps(list(task.labels))}."
        else:
            wanted = f"Answer with a JSON list of one or more of: {json.dumps(list(task.labels))}."
    elif task.asks == "open":
        wanted = "Answer with a JSON list of one to eight words or short phrases."
    elif task.asks == "affect":
        wanted = (
            'Answer in JSON: {"valence": a number from -1 (unpleasant) to 1 (pleasant), "arousal": a number from -1 '
            "(calm) to 1 (excited)}."
        )
    elif task.asks == "choice":
        lines = [f"{letter}. {text}" for letter, text in zip(LETTERS, given.item.choices, strict=False)]
        return "\n".join([question, *lines, "Answer with the letter of one choice and nothing else."])
    else:
        wanted = "Name the cues, and say first what the person appears to feel."
    return f"{question}\n{wanted}"


# ---- reading replies ----------------------------------------------------------------------------------------------


def _json_of(text: str, opening: str, closing: str) -> Any:
    stripped = _FENCE.sub("", text.strip())
    start, end = stripped.find(opening), stripped.rfind(closing)
    if start < 0 or end < start:
        return None
    try:
        return json.loads(stripped[start : end + 1])
    except json.JSONDecodeError:
        return None


def _number(value: Any, *, low: float, high: float) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value) if low <= value <= high else None


def _read_label(text: str, given: Given, task: EvalTask) -> Any:
    label = parse_reply(text, labels=task.labels).label
    limit = given.item.meta.get("valence_limit")
    if label is None or limit is None:
        return label
    document = _json_of(text, "{", "}")
    valence = _number(document.get("valence"), low=-1.0, high=1.0) if isinstance(document, dict) else None
    return None if valence is None else {"label": label, "valence": valence * float(limit)}


def _read_labels(text: str, given: Given, task: EvalTask) -> Any:
    if SCORE_TASKS[task.score].kind == "intensities":
        document = _json_of(text, "{", "}")
        if not isinstance(document, dict):
            return None
        numbers = {name: _number(document.get(name), low=0.0, high=1.0) for name in task.labels}
        return None if None in numbers.values() else numbers
    words = _words_in(text)
    if words is None:
        return None
    known = {canonical(name): name for name in reversed(task.labels)} | {name.lower(): name for name in task.labels}
    found = [known.get(word.lower(), known.get(canonical(word))) for word in words]
    return None if None in found else list(dict.fromkeys(found))


def _read_words(text: str, given: Given, task: EvalTask) -> Any:
    return _words_in(text)


def _words_in(text: str) -> list[str] | None:
    """Return the words of a JSON list; of a reply that is one line of words between commas, those."""
    listed = _json_of(text, "[", "]")
    if listed is None and "\n" not in text.strip() and "[" not in text and "{" not in text:
        listed = [part.strip(" .;\"'") for part in text.split(",")]
        if any(len(part.split()) > 4 for part in listed):
            return None
    if not isinstance(listed, list) or not all(isinstance(word, str) and word.strip() for word in listed):
        return None
    return [" ".join(word.split()) for word in listed]


def _read_affect(text: str, given: Given, task: EvalTask) -> Any:
    document = _json_of(text, "{", "}")
    if not isinstance(document, dict):
        return None
    pair = {name: _number(document.get(name), low=-1.0, high=1.0) for name in ("valence", "arousal")}
    return None if None in pair.values() else pair


def _read_choice(text: str, given: Given, task: EvalTask) -> Any:
    """A letter of the choices, alone or before its text; or the text of exactly one choice."""
    return find_choice(text, given.item.choices)


def _read_rationale(text: str, given: Given, task: EvalTask) -> Any:
    reply = parse_reply(text, labels=task.labels or None)
    return {"text": text.strip(), "labels": [] if reply.label is None else [reply.label]} if text.strip() else None
