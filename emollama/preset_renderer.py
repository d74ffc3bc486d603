"""`PresetRenderer`: the large presets' chat templates behind the interface that the analyzer asks its prompts by.

A clip is asked about as in training: one question that holds the label set, answered by the label alone. That prompt
without its last token is the prefix; the last token, which is the same for every prompt of a template, stands where
nano has its marker of the label. What follows (the label as the answer, further questions) continues the dialogue.

Cues are not told to these models, which never saw them in training; what they say is held against the cues afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from emollama.chat_prompt import ChatRenderer, ChatTokenizer, Layout
from emollama.errors import CheckpointError
from emollama.prompt import DEFAULT_QUESTION, Cues, Slots
from emollama.types import Message

# The wordings that are asked of a fine-tuned preset; training asks in these and others (`train/trainees`).
LABEL_QUESTION = (
    "Which of these does the person appear to feel: {labels}? Answer with one of them and nothing else."
)  # fmt: skip
REASON_QUESTION = (
    "What does the person appear to feel, and what in the picture, the voice and the words points to it?"
)  # fmt: skip
OPEN_QUESTION = "Describe the emotion in a few words of your own, separated by commas."
LABEL_TASK = "emotion"
_LABEL_MARKER = "<|label|>"


def label_question(labels: Sequence[str], *, wording: str = LABEL_QUESTION) -> str:
    """Return the question by which labels are scored, in training's validation and in answers."""
    return wording.replace("{labels}", ", ".join(labels))


class PresetRenderer:
    """Renders one preset's prompts; stands in for `emollama.prompt.Renderer` where sentences are decoded."""

    def __init__(self, chat: ChatRenderer, *, layout: Layout = "train", question: str = "") -> None:
        self.chat, self.layout, self.question = chat, layout, question or LABEL_QUESTION
        self.tokenizer = _Tokens(chat.tokenizer, placeholders=chat.placeholder_ids)
        self.stop_id = chat.end_id
        self.marker_id = self._dialogue([_user("?")])[-1]

    def token_id(self, token: str) -> int:
        """Return what stands for one of nano's tokens; slots are plain text here and have none (the end's, then)."""
        return self.marker_id if token == _LABEL_MARKER else self.stop_id

    def encode(self, text: str) -> list[int]:
        return self.chat.tokenizer.encode(text)

    def encode_untrusted(self, text: str) -> list[int]:
        """Encode a user's text; nothing in it becomes a special token."""
        return self.chat.tokenizer.encode(text)

    def prefix(self, labels: Sequence[str], *, counts: Mapping[str, int], transcript: str | None) -> list[int]:
        """Return the ids of the question about the label, up to the token that stands for nano's marker."""
        ids = self._dialogue(
            [_user(label_question(labels, wording=self.question))], counts=counts, transcript=transcript
        )
        if ids[-1] != self.marker_id:
            raise CheckpointError("the tokenizer joins the end of the prompt with what stands before it")
        return ids[:-1]

    def open_prompt(self, *, counts: Mapping[str, int], transcript: str | None) -> list[int]:
        """Return the ids of the question for words of the model's own, as training asks it: with no task's tag."""
        return self.chat.prompt([_user(OPEN_QUESTION)], counts=counts, transcript=transcript, layout=self.layout)

    def label_ids(self, names: Sequence[str]) -> list[list[int]]:
        """Return the ids of each label as a whole answer, its end included: "sad" is then no part of "sadness"."""
        return [self.chat.answer(name) for name in names]

    def followup(self, label: str, cues: Cues, question: str, *, turns: Sequence[tuple[str, str]] = ()) -> list[int]:
        """Return the ids after `prefix` and its marker: the label as the answer, earlier turns, and the question."""
        asked = REASON_QUESTION if question == DEFAULT_QUESTION else question
        messages = [_user("?"), _assistant(label)]
        for earlier, answered in turns:
            messages += [_user(" ".join(earlier.split())), _assistant(" ".join(answered.split()))]
        messages.append(_user(" ".join(asked.split())))
        return self._dialogue(messages)[len(self._dialogue(messages[:1])) :]

    def decode(self, ids: Sequence[int], cues: Cues) -> str:
        """Return the text of an answer, with measured values where it names a slot."""
        text = Slots.of(cues).fill(self.chat.decode(ids))
        return re.sub(r"\s+([.,;:!?])", r"\1", re.sub(r"[ \t]+", " ", text)).strip()

    def _dialogue(
        self, messages: Sequence[Message], *, counts: Mapping[str, int] | None = None, transcript: str | None = None
    ) -> list[int]:
        return self.chat.prompt(
            messages, counts=counts, transcript=transcript, task=LABEL_TASK, layout=self.layout
        )  # fmt: skip


class _Tokens:
    """What is asked of nano's tokenizer beside encoding, answered for a preset's."""

    def __init__(self, tokenizer: ChatTokenizer, *, placeholders: Mapping[str, int]) -> None:
        self._tokenizer = tokenizer
        self._special = tokenizer.special_ids() | frozenset(placeholders.values())

    def get_added_tokens_decoder(self) -> dict[int, Any]:
        return {token_id: SimpleNamespace(special=True) for token_id in self._special}

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        return self._tokenizer.decode([token for token in ids if token not in self._special])


def _user(text: str) -> Message:
    return Message(role="user", content=text)


def _assistant(text: str) -> Message:
    return Message(role="assistant", content=text)
