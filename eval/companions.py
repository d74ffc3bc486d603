"""Figures of rationales and open words that need no judge: the same text gives the same number, on any machine.

They stand beside judged figures, because they say what a judge cannot be trusted with: whether what is claimed was
read, whether an absent modality is spoken of, whether the asked form was kept, and whether the same question in other
words gets the same answer. They do not say whether a rationale is good.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from emollama.errors import InputError
from emollama.labels import canonical
from emollama.parse import parse_reply
from eval.claims import Claim, absent_claims, check_claims, present_sources
from eval.emotion_words import find_words, hedging, sentences

if TYPE_CHECKING:
    from emollama.analyze import Analyzer
    from emollama.types import Analysis, Clip

# The house voice of a rationale (docs/schema.md): two to four sentences, 30 to 80 words.
VOICE_WORDS, VOICE_SENTENCES = (30, 80), (2, 4)
PHRASINGS = (
    "What does the person appear to feel?",
    "Which emotion does the person show?",
    "How does the person seem to feel?",
    "What would you say this person feels?",
    "What is the person's emotion in this clip?",
)
ONE_WORD_QUESTION = "Answer in one word: what does the person appear to feel?"
JSON_QUESTION = "What does the person appear to feel, and why? Answer as JSON with the keys label and rationale."
_QUOTED = re.compile(r"“[^”]*”")
_ONE_WORD = re.compile(r"[^\W\d_]+(?:[-'’][^\W\d_]+)*[.!]?")


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a model told of one item, as far as it was asked; a figure leaves out the items that lack what it wants.

    ``gold`` are the true emotion words, ``words`` those that the model named (without them the rationale's are taken);
    ``phrased`` are the labels read from the answers to one question in several wordings, ``None`` where none could be
    read; ``group`` is the speaker or video.
    """

    id: str
    rationale: str | None = None
    analysis: Analysis | None = None
    gold: tuple[str, ...] | None = None
    words: tuple[str, ...] | None = None
    one_word: str | None = None
    as_json: str | None = None
    phrased: tuple[str | None, ...] | None = None
    group: str | None = None


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """How two sets of emotion words agree; ``f1`` and ``jaccard`` of an empty prediction are 0."""

    precision: float
    recall: float
    f1: float
    jaccard: float


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure with its percentile interval (``None`` for fewer than two units) and the number of items behind it."""

    value: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True, kw_only=True)
class Companions:
    """All figures that could be computed, and what was found wrong, by item."""

    figures: Mapping[str, Figure]
    unsupported: Mapping[str, tuple[Claim, ...]]
    absent: Mapping[str, tuple[str, ...]]


# ---- one item -----------------------------------------------------------------------------------------------------


def label_overlap(gold: Collection[str], predicted: Collection[str]) -> Overlap:
    """Compare two sets of emotion words after other names of the same emotion are merged; an empty gold is an error."""
    truth, given = ({canonical(word) for word in words} for words in (gold, predicted))
    if not truth:
        raise InputError("gold holds no emotion word; the overlap is not defined there", field="gold")
    hits = len(truth & given)
    precision, recall = hits / len(given) if given else 0.0, hits / len(truth)
    return Overlap(
        precision=precision,
        recall=recall,
        f1=2 * hits / (len(truth) + len(given)),
        jaccard=hits / len(truth | given),
    )


def count_words(text: str) -> int:
    """Count words: what white space parts and that holds a letter or a digit."""
    return sum(any(character.isalnum() for character in part) for part in text.split())


def count_sentences(text: str) -> int:
    """Count the sentences of a text; those of the words that it quotes are not its own."""
    return len(sentences(_QUOTED.sub("“”", text)))


def keeps_voice(text: str) -> bool:
    """Say whether a rationale has the length of the house voice, in words and in sentences."""
    return (
        VOICE_WORDS[0] <= count_words(text) <= VOICE_WORDS[1]
        and VOICE_SENTENCES[0] <= count_sentences(text) <= VOICE_SENTENCES[1]
    )


def is_one_word(reply: str) -> bool:
    """Say whether a reply is one word and nothing else; a full stop is let pass."""
    return _ONE_WORD.fullmatch(reply.strip()) is not None


def is_json(reply: str, *, keys: Collection[str] = ()) -> bool:
    """Say whether a reply, whole and without a code fence, is a JSON object that holds the keys."""
    try:
        document = json.loads(reply)
    except ValueError:
        return False
    return isinstance(document, dict) and set(keys) <= set(document)


def consistency(answers: Sequence[str | None]) -> float:
    """Return the share of pairs of answers that agree (Fleiss' P of one item); an unreadable one agrees with none."""
    if len(answers) < 2:
        raise InputError(f"answers holds {len(answers)}; agreement wants at least 2", field="answers")
    counts = Counter(canonical(answer) for answer in answers if answer is not None)
    pairs = sum(count * (count - 1) for count in counts.values())
    return pairs / (len(answers) * (len(answers) - 1))


# ---- many items ---------------------------------------------------------------------------------------------------


@dataclass
class _Sums:
    """What each item adds to a figure's numerator and denominator."""

    rows: list[tuple[float, float]] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)

    def add(self, told: Told, numerator: float, denominator: float = 1.0) -> None:
        self.rows.append((numerator, denominator))
        self.groups.append(told.id if told.group is None else told.group)


