"""What a written text may not do; everything that it does is listed, so that a rejected answer can be explained.

An explanation names the sample's label as what *appears*, in 30 to 80 words, rests on what was measured, speaks of no
modality that is not there, and of nobody's identity, age, sex, origin, health or personality
(`emollama.evidence.check_rationale`, and the rules' list of words).
"""

from __future__ import annotations

import re
from dataclasses import replace

from emollama.evidence import check_rationale
from emollama.labels import ADJECTIVES, ALIASES, NANO_LABELS, adjective, canonical
from emollama.parse import stated_labels
from emollama.prompt import MAX_FACE_CUES, Cues, FaceCue
from train.builders.merr.observation import Observation
from train.builders.merr.rules import RulesFile

MIN_WORDS, MAX_WORDS = 30, 80
MAX_OBJECTIVE_WORDS = 40
_QUOTED = re.compile(r"“[^”]*”")
_STRAIGHT = re.compile(r'"([^"\n]+)"')
_CODE = re.compile(r"\bAU\s?\d{1,2}\b")
_MARKUP = re.compile(r"\*\*|__|`|#|•|(?:^|\s)[-*]\s")
_THOUGHT = re.compile(r"\A\s*(?:<think>)?.*?</think>", re.DOTALL)
_FENCE = re.compile(r"\A```\w*\n?|\n?```\Z")


def tidy(text: str) -> str:
    """Return an answer as one paragraph with typographic quotes.

    What a model thought aloud before it answered is left out, and so are a code fence or quotes around all of it.
    """
    text = " ".join(_FENCE.sub("", _THOUGHT.sub("", text).strip()).split())
    if len(text) > 1 and text[0] + text[-1] in ('""', "“”") and not re.search('["“”]', text[1:-1]):
        text = text[1:-1].strip()
    return _STRAIGHT.sub(r"“\1”", text)


def allowed_cues(seen: Observation) -> Cues:
    """Return what an answer may rest on: the cues, and the action units' own opinion where they were measured."""
    cues = seen.cues
    if not seen.units or seen.peak is None:
        return cues
    at = seen.peak.time
    own = FaceCue(start=at, end=at, label=canonical(cues.label), strength="medium")
    return replace(
        cues,
        face=(*cues.face[: MAX_FACE_CUES - 1], own),
        absent=tuple(source for source in cues.absent if source != "face"),
    )


def explanation_problems(text: str, seen: Observation, rules: RulesFile) -> list[str]:
    """Return what is wrong with an explanation, as sentences; an empty list means that it may be kept."""
    count = len(text.split())
    problems = []
    if not MIN_WORDS <= count <= MAX_WORDS:
        problems.append(f"It has {count} words; allowed: {MIN_WORDS} to {MAX_WORDS}.")
    problems.extend(check_rationale(text, allowed_cues(seen), times=seen.times, words=seen.transcript or ""))
    prose = _QUOTED.sub("“”", text)
    problems.extend(_forbidden(prose, rules))
    states = "|".join(re.escape(adjective(name)) for name in (*NANO_LABELS, seen.label))
    if re.search(
        rf"\b(?:person|speaker|they)\s+(?:feels?|is\s+feeling|are\s+feeling)\s+(?:{states})\b", prose, re.IGNORECASE
    ):
        problems.append("It says what the person feels; only what appears may be said.")
    if _MARKUP.search(prose):
        problems.append("It holds markup; only plain sentences may be written.")
    if _CODE.search(prose):
        problems.append("It names an action unit by its code; the movement has to be said in words.")
    return list(dict.fromkeys(problems))


def objective_problems(text: str, rules: RulesFile) -> list[str]:
    """Return what is wrong with a description of what is visible: emotions, guesses about the person, its length."""
    count = len(text.split())
    problems = (
        [] if 2 <= count <= MAX_OBJECTIVE_WORDS else [f"It has {count} words; allowed: 2 to {MAX_OBJECTIVE_WORDS}."]
    )
    problems.extend(_forbidden(text, rules))
    words = sorted({*NANO_LABELS, *ADJECTIVES.values(), *ALIASES} - {"calm", "none", "neutral"}, key=len, reverse=True)
    named = re.search(r"\b(?:" + "|".join(map(re.escape, words)) + r")\b", text, re.IGNORECASE)
    if named:
        problems.append(f"It names the emotion {named.group()!r}; only what is visible may be said.")
    return problems


def description_problems(text: str, seen: Observation, rules: RulesFile) -> list[str]:
    """Return what is wrong with a coarse description that a person has edited."""
    if not text.strip():
        return ["It is empty."]
    prose = _QUOTED.sub("“”", text)
    problems = _forbidden(prose, rules)
    claimed = stated_labels(prose, labels=tuple(dict.fromkeys((*NANO_LABELS, seen.label))))
    if claimed:
        problems.append(f"It concludes that the person appears {claimed[0]}; a coarse description only describes.")
    return problems


def _forbidden(prose: str, rules: RulesFile) -> list[str]:
    found = []
    for kind, pattern in rules.never.items():
        if match := pattern.search(prose):
            what = "is no answer" if kind == "machine" else f"speaks of {kind}"
            found.append(f"It {what} ({match.group()!r}).")
    return found
