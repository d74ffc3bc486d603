"""Reply text -> label and rationale. What cannot be parsed is said (`Reply.form` is "unparseable"), never guessed.

Three forms of a reply are read: JSON (bare or in a code fence), a word ("Sad.", "Emotion: sadness"), and sentences,
in which the label is what "the person appears ..." says. Two different labels in the place of one are no label.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from emollama.labels import ADJECTIVES, ALIASES, GOEMOTIONS_28, NANO_LABELS, canonical

Form = Literal["sentences", "word", "json", "unparseable"]
_LABEL_KEYS = ("label", "emotion", "emotions", "answer", "predicted_emotion")
_TEXT_KEYS = ("rationale", "reason", "reasons", "reasoning", "explanation", "why")


@dataclass(frozen=True, kw_only=True)
class Reply:
    """``label`` in the asker's word, or ``None`` when none could be read; ``rationale`` is the reply's prose."""

    label: str | None
    rationale: str
    form: Form


def parse_reply(text: str, *, labels: Sequence[str] | None = None) -> Reply:
    """Read a reply. With ``labels`` only those (or their synonyms) count, and the label comes back in their word.

    Without ``labels``, nano's eight labels and the fine words of GoEmotions are known.
    """
    names = tuple(labels) if labels is not None else tuple(dict.fromkeys((*NANO_LABELS, *GOEMOTIONS_28)))
    words = _vocabulary(names)
    stripped = text.strip()
    document = _json_object(stripped)
    if document is not None:
        label = _from_json(document, words)
        prose = next((str(document[key]).strip() for key in _TEXT_KEYS if document.get(key)), "")
        return Reply(label=label, rationale=prose, form="json" if label is not None else "unparseable")
    bare = re.sub(r"^(?:the\s+)?(?:label|emotion|answer)\s*(?:is|:)\s*", "", stripped, flags=re.IGNORECASE)
    first_line, _, rest = bare.partition("\n")
    word = words.get(_key(first_line))
    if word is not None:
        return Reply(label=word, rationale=rest.strip(), form="word")
    word = _stated(stripped, words)
    return Reply(label=word, rationale=stripped, form="sentences" if word is not None else "unparseable")


def parse_open_words(text: str, *, most: int = 8) -> tuple[str, ...]:
    """Read a list of emotion words, ``"Worried, a little hopeful."``, in lower case and without repetitions.

    A reply that is no such list (a sentence, a number, an entry of more than four words, more than ``most``) gives
    nothing: half of a sentence is not a word of the model's own.
    """
    parts = re.split(r"[,;\n]", re.sub(r"^\s*[-*•]\s*", "", text.strip(), flags=re.MULTILINE))
    words = [re.sub(r"^and\s+", "", _key(part)) for part in parts if part.strip(" .")]
    is_list = all(re.fullmatch(r"[^\W\d_]+(?:[ '-][^\W\d_]+){0,3}", word) for word in words)
    return tuple(dict.fromkeys(words)) if is_list and 0 < len(words) <= most else ()


def stated_labels(text: str, *, labels: Sequence[str]) -> tuple[str, ...]:
    """Return every different label that "the person appears ..." claims in the text, in order."""
    return _claims(text, _vocabulary(tuple(labels)))


def _vocabulary(labels: Sequence[str]) -> dict[str, str]:
    """Every way to write a label -> the label. A name in ``labels`` always means itself."""
    words: dict[str, str] = {}
    for label in labels:
        name = canonical(label)
        ways = [name, ADJECTIVES.get(name, name), *(alias for alias, target in ALIASES.items() if target == name)]
        for way in ways:
            words.setdefault(way.lower(), label)
    words.update({label.lower(): label for label in labels})
    return words


def _key(text: str) -> str:
    return re.sub(r"\s+", " ", text.strip(" \t\r\n.!,;:\"'`*“”‘’()[]").lower())


def _json_object(text: str) -> Mapping[str, Any] | None:
    fenced = re.search(r"```(?:json)?\s*(\{.*?\})\s*```", text, flags=re.DOTALL)
    candidate = fenced.group(1) if fenced else text
    start, end = candidate.find("{"), candidate.rfind("}")
    if start < 0 or end < start:
        return None
    try:
        document = json.loads(candidate[start : end + 1])
    except json.JSONDecodeError:
        return None
    return document if isinstance(document, dict) else None


def _from_json(document: Mapping[str, Any], words: Mapping[str, str]) -> str | None:
    for key in _LABEL_KEYS:
        value = document.get(key)
        if isinstance(value, Mapping):
            value = value.get("label")
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, str):
            return words.get(_key(value))
    return None


_VERB = r"(?:appears?|seems?|looks?|comes?\s+across\s+as)"
_SUBJECT = r"(?:person|speaker|someone|they|he|she|man|woman|individual|subject|clip)"
_FILLER = r"(?:\s+(?:to\s+be|mostly|rather|quite|very|somewhat|slightly|a\s+little|clearly|perhaps|likely|mainly))*"


def _claims(text: str, words: Mapping[str, str]) -> tuple[str, ...]:
    ways = "|".join(re.escape(way) for way in sorted(words, key=len, reverse=True))
    pattern = rf"\b{_SUBJECT}\s+{_VERB}{_FILLER}\s+(?P<label>{ways})(?![\w-])"
    found = [words[_key(match["label"])] for match in re.finditer(pattern, text, flags=re.IGNORECASE)]
    return tuple(dict.fromkeys(found))


def _stated(text: str, words: Mapping[str, str]) -> str | None:
    claims = _claims(text, words)
    if len(claims) == 1:
        return claims[0]
    if claims:
        return None
    ways = "|".join(re.escape(way) for way in sorted(words, key=len, reverse=True))
    named = re.findall(rf"\b(?:label|emotion|answer)\s*(?:is|:)\s*[\"'“]?({ways})(?![\w-])", text, flags=re.IGNORECASE)
    different = {words[_key(name)] for name in named}
    return different.pop() if len(different) == 1 else None
