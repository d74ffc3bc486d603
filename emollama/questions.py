"""Which kind of answer a question wants, told from its words.

The grammar's own phrasings (`emollama.phrases.KINDS`) are the examples: a question is compared with each of them by
the cosine of their weighted words (term frequency times inverse document frequency, with pairs of words; Manning,
Raghavan and Schuetze, "Introduction to Information Retrieval", 2008, chapter 6), and a kind counts as much as its
nearest example. Lists of further words say what people call the same things. A question of which hardly a word is
known here is not about a clip, and is of the kind "unknowable".

The language model chooses within the kinds that remain (`kinds_for`): by likelihood alone it takes answers of the
wrong kind, because an answer that is likely as a sentence need not fit the question.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from types import MappingProxyType

from emollama.phrases import KINDS

# A kind stays in question when its share is at least this part of the best one's.
KEEP_FROM = 0.75
_SHARPNESS = 8.0
_SIGN_WEIGHT = 0.45
_VAGUE_WEIGHT = 0.4
_COMPARED_WEIGHT = 0.45
_COMMON_WEIGHT = 0.3
_UNKNOWN_FROM = 0.5

# Words that name a thing without standing in the grammar's phrasings; a stem with * stands for its endings.
_SIGNS: Mapping[str, str] = MappingProxyType(
    {
        "why": (
            "why explain* reason* justif* clue* sign* evidence because basis conclusion cues based interpret* "
            "signals impression"
        ),
        "what": "feel* feeling* emotion* mood seem* happy sad angry afraid scared upset annoyed calm nervous dominant",
        "face": (
            "face* facial smil* frown* eye* mouth brow* look* expression* cheek* picture image visible visual* "
            "gaze grin*"
        ),
        "voice": (
            "voice* tone sound* pitch loud* hear* heard audio speak* speech shout* yell* whisper* talk* quiet* "
            "fast pace volume sing*"
        ),
        "words": "word* text transcript said say* phrase* sentence* language quote* spoken utter* wording verbal*",
        "agreement": (
            "agree* match* conflict* contradict* consistent inconsistent mismatch sarcas* ironic* irony mixed "
            "align* fit both differ* disagree*"
        ),
        "how_sure": "sure certain* confiden* reliab* trust* probab* accura* mistaken right doubt*",
        "change_mind": "change* alter* otherwise convince* differently missing wrong need* verdict assessment",
        "how_strong": "strong* intens* mild* weak* slight* powerful strength degree extreme* level",
        "others": "other* another else alternativ* secondary next additional possible different",
        "when": (
            "when time* moment* second seconds start* begin* end* develop* during timeline range change* course "
            "first last duration"
        ),
        "one_word": "single one label only word briefly",
        "as_json": "json",
        "unknowable": (
            "who name* old age* gender male female woman man from country nation* ethnic* race relig* married job "
            "work* ill* disease* depress* diagnos* mental* ly* lie* truth* honest* personality smart intelligen* "
            "weather should advice poem translate write code capital tall weigh* rich future will before after "
            "happened caused where think* thought* think"
        ),
    }
)

# Words that say nothing of the kind by themselves; in pairs they may.
_COMMON_TEXT = (
    "a an the is are was were be been do does did of in on at to for and or that this these those it its they "
    "them their he she his her him i me my you your please tell can could there here with from by as give "
    "what which how so much any have has not no us we clip video person speaker just about some"
)
_COMMON = frozenset(_COMMON_TEXT.split())
# Words of the subject that stand in questions of every kind: they say less of one.
_VAGUE = ("emotion", "feel", "look", "seem", "chang", "signal", "happy", "sad", "angry", "upset", "scared", "annoyed")
# Words of the subject that the grammar does not hold and that say nothing of a kind.
_NEUTRAL_TEXT = "people someone somebody guy girl boy lady individual show shows recording film footage"
_NEUTRAL = frozenset(_NEUTRAL_TEXT.split())


def kinds_for(question: str) -> tuple[str, ...]:
    """Return the kinds of answer that a question may want, the likeliest first; often it is one."""
    found = shares(question)
    best = max(found.values())
    kept = [kind for kind, share in found.items() if share >= KEEP_FROM * best]
    return tuple(sorted(kept, key=lambda kind: -found[kind]))


def shares(question: str) -> dict[str, float]:
    """Return how much each kind of `KINDS` is wanted; the shares sum to 1."""
    index = _index()
    words = _words(question)
    vector = _weigh(words, index.rarity)
    scores = dict.fromkeys(KINDS, 0.0)
    for kind, example in index.examples:
        scores[kind] = max(scores[kind], _dot(vector, example))
    content = [word for word in words if word not in _COMMON]
    for kind, (whole, stems) in index.signs.items():
        hits = sum(
            (_VAGUE_WEIGHT if word.startswith(_VAGUE) else 1.0)
            for word in content
            if word in whole or word.startswith(stems)
        )
        scores[kind] += _SIGN_WEIGHT * hits / math.sqrt(len(content)) if hits else 0.0
    named = sum(any(word in whole or word.startswith(stems) for word in content) for whole, stems in _senses(index))
    if named > 1:  # two of face, voice and words: they are to be compared
        scores["agreement"] += _COMPARED_WEIGHT * (named - 1)
    known = sum(index.knows(word) for word in content)
    if content and known / len(content) < _UNKNOWN_FROM:
        scores["unknowable"] = max(scores.values()) + 0.2
    powers = {kind: math.exp(_SHARPNESS * score) for kind, score in scores.items()}
    total = sum(powers.values())
    return {kind: power / total for kind, power in powers.items()}


class _Index:
    """The examples as unit vectors, how rare each term is among them, and the signs as words and stems."""

    def __init__(self) -> None:
        phrasings = [(kind, _words(question)) for kind, entry in KINDS.items() for question in entry.questions]
        seen = Counter(term for _, words in phrasings for term in set(_terms(words)))
        self.rarity = {term: math.log((1 + len(phrasings)) / (1 + count)) + 1.0 for term, count in seen.items()}
        self.examples = [(kind, _weigh(words, self.rarity)) for kind, words in phrasings]
        self.signs = {kind: _parse(signs) for kind, signs in _SIGNS.items()}
        self._whole = _NEUTRAL.union(*(whole for whole, _ in self.signs.values()))
        self._stems = tuple(stem for _, stems in self.signs.values() for stem in stems)

    def knows(self, word: str) -> bool:
        return _stem(word) in self.rarity or word in self._whole or word.startswith(self._stems)


def _senses(index: _Index) -> list[tuple[frozenset[str], tuple[str, ...]]]:
    return [index.signs[kind] for kind in ("face", "voice", "words")]


@cache
def _index() -> _Index:
    return _Index()


def _parse(signs: str) -> tuple[frozenset[str], tuple[str, ...]]:
    words = signs.split()
    return (
        frozenset(word for word in words if not word.endswith("*")),
        tuple(word[:-1] for word in words if word.endswith("*")),
    )


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+(?:'[^\W_]+)?", text.lower().replace("’", "'"))


def _terms(words: list[str]) -> Iterator[str]:
    stems = [_stem(word) for word in words]
    yield from stems
    edged = ["^", *stems, "$"]
    yield from (f"{first} {second}" for first, second in itertools.pairwise(edged))


def _weigh(words: list[str], rarity: Mapping[str, float]) -> dict[str, float]:
    """Return the unit vector of a question; terms that no example has count for its length only."""
    most = max(rarity.values(), default=1.0)
    weights = {
        term: count * rarity.get(term, most if " " not in term else 0.0) * _weight_of(term)
        for term, count in Counter(_terms(words)).items()
    }
    length = math.sqrt(sum(weight * weight for weight in weights.values())) or 1.0
    return {term: weight / length for term, weight in weights.items()}


def _weight_of(term: str) -> float:
    """Words that stand everywhere, and pairs of nothing else, say little."""
    return _COMMON_WEIGHT if all(word in _COMMON_STEMS or word in "^$" for word in term.split()) else 1.0


def _stem(word: str) -> str:
    """Cut the commonest English endings, so that feel, feels and feeling are one."""
    for ending in ("ingly", "ing", "edly", "ed", "ly", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word


_COMMON_STEMS = frozenset(map(_stem, _COMMON))


def _dot(first: Mapping[str, float], second: Mapping[str, float]) -> float:
    return sum(weight * second[term] for term, weight in first.items() if term in second)
