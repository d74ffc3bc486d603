"""The one place where messages, readings and placeholders become token ids, and ids become text again.

Turn 1 asks for the label. Everything after it (rationale, chat) continues the same ids, so one prefill serves all:

    <s> <|face|>F..F<|/face|> <|voice|>V<|/voice|> <|words|> transcript <|/words|> <|label|>        -> <label:sadness>
    <label:sadness> <|cues|> readings in words <|/cues|> <|user|> question <|assistant|>             -> answer </s>

``F`` and ``V`` are placeholder tokens that the model overwrites with projected features. An absent modality is an
absent bracket. Measured times and quoted words never pass through the model as text: the cues name them by slot
tokens (``<t0>`` a time, ``<q0>`` a quote), the model repeats the slot, and `Renderer.decode` puts the measured value
in its place; so a cited time or quote is always one that was measured. The module knows nothing of tensors.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from emollama import labels
from emollama.errors import CheckpointError, InputError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Level = Literal["low", "medium", "high"]
Confidence = Literal["low", "medium", "high"]
Source = Literal["face", "voice", "words"]
SOURCES: tuple[Source, ...] = ("face", "voice", "words")

NUM_TIME_SLOTS = 16
NUM_QUOTE_SLOTS = 4
LABEL_SLOT = f"<q{NUM_QUOTE_SLOTS - 1}>"
MARKERS = (
    "<s>", "</s>", "<pad>", "<|face|>", "<|/face|>", "<|voice|>", "<|/voice|>", "<|words|>", "<|/words|>",
    "<|label|>", "<|open|>", "<|affect|>", "<|cues|>", "<|/cues|>", "<|user|>", "<|assistant|>",
    "<|face_token|>", "<|voice_token|>",
)  # fmt: skip
MAX_TRANSCRIPT_TOKENS = 256
MAX_QUESTION_TOKENS = 192
MAX_FACE_CUES = 4

DEFAULT_QUESTION = "What does the person appear to feel, and why?"
NOTHING_TO_JUDGE = (
    "No emotion is claimed: there was no face to look at, no voice to listen to and no words to read, "
    "so there is nothing in this clip that an answer could rest on."
)


@dataclass(frozen=True, kw_only=True)
class FaceCue:
    """A stretch in which the main face shows one expression; times in seconds."""

    start: float
    end: float
    label: str
    strength: Level


@dataclass(frozen=True, kw_only=True)
class VoiceCue:
    """The voiced part of the clip, the voice head's verdict, and the level of each measured quality."""

    start: float
    end: float
    label: str
    pitch: Level
    loudness: Level
    rate: Level


@dataclass(frozen=True, kw_only=True)
class WordsCue:
    """What the words alone point to, and the words that carry it."""

    label: str
    quote: str


@dataclass(frozen=True, kw_only=True)
class Cues:
    """Everything a rationale may speak of. What is not here may not be claimed."""

    label: str
    confidence: Confidence
    face: tuple[FaceCue, ...] = ()
    voice: VoiceCue | None = None
    words: WordsCue | None = None
    agreement: Literal["agree", "conflict", "single"] = "single"
    lead: Source | None = None
    absent: tuple[Source, ...] = ()
    others: tuple[str, ...] = ()
    abstained: bool = False
    still: bool = False

    def __post_init__(self) -> None:
        if len(self.face) > MAX_FACE_CUES:
            raise InputError(f"face holds {len(self.face)} cues; allowed: at most {MAX_FACE_CUES}", field="face")
        overlap = {source for source in self.absent if self.present[source]}
        if overlap:
            raise InputError(f"absent names {sorted(overlap)}, which have cues", field="absent")

    @property
    def present(self) -> dict[Source, bool]:
        return {"face": bool(self.face), "voice": self.voice is not None, "words": self.words is not None}


