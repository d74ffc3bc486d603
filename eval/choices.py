"""Reads the answer to a multiple-choice question: one letter, or nothing. What names two, or none, is never guessed.

The one reader of files of predictions (``emollama score``) and of a model's replies. An article is not an answer ("A
person smiles"), and a letter before the text of another choice contradicts itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_DECORATION = " \t\r\n*_`\"'“”‘’"
_ALONE = re.compile(r"[(\[]?([A-Za-z])[)\]]?[.:]?")
# "B) because", "B. sad", "B: sad", "(b) sad", "[B] sad", "B - sad": the letter is set off from what follows.
_SET_OFF = re.compile(r"(?:[(\[]([A-Za-z])[)\]]|([A-Za-z])(?:[).:]|\s+[-–—]\s))\s*(.*)", re.DOTALL)
# "the answer is B", "Answer: (b)", "I choose option C because": said in so many words, anywhere in the reply.
_SAID = re.compile(
    r"\b(?:answer|choice|option|choose|pick|select)\b(?:\s+(?:is|would\s+be|option|choice|answer))*\s*[:=]?\s*[*_`\"'“(\[]*"
    r"([A-Za-z])(?:[*_`\"'”)\].,;:!?]|\s+(?:because|since|as|for)\b|\s*\n|\s*$)",
    re.IGNORECASE,
)
# "B) or C)", "B. C": a second letter where the reason would stand.
_ANOTHER = re.compile(r"(?:(?:,|/|and|or|&)\s*)?[(\[]?[A-Za-z](?:[)\].,:]|\s*$)", re.IGNORECASE)
_FURTHER = re.compile(r"\s*(?:,|/|and|or|&)\s*[(\[]?[A-Za-z][)\]]?(?![A-Za-z'’])", re.IGNORECASE)


def find_choice(text: str, choices: Sequence[str] = ()) -> str | None:
    """Return the letter that an answer names, in upper case, or ``None``.

    With ``choices`` (their texts) the letter must be one of theirs, the text of exactly one choice is its letter, and a
    letter that stands before another choice's text is no answer.
    """
    bare = text.strip(_DECORATION)
    if not bare:
        return None
    letter = _named(bare)
    if not choices:
        return letter
    texts = [_plain(choice) for choice in choices]
    if letter is not None:
        if letter not in LETTERS[: len(choices)]:
            return None
        set_off = _SET_OFF.fullmatch(bare)
        follows = _plain(set_off[3]) if set_off else ""
        return None if follows in texts and texts.index(follows) != LETTERS.index(letter) else letter
    same = [place for place, choice in enumerate(texts) if choice == _plain(bare)]
    return LETTERS[same[0]] if len(same) == 1 else None


def _named(bare: str) -> str | None:
    if alone := _ALONE.fullmatch(bare):
        return alone[1].upper()
    if set_off := _SET_OFF.fullmatch(bare):
        return None if _ANOTHER.match(set_off[3]) else (set_off[1] or set_off[2]).upper()
    said = {match[1].upper() for match in _SAID.finditer(bare) if not _FURTHER.match(bare, match.end(1))}
    doubtful = any(_FURTHER.match(bare, match.end(1)) for match in _SAID.finditer(bare))
    return said.pop() if len(said) == 1 and not doubtful else None


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).strip(_DECORATION + ".")
