"""Says of an understood clip what its readings support, piece by piece.

nano decodes within the answers that the cues support, so its text is certain while it grows. An adapter that was taught
words of its own writes them freely; they are checked (`emollama.evidence.check_rationale`) when they are complete, and
only then told. What fails its check is decoded again with sampling, and when that fails too it is replaced by the
readings' own sentences, and the answer says so.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass

from emollama import evidence as ev
from emollama.parts import Parts
from emollama.phrases import supported_answers
from emollama.prompt import Slots
from emollama.questions import kinds_for
from emollama.reply_text import ReplyText
from emollama.understanding import Understanding
from emollama.watch import Check

MAX_TOKENS = 192
# How many phrasings the decoder may choose among: rationales of one clip, and answers of each kind of question.
_RATIONALES, _ANSWERS_OF_A_KIND = 64, 12
_ATTEMPTS = ((0.0, 0), (0.7, 1), (0.7, 2))  # (temperature, seed)
# A growing answer is told once so few are left that it may become, and each of them was found to be sound.
_FEW = 8


@dataclass(frozen=True, kw_only=True)
class Told:
    """An answer, and what has to be said about how it came to be."""

    text: str
    warnings: tuple[str, ...] = ()


class Narrator:
    """Answers with an analyzer's parts; may be asked by several threads at once."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        # Tokens of the prompt's structure and slots; an answer may hold only the slots that were measured.
        added = parts.renderer.tokenizer.get_added_tokens_decoder()
        self._markers = frozenset(token_id for token_id, token in added.items() if token.special)

    def say(
        self, seen: Understanding, question: str, check: Check, *, must_state: bool = True
    ) -> Generator[str, None, Told]:
        """Yield an answer in pieces as soon as each is certain, and return it whole; together they are it.

        ``check`` is asked at every token. With ``must_state`` the answer is a rationale, which names the label.
        """
        cues, renderer = seen.cues, self.parts.renderer
        assert cues is not None
        assert seen.emotion.label is not None
        ids = [renderer.token_id("<|label|>"), *renderer.followup(seen.emotion.label, cues, question)]
        banned = self._markers - {renderer.token_id(slot) for slot in Slots.of(cues).values} - {renderer.stop_id}
        choices: list[list[int]] | None = None
        if self.parts.answers == "supported":
            kinds, count = (("why",), _RATIONALES) if must_state else (kinds_for(question), _ANSWERS_OF_A_KIND)
            choices = [renderer.encode(text) for text in supported_answers(cues, kinds=kinds, count=count)]

        def problems_of(text: str, num_tokens: int) -> list[str]:
            problems = ev.check_rationale(text, cues, must_state=must_state)
            if num_tokens >= MAX_TOKENS:
                problems.append("The rationale did not come to an end.")
            return problems

        def is_sound(choice: Sequence[int]) -> bool:
            return not problems_of(renderer.decode(choice, cues), len(choice))

        first: list[str] = []
        for temperature, seed in _ATTEMPTS:
            left = _Left(choices or (), is_sound)
            text, num_tokens, is_told = ReplyText(renderer, cues), 0, False
            tokens = self.parts.engine.generate(
                seen.prefix, ids, stop_id=renderer.stop_id, max_new_tokens=MAX_TOKENS,
                temperature=temperature, seed=seed, banned=banned, choices=choices,
            )  # fmt: skip
            with closing(tokens):
                for token in tokens:
                    check()
                    num_tokens += 1
                    text.take(token)
                    left.take(token)
                    if left.are_sound() and (piece := text.certain()):
                        is_told = True
                        yield piece
            problems = problems_of(text.whole(), num_tokens)
            if not problems:
                if piece := text.rest():
                    yield piece
                return Told(text=text.whole())
            assert not is_told, "an answer that was told in part failed its check"
            first = first or problems
        plain = ev.plain_rationale(cues)
        yield plain
        return Told(
            text=plain,
            warnings=(
                "The decoded rationale made a claim that no reading supports "
                f"({' '.join(first)}) so it was replaced by sentences made from the readings.",
            ),
        )


class _Left:
    """The choices that a growing reply may still become, and whether every one of them is sound."""

    def __init__(self, choices: Sequence[Sequence[int]], is_sound: Callable[[Sequence[int]], bool]) -> None:
        self._choices = list(choices)
        self._is_sound = is_sound
        self._known: dict[int, bool] = {}  # what was found of a choice, by its id
        self._num_taken = 0
        self._are_sound = False

    def take(self, token: int) -> None:
        at = self._num_taken
        self._choices = [choice for choice in self._choices if len(choice) > at and choice[at] == token]
        self._num_taken += 1

    def are_sound(self) -> bool:
        if not self._choices:
            return False  # somebody's own words
        if not self._are_sound and len(self._choices) <= _FEW:
            for choice in self._choices:
                if id(choice) not in self._known:
                    self._known[id(choice)] = self._is_sound(choice)
            self._are_sound = all(self._known[id(choice)] for choice in self._choices)
        return self._are_sound
