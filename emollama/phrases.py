"""The grammar of nano's answers: many phrasings of many questions, and answers made only of what the cues hold.

It makes the instruction data, and at inference it holds the decoding to what the readings support.

An answer names times and quotes by slot (``<t0>``, ``<q0>``), numbered as `emollama.prompt.render_cues` numbers them.
It says what appears, never what is; it never speaks of an absent modality except to say that it is absent. The
wording is ours. Nothing here reads a file or a model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from types import MappingProxyType

from emollama.prompt import MAX_FACE_CUES, Cues, Source, label_word, longest

Answer = Callable[[Cues, Random], str]
MAX_WHY_WORDS = 78

_SENSE: Mapping[Source, str] = MappingProxyType(
    {"face": "face to look at", "voice": "voice to listen to", "words": "transcript to read"}
)
_PITCH = {"low": ("low", "low-pitched"), "medium": ("mid-pitched", "of middle pitch"), "high": ("high", "high-pitched")}
_LOUDNESS = {
    "low": ("soft", "quiet"),
    "medium": ("of ordinary loudness", "neither loud nor soft"),
    "high": ("loud", "strong"),
}
_RATE = {"low": ("slow", "unhurried"), "medium": ("steady in pace", "even in pace"), "high": ("quick", "fast")}
_STRENGTH = {
    "low": ("faintly", "slightly", "only weakly"),
    "medium": ("fairly clearly", "moderately", "noticeably"),
    "high": ("strongly", "plainly", "very clearly"),
}


# ---- pieces --------------------------------------------------------------------------------------------------------


def _join(items: list[str], last: str = "and") -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {last} {items[-1]}"


def _capital(text: str) -> str:
    return text if text.startswith("<") else text[:1].upper() + text[1:]


def _face_slots(cues: Cues) -> list[tuple[str, str]]:
    return [(f"<t{2 * index}>", f"<t{2 * index + 1}>") for index in range(len(cues.face))]


def _voice_slots(cues: Cues) -> tuple[str, str]:
    first = 0 if cues.still else 2 * len(cues.face)
    return f"<t{first}>", f"<t{first + 1}>"


def _present(cues: Cues) -> list[Source]:
    return [source for source, there in cues.present.items() if there]


def _face_clauses(cues: Cues, rng: Random, limit: int) -> list[str]:
    """One clause for each of ``limit`` stretches of the face, the last one and the first ones; no capital, no full stop."""
    if cues.still:
        cue = cues.face[0]
        return [
            rng.choice(
                (
                    f"in the picture the face {rng.choice(_STRENGTH[cue.strength])} looks {label_word(cue.label)}",
                    f"the face in the picture reads {rng.choice(_STRENGTH[cue.strength])} as {label_word(cue.label)}",
                )
            )
        ]
    clauses: list[str] = []
    count = len(cues.face)
    kept = [*range(min(limit, count) - 1), count - 1]
    slots = _face_slots(cues)
    for index in kept:
        cue, (start, end) = cues.face[index], slots[index]
        how, word = rng.choice(_STRENGTH[cue.strength]), label_word(cue.label)
        subject = "it" if clauses else "the face"
        last = index == kept[-1]
        options = [
            f"from {start} to {end} {subject} {how} looks {word}",
            f"{subject} looks {how} {word} from {start} to {end}",
            f"between {start} and {end} {subject} reads {how} as {word}",
        ]
        if clauses:
            options.append(f"from {start} {'until' if last else 'to'} {end} {subject} turns {how} {word}")
        clauses.append(rng.choice(options))
    return clauses


def _face_sentence(cues: Cues, rng: Random, limit: int = MAX_FACE_CUES) -> str:
    clauses = _face_clauses(cues, rng, limit)
    joint = rng.choice(("; ", ", then "))
    return _capital(joint.join(clauses)) + "."


def _voice_words(cues: Cues, rng: Random) -> str:
    voice = cues.voice
    assert voice is not None
    return _join(
        [rng.choice(_PITCH[voice.pitch]), rng.choice(_LOUDNESS[voice.loudness]), rng.choice(_RATE[voice.rate])]
    )


def _voice_sentence(cues: Cues, rng: Random, limit: int = 1) -> str:
    assert cues.voice is not None
    start, end = _voice_slots(cues)
    how, word = _voice_words(cues, rng), label_word(cues.voice.label)
    return rng.choice(
        (
            f"The voice, from {start} to {end}, is {how}, which sounds {word}.",
            f"From {start} to {end} the voice is {how} and sounds {word}.",
            f"Between {start} and {end} the voice comes across as {word}: it is {how}.",
        )
    )


def _words_sentence(cues: Cues, rng: Random, limit: int = 1) -> str:
    assert cues.words is not None
    word = label_word(cues.words.label)
    return rng.choice(
        (
            f"The words <q0> read as {word}.",
            f"Of all the words, <q0> matters most and reads as {word}.",
            f"In the words, <q0> carries the most weight and reads as {word}.",
        )
    )


def _sentence(source: Source, cues: Cues, rng: Random, limit: int = MAX_FACE_CUES) -> str:
    return {"face": _face_sentence, "voice": _voice_sentence, "words": _words_sentence}[source](cues, rng, limit)


def _opinions(cues: Cues) -> dict[Source, str]:
    """What each present modality says by itself; for a face that changes, its longest stretch."""
    opinions: dict[Source, str] = {}
    if cues.face:
        opinions["face"] = label_word(longest(cues.face).label)
    if cues.voice is not None:
        opinions["voice"] = label_word(cues.voice.label)
    if cues.words is not None:
        opinions["words"] = label_word(cues.words.label)
    return opinions


_READS = {"face": "the face looks", "voice": "the voice sounds", "words": "the words read as"}


def _agreement_sentence(cues: Cues, rng: Random) -> str:
    sources = list(_present(cues))
    named = _join([str(source) if index else f"the {source}" for index, source in enumerate(sources)])
    if cues.agreement == "agree":
        return rng.choice(
            (
                f"{_capital(named)} point the same way.",
                f"{_capital(named)} agree.",
                f"{_capital(named)} tell the same story.",
            )
        )
    sides = _join([f"{_READS[source]} {word}" for source, word in _opinions(cues).items()], last="while")
    weighed = f"the {cues.lead} weighed more" if cues.lead is not None else "none of them clearly weighed more"
    return rng.choice(
        (f"They do not agree: {sides}; {weighed}.", f"There is a conflict, since {sides}, and {weighed}.")
    )


def _absence(cues: Cues) -> str:
    return _join([f"no {_SENSE[source]}" for source in cues.absent])


def _absence_sentence(cues: Cues, rng: Random) -> str:
    sources = [f"the {source}" for source in _present(cues)]
    rest = f"{_join(sources)} alone" if len(sources) == 1 else _join(sources)
    return rng.choice(
        (f"There was {_absence(cues)}, so this rests on {rest}.", f"With {_absence(cues)}, this rests on {rest}.")
    )


def _sureness_sentence(cues: Cues, rng: Random) -> str:
    if cues.abstained:
        return rng.choice(
            ("This is too uncertain to be given as an answer.", "The signs are too weak for a firm answer.")
        )
    return rng.choice(
        {
            "high": ("The reading is a confident one.", "The signs are clear, so this is given with confidence."),
            "medium": ("The reading is fairly sure, but not certain.", "This is likely, though not certain."),
            "low": ("The reading is an unsure one.", "The signs are weak, so this is given with caution."),
        }[cues.confidence]
    )


def _verdict(cues: Cues, rng: Random) -> str:
    word = label_word(cues.label)
    if cues.abstained:
        return rng.choice(
            (
                f"At most, the person appears {word}, and only weakly so",
                f"If anything, the person appears {word}, but the signs are weak",
            )
        )
    return rng.choice(
        (
            f"The person appears {word}",
            f"Overall, the person appears {word}",
            f"The person in the clip appears {word}",
            f"Taken together, the person appears {word}"
            if len(_present(cues)) > 1
            else f"Here the person appears {word}",
        )
    )


# ---- answers -------------------------------------------------------------------------------------------------------


def why(cues: Cues, rng: Random) -> str:
    """The rationale: verdict, cues with their times, agreement or absence, and how sure: 30 to 80 words."""
    sources = _present(cues)
    if cues.lead is not None and rng.random() < 0.5:
        sources.sort(key=lambda source: source != cues.lead)
    limit = MAX_FACE_CUES - 1 if len(sources) == 1 else 2
    sentences = [_verdict(cues, rng) + ".", *(_sentence(source, cues, rng, limit) for source in sources)]
    tail = []
    if len(sources) > 1:
        tail.append(_agreement_sentence(cues, rng))
    if cues.absent:
        tail.append(_absence_sentence(cues, rng))
    sureness = _sureness_sentence(cues, rng)
    if _num_words([*sentences, *tail, sureness]) <= MAX_WHY_WORDS:
        tail.append(sureness)
    elif _num_words([*sentences, *tail]) > MAX_WHY_WORDS:
        tail = [_brief(cues)]
    sentences += tail
    return " ".join(_fold(sentences))


def _brief(cues: Cues) -> str:
    """Agreement and absence in the fewest words, for a rationale that has much to report."""
    weighed = f"and the {cues.lead} weighed more" if cues.lead is not None else "and neither weighed more"
    parts = ["They agree" if cues.agreement == "agree" else f"They do not agree, {weighed}"]
    if cues.absent:
        parts.append(f"there was {_absence(cues)}")
    return "; ".join(parts) + "."


def _num_words(sentences: list[str]) -> int:
    """Words after the slots are filled: a time is two ("9.6 s"), a quote about four."""
    text = " ".join(sentences)
    return len(text.split()) + text.count("<t") + 3 * text.count("<q0>")


def _fold(sentences: list[str]) -> list[str]:
    """Join neighbouring short sentences with a semicolon until at most four remain."""
    folded = list(sentences)
    while len(folded) > 4:
        lengths = [len(folded[i].split()) + len(folded[i + 1].split()) for i in range(1, len(folded) - 1)]
        at = 1 + lengths.index(min(lengths))
        first, second = folded[at], folded[at + 1]
        lowered = second if second.startswith("<") else second[0].lower() + second[1:]
        folded[at : at + 2] = [f"{first[:-1]}; {lowered}"]
    return folded


def what(cues: Cues, rng: Random) -> str:
    sources = _join([f"the {source}" for source in _present(cues)])
    return f"{_verdict(cues, rng)}. " + rng.choice(
        (f"That is read from {sources}.", f"This impression rests on {sources}.")
    )


def _about(source: Source) -> Answer:
    def answer(cues: Cues, rng: Random) -> str:
        if not cues.present[source]:
            others = _present(cues)
            rest = f" What is left is {_join([f'the {other}' for other in others])}." if others else ""
            return rng.choice(
                (f"There was no {_SENSE[source]}.{rest}", f"Nothing can be said of that: no {_SENSE[source]}.{rest}")
            )
        return _sentence(source, cues, rng)

    return answer


def agreement(cues: Cues, rng: Random) -> str:
    sources = _present(cues)
    if len(sources) < 2:
        return f"There is nothing to compare: {_absence(cues)}, only the {sources[0]}."
    return _agreement_sentence(cues, rng)


def how_sure(cues: Cues, rng: Random) -> str:
    reason = _agreement_sentence(cues, rng) if len(_present(cues)) > 1 else _absence_sentence(cues, rng)
    return f"{_sureness_sentence(cues, rng)} {reason}"


def change_mind(cues: Cues, rng: Random) -> str:
    word = label_word(cues.label)
    if cues.absent:
        missing = f"no {_SENSE[rng.choice(cues.absent)]}"
        return rng.choice(
            (
                f"There was {missing}; with one, the reading that the person appears {word} could change.",
                f"With {missing}, something is missing that could change the reading that the person appears {word}.",
            )
        )
    lead = cues.lead or rng.choice(_present(cues))
    return rng.choice(
        (
            f"If the {lead} pointed away from {label_word(cues.label)}, the reading would change, for the {lead} weighed most.",
            f"A different {lead} would change it most, for the {lead} carries the reading that the person appears {label_word(cues.label)}.",
        )
    )


def how_strong(cues: Cues, rng: Random) -> str:
    word = label_word(cues.label)
    if cues.face:
        top = max(cues.face, key=lambda cue: (cue.label == cues.label, ("low", "medium", "high").index(cue.strength)))
        index = cues.face.index(top)
        where = "in the picture" if cues.still else f"from <t{2 * index}> to <t{2 * index + 1}>"
        return f"The face {rng.choice(_STRENGTH[top.strength])} looks {label_word(top.label)} {where}; overall the person appears {word}."
    if cues.voice is not None:
        start, end = _voice_slots(cues)
        return f"The voice is {_voice_words(cues, rng)} from {start} to {end}; overall the person appears {word}."
    return f"With only words there is no strength to measure; <q0> reads as {label_word(cues.words.label) if cues.words else word}."


def others(cues: Cues, rng: Random) -> str:
    if not cues.others:
        return f"No other emotion stands out; the person appears {label_word(cues.label)}."
    named = _join([label_word(other) for other in cues.others], last="or")
    return rng.choice(
        (f"Less likely, the person appears {named}.", f"After {label_word(cues.label)}, the next readings are {named}.")
    )


def when(cues: Cues, rng: Random) -> str:
    if cues.still:
        return "It is one picture, so there is no course in time; " + _face_clauses(cues, rng, 1)[0] + "."
    if cues.face:
        return _face_sentence(cues, rng)
    if cues.voice is not None:
        return _voice_sentence(cues, rng)
    return f"There was {_absence(cues)}, so no moment can be named."


def one_word(cues: Cues, rng: Random) -> str:
    return rng.choice(
        (label_word(cues.label), _capital(label_word(cues.label)), f"{_capital(label_word(cues.label))}.")
    )


def as_json(cues: Cues, rng: Random) -> str:
    document = {
        "emotion": label_word(cues.label),
        "confidence": "too low" if cues.abstained else cues.confidence,
        "used": list(_present(cues)),
        "absent": list(cues.absent),
    }
    return json.dumps(document)


def unknowable(cues: Cues, rng: Random) -> str:
    return rng.choice(
        (
            "That cannot be told from the clip. ",
            "The clip does not show that, so it cannot be answered. ",
            "That is not something a clip can tell. ",
        )
    ) + rng.choice(
        (
            f"What it does show is that the person appears {label_word(cues.label)}.",
            f"It shows only that the person appears {label_word(cues.label)}.",
        )
    )


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of question: its share of the data, its phrasings, and how it is answered."""

    weight: float
    questions: tuple[str, ...]
    answer: Answer


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "why": Kind(
            weight=9.0,
            questions=(
                "What does the person appear to feel, and why?", "Which emotion does this clip show, and what says so?",
                "Explain the emotion in this clip.", "Why do you think so?", "Why?", "Describe the emotion and give your reasons.",
                "What is the emotional state of the person, and what is it based on?", "Give me the emotion and the evidence.",
                "Walk me through the signs of emotion here.", "What makes you say that?", "How did you come to this reading?",
                "Please analyse the clip and explain the emotion.", "What is going on with this person emotionally?",
                "Tell me what they seem to feel and how you can tell.", "What is the mood, and which cues carry it?",
            ),
            answer=why,
        ),
        "what": Kind(
            weight=1.5,
            questions=(
                "What is felt?", "What does the person feel?", "Which emotion is it?", "What emotion does this show?",
                "How does the person seem?", "What is the mood of this person?", "Name the emotion.", "How do they come across?",
                "Is the person happy?", "Is she sad?", "Is he angry?", "Does this person look upset?",
            ),
            answer=what,
        ),
        "face": Kind(
            weight=1.5,
            questions=(
                "What does the face say?", "What does the face show?", "Describe the facial expression.", "How does the face look?",
                "What do you see in the face?", "What about the expression?", "Tell me about the face.", "What can be seen?",
                "Is there a face, and what does it show?", "Are they smiling?",
            ),
            answer=_about("face"),
        ),
        "voice": Kind(
            weight=1.5,
            questions=(
                "What does the voice say?", "How does the voice sound?", "Describe the tone of voice.", "What about the tone?",
                "What do you hear?", "Tell me about the voice.", "Is the voice loud?", "How do they speak?", "What can be heard?",
                "Is there a voice, and how does it sound?",
            ),
            answer=_about("voice"),
        ),
        "words": Kind(
            weight=1.5,
            questions=(
                "What does the text say?", "What do the words say?", "What do the words point to?", "What about the words?",
                "Which words matter?", "Tell me about what was said.", "What in the transcript matters?", "Do the words carry emotion?",
                "Which emotion is in the words?", "What did they say that counts?",
            ),
            answer=_about("words"),
        ),
        "agreement": Kind(
            weight=1.5,
            questions=(
                "Do they agree?", "Do face, voice and words agree?", "Is there a conflict between the cues?", "Do the signs match?",
                "Does the face fit the words?", "Does the voice fit the face?", "Are the signals mixed?", "Which one weighed more?",
                "Is it sarcasm?", "Do the modalities tell the same story?",
            ),
            answer=agreement,
        ),
        "how_sure": Kind(
            weight=1.0,
            questions=(
                "How sure are you?", "How certain is that?", "How confident is this reading?", "Can you be sure?", "Is that certain?",
                "How reliable is this?", "Are you sure?", "What is your confidence?",
            ),
            answer=how_sure,
        ),
        "change_mind": Kind(
            weight=1.0,
            questions=(
                "What would change your mind?", "What could make you decide otherwise?", "What would make this reading wrong?",
                "Under what conditions would you answer differently?", "What is missing to be surer?", "What would you need to see?",
            ),
            answer=change_mind,
        ),
        "how_strong": Kind(
            weight=1.0,
            questions=(
                "How strong is it?", "How strong is the emotion?", "How intense is the feeling?", "Is it strong or weak?",
                "How much of it is there?", "Is it mild?",
            ),
            answer=how_strong,
        ),
        "others": Kind(
            weight=1.0,
            questions=(
                "Which other emotions are there?", "What else could it be?", "Which other emotions are possible?", "Any other emotion?",
                "What is the second most likely emotion?", "Could it be something else?", "What are the alternatives?",
            ),
            answer=others,
        ),
        "when": Kind(
            weight=1.2,
            questions=(
                "When does it happen?", "When does it change?", "At what time is that seen?", "Where in the clip is it?",
                "How does it change over time?", "Give me the timeline.", "What happens at the end?", "How does it begin?",
            ),
            answer=when,
        ),
        "one_word": Kind(
            weight=1.0,
            questions=(
                "In one word?", "One word, please.", "Answer in one word.", "Name the emotion in one word.", "Just the emotion, one word.",
                "What is felt, in one word?", "Give only the label.",
            ),
            answer=one_word,
        ),
        "as_json": Kind(
            weight=1.0,
            questions=(
                "Answer in JSON.", "Give me JSON.", "As JSON, please.", "Return the result as a JSON object.",
                "What is felt? Reply in JSON.", "JSON only.",
            ),
            answer=as_json,
        ),
        "unknowable": Kind(
            weight=1.5,
            questions=(
                "Who is this?", "How old is the person?", "Where are they from?", "Is the person ill?", "What is their name?",
                "What happened before?", "Is he lying?", "Is she a good person?", "What will they do next?", "Is this a man or a woman?",
                "What is the weather like?", "What should I do?", "What is the capital of France?", "Is this person depressed?",
                "What caused it?", "Where was this filmed?", "What do they do for a living?", "Are they smart?", "Write me a poem.",
                "What is 2 + 2?", "What is their religion?", "What are they thinking?", "Who are they talking to?",
            ),
            answer=unknowable,
        ),
    }
)  # fmt: skip


