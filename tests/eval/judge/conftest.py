"""A judge that answers by rule, so that what comes out can be worked out by hand."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from emollama.endpoint import AnswerCache, ChatEndpoint, EndpointOptions
from eval.judge import Judge, JudgeOptions

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_LIST = re.compile(r"(?:Reference|reference\)|Answer|scored\)): (\[.*\])")
_WORDS = re.compile(r"(?:Words|synonyms): (\[.*\])")
SYNONYMS = {"happy": "joy", "glad": "joy", "joyful": "joy", "sad": "sorrow", "unhappy": "sorrow"}


def what(body: dict[str, Any]) -> str:
    """Which prompt a request is: extract_clues, extract_labels, compare or group."""
    system = body["messages"][0]["content"]
    if "note what it says" in system:
        return "extract_clues"
    if "name the emotions" in system:
        return "extract_labels"
    return "group" if "sort emotion words" in system else "compare"


def rule(body: dict[str, Any]) -> dict[str, Any]:
    """Extract the words of a text; score ten times the share of the reference's that the answer holds; group."""
    user = body["messages"][1]["content"]
    if what(body).startswith("extract"):
        text = json.loads(_STRING.search(user).group())  # type: ignore[union-attr]
        return {"labels" if what(body) == "extract_labels" else "clues": text.replace(".", "").split()}
    if what(body) == "group":
        words = json.loads(_WORDS.search(user)[1])  # type: ignore[index]
        meant: dict[str, list[str]] = {}
        for word in words:
            meant.setdefault(SYNONYMS.get(word, word), []).append(word)
        return {"groups": list(meant.values())}
    gold, given = (set(json.loads(found)) for found in _LIST.findall(user))
    return {"reason": "counted", "score": 10 * len(gold & given) / len(gold)}


@pytest.fixture
def by_rule() -> Callable[[dict[str, Any]], dict[str, Any]]:
    return rule


@pytest.fixture
def prompt_of() -> Callable[[dict[str, Any]], str]:
    return what


@pytest.fixture
def judging(endpoint: Any, completion: Any) -> Any:
    """The endpoint, answering by `rule`; ``endpoint.verdict(body)`` may be replaced."""
    endpoint.verdict = rule
    endpoint.reply = lambda body, n: (200, {}, completion(json.dumps(endpoint.verdict(body))))
    return endpoint


@pytest.fixture
def make_judge(tmp_path: Path, endpoint: Any) -> Callable[..., Judge]:
    def make(*, options: dict[str, Any] | None = None, **asked: Any) -> Judge:
        given = {"base_url": endpoint.url, "model": "m", "temperature": 0.0, "first_pause_seconds": 0.0, "max_tries": 2}
        chat = ChatEndpoint(EndpointOptions(**{**given, **asked}), cache=AnswerCache(tmp_path / "cache"), key="")
        return Judge(chat, JudgeOptions(**{"workers": 2, **(options or {})}))

    return make
