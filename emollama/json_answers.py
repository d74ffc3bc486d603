"""Answers as JSON: which documents a schema and the readings allow, as pieces that a decoder chooses among.

A value is never made up: a property is filled from what was read of the clip under the names of `FIELDS`, a string
that may be worded freely is worded by the model within the grammar's answers, and an enumeration of emotions is judged
over exactly its names. A schema that asks for something else is refused by name before anything is decoded.

The schemas are a part of JSON Schema 2020-12: ``type``, ``properties``, ``required``, ``additionalProperties``,
``items``, ``enum``, ``const``, ``minItems``, ``maxItems``, ``minimum``, ``maximum``, ``anyOf`` with null, and ``$ref``
into ``$defs``. Nothing here knows tokens.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from emollama.errors import InputError
from emollama.phrases import supported_answers
from emollama.prompt import SOURCES, Cues
from emollama.types import Affect, Emotion, Evidence

MAX_DEPTH, MAX_PROPERTIES, MAX_ENUM = 6, 64, 64
_MAX_PLACES = 512  # properties of a whole document: references may multiply them
_WORDINGS = 12
_NOTES = frozenset({"title", "description", "$schema", "$id", "$comment", "default", "examples", "$defs"})
_KEYWORDS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "object": frozenset({"properties", "required", "additionalProperties"}),
        "array": frozenset({"items", "minItems", "maxItems"}),
        "string": frozenset({"enum", "const"}),
        "number": frozenset({"minimum", "maximum"}),
        "boolean": frozenset(),
        "null": frozenset(),
    }
)
_ROOT = "response_format.json_schema.schema"

# One place in a document: the JSON texts that may stand there. Times and quotes in them are slots.
Piece = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What was read of a clip. ``judge`` returns the probabilities of a closed set of labels that somebody names."""

    cues: Cues | None
    emotion: Emotion
    affect: Affect
    evidence: Sequence[Evidence]
    transcript: str | None
    seconds: float
    judge: Callable[[tuple[str, ...]], Mapping[str, float]]

    def worded(self, kind: str) -> list[str]:
        """The answers of a kind that the readings support."""
        return [] if self.cues is None else list(supported_answers(self.cues, kinds=(kind,), count=_WORDINGS))


Values = list[Any]  # what may stand in one place, any of them; none: there is no such reading


def _of(name: str) -> Callable[[Facts], Values]:
    return lambda facts: [] if facts.cues is None else [getattr(facts.cues, name)]


class Worded(str):
    """A sentence of the grammar: what looks like a slot in it is one. Nobody else's text is ever one."""


def _kind(kind: str) -> Callable[[Facts], Values]:
    return lambda facts: [Worded(text) for text in facts.worded(kind)]


def _label(facts: Facts) -> Values:
    return [] if facts.emotion.label is None else [facts.emotion.label]


def _confidence(facts: Facts) -> Values:
    if facts.cues is None:
        return []
    return [round(facts.emotion.confidence, 4), "too low" if facts.cues.abstained else facts.cues.confidence]


def _some(value: Any) -> Values:
    return [] if value is None else [value]


def _items(facts: Facts) -> Values:
    items = [
        {
            "start": round(item.start, 2), "end": round(item.end, 2), "cue": item.cue, "supports": item.supports,
            "value": item.value, "reading": item.reading,
        }
        for item in facts.evidence
    ]  # fmt: skip
    return [items]


def _used(facts: Facts) -> Values:
    return [[] if facts.cues is None else [source for source in SOURCES if facts.cues.present[source]]]


def _absent(facts: Facts) -> Values:
    return [list(SOURCES) if facts.cues is None else list(facts.cues.absent)]


