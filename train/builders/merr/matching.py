"""The filter: a clip is kept when its readings bear its label out; what is dropped is told why.

A face is asked through its action units where there are any (the rule of `train.builders.merr.action_units.fired`),
else through the face model's expressions at the peak. A clip without a face is asked through its voice and its words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from emollama.errors import InputError
from emollama.labels import canonical
from train.builders.merr.action_units import fired
from train.builders.merr.observation import Observation
from train.builders.merr.rules import Rules

MatchBy = Literal["face", "any", "off"]
MATCH_BY: tuple[MatchBy, ...] = ("face", "any", "off")


@dataclass(frozen=True, kw_only=True)
class MatchOptions:
    """``by``: "face" asks the face where there is one, "any" takes any modality, "off" keeps every labelled clip.

    ``min_confidence`` holds for pseudo-labels and for the largest share of a distribution; ``min_expression`` for the
    probability of the label's expressions at the peak.
    """

    by: MatchBy = "face"
    min_confidence: float = 0.6
    min_expression: float = 0.5

    def __post_init__(self) -> None:
        if self.by not in MATCH_BY:
            raise InputError(f"match is {self.by!r}; allowed: {', '.join(MATCH_BY)}", field="match")
        for name in ("min_confidence", "min_expression"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise InputError(f"{name} is {value}; allowed: 0 to 1", field=name)


@dataclass(frozen=True, kw_only=True)
class Match:
    """Whether a clip is kept; ``code`` is a short name of the reason, ``reason`` says it with its figures."""

    kept: bool
    code: str
    reason: str


def match(seen: Observation, rules: Rules, options: MatchOptions) -> Match:
    """Ask the readings whether they bear the label out."""
    if seen.label_source == "pseudo" and seen.abstained:
        return Match(kept=False, code="pseudo_label_unsure", reason=f"{seen.model} abstained from a label")
    if seen.label_source != "manifest" and seen.label_confidence < options.min_confidence:
        code = "pseudo_label_unsure" if seen.label_source == "pseudo" else "label_unsure"
        return Match(
            kept=False,
            code=code,
            reason=(
                f"the label {seen.label} has a confidence of {seen.label_confidence:.2f}; "
                f"min_confidence is {options.min_confidence:.2f}"
            ),
        )
    if options.by == "off":
        return Match(kept=True, code="not_asked", reason="every label was taken as it stands")
    found = rules.emotion(seen.label)
    if found is None:
        return Match(
            kept=False,
            code="no_rule",
            reason=f"no rule says which readings go with {seen.label!r}; add one to the rules, or turn the match off",
        )
    name, rule = found
    verdicts: list[Match] = []
    if seen.units:
        verdicts.append(_by_units(seen, name, rules))
    elif seen.face is not None:
        verdicts.append(_by_expression(seen, rule.expressions, options))
    if not verdicts or options.by == "any":
        wanted = {canonical(expression) for expression in rule.expressions}
        for source, label in (
            ("voice", None if seen.voice is None else seen.voice.verdict),
            ("words", None if seen.cues.words is None else seen.cues.words.label),
        ):
            if label is not None:
                agrees = canonical(label) in wanted
                verb = "read" if source == "words" else "reads"
                goes = f", which goes with {seen.label}" if agrees else f", which does not go with {seen.label}"
                verdicts.append(
                    Match(
                        kept=agrees,
                        code=f"{source}_matches" if agrees else f"{source}_differs",
                        reason=f"the {source} alone {verb} {label}{'' if canonical(label) == name else goes}",
                    )
                )
    return next((verdict for verdict in verdicts if verdict.kept), verdicts[0])


def _by_units(seen: Observation, name: str, rules: Rules) -> Match:
    if not rules.emotions[name].combinations and name != "neutral":
        return Match(kept=False, code="no_rule", reason=f"no combination of action units is known for {name}")
    reading = {unit.code: (unit.intensity, unit.present) for unit in seen.units}
    firing = fired(reading, rules)
    if name == "neutral":
        flat = seen.peak is None or not seen.peak.reached
        what = "no action unit rises to a peak" if flat else "action units rise to a peak"
        return Match(kept=flat, code="units_match" if flat else "units_differ", reason=what)
    own = next((f for f in firing if f.emotion == name), None)
    if own is not None:
        return Match(
            kept=True,
            code="units_match",
            reason=(
                f"{own.presence:.0%} of {' + '.join(own.action_units)} present at a mean intensity of "
                f"{own.mean_intensity:.2f} ({own.strength})"
            ),
        )
    others = ", ".join(f.emotion for f in firing) or "no emotion"
    return Match(
        kept=False, code="units_differ", reason=f"at the peak the action units of {others} fire, not of {name}"
    )


def _by_expression(seen: Observation, expressions: tuple[str, ...], options: MatchOptions) -> Match:
    face = seen.face
    assert face is not None
    # a face is neutral for the whole clip or not at all; every other expression may be brief
    where, reading = ("over the clip", face.mean) if expressions == ("neutral",) else ("at the peak", face.at_peak)
    where = where if seen.peak is not None else "in the picture"
    probability = sum(reading.get(expression, 0.0) for expression in expressions)
    says = f"the face reads {' or '.join(expressions)} with a probability of {probability:.2f} {where}"
    if probability >= options.min_expression:
        return Match(kept=True, code="expression_matches", reason=says)
    top = max(reading, key=reading.__getitem__)
    return Match(
        kept=False,
        code="expression_differs",
        reason=f"{says}; min_expression is {options.min_expression:.2f}, and {top} leads with {reading[top]:.2f}",
    )