def collect(
    told: Iterable[Told],
    *,
    extra_words: Mapping[str, str] | Iterable[str] = (),
    num_resamples: int = 1000,
    seed: int = 0,
) -> Companions:
    """Compute every figure that the items allow.

    Shares of claims (``evidence_agreement``, ``hedged``) are over all claims of all items, the others are means over
    items; ``kappa`` is Fleiss' kappa of the phrasings. Raises `InputError` when two items have one name.
    """
    extra = dict(extra_words) if isinstance(extra_words, Mapping) else {word: word for word in extra_words}
    sums: dict[str, _Sums] = {}
    unsupported: dict[str, tuple[Claim, ...]] = {}
    absent: dict[str, tuple[str, ...]] = {}
    phrased: list[Told] = []
    seen: set[str] = set()
    for one in told:
        if one.id in seen:
            raise InputError(f"item {one.id!r} is there twice", field="id")
        seen.add(one.id)

        def add(name: str, numerator: float, denominator: float = 1.0, *, of: Told = one) -> None:
            sums.setdefault(name, _Sums()).add(of, numerator, denominator)

        if one.rationale is not None:
            _add_rationale(one, extra, add, unsupported, absent)
        named = one.words
        if named is None and one.rationale is not None:
            named = find_words(one.rationale, extra)
        if one.gold and named is not None:
            overlap = label_overlap(one.gold, named)
            for name in ("precision", "recall", "f1", "jaccard"):
                add(f"label_{name}", getattr(overlap, name))
        if one.one_word is not None:
            add("one_word", is_one_word(one.one_word))
        if one.as_json is not None:
            add("json", is_json(one.as_json, keys=("label", "rationale")))
        if one.phrased is not None:
            add("consistency", consistency(one.phrased))
            add("unanimous", consistency(one.phrased) == 1.0)
            add("phrasing_unreadable", one.phrased.count(None), len(one.phrased))
            phrased.append(one)
    figures = {name: _figure(entry, num_resamples, seed) for name, entry in sums.items()}
    if phrased:
        figures["kappa"] = _kappa(phrased, num_resamples, seed)
    return Companions(
        figures={name: figure for name, figure in figures.items() if figure is not None},
        unsupported=unsupported,
        absent=absent,
    )


def _add_rationale(
    one: Told,
    extra: Mapping[str, str],
    add: Callable[..., None],
    unsupported: dict[str, tuple[Claim, ...]],
    absent: dict[str, tuple[str, ...]],
) -> None:
    text = one.rationale or ""
    add("words", count_words(text))
    add("sentences", count_sentences(text))
    add("in_house_voice", keeps_voice(text))
    said = hedging(text, extra)
    add("hedged", said.hedged, said.hedged + said.flat)
    if one.analysis is None:
        return
    claims = check_claims(text, one.analysis)
    add("evidence_agreement", sum(claim.is_supported for claim in claims), len(claims))
    add("claims", len(claims))
    missing = absent_claims(text, present_sources(one.analysis))
    add("absent_modality_claimed", bool(missing))
    if wrong := tuple(claim for claim in claims if not claim.is_supported):
        unsupported[one.id] = wrong
    if missing:
        absent[one.id] = missing


