"""What a run will ask for, before it asks: requests, tokens and, when prices are given, money.

Tokens are estimated from characters; pictures are counted only when the caller says how many tokens one costs. Samples
that were observed already are estimated from their real prompts, the others from their transcript and the longest
phrases of the rules. The lower figure takes one draft a sample, the upper one every attempt; samples that the filter
will drop are counted, because it is not known yet which they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from emollama.endpoint import CHARACTERS_PER_TOKEN
from emollama.errors import InputError
from emollama.manifest import Sample
from train.builders.merr import prompts
from train.builders.merr.checks import MAX_OBJECTIVE_WORDS, MAX_WORDS
from train.builders.merr.description import MAX_UNITS
from train.builders.merr.observation import Observation
from train.builders.merr.rules import Rules
from train.builders.merr.state import BuildConfig, RunFolder

_TOKENS_PER_WORD = 1.5


@dataclass(frozen=True, kw_only=True)
class Prices:
    """Money for a million tokens, in the user's currency; ``image_tokens`` is what one picture counts as."""

    prompt: float | None = None
    answer: float | None = None
    image_tokens: int = 0

    def __post_init__(self) -> None:
        for name in ("prompt", "answer", "image_tokens"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1e6:
                raise InputError(f"price of {name} is {value}; allowed: from 0", field=name)
        if (self.prompt is None) != (self.answer is None):
            raise InputError(
                "one price is given; give the price of prompt and of answer tokens, or none", field="prompt"
            )


@dataclass(frozen=True, kw_only=True)
class Range:
    """From one draft a sample to every attempt."""

    low: int
    high: int


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """``samples`` in the manifest, ``finished`` of them done or dropped, and what the others may ask for."""

    samples: int
    finished: int
    observed: int
    requests: Range
    prompt_tokens: Range
    answer_tokens: Range
    money: tuple[float, float] | None
    minutes: float | None
    notes: tuple[str, ...]


def estimate(
    samples: Sequence[Sample],
    *,
    config: BuildConfig,
    run: RunFolder,
    rules: Rules,
    prices: Prices | None = None,
    requests_per_minute: int | None = None,
    tokens_per_minute: int | None = None,
) -> Estimate:
    """Estimate a run over the samples that are not finished; reads records, no clips."""
    prices = prices or Prices()
    finished, observed, count, characters = 0, 0, 0, 0
    longest = _longest_facts(rules)
    for sample in samples:
        record = run.load(sample)
        if record is not None and record.stage in ("done", "dropped"):
            finished += 1
            continue
        count += 1
        seen = None if record is None else record.observation
        if seen is None:
            characters += longest + len(sample.transcript or "")
            continue
        observed += 1
        characters += _real(seen, record.fields if record is not None else {})
    explains = count if config.writer == "endpoint" else 0
    describes = sum(1 for s in samples if s.clip is not None) if config.describe else 0
    describes = min(describes, count)
    prompt = 0
    if explains:
        prompt += characters // CHARACTERS_PER_TOKEN
    describe_characters = prompts.describe(b"").num_characters
    prompt += describes * (describe_characters // CHARACTERS_PER_TOKEN + prices.image_tokens)
    answer = round(_TOKENS_PER_WORD * (explains * MAX_WORDS + describes * MAX_OBJECTIVE_WORDS))
    tries = config.attempts
    requests = Range(low=explains + describes, high=(explains + describes) * tries)
    prompt_tokens, answer_tokens = Range(low=prompt, high=prompt * tries), Range(low=answer, high=answer * tries)
    money = None
    if prices.prompt is not None and prices.answer is not None:
        money = (
            (prompt_tokens.low * prices.prompt + answer_tokens.low * prices.answer) / 1e6,
            (prompt_tokens.high * prices.prompt + answer_tokens.high * prices.answer) / 1e6,
        )
    notes = []
    if requests.low:
        notes.append(f"tokens are estimated as characters / {CHARACTERS_PER_TOKEN}; the endpoint's own count decides")
        notes.append("samples that the filter will drop are counted; answers in the cache cost nothing")
    if describes and not prices.image_tokens:
        notes.append(f"the tokens of {describes} pictures are not counted; say how many one costs with --image-tokens")
    if requests.low and money is None:
        notes.append("no prices were given, so no money is named")
    waits = []
    if requests_per_minute:
        waits.append(requests.low / requests_per_minute)
    if tokens_per_minute:
        waits.append((prompt_tokens.low + answer_tokens.low) / tokens_per_minute)
    return Estimate(
        samples=len(samples),
        finished=finished,
        observed=observed,
        requests=requests,
        prompt_tokens=prompt_tokens,
        answer_tokens=answer_tokens,
        money=money,
        minutes=max(waits) if waits and requests.low else None,
        notes=tuple(notes),
    )


def _real(seen: Observation, fields: dict[str, str]) -> int:
    lines = prompts.facts(
        seen,
        objective=fields.get("visual_objective"),
        expression=fields.get("visual_expression"),
        course=fields.get("face_elsewhere"),
        tone=fields.get("tone"),
    )
    return prompts.explain(seen, lines).num_characters


def _longest_facts(rules: Rules) -> int:
    """Return the characters of a prompt in which every phrase is the longest that the rules have."""
    units = max(len(phrase) for rule in rules.action_units.values() for phrase in rule.phrases) * MAX_UNITS
    voice = sum(max(len(p) for level in levels.values() for p in level) for levels in rules.prosody.values())
    frame = 200  # the lines' own words and the times
    wording = len(prompts.EXPLAIN_SYSTEM) + len(prompts.EXPLAIN_RULES)
    return units + voice + frame + wording
