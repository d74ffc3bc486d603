"""The rules as a data file, strictly read: action units and expressions to phrases, emotions to action units.

``rules.json`` holds what is known (names of action units; which of them go with which emotion, each row with its
source), the thresholds with their sources, and our own phrases. Anything unknown, missing, doubled or out of range is a
`DatasetError` that names the place in the file. A rules file of one's own is read in the same way.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from emollama.errors import DatasetError
from emollama.labels import ADJECTIVES, GOEMOTIONS_TO_EKMAN, NANO_LABELS, canonical
from emollama.manifest import describe

RULES_FILE = Path(__file__).with_name("rules.json")
HOW = "{how}"
LEVELS = ("low", "medium", "high")
QUALITIES = ("pitch", "loudness", "rate", "melody")

Text = Annotated[str, Field(min_length=1, max_length=200)]
Texts = Annotated[tuple[Text, ...], Field(strict=False)]
Share = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
Intensity = Annotated[float, Field(ge=0.0, le=5.0, allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ActionUnitRule(_Part):
    """``moved_by_speech``: talking moves it, so it tells nothing while there is a voice. A blink is not expressive."""

    name: Text
    phrases: Texts
    moved_by_speech: bool = False
    expressive: bool = True


class Level(_Part):
    name: Text
    start: Annotated[float, Field(alias="from", ge=0.0, le=5.0)]
    words: Annotated[tuple[Text, ...], Field(strict=False, min_length=1)]


class Scale(_Part):
    source: Text
    levels: Annotated[tuple[Level, ...], Field(strict=False, min_length=1)]

    def level(self, value: float) -> Level | None:
        """Return the highest level that ``value`` reaches, or ``None`` below the first."""
        return next((level for level in reversed(self.levels) if value >= level.start), None)


class Firing(_Part):
    """An emotion fires when this share of its action units is present at this mean intensity."""

    source: Text
    presence: Share
    mean_intensity: Intensity


class Combination(_Part):
    action_units: Annotated[tuple[Text, ...], Field(strict=False, min_length=1)]
    source: Text


class EmotionRule(_Part):
    expressions: Annotated[tuple[Text, ...], Field(strict=False, min_length=1)]
    expressions_source: Text
    combinations: Annotated[tuple[Combination, ...], Field(strict=False)]


class Melody(_Part):
    """Range of the pitch in semitones below which a voice is level and above which it is lively."""

    source: Text
    low_below: Annotated[float, Field(gt=0.0, le=48.0)]
    high_above: Annotated[float, Field(gt=0.0, le=48.0)]


class Rules(_Part):
    """The whole file; see the module."""

    rules_version: Literal[1]
    about: str
    action_units: dict[Text, ActionUnitRule]
    intensity: Scale
    firing: Firing
    emotions: dict[Text, EmotionRule]
    expressions: dict[Text, Texts]
    expression_strength: Scale
    prosody: dict[Text, dict[Text, Texts]]
    melody_semitones: Melody
    never: dict[Text, Texts]

    def emotion(self, label: str) -> tuple[str, EmotionRule] | None:
        """Return the rule for a label and the name it stands under; fine words go by their GoEmotions group."""
        name = canonical(label)
        if name not in self.emotions:
            name = GOEMOTIONS_TO_EKMAN.get(name, name)
        rule = self.emotions.get(name)
        return None if rule is None else (name, rule)

    def melody(self, semitones: float) -> Literal["low", "medium", "high"]:
        """Name a range of pitch."""
        if semitones < self.melody_semitones.low_below:
            return "low"
        return "high" if semitones > self.melody_semitones.high_above else "medium"


@dataclass(frozen=True, kw_only=True)
class RulesFile:
    """Rules and where they came from; the sha256 goes into the provenance of what they wrote."""

    path: Path
    sha256: str
    rules: Rules

    @property
    def never(self) -> Mapping[str, re.Pattern[str]]:
        """Return one pattern for each kind of thing that an answer may not speak of."""
        return MappingProxyType(
            {
                kind: re.compile(r"(?<![\w-])(?:" + "|".join(map(re.escape, words)) + r")(?![\w-])", re.IGNORECASE)
                for kind, words in self.rules.never.items()
            }
        )


@cache
def load_rules(path: Path = RULES_FILE) -> RulesFile:
    """Read a rules file strictly; raises `DatasetError` naming the place, the value and what is allowed."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise DatasetError(f"{path} cannot be read ({error.strerror}); give a rules file", field="rules") from error
    try:
        rules = Rules.model_validate_json(content)
    except ValidationError as error:
        field, message = describe(error)[0]
        raise DatasetError(f"{path}: {field}: {message}", field=field) from error
    problem = _problem(rules, json.loads(content, object_pairs_hook=_pairs))
    if problem is not None:
        raise DatasetError(f"{path}: {problem}", field="rules")
    return RulesFile(path=Path(path), sha256=hashlib.sha256(content).hexdigest(), rules=rules)


