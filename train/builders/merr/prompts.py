"""What is asked: the questions that go into the data, and the prompts that a writer gets. All wording is our own.

A prompt is made of an `Observation` and nothing else, so the same observation gives the same request, and a cached
answer is found again. `PROMPT_VERSION` changes with the wording; the hash of it goes into the provenance.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Collection, Sequence

from emollama.endpoint import Prompt
from emollama.labels import adjective
from emollama.prompt import Source
from train.builders.merr.checks import MAX_OBJECTIVE_WORDS, MAX_WORDS, MIN_WORDS
from train.builders.merr.observation import Observation

PROMPT_VERSION = 1

# A question and the modalities that it takes for granted; one that asks for what is not there is not asked.
_COARSE_QUESTIONS: tuple[tuple[str, tuple[Source, ...]], ...] = (
    ("Describe what this clip gives to notice about the person, without a conclusion.", ()),
    ("What can be perceived of the person here?", ()),
    ("Put into words what there is to notice, and leave the emotion open.", ()),
    ("Give a plain account of the facial expression.", ("face",)),
    ("What does the face show?", ("face",)),
    ("Describe the way the person speaks.", ("voice",)),
    ("What does the face show, and how does the voice sound?", ("face", "voice")),
    ("Describe the person's expression and tone.", ("face", "voice")),
    ("Describe the face and say what the words are.", ("face", "words")),
    ("Which expressions, which tone of voice and which words does the clip hold?", ("face", "voice", "words")),
    ("How does the voice sound, and what does it say?", ("voice", "words")),
)
_FINE_QUESTIONS: tuple[tuple[str, tuple[Source, ...]], ...] = (
    ("What does the person appear to feel, and why?", ()),
    ("Which emotion is suggested here, and which cues speak for it?", ()),
    ("How does the person seem to feel? Explain what that rests on.", ()),
    ("Name the emotion that appears and the evidence for it.", ()),
    ("What emotion comes across here, and what gives it away?", ()),
    ("Taking face and voice together, what does the person appear to feel?", ("face", "voice")),
    ("Taking face and words together, what does the person appear to feel?", ("face", "words")),
    ("Taking voice and words together, what does the person appear to feel?", ("voice", "words")),
)


def coarse_questions(present: Collection[str]) -> tuple[str, ...]:
    """Return the questions that a description may answer, given the modalities that are there."""
    return _fitting(_COARSE_QUESTIONS, present)


def fine_questions(present: Collection[str]) -> tuple[str, ...]:
    """Return the questions that an explanation may answer, given the modalities that are there."""
    return _fitting(_FINE_QUESTIONS, present)


def _fitting(questions: Sequence[tuple[str, tuple[Source, ...]]], present: Collection[str]) -> tuple[str, ...]:
    """Return the questions that take no absent modality for granted."""
    return tuple(text for text, wanted in questions if set(wanted) <= set(present))


EXPLAIN_SYSTEM = (
    "You write short explanations of the emotion that a person in a clip appears to show. You never see the clip; you "
    "get measured facts and the label that annotators gave. You use these facts only and add none. You write plain "
    "English prose: no lists, no headings, no codes."
)
EXPLAIN_RULES = (
    "Write two to four sentences, {low} to {high} words in all.\n"
    "Begin by saying that the person appears {word}; use exactly these words, “the person appears {word}”, and say of "
    "no other emotion that the person appears so.\n"
    "Say “appears”, “looks” or “sounds”, never “is” or “feels”.\n"
    "Then explain which of the facts point there. {times} Put in quotation marks only words that "
    "were said.\n"
    "{absent}"
    "Call the person “the person” or “they”. Nothing about age, sex, origin, health, personality or who it is; no "
    "advice."
)
DESCRIBE_SYSTEM = "You describe single frames of video for somebody who cannot see them, in plain and neutral words."
_DESCRIBE = (
    "Describe what is visible in this frame, in one phrase of at most {most} words that could follow “The picture "
    "shows”: pose, gaze, hands, objects, the place. Do not name an emotion, and say nothing about age, sex, origin, "
    "health or who it is; write “a person”."
)


EXPLAIN_SHA256 = hashlib.sha256(f"{PROMPT_VERSION}\n{EXPLAIN_SYSTEM}\n{EXPLAIN_RULES}".encode()).hexdigest()
DESCRIBE_SHA256 = hashlib.sha256(f"{PROMPT_VERSION}\n{DESCRIBE_SYSTEM}\n{_DESCRIBE}".encode()).hexdigest()


def facts(
    seen: Observation, *, objective: str | None, expression: str | None, course: str | None, tone: str | None
) -> tuple[str, ...]:
    """Return what is known of a clip as lines; an absent modality has none."""
    lines = []
    if objective:
        lines.append(f"Picture: {objective}")
    if expression:
        at = "" if seen.peak is None else f" at {seen.peak.time:.1f} s, its clearest moment"
        lines.append(f"Face{at}: {expression}")
    if course:
        lines.append(f"Face at other times: {course}")
    if tone and seen.voice is not None:
        verdict = "" if seen.voice.verdict is None else f"; by itself it sounds {adjective(seen.voice.verdict)}"
        lines.append(f"Voice from {seen.voice.start:.1f} s to {seen.voice.end:.1f} s: {tone}{verdict}")
    if seen.transcript:
        lines.append(f"Words: “{' '.join(seen.transcript.split())}”")
    return tuple(lines)


def explain(seen: Observation, lines: Sequence[str]) -> Prompt:
    """Ask for the explanation of a sample's label from the facts."""
    missing = {"face": "no face", "voice": "no voice", "words": "no words"}
    absent = [missing[source] for source in seen.cues.absent if not (source == "face" and seen.units)]
    rule = ""
    if absent:
        rule = (
            f"The clip has {' and '.join(absent)}: describe none, and if you mention it, say only that it is missing.\n"
        )
    times = "Cite no times."
    if seen.peak is not None:
        times = f"Cite only the times given, written as in “{seen.peak.time:.1f} s”."
    elif seen.voice is not None:
        times = f"Cite only the times given, written as in “{seen.voice.start:.1f} s”."
    rules = EXPLAIN_RULES.format(low=MIN_WORDS, high=MAX_WORDS, word=adjective(seen.label), times=times, absent=rule)
    user = f"Facts:\n{chr(10).join(f'- {line}' for line in lines)}\nLabel: {seen.label}\n\n{rules}"
    return Prompt(
        messages=({"role": "system", "content": EXPLAIN_SYSTEM}, {"role": "user", "content": user}),
        sha256=EXPLAIN_SHA256,
    )


def describe(picture: bytes) -> Prompt:
    """Ask what is visible in the peak frame; ``picture`` is a JPEG, sent inside the request."""
    url = f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}"
    content = [
        {"type": "text", "text": _DESCRIBE.format(most=MAX_OBJECTIVE_WORDS)},
        {"type": "image_url", "image_url": {"url": url}},
    ]
    return Prompt(
        messages=({"role": "system", "content": DESCRIBE_SYSTEM}, {"role": "user", "content": content}),
        sha256=DESCRIBE_SHA256,
    )
