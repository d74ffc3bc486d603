"""Random but consistent cues: every combination of modalities, expressions and measured levels.

Used where no reading is needed (vocabulary, language modelling of the answer grammar, tests); instruction data for
the shipped model is built from readings measured on real samples (`train.builders.instruct`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import get_args

from emollama import labels
from emollama.phrases import ask
from emollama.prompt import (
    MAX_FACE_CUES,
    SOURCES,
    Confidence,
    Cues,
    FaceCue,
    Level,
    Source,
    VoiceCue,
    WordsCue,
    longest,
)

_LEVELS: tuple[Level, ...] = get_args(Level)
_CONFIDENCES: tuple[Confidence, ...] = get_args(Confidence)
SUBSETS: tuple[tuple[Source, ...], ...] = (
    ("face",), ("voice",), ("words",), ("face", "voice"), ("face", "words"), ("voice", "words"),
    ("face", "voice", "words"),
)  # fmt: skip


def join_cues(
    *,
    label: str,
    confidence: Confidence,
    face: Sequence[FaceCue] = (),
    voice: VoiceCue | None = None,
    words: WordsCue | None = None,
    lead: Source | None = None,
    others: Sequence[str] = (),
    abstained: bool = False,
    still: bool = False,
) -> Cues:
    """Fill in what follows from the rest: which modalities are absent, and whether the present ones agree."""
    opinions = []
    if face:
        opinions.append(longest(face).label)
    if voice is not None:
        opinions.append(voice.label)
    if words is not None:
        opinions.append(words.label)
    there = {"face": bool(face), "voice": voice is not None, "words": words is not None}
    single = len(opinions) < 2
    return Cues(
        label=label,
        confidence=confidence,
        face=tuple(face),
        voice=voice,
        words=words,
        agreement="single" if single else "agree" if len(set(opinions)) == 1 else "conflict",
        lead=None if single else lead,
        absent=tuple(source for source in SOURCES if not there[source]),
        others=tuple(others),
        abstained=abstained,
        still=still,
    )


def random_cues(rng: Random) -> Cues:
    """Draw cues for any subset of modalities; the label is mostly what the modalities say."""
    subset = rng.choice(SUBSETS)
    names = labels.NANO_LABELS
    label = rng.choice(names) if rng.random() < 0.85 else rng.choice(labels.GOEMOTIONS_28)
    still = "face" in subset and "voice" not in subset and rng.random() < 0.3

    def opinion() -> str:
        base = label if label in names else rng.choice(names)
        return base if rng.random() < 0.7 else rng.choice(names)

    face: list[FaceCue] = []
    if "face" in subset:
        count = 1 if still else rng.choice((1, 1, 1, 2, 2, 3, MAX_FACE_CUES))
        cuts = sorted(rng.uniform(0, 20) for _ in range(2 * count))
        previous = None
        for index in range(count):
            expression = opinion()
            while expression == previous:
                expression = rng.choice(names)
            previous = expression
            face.append(
                FaceCue(start=cuts[2 * index], end=cuts[2 * index + 1], label=expression, strength=rng.choice(_LEVELS))
            )
    voice = None
    if "voice" in subset:
        start = rng.uniform(0, 5)
        voice = VoiceCue(
            start=start,
            end=start + rng.uniform(0.5, 10),
            label=opinion(),
            pitch=rng.choice(_LEVELS),
            loudness=rng.choice(_LEVELS),
            rate=rng.choice(_LEVELS),
        )
    words = WordsCue(label=opinion(), quote="so it goes") if "words" in subset else None
    confidence = rng.choice(_CONFIDENCES)
    return join_cues(
        label=label,
        confidence=confidence,
        face=face,
        voice=voice,
        words=words,
        lead=rng.choice(subset) if rng.random() < 0.9 else None,
        others=rng.sample([name for name in names if name != label], k=rng.choice((0, 1, 2, 2))),
        abstained=confidence == "low" and rng.random() < 0.5,
        still=still,
    )


def iter_phrase_corpus(seed: int = 0, *, count: int = 4000) -> Iterator[str]:
    """Yield questions and answers over random cues as plain text, for the tokenizer's vocabulary."""
    rng = Random(seed)
    for _ in range(count):
        _, question, answer = ask(random_cues(rng), rng)
        yield question
        yield answer