# Property name -> the values that a reading gives it; the first of the type that the schema wants counts.
FIELDS: Mapping[str, Callable[[Facts], Values]] = MappingProxyType(
    {
        **dict.fromkeys(("emotion", "label", "predicted_emotion", "dominant_emotion"), _label),
        **dict.fromkeys(("confidence", "certainty", "probability"), _confidence),
        **dict.fromkeys(("rationale", "reason", "reasoning", "explanation", "why", "answer", "summary"), _kind("why")),
        "face": _kind("face"),
        "voice": _kind("voice"),
        "words": _kind("words"),
        "intensity": _kind("how_strong"),
        "timeline": _kind("when"),
        "agreement": _of("agreement"),
        "lead": _of("lead"),
        "valence": lambda facts: _some(facts.affect.valence),
        "arousal": lambda facts: _some(facts.affect.arousal),
        "scores": lambda facts: [{name: round(p, 4) for name, p in facts.emotion.scores.items()}],
        "abstained": lambda facts: [facts.emotion.abstained],
        "used": _used,
        "absent": _absent,
        "others": lambda facts: [[] if facts.cues is None else list(facts.cues.others)],
        "evidence": _items,
        "transcript": lambda facts: _some(facts.transcript),
        "quote": lambda facts: (
            _some(facts.cues.words.quote if facts.cues is not None and facts.cues.words is not None else None)
        ),
        **dict.fromkeys(("seconds", "duration"), lambda facts: [round(facts.seconds, 3)]),
    }
)  # fmt: skip


def pieces_of(schema: Any, facts: Facts) -> list[Piece]:
    """Return the pieces of every document that the schema and the readings allow, in order.

    Raises `InputError`, whose ``field`` is the place in the schema, for what is not supported or was not read.
    """
    root = _resolved(schema, schema, _ROOT)
    if root.get("type") != "object":
        raise _refused(_ROOT, f"type is {root.get('type')!r}; allowed: object")
    writer = _Writer(schema, facts)
    writer.object(root, _ROOT, 0)
    return _joined(writer.pieces)


def first_document(pieces: Sequence[Piece]) -> str:
    return "".join(piece[0] for piece in pieces)


