"""The checkable claims of a rationale, and whether the analysis' own evidence bears them out.

Five kinds are checked: that the person appears some emotion (against the scored label), that the face, the voice or the
words show one (against the evidence of that modality, between the times that the clause cites), a time in seconds, a
quote, and a level of the voice's pitch, loudness or pace. What is none of these (a trembling lip) is not a claim here:
the share says how much of what can be checked holds, not how much is true.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from emollama.evidence import mentions, speaks_of
from emollama.labels import canonical
from emollama.prompt import SOURCES, Source
from emollama.types import Analysis, Evidence, Modality
from eval.emotion_words import find_words, sentences

Kind = Literal["verdict", "shown", "time", "quote", "level"]
MODALITY_OF: Mapping[Source, Modality] = MappingProxyType({"face": "visual", "voice": "audio", "words": "text"})
TIME_TOLERANCE_SECONDS = 0.051  # times are cited to a tenth of a second

_TIME = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)\s*(?:s|sec|seconds?)\b")
_QUOTED = re.compile(r"“([^”]*)”")
_CLAUSES = re.compile(r"[,;:]|\bwhile\b|\bbut\b|\bwhereas\b|\band (?=the\b|it\b|then\b)")
_PERSON = re.compile(r"\b(?:person|speaker|man|woman|they|he|she|individual|subject)\b")
_IT = re.compile(r"^\s*(?:then |and |later |from [\d.]+ s[^a-z]*to [\d.]+ s )*it\b")
_SHORT_WORDS = 4  # "the voice sounds sad, low-pitched and slow": a clause so short still speaks of the voice
# How a level of a quality is said: "low pitch", "a loud voice", "speaks quickly".
_LEVELS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "pitch": {"low": r"low(?:er)?(?:-pitched| pitch\b| in pitch| voice\b)|pitch is low|deep voice",
                  "high": r"high(?:er)?(?:-pitched| pitch\b| in pitch| voice\b)|pitch is high|shrill",
                  "medium": r"mid-pitched|(?:medium|middle|ordinary) pitch"},
        "loudness": {"low": r"low loudness|quiet(?:ly)?\b|soft(?:ly)?\b|whisper\w*",
                     "high": r"high loudness|loud(?:ly)?\b|shout\w*",
                     "medium": r"medium loudness|ordinary loudness|neither loud nor soft"},
        "rate": {"low": r"low speech rate|slow(?:ly)?\b|unhurried",
                 "high": r"high speech rate|fast\b|quick(?:ly)?\b|rapid(?:ly)?\b",
                 "medium": r"medium speech rate|(?:steady|even) in pace"},
    }
)  # fmt: skip
_QUALITY_READING = {
    "pitch": "voice.pitch_hz",
    "loudness": "voice.loudness_dbfs",
    "rate": "voice.syllables_per_second",
}


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One thing that a rationale says and that a reading can bear out; ``text`` is the clause or the value."""

    kind: Kind
    text: str
    is_supported: bool


def present_sources(analysis: Analysis) -> frozenset[Source]:
    """Return which of face, voice and words the analysis used."""
    used = analysis.modalities
    there: dict[Source, bool] = {"face": used.visual.used, "voice": used.audio.used, "words": used.text.used}
    return frozenset(source for source, is_there in there.items() if is_there)


def absent_claims(text: str, present: frozenset[Source] | set[Source]) -> tuple[Source, ...]:
    """Return the modalities that a text speaks of as if they had been there; saying that one is missing is no claim."""
    prose = _QUOTED.sub("“”", text)
    return tuple(source for source in SOURCES if source not in present and speaks_of(prose, source))


def check_claims(text: str, analysis: Analysis) -> tuple[Claim, ...]:
    """Find a rationale's checkable claims and hold each against the analysis' evidence, label and transcript."""
    words = "" if analysis.transcript is None else _plain(analysis.transcript.text)
    claims = [
        Claim(kind="quote", text=quote, is_supported=bool(_plain(quote)) and _plain(quote) in words)
        for quote in _QUOTED.findall(text)
    ]
    prose = _QUOTED.sub("“”", text)
    known = _known_times(analysis)
    claims.extend(
        Claim(kind="time", text=f"{cited} s", is_supported=any(_near(float(cited), time) for time in known))
        for cited in dict.fromkeys(_TIME.findall(prose))
    )
    for sentence in sentences(prose):
        subject: Source | None = None
        for clause in _CLAUSES.split(sentence):
            lowered = clause.lower()
            named = [source for source in SOURCES if mentions(lowered, source)]
            if len(named) == 1:
                subject = named[0]
            elif named or not (_IT.search(lowered) or len(lowered.split()) <= _SHORT_WORDS):
                subject = None
            if _PERSON.search(lowered) and not named:
                claims.extend(_verdicts(clause, analysis))
            elif subject is not None:
                claims.extend(_shown(clause, subject, analysis))
                if subject == "voice":
                    claims.extend(_voice_levels(clause, analysis.evidence["audio"]))
    return tuple(claims)


def _verdicts(clause: str, analysis: Analysis) -> list[Claim]:
    label = analysis.emotion.label
    right = None if label is None else canonical(label)
    return [
        Claim(kind="verdict", text=f"the person: {word}", is_supported=word == right)
        for word in find_words(clause, () if label is None else (label,))
    ]


def _shown(clause: str, source: Source, analysis: Analysis) -> list[Claim]:
    """A modality and an emotion: some evidence of it must show that emotion, at the times that the clause cites."""
    items = analysis.evidence[MODALITY_OF[source]]
    times = [float(time) for time in _TIME.findall(clause)]
    extra = tuple({item.supports for item in items if item.supports is not None})
    return [
        Claim(kind="shown", text=f"the {source}: {word}", is_supported=any(_bears(item, word, times) for item in items))
        for word in find_words(clause, extra)
    ]


def _bears(item: Evidence, word: str, times: list[float]) -> bool:
    if item.supports is None or canonical(item.supports) != word:
        return False
    low, high = item.start - TIME_TOLERANCE_SECONDS, item.end + TIME_TOLERANCE_SECONDS
    return all(low <= time <= high for time in times)


def _voice_levels(clause: str, items: tuple[Evidence, ...]) -> list[Claim]:
    claims = []
    for quality, ways in _LEVELS.items():
        read = [item.cue for item in items if item.reading == _QUALITY_READING[quality]]
        for level, pattern in ways.items():
            if re.search(rf"\b(?:{pattern})", clause.lower()) and not _said_otherwise(clause.lower(), ways, level):
                supported = any(cue.endswith(f"({level})") for cue in read)
                claims.append(Claim(kind="level", text=f"{quality}: {level}", is_supported=supported))
    return claims


def _said_otherwise(clause: str, ways: Mapping[str, str], level: str) -> bool:
    """Say whether the words for a level only stand inside those for "medium": "neither loud nor soft"."""
    return level != "medium" and re.search(rf"\b(?:{ways['medium']})", clause) is not None


def _known_times(analysis: Analysis) -> list[float]:
    times: list[float] = []
    for items in analysis.evidence.values():
        for item in items:
            times += [item.start, item.end, *(float(time) for time in _TIME.findall(_QUOTED.sub("", item.cue)))]
    return times


def _near(first: float, second: float) -> bool:
    return abs(first - second) <= TIME_TOLERANCE_SECONDS


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()