@dataclass(frozen=True)
class Slots:
    """Slot token -> the text it stands for, in the order the cues name them."""

    values: dict[str, str]

    @classmethod
    def of(cls, cues: Cues) -> Slots:
        """Number the times in order: every face cue's start and end, then the voice's; ``<q0>`` is the quote."""
        times: list[float] = []
        if not cues.still:
            for cue in cues.face:
                times += [cue.start, cue.end]
        if cues.voice is not None:
            times += [cues.voice.start, cues.voice.end]
        values = {f"<t{index}>": f"{value:.1f} s" for index, value in enumerate(times[:NUM_TIME_SLOTS])}
        if cues.words is not None:
            values["<q0>"] = f"“{cues.words.quote}”"
        if labels.canonical(cues.label) not in labels.NANO_LABELS:
            values[LABEL_SLOT] = labels.adjective(cues.label)
        return cls(values)

    def fill(self, text: str) -> str:
        """Replace every slot that has a value; one that has none stays visible, for the checker to find."""
        return re.sub(r"<[tq]\d+>", lambda match: self.values.get(match.group(), match.group()), text)


def label_word(label: str) -> str:
    """The word for a label inside cues and answers: its adjective, or the label slot when nano was not taught it."""
    name = labels.canonical(label)
    return labels.ADJECTIVES[name] if name in labels.NANO_LABELS else LABEL_SLOT


def longest(face: Sequence[FaceCue]) -> FaceCue:
    """The stretch that counts as what the face says by itself."""
    return max(face, key=lambda cue: cue.end - cue.start)


def label_token(name: str) -> str:
    return f"<label:{name}>"


def render_cues(cues: Cues) -> str:
    """Write the readings as the short, fixed text that stands between ``<|cues|>`` and ``<|/cues|>``."""
    parts = [f"verdict {label_word(cues.label)} {'abstained' if cues.abstained else cues.confidence}"]
    slot = 0
    if cues.face:
        spans = []
        for cue in cues.face:
            where = " picture" if cues.still else f" <t{slot}><t{slot + 1}>"
            slot += 0 if cues.still else 2
            spans.append(f"{label_word(cue.label)} {cue.strength}{where}")
        mostly = "" if len(cues.face) == 1 else f"mostly {label_word(longest(cues.face).label)}: "
        parts.append(f"face {mostly}" + ", ".join(spans))
    if cues.voice is not None:
        voice = cues.voice
        levels = f"pitch {voice.pitch} loudness {voice.loudness} rate {voice.rate}"
        parts.append(f"voice {label_word(voice.label)} {levels} <t{slot}><t{slot + 1}>")
    if cues.words is not None:
        parts.append(f"words {label_word(cues.words.label)} <q0>")
    parts.append(cues.agreement if cues.lead is None else f"{cues.agreement} lead {cues.lead}")
    if cues.others:
        parts.append("others " + " ".join(label_word(other) for other in cues.others))
    if cues.absent:
        parts.append("absent " + " ".join(cues.absent))
    return "; ".join(parts)


