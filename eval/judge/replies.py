"""Reads a judge's replies, strictly: one JSON object with the fields asked for, each of its type and in its range.

"8/10", "about 8", 11, NaN, two objects or a number in prose are no answer: the reason is said and nothing is guessed.
Thoughts in ``<think>`` before the object and a code fence around it are let pass, because they are not in the answer.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NoReturn

MAX_SCORE = 10
_THOUGHTS = re.compile(r"\A\s*<think>.*?</think>", flags=re.DOTALL)
_FENCE = re.compile(r"\A```(?:json)?\s*\n(.*)\n```\Z", flags=re.DOTALL)
_UNWRITABLE = re.compile(r"['\"\[\],\n\r]")  # what a list such as ['happy', 'at ease'] cannot hold
MAX_LABELS, MAX_LABEL_CHARACTERS = 32, 40
MAX_CLUES, MAX_CLUE_CHARACTERS = 24, 400


class UnreadableError(ValueError):
    """A reply that is not what was asked for; the message says why, with a piece of the reply."""


def read_object(text: str) -> dict[str, Any]:
    """Return the JSON object that a reply is; anything else raises `UnreadableError`."""
    bare = _THOUGHTS.sub("", text).strip()
    fenced = _FENCE.match(bare)
    try:
        document = json.loads(fenced[1] if fenced else bare, object_pairs_hook=_unique, parse_constant=_no_constant)
    except UnreadableError:
        raise
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"the reply is no JSON: {_piece(text)}") from error
    if not isinstance(document, dict):
        raise UnreadableError(f"the reply is JSON, but no object: {_piece(text)}")
    return document


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        raise UnreadableError(f"the reply names a field twice: {[name for name, _ in pairs]}")
    return document


def _no_constant(name: str) -> NoReturn:
    raise UnreadableError(f"the reply holds {name}, which is no number")


def read_score(document: Mapping[str, Any]) -> float:
    """Return the field ``score``, a number from 0 to 10."""
    score = _field(document, "score")
    if isinstance(score, bool) or not isinstance(score, (int, float)):
        raise UnreadableError(f"score is {_piece(score)}; a plain number from 0 to {MAX_SCORE} is wanted")
    if not (math.isfinite(score) and 0 <= score <= MAX_SCORE):
        raise UnreadableError(f"score is {score}; a number from 0 to {MAX_SCORE} is wanted")
    return float(score)


def read_clues(document: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the field ``clues``, a list of phrases."""
    return _texts(document, "clues", most=MAX_CLUES, longest=MAX_CLUE_CHARACTERS)


def read_labels(document: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the field ``labels``, a list of different words in lower case that a label file can hold."""
    labels = tuple(dict.fromkeys(word.lower() for word in _texts(document, "labels", MAX_LABELS, MAX_LABEL_CHARACTERS)))
    for word in labels:
        if _UNWRITABLE.search(word):
            raise UnreadableError(f"label {_piece(word)} holds a quote, comma, bracket or line break")
    return labels


def read_groups(document: Mapping[str, Any], *, words: Collection[str]) -> tuple[tuple[str, ...], ...]:
    """Return the field ``groups``: every word of ``words`` in exactly one group, and no other word."""
    groups = _field(document, "groups")
    if not isinstance(groups, list) or not all(isinstance(group, list) for group in groups):
        raise UnreadableError(f"groups is {_piece(groups)}; a list of lists is wanted")
    found = [tuple(_text(word, "groups").lower() for word in group) for group in groups if group]
    used = [word for group in found for word in group]
    if unknown := sorted(set(used) - set(words)):
        raise UnreadableError(f"groups holds {unknown[0]!r}, which was not among the words")
    if missing := sorted(set(words) - set(used)):
        raise UnreadableError(f"groups lacks {missing[0]!r}")
    if len(used) > len(set(used)):
        doubled = next(word for word in used if used.count(word) > 1)
        raise UnreadableError(f"groups holds {doubled!r} twice")
    return tuple(found)


def _texts(document: Mapping[str, Any], name: str, most: int, longest: int) -> tuple[str, ...]:
    value = _field(document, name)
    if not isinstance(value, list):
        raise UnreadableError(f"{name} is {_piece(value)}; a list is wanted")
    if len(value) > most:
        raise UnreadableError(f"{name} holds {len(value)} entries; at most {most} are wanted")
    texts = tuple(_text(entry, name) for entry in value)
    if any(len(text) > longest for text in texts):
        raise UnreadableError(f"{name} holds an entry of more than {longest} characters")
    return texts


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise UnreadableError(f"{name} holds {_piece(value)}; texts are wanted")
    return " ".join(value.split())


def _field(document: Mapping[str, Any], name: str) -> Any:
    if name not in document:
        raise UnreadableError(f"the reply has no field {name!r}; it has: {', '.join(document) or 'none'}")
    return document[name]


def _piece(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