def ask(cues: Cues, rng: Random, *, kind: str | None = None) -> tuple[str, str, str]:
    """Draw a question and its answer for these cues: ``(kind, question, answer)``."""
    if kind is None:
        kind = rng.choices(list(KINDS), weights=[entry.weight for entry in KINDS.values()])[0]
    return kind, _vary(rng.choice(KINDS[kind].questions), rng), KINDS[kind].answer(cues, rng)


def _vary(question: str, rng: Random) -> str:
    """Write a question as hurried people do: other case, no end mark, a polite word."""
    roll = rng.random()
    if roll < 0.10:
        question = question.lower()
    elif roll < 0.16:
        question = question.rstrip("?.!")
    elif roll < 0.20:
        question = f"Please tell me: {question[0].lower()}{question[1:]}"
    return question


def supported_answers(cues: Cues, *, kinds: Sequence[str], count: int, seed: int = 0) -> tuple[str, ...]:
    """Return up to ``count`` different answers of each kind, all of which these cues support, in a fixed order.

    nano decodes its answers under the constraint to be one of them: it chooses what to say and how, token by token,
    and cannot say what was not read.
    """
    rng = Random(seed)
    drawn = (KINDS[kind].answer(cues, rng) for kind in kinds for _ in range(count))
    return tuple(dict.fromkeys(drawn))