class _Writer:
    def __init__(self, root: Mapping[str, Any], facts: Facts) -> None:
        self.root, self.facts = root, facts
        self.pieces: list[Piece] = []
        self._num_places = 0

    def object(
        self, schema: Mapping[str, Any], where: str, depth: int, values: Mapping[str, Any] | None = None
    ) -> None:
        """Write an object; with ``values`` from those, else from the readings of the properties' names."""
        if depth > MAX_DEPTH:
            raise _refused(where, f"it is nested deeper than {MAX_DEPTH}")
        properties = schema.get("properties", {})
        required = schema.get("required", [])
        if not isinstance(properties, Mapping) or len(properties) > MAX_PROPERTIES:
            raise _refused(where, f"properties must be an object of at most {MAX_PROPERTIES} names")
        self._num_places += len(properties)
        if self._num_places > _MAX_PLACES:
            raise _refused(where, f"the document has more than {_MAX_PLACES} properties")
        if not isinstance(required, list) or not all(isinstance(name, str) and name in properties for name in required):
            raise _refused(where, "required names a property that properties does not describe")
        is_open = schema.get("additionalProperties", True)
        if not isinstance(is_open, bool) and properties:
            raise _refused(where, "additionalProperties beside properties; allowed: true, false")
        if not properties and values is not None and is_open:
            self.pieces.append((_text(values),))
            return
        opened = "{"
        for name, given in properties.items():
            place = f"{where}.properties.{name}"
            below = _resolved(given, self.root, place)
            before = len(self.pieces)
            self.pieces.append((f"{opened}{_text(name)}: ",))
            if self._value(name, below, place, depth + 1, values, is_required=name in required):
                opened = ", "
            else:
                del self.pieces[before:]
        self.pieces.append(("}" if opened == ", " else "{}",))

    def _value(
        self, name: str, schema: Mapping[str, Any], where: str, depth: int, values: Mapping[str, Any] | None, *,
        is_required: bool,
    ) -> bool:  # fmt: skip
        """Write a property's value; false when there is none and none is needed."""
        kinds = _types(schema, where)
        if values is not None:
            found = [values[name]] if values.get(name) is not None else []
            known = name in values
        elif name == "scores" and "object" in kinds and isinstance(schema.get("properties"), Mapping):
            names = tuple(schema["properties"])
            found, known = [_rounded(self._judged(names, where))], True
        else:
            known = name in FIELDS
            found = FIELDS[name](self.facts) if known else []
        if "string" in kinds and ("enum" in schema or "const" in schema):
            chosen = self._chosen(name, schema, where, found)
            if chosen is not None:
                self.pieces.append((_text(chosen),))
                return True
            found = []
        for value in found:
            kind = _type_of(value)
            if kind not in kinds:
                continue
            if kind == "object":
                self.object(schema, where, depth, value)
            elif kind == "array":
                self._array(value, schema, where, depth)
            elif kind == "number":
                self.pieces.append((_number(value, schema, where),))
            else:
                same = [each for each in found if _type_of(each) == kind]
                self.pieces.append(tuple(_text(each) for each in same))
            return True
        if "object" in kinds and values is None and isinstance(schema.get("properties"), Mapping):
            self.object(schema, where, depth)
            return True
        if "null" in kinds:
            self.pieces.append(("null",))
            return True
        if not is_required:
            return False
        if not known:
            listed = ", ".join(FIELDS if values is None else values)
            raise _refused(where, f"nothing that is read of a clip answers {name[:60]!r}; known: {listed}")
        raise _refused(where, f"this clip has no reading of {name[:60]!r} of the type {' or '.join(kinds)}; allow null")

    def _chosen(self, name: str, schema: Mapping[str, Any], where: str, found: Values) -> str | None:
        allowed = [schema["const"]] if "const" in schema else schema["enum"]
        if not isinstance(allowed, list) or not 1 <= len(allowed) <= MAX_ENUM:
            raise _refused(where, f"enum must hold 1 to {MAX_ENUM} values")
        texts = tuple(dict.fromkeys(each for each in allowed if isinstance(each, str)))
        if FIELDS.get(name) is _label and len(texts) > 1:
            judged = self._judged(texts, where)
            return max(judged, key=lambda each: judged[each]) if judged else None
        return next((each for each in found if each in texts), None)

    def _judged(self, names: tuple[str, ...], where: str) -> Mapping[str, float]:
        if self.facts.cues is None:
            return {}
        try:
            return self.facts.judge(names)
        except InputError as error:
            raise _refused(where, str(error)) from error

    def _array(self, values: Sequence[Any], schema: Mapping[str, Any], where: str, depth: int) -> None:
        place = f"{where}.items"
        items = _resolved(schema.get("items", {}), self.root, place) if schema.get("items") else {}
        least, most = schema.get("minItems", 0), schema.get("maxItems", len(values))
        if not (_is_count(least) and _is_count(most) and least <= min(most, len(values))):
            raise _refused(where, f"minItems is {least!r} and maxItems {most!r}; this clip gives {len(values)}")
        self.pieces.append(("[",))
        kept = list(values)[:most]
        if items and "string" in _types(items, place) and isinstance(items.get("enum"), list):
            kept = [value for value in kept if value in items["enum"]]
        for index, value in enumerate(kept):
            if index:
                self.pieces.append((", ",))
            if not items or _type_of(value) != "object":
                if items and _type_of(value) not in _types(items, place):
                    raise _refused(place, f"items are {_type_of(value)}s here")
                self.pieces.append((_text(value),))
            elif "object" in _types(items, place):
                self.object(items, place, depth + 1, value)
            elif "string" in _types(items, place):
                self.pieces.append((_text(_sentence(value)),))
            else:
                raise _refused(place, "items are objects or strings here")
        self.pieces.append(("]",))