def _figure(entry: _Sums, num_resamples: int, seed: int) -> Figure | None:
    import numpy as np

    from emollama.metrics import bootstrap_totals

    rows = np.array(entry.rows, np.float64)
    total = rows.sum(0)
    if total[1] == 0:
        return None  # no item holds a claim of this kind: a share of nothing is no figure
    interval = None
    if len(set(entry.groups)) > 1:
        (interval,) = bootstrap_totals(
            rows, _ratio, clusters=np.array(entry.groups), num_resamples=num_resamples, seed=seed
        )
    return Figure(
        value=float(total[0] / total[1]),
        low=None if interval is None else interval.low,
        high=None if interval is None else interval.high,
        n=int((rows[:, 1] > 0).sum()),
    )


def _ratio(totals: Any) -> Any:
    import numpy as np

    with np.errstate(divide="ignore", invalid="ignore"):
        return totals[:, 0] / totals[:, 1]


def _kappa(phrased: Sequence[Told], num_resamples: int, seed: int) -> Figure | None:
    """Return Fleiss' kappa (Psychol. Bull. 76, 1971) over items and phrasings; an answer that could not be read agrees
    with nothing, by chance as in fact. ``None`` where every answer is the same one: there it is not defined."""
    import numpy as np

    from emollama.metrics import bootstrap_totals

    if len({len(one.phrased or ()) for one in phrased}) > 1:
        raise InputError("items were asked in different numbers of phrasings; kappa wants the same for all", field="id")
    read = [[None if a is None else canonical(a) for a in one.phrased or ()] for one in phrased]
    names = sorted({answer for answers in read for answer in answers if answer is not None})
    rows = np.array([[consistency(a), 1.0, *(a.count(name) / len(a) for name in names)] for a in read])

    def kappa(totals: Any) -> Any:
        shares = totals / totals[:, 1:2]
        by_chance = (shares[:, 2:] ** 2).sum(1)
        with np.errstate(divide="ignore", invalid="ignore"):
            return (shares[:, 0] - by_chance) / np.where(np.isclose(by_chance, 1.0), np.nan, 1.0 - by_chance)

    value = float(kappa(rows.sum(0)[None])[0])
    if not np.isfinite(value):
        return None
    groups = [one.id if one.group is None else one.group for one in phrased]
    interval = None
    if len(set(groups)) > 1:
        (interval,) = bootstrap_totals(rows, kappa, clusters=np.array(groups), num_resamples=num_resamples, seed=seed)
    return Figure(
        value=value,
        low=None if interval is None else interval.low,
        high=None if interval is None else interval.high,
        n=len(rows),
    )


def ask_all(
    analyzer: Analyzer,
    clip: Clip,
    *,
    id: str,
    labels: Sequence[str] | None = None,
    gold: tuple[str, ...] | None = None,
    group: str | None = None,
) -> Told:
    """Ask the analyzer all that the figures want of one clip: the rationale, one word, JSON, and five phrasings.

    A clip in which there is nothing to judge is told without the forms: there is no word to give.
    """
    analysis = analyzer.analyze(clip, labels=labels)
    if analysis.emotion.label is None:
        return Told(id=id, rationale=analysis.rationale, analysis=analysis, gold=gold, words=(), group=group)
    seen = analyzer.understand(clip, labels=labels)
    phrased = [parse_reply(analyzer.answer(seen, question), labels=labels).label for question in PHRASINGS]
    return Told(
        id=id,
        rationale=analysis.rationale,
        analysis=analysis,
        gold=gold,
        words=analysis.open_vocabulary or (analysis.emotion.label,),
        one_word=analyzer.answer(seen, ONE_WORD_QUESTION),
        as_json=analyzer.answer(seen, JSON_QUESTION),
        phrased=tuple(phrased),
        group=group,
    )
