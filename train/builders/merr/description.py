"""The coarse description: what is seen and heard, put into sentences by the rules' phrases; no emotion is concluded.

The wording varies with the run's seed and the sample's id, and with nothing else: the same run gives the same texts.
A modality that is not there has no sentence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from emollama.labels import canonical
from train.builders.merr.observation import Observation, UnitReading
from train.builders.merr.rules import HOW, Rules

MAX_UNITS = 4
MAX_OTHER_STRETCHES = 2


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A part of the description and which rules or readings wrote it."""

    text: str
    by: str
    of: tuple[str, ...]


def generator(seed: int, sample_id: str, purpose: str) -> Random:
    """Return the generator of one text: the same for the same run seed, sample and purpose."""
    return Random(f"{seed}:{sample_id}:{purpose}")


def visual_expression(seen: Observation, rules: Rules, rng: Random, *, most: int = MAX_UNITS) -> Piece | None:
    """Return clauses for the peak frame without a capital or a full stop, or ``None`` when there is no face.

    ``most`` is how many action units are named, the strongest first.
    """
    if seen.units:
        return _units(seen, rules, rng, most)
    if seen.face is None:
        return None
    name = max(seen.face.at_peak, key=seen.face.at_peak.__getitem__)
    clause = _expression(name, seen.face.at_peak[name], rules, rng)
    return Piece(text=clause, by="rules.expressions", of=(name,))


def course(seen: Observation, rules: Rules, rng: Random) -> Piece | None:
    """Return what the face shows in the stretches away from the peak, or ``None`` when it shows one thing only."""
    cues, peak = seen.cues, seen.peak
    if seen.units or peak is None or cues.still or seen.face is None:
        return None
    name = max(seen.face.at_peak, key=seen.face.at_peak.__getitem__)
    others = [cue for cue in cues.face if not cue.start <= peak.time <= cue.end and cue.label != name]
    kept = sorted(sorted(others, key=lambda cue: cue.start - cue.end)[:MAX_OTHER_STRETCHES], key=lambda cue: cue.start)
    if not kept:
        return None
    strengths = {level.name: level.start for level in rules.expression_strength.levels}
    clauses = []
    for cue in kept:
        clause = _expression(canonical(cue.label), strengths[cue.strength], rules, rng)
        clauses.append(f"from {cue.start:.1f} s to {cue.end:.1f} s {clause}")
    return Piece(text=_join(clauses), by="rules.expressions", of=tuple(cue.label for cue in kept))


def tone(seen: Observation, rules: Rules, rng: Random) -> Piece | None:
    """Return how the voice is, as the end of a sentence that begins with "the voice is"; ``None`` without a voice."""
    voice = seen.voice
    if voice is None:
        return None
    levels = {"pitch": voice.pitch, "loudness": voice.loudness, "rate": voice.rate}
    words = [rng.choice(rules.prosody[quality][level]) for quality, level in levels.items()]
    text = _join(words)
    if voice.melody != "medium":
        text += f", {rng.choice(rules.prosody['melody'][voice.melody])}"
        levels["melody"] = voice.melody
    return Piece(text=text, by="rules.prosody", of=tuple(f"{quality} {level}" for quality, level in levels.items()))


def coarse(
    seen: Observation,
    *,
    objective: str | None,
    expression: Piece | None,
    course: Piece | None,
    tone: Piece | None,
    rng: Random,
) -> str:
    """Join the parts into the coarse description; the order and the joints vary, the facts do not."""
    sentences = []
    if objective:
        sentences.append(rng.choice(("The picture shows {}.", "In view: {}.")).format(objective.rstrip(" .")))
    if expression is not None:
        if seen.peak is None:
            lead = "In the picture {}."
        else:
            lead = rng.choice(
                (
                    "At {at} s, the clearest moment, {}.",
                    "The clearest moment of the face is at {at} s: {}.",
                    "Around {at} s, where most can be seen, {}.",
                )
            )
        sentences.append(
            lead.replace("{at}", f"{0.0 if seen.peak is None else seen.peak.time:.1f}").format(expression.text)
        )
    if course is not None:
        sentences.append(rng.choice(("At other times, {}.", "Apart from that moment, {}.")).format(course.text))
    if tone is not None:
        assert seen.voice is not None
        span = f"{seen.voice.start:.1f} s to {seen.voice.end:.1f} s"
        sentences.append(
            rng.choice((f"From {span} the voice is {{}}.", f"The voice, heard from {span}, is {{}}.")).format(tone.text)
        )
    if seen.transcript:
        words = " ".join(seen.transcript.replace("“", "‘").replace("”", "’").split())
        sentences.append(rng.choice((f"The words are: “{words}”", f"What is said: “{words}”")))
    return " ".join(_capital(sentence) for sentence in sentences)


def _units(seen: Observation, rules: Rules, rng: Random, most: int) -> Piece:
    peak_time = None if seen.peak is None else seen.peak.time
    voice = seen.voice
    talking = voice is not None and peak_time is not None and voice.start <= peak_time <= voice.end
    shown: list[tuple[float, UnitReading, str]] = []
    for unit in seen.units:
        rule = rules.action_units[unit.code]
        if not rule.expressive or (talking and rule.moved_by_speech):
            continue
        if unit.intensity is None:
            if unit.present:
                shown.append((rules.firing.mean_intensity, unit, ""))
        elif (level := rules.intensity.level(unit.intensity)) is not None:
            shown.append((unit.intensity, unit, rng.choice(level.words)))
    shown.sort(key=lambda item: (-item[0], item[1].code))
    if not shown:
        return Piece(text="no movement of the face stands out", by="rules.action_units", of=())
    clauses = [_fill(rng.choice(rules.action_units[unit.code].phrases), how) for _, unit, how in shown[:most]]
    return Piece(text=_join(clauses), by="rules.action_units", of=tuple(unit.code for _, unit, _ in shown[:most]))


def _expression(name: str, probability: float, rules: Rules, rng: Random) -> str:
    level = rules.expression_strength.level(probability)
    assert level is not None
    return _fill(rng.choice(rules.expressions[name]), rng.choice(level.words))


def _fill(phrase: str, how: str) -> str:
    return " ".join(phrase.replace(HOW, how).split())


def _join(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