class Renderer:
    """Renders prompts with one tokenizer; the same object serves training, inference and the server."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        missing = [token for token in MARKERS if tokenizer.token_to_id(token) is None]
        if missing:
            raise CheckpointError(f"the tokenizer lacks {', '.join(missing)}; it was not made for this prompt format")

    @classmethod
    def load(cls, path: Path) -> Renderer:
        """Read a ``tokenizer.json``; a missing file is a `CheckpointError`."""
        from tokenizers import Tokenizer

        if not Path(path).is_file():
            raise CheckpointError(f"no tokenizer at {path}")
        return cls(Tokenizer.from_file(str(path)))

    def token_id(self, token: str) -> int:
        found = self.tokenizer.token_to_id(token)
        if found is None:
            raise CheckpointError(f"the tokenizer has no token {token!r}")
        return found

    def encode(self, text: str) -> list[int]:
        """Encode trusted text, in which slots and markers are tokens."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def encode_untrusted(self, text: str) -> list[int]:
        """Encode a user's text: what looks like one of our markers is broken up first, so that it stays plain text."""
        return self.encode(_DISARM.sub(lambda match: f"{match.group()[0]} {match.group()[1:]}", text))

    @cached_property
    def stop_id(self) -> int:
        return self.token_id("</s>")

    @cached_property
    def face_placeholder_id(self) -> int:
        return self.token_id("<|face_token|>")

    @cached_property
    def voice_placeholder_id(self) -> int:
        return self.token_id("<|voice_token|>")

    def modalities(self, *, face_tokens: int = 0, voice_tokens: int = 0, transcript: str | None = None) -> list[int]:
        """Ids of ``<s>`` and the brackets of the modalities that are there. A long transcript keeps its two ends."""
        ids = [self.token_id("<s>")]
        if face_tokens:
            ids += [self.token_id("<|face|>"), *[self.face_placeholder_id] * face_tokens, self.token_id("<|/face|>")]
        if voice_tokens:
            voice = [self.voice_placeholder_id] * voice_tokens
            ids += [self.token_id("<|voice|>"), *voice, self.token_id("<|/voice|>")]
        if transcript is not None and transcript.strip():
            words = self.encode_untrusted(" ".join(transcript.split()))
            if len(words) > MAX_TRANSCRIPT_TOKENS:
                half = MAX_TRANSCRIPT_TOKENS // 2
                words = words[:half] + words[-half:]
            ids += [self.token_id("<|words|>"), *words, self.token_id("<|/words|>")]
        return ids

    def prefix(self, *, face_tokens: int = 0, voice_tokens: int = 0, transcript: str | None = None) -> list[int]:
        """Turn 1 up to and including ``<|label|>``; the next token is the label."""
        ids = self.modalities(face_tokens=face_tokens, voice_tokens=voice_tokens, transcript=transcript)
        return [*ids, self.token_id("<|label|>")]

    def label_ids(self, names: Sequence[str]) -> list[list[int]]:
        """The ids whose likelihood scores each label: one token for a label the tokenizer knows, else its words."""
        out = []
        for name in names:
            token = self.tokenizer.token_to_id(label_token(labels.canonical(name)))
            out.append([token] if token is not None else self.encode_untrusted(labels.canonical(name)))
        return out

    def knows_label(self, name: str) -> bool:
        return self.tokenizer.token_to_id(label_token(labels.canonical(name))) is not None

    def followup(self, label: str, cues: Cues, question: str, *, turns: Sequence[tuple[str, str]] = ()) -> list[int]:
        """Ids to append after `prefix`: the label as the answer to turn 1, the cues, and the question of turn 2.

        ``turns`` are earlier questions and answers as plain text, which come between the cues and the question.
        """
        earlier = [
            token
            for asked, answered in turns
            for token in (*self._question(asked), *self.encode_untrusted(" ".join(answered.split())), self.stop_id)
        ]
        return [
            *self.label_ids([label])[0],
            self.token_id("<|cues|>"), *self.encode(render_cues(cues)), self.token_id("<|/cues|>"),
            *earlier, *self._question(question),
        ]  # fmt: skip

    def _question(self, text: str) -> list[int]:
        asked = self.encode_untrusted(" ".join(text.split()))[:MAX_QUESTION_TOKENS]
        return [self.token_id("<|user|>"), *asked, self.token_id("<|assistant|>")]

    def answer(self, text: str) -> list[int]:
        """Ids of an answer with its stop token; slots are tokens. Training computes its loss on exactly these."""
        return [*self.encode(text), self.stop_id]

    def supervised(
        self, *, prefix: list[int], label: str, cues: Cues, question: str, answer: str
    ) -> tuple[list[int], list[bool]]:
        """Join a whole training sample: ids, and a mask that is true on the answer's tokens."""
        prompt = [*prefix, *self.followup(label, cues, question)]
        target = self.answer(answer)
        return prompt + target, [False] * len(prompt) + [True] * len(target)

    def decode(self, ids: Sequence[int], cues: Cues) -> str:
        """Turn answer ids into text with the measured times and quotes in place of their slots."""
        kept = [token for token in ids if token != self.stop_id]
        text = Slots.of(cues).fill(self.tokenizer.decode(kept, skip_special_tokens=False))
        return re.sub(r"\s+([.,;:!?])", r"\1", re.sub(r"[ \t]+", " ", text)).strip()


# Anything that the tokenizer would read as one of our own tokens.
_DISARM = re.compile(r"<(?=\|/?[a-z_]+\||/?s>|pad>|[tqva]\d+>|label:)")
