"""Emotion words in prose, found by the project's own lexicon: what a text names, and how it says it of the person.

English only. The lexicon is `emollama.labels` (nouns, adjectives, other names) and what the caller adds; a word that a
clause denies ("no sign of anger") is not named. Nothing is guessed: a word outside the lexicon is not seen.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from emollama.labels import ADJECTIVES, ALIASES, GOEMOTIONS_28, NANO_LABELS, canonical

_FURTHER = ("worry", "boredom", "trust", "anticipation")
# Names that are labels but in prose mean something else.
_NOT_IN_PROSE = frozenset({"none", "no emotion", "caring", "love", "realization", "desire", "approval"})
_NEGATED = re.compile(
    r"\b(?:no|not|nor|neither|never|without|nothing|lacks?|lacking|rather than|instead of)\b|n['’]t\b"
)
_NOT_ONLY = re.compile(r"\bnot (?:only|just|merely)\b")
_CLAUSES = re.compile(r"([,;:]|(?<=[.!?])\s+|\b(?:but|while|whereas|although|though)\b)")
_SENTENCES = re.compile(r"(?<=[.!?])[\"”’)\]]*\s+(?=[\"“‘(]?[A-Z0-9])")
_PERSON = r"(?:person|speaker|man|woman|boy|girl|individual|subject|someone|they|he|she)"
_HEDGE = re.compile(
    r"\b(?:appear|seem|look|sound|suggest|point|hint|read|come(?:s)? across|imply|implies)(?:s|ed|ing)?\b"
    r"|\b(?:likely|perhaps|probably|possibly|may|might|could|apparently|seemingly|impression|as if|as though)\b"
)
_FLAT = re.compile(rf"\b{_PERSON}(?:['’](?:s|re)|\s+(?:is|are|was|were|feels?|felt|experiences?|experienced))\b")


@dataclass(frozen=True, kw_only=True)
class Hedging:
    """How many clauses say of the person an emotion that appears, and how many one that is."""

    hedged: int
    flat: int


def sentences(text: str) -> list[str]:
    """Split prose into sentences; the point in "1.5 s" ends none."""
    return [part for part in _SENTENCES.split(" ".join(text.split())) if part]


def _separated(text: str) -> list[tuple[str, str]]:
    """Split prose at commas, semicolons, sentence ends and words such as "but" -> (what stands before, clause)."""
    parts = ["", *_CLAUSES.split(" ".join(text.split()))]
    return [(before.strip(), clause.strip()) for before, clause in zip(parts[::2], parts[1::2], strict=True)]


def find_words(text: str, extra: Mapping[str, str] | Iterable[str] = ()) -> tuple[str, ...]:
    """Return the emotions that a text names and does not deny, as the project's nouns, in order of their first mention.

    ``extra`` are further words: names that mean themselves, or a map from how it is written to what it means.
    """
    given = extra if isinstance(extra, Mapping) else {word: word for word in extra}
    lexicon = _lexicon(tuple(sorted((way.lower(), name) for way, name in given.items())))
    found: dict[str, None] = {}
    denied_before = False
    for separator, clause in _separated(text.lower()):
        # "no anger, fear or disgust": the denial reaches over the rest of a short list
        reached = denied_before and separator == "," and len(clause.split()) <= 4 and not _HEDGE.search(clause)
        for match in lexicon.pattern.finditer(clause):
            if not reached and not _NEGATED.search(_NOT_ONLY.sub("", clause[: match.start()])):
                found[lexicon.names[match.group()]] = None
        denied_before = reached or _NEGATED.search(_NOT_ONLY.sub("", clause)) is not None
    return tuple(found)


def hedging(text: str, extra: Mapping[str, str] | Iterable[str] = ()) -> Hedging:
    """Count the clauses that say an emotion of the person as what appears ("appears sad") or as what is ("is sad")."""
    hedged = flat = 0
    person = re.compile(rf"\b{_PERSON}\b")
    for _, clause in _separated(text.lower()):
        if not person.search(clause) or not find_words(clause, extra):
            continue
        if _HEDGE.search(clause):
            hedged += 1
        elif _FLAT.search(clause):
            flat += 1
    return Hedging(hedged=hedged, flat=flat)


@dataclass(frozen=True)
class _Lexicon:
    names: Mapping[str, str]
    pattern: re.Pattern[str]


@lru_cache(maxsize=64)
def _lexicon(extra: tuple[tuple[str, str], ...]) -> _Lexicon:
    names: dict[str, str] = {}
    for noun in dict.fromkeys((*NANO_LABELS, *GOEMOTIONS_28, *_FURTHER)):
        for way in (noun, ADJECTIVES.get(noun, noun)):
            names[way] = noun
    names.update(ALIASES)
    names = {way: noun for way, noun in names.items() if way not in _NOT_IN_PROSE}
    names.update({way: canonical(name) for way, name in extra})
    ways = "|".join(re.escape(way) for way in sorted(names, key=len, reverse=True))
    return _Lexicon(names=names, pattern=re.compile(rf"(?<![\w-])(?:{ways})(?![\w-])"))