def _text(value: Any) -> str:
    """Write JSON in which only the grammar's own sentences can hold a slot or a marker; ``\\u003c`` is "<"."""
    written = json.dumps(value, ensure_ascii=False)
    return written if isinstance(value, Worded) else written.replace("<", "\\u003c")


def _sentence(item: Mapping[str, Any]) -> str:
    return f"{item['cue']} ({item['start']:.1f} to {item['end']:.1f} s)"


def _rounded(scores: Mapping[str, float]) -> dict[str, float]:
    return {name: round(p, 4) for name, p in scores.items()}


def _types(schema: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """Return the types that a schema allows, after checking that every keyword is supported."""
    given = schema.get("type")
    if given is None and "enum" in schema:
        given = "string"
    if given is None and "const" in schema:
        given = "string"
    kinds = tuple(given) if isinstance(given, list) else (given,)
    for kind in kinds:
        if not isinstance(kind, str) or kind not in _KEYWORDS:
            raise _refused(where, f"type is {str(kind)[:60]!r}; allowed: {', '.join(_KEYWORDS)}")
    allowed = _NOTES.union({"type"}, *(_KEYWORDS[kind] for kind in kinds))
    for keyword in schema:
        if keyword not in allowed:
            raise _refused(where, f"keyword {keyword[:60]!r} is not supported for {' or '.join(kinds)}")
    return kinds


def _resolved(schema: Any, root: Any, where: str) -> dict[str, Any]:
    """Follow ``$ref`` and fold ``anyOf`` [X, null] into a list of types; check the keywords."""
    for _ in range(MAX_DEPTH):
        if not isinstance(schema, Mapping):
            raise _refused(where, "a schema must be an object")
        if "$ref" in schema:
            name = str(schema["$ref"]).removeprefix("#/$defs/")
            schema = {**_definitions(root, where, name), **{k: v for k, v in schema.items() if k in _NOTES}}
        elif "anyOf" in schema:
            options = schema["anyOf"]
            others = [option for option in options if option != {"type": "null"}] if isinstance(options, list) else []
            if len(others) != 1 or len(options) != 2:
                raise _refused(where, "anyOf must be a schema and null")
            inner = _resolved(others[0], root, where)
            kinds = inner.get("type", "string")
            kinds = kinds if isinstance(kinds, list) else [kinds]
            schema = {**inner, "type": [*kinds, "null"]}
        else:
            found = dict(schema)
            _types(found, where)
            return found
    raise _refused(where, "a $ref that refers to itself")


def _definitions(root: Any, where: str, name: str) -> Mapping[str, Any]:
    found = root.get("$defs", {}).get(name) if isinstance(root.get("$defs", {}), Mapping) else None
    if not isinstance(found, Mapping):
        raise _refused(where, f"$ref to {name[:60]!r}; allowed: a name of #/$defs")
    return found


def _type_of(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if value is None:
        return "null"
    if isinstance(value, str):
        return "string"
    return {int: "number", float: "number", list: "array", dict: "object"}[type(value)]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _number(value: float, schema: Mapping[str, Any], where: str) -> str:
    low, high = schema.get("minimum", value), schema.get("maximum", value)
    if not (_is_number(low) and _is_number(high) and low <= value <= high):
        raise _refused(where, f"the reading is {value}, outside minimum and maximum (another scale?)")
    return json.dumps(value)


def _joined(pieces: Sequence[Piece]) -> list[Piece]:
    """Join neighbours that leave no choice."""
    joined: list[Piece] = []
    for piece in pieces:
        if len(piece) == 1 and joined and len(joined[-1]) == 1:
            joined[-1] = (joined[-1][0] + piece[0],)
        else:
            joined.append(tuple(dict.fromkeys(piece)))
    return joined


def _refused(where: str, why: str) -> InputError:
    return InputError(f"{where}: {why}", field=where[:200])