def _pairs(pairs: list[tuple[str, object]]) -> dict[str, object]:
    document: dict[str, object] = {}
    for name, value in pairs:
        if name in document:
            document[_TWICE] = name
        document[name] = value
    return document


_TWICE = "\0twice"


def _problem(rules: Rules, document: dict[str, object]) -> str | None:
    """Return the first thing that no schema can say, or ``None``."""
    checks = (_doubled, _names, _phrases, _thresholds, _prosody)
    return next((found for check in checks if (found := check(rules, document)) is not None), None)


def _doubled(rules: Rules, document: dict[str, object]) -> str | None:
    for name, value in document.items():
        if name == _TWICE:
            return f"the field {value!r} stands twice in one object"
        if isinstance(value, dict) and (found := _doubled(rules, value)) is not None:
            return found
    return None


def _names(rules: Rules, document: dict[str, object]) -> str | None:
    for code in rules.action_units:
        if not re.fullmatch(r"AU\d\d", code):
            return f"action_units: {code!r} is not a code; allowed: AU and two digits"
    known = set(NANO_LABELS) | set(ADJECTIVES)
    if set(rules.expressions) != set(NANO_LABELS):
        odd = sorted(set(rules.expressions) ^ set(NANO_LABELS))
        return f"expressions: {odd} missing or unknown; allowed: exactly {', '.join(NANO_LABELS)}"
    for name, rule in rules.emotions.items():
        if name not in known or canonical(name) != name:
            return f"emotions: {name!r} is not a known emotion; allowed: {', '.join(sorted(known))}"
        unknown = [e for e in rule.expressions if e not in rules.expressions]
        if unknown:
            return f"emotions.{name}.expressions: {unknown[0]!r} is not an expression"
        for combination in rule.combinations:
            for code in combination.action_units:
                if code not in rules.action_units or not rules.action_units[code].expressive:
                    return f"emotions.{name}.combinations: {code!r} is not an expressive action unit of this file"
            if len(set(combination.action_units)) != len(combination.action_units):
                return f"emotions.{name}.combinations: an action unit stands twice in one row"
    return None


def _phrases(rules: Rules, document: dict[str, object]) -> str | None:
    seen: dict[str, str] = {}
    groups: list[tuple[str, tuple[str, ...], bool]] = [
        (f"action_units.{code}", rule.phrases, True) for code, rule in rules.action_units.items() if rule.expressive
    ]
    groups += [(f"expressions.{name}", phrases, True) for name, phrases in rules.expressions.items()]
    groups += [
        (f"prosody.{quality}.{level}", phrases, False)
        for quality, levels in rules.prosody.items()
        for level, phrases in levels.items()
    ]
    for place, phrases, wants_how in groups:
        if len(phrases) < 2:
            return f"{place}: {len(phrases)} phrases; allowed: at least 2, so that texts vary"
        for phrase in phrases:
            if phrase.count(HOW) != int(wants_how) or re.search(r"[{}]", phrase.replace(HOW, "")):
                return f"{place}: {phrase!r} must hold {HOW} {'once' if wants_how else 'never'} and no other brace"
            key = " ".join(phrase.casefold().split())
            if key in seen:
                return f"{place}: the phrase {phrase!r} stands already in {seen[key]}"
            seen[key] = place
    return None


def _thresholds(rules: Rules, document: dict[str, object]) -> str | None:
    for place, scale, top in (
        ("intensity", rules.intensity, 5.0),
        ("expression_strength", rules.expression_strength, 1.0),
    ):
        starts = [level.start for level in scale.levels]
        if starts != sorted(set(starts)) or starts[-1] > top:
            return f"{place}.levels: they begin at {starts}; allowed: rising, at most {top:g}"
    if rules.expression_strength.levels[0].start != 0.0:
        return "expression_strength.levels: the first must begin at 0, so that every probability has a word"
    if rules.melody_semitones.low_below >= rules.melody_semitones.high_above:
        return "melody_semitones: low_below must be less than high_above"
    return None


def _prosody(rules: Rules, document: dict[str, object]) -> str | None:
    if tuple(rules.prosody) != QUALITIES:
        return f"prosody: it holds {list(rules.prosody)}; allowed: {', '.join(QUALITIES)}"
    for quality, levels in rules.prosody.items():
        if tuple(levels) != LEVELS:
            return f"prosody.{quality}: it holds {list(levels)}; allowed: {', '.join(LEVELS)}"
    return None
