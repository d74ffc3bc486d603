"""Prompts of the large presets: messages, feature tokens and a transcript as token ids of a chat template.

Three templates are written here. ``llama-3`` is that of Llama-3.1-Instruct: a header before each turn, ``<|eot_id|>``
after it. Its lines with the training cut-off and today's date are left out on purpose: they change the prompt from day
to day and a model of emotions has no use for them. ``llama-2`` is ``[INST] ... [/INST]`` of Llama-2-chat with
``<<SYS>>``. Both are the published templates token for token when there is only text. ``emotion-llama`` is what the
public training code of Emotion-LLaMA (NeurIPS 2024) feeds to Llama-2-chat:

    <s> [INST] <video> 256 patches </video> <feature> face, temporal, audio, cls </feature> The person in video says:
    ....  [emotion] question  [/INST] answer </s>

where every stretch of text is tokenised by itself, so that each begins with a leading-space piece. Its layout
``upstream-eval`` is what the released evaluation feeds instead (a second ``<s>``, all 260 tokens between the video tags
and ``<FeatureHere>`` left as text), so that published scores can be reproduced and compared.

A feature token stands in the prompt as a placeholder id that no text can give: a reserved token of Llama 3, or one of
the bytes that UTF-8 never holds in Llama 2. What a user writes is encoded without special tokens, and the markers that
are plain text in Llama 2 are broken up first; so nobody forges a turn. An absent modality leaves nothing behind.
The module knows nothing of tensors, label sets or encoders.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, Protocol, get_args

from emollama.errors import CheckpointError, InputError, UnknownNameError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from emollama.config import StreamConfig
    from emollama.types import Message

Layout = Literal["train", "upstream-eval"]
MAX_TRANSCRIPT_CHARACTERS = 1_200


class ChatTokenizer(Protocol):
    """What a template needs of a tokenizer. `FileTokenizer` reads a published one; debug builds bring their own."""

    @property
    def adds_space(self) -> bool:
        """Whether a text by itself is encoded as if a space stood before it (sentencepiece)."""
        ...

    def encode(self, text: str) -> list[int]:
        """Encode plain text; nothing in it becomes a special token."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of some tokens, without special ones."""
        ...

    def find(self, token: str) -> int | None:
        """Return the id of a token by its written form."""
        ...

    def special_ids(self) -> frozenset[int]:
        """Return the ids that no text is encoded to."""
        ...


class FileTokenizer:
    """A published ``tokenizer.json``, through the tokenizers package."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        # "<|eot_id|>" in a text is then nine characters and not the end of a turn
        tokenizer.encode_special_tokens = True
        first = tokenizer.encode("a", add_special_tokens=False).tokens
        self.adds_space = bool(first) and first[0].startswith("▁")

    @classmethod
    def load(cls, path: Path) -> FileTokenizer:
        """Read a ``tokenizer.json``; a missing file is a `CheckpointError`."""
        from tokenizers import Tokenizer

        if not Path(path).is_file():
            raise CheckpointError(f"no tokenizer at {path}; it lies beside the weights of the backbone")
        return cls(Tokenizer.from_file(str(path)))

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, token_ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(token_ids), skip_special_tokens=True)
        return text

    def find(self, token: str) -> int | None:
        found: int | None = self._tokenizer.token_to_id(token)
        return found

    def special_ids(self) -> frozenset[int]:
        added = self._tokenizer.get_added_tokens_decoder()
        return frozenset(token_id for token_id, token in added.items() if token.special)


# ---- what a prompt is made of -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Text:
    """A stretch of text. ``continues`` is true when it goes on after another stretch without a token between."""

    text: str
    is_answer: bool = False
    continues: bool = False


@dataclass(frozen=True)
class _Mark:
    """A special token by its written form."""

    token: str
    is_answer: bool = False


@dataclass(frozen=True)
class _Slot:
    """``count`` placeholders of a stream."""

    stream: str
    count: int


_Piece = _Text | _Mark | _Slot


@dataclass(frozen=True, kw_only=True)
class _Given:
    """What stands in the first question beside its words: tokens by stream in order, the transcript, the task's tag."""

    counts: Mapping[str, int] = field(default_factory=dict)
    transcript: str | None = None
    task: str | None = None
    layout: Layout = "train"


@dataclass(frozen=True, kw_only=True)
class ChatTemplate:
    """A family's template: its special tokens, where placeholders come from, and how a dialogue is written."""

    begin: str
    end: str
    specials: tuple[str, ...]
    placeholder: Callable[[int], str]
    write: Callable[[Sequence[Message], _Given], list[_Piece]]


# ---- llama 3 ------------------------------------------------------------------------------------------------------


def _write_llama3(messages: Sequence[Message], given: _Given) -> list[_Piece]:
    pieces: list[_Piece] = [_Mark("<|begin_of_text|>")]
    is_first = True
    for message in messages:
        pieces += _header(message.role)
        content = message.content.strip()
        if message.role == "assistant":
            pieces += [_Text("\n\n"), _Text(content, is_answer=True), _Mark("<|eot_id|>", is_answer=True)]
            continue
        if message.role == "user" and is_first:
            is_first = False
            pieces += _in_front(given, "\n\n", content)
        else:
            pieces.append(_Text(f"\n\n{content}"))
        pieces.append(_Mark("<|eot_id|>"))
    if messages[-1].role == "user":
        pieces += [*_header("assistant"), _Text("\n\n")]
    return pieces


def _header(role: str) -> list[_Piece]:
    return [_Mark("<|start_header_id|>"), _Text(role), _Mark("<|end_header_id|>")]


def _in_front(given: _Given, opening: str, content: str) -> list[_Piece]:
    """Put what was seen, heard and said in front of the first question, a line each."""
    pieces: list[_Piece] = []
    for stream, count in given.counts.items():
        pieces += [_Text(f"{opening}{stream.capitalize()}: "), _Slot(stream, count)]
        opening = "\n"
    if given.transcript is not None:
        opening = f'{opening}Words: "{given.transcript}"\n'
    if given.counts or given.transcript is not None:
        opening += "\n"
    return [*pieces, _Text(f"{opening}{content}")]


# ---- llama 2 ------------------------------------------------------------------------------------------------------

# The markers of these templates that are plain text to the tokenizer.
_MARKERS = re.compile(r"\[(?=/?INST\])|<(?=<?/?(?:SYS|video|feature|VideoHere|FeatureHere)>)", re.IGNORECASE)


def _disarm(text: str) -> str:
    """Break up what would read as a marker: ``[INST]`` becomes ``[ INST]``."""
    return _MARKERS.sub(lambda match: f"{match.group()} ", text)


def _write_llama2(messages: Sequence[Message], given: _Given) -> list[_Piece]:
    system, turns = _system(messages)
    opening = "[INST] " if system is None else f"[INST] <<SYS>>\n{_disarm(system)}\n<</SYS>>\n\n"
    safe = dataclasses.replace(given, transcript=None if given.transcript is None else _disarm(given.transcript))
    pieces: list[_Piece] = []
    for index, message in enumerate(turns):
        if message.role == "assistant":
            pieces += _answer_llama2(message.content, closing=" ")
            continue
        content = f"{_disarm(message.content).strip()} [/INST]"
        pieces.append(_Mark("<s>"))
        pieces += [_Text(f"[INST] {content}")] if index else _in_front(safe, opening, content)
    return pieces


def _answer_llama2(content: str, *, closing: str) -> list[_Piece]:
    text = _Text(f" {_disarm(content).strip()}{closing}", is_answer=True, continues=True)
    return [text, _Mark("</s>", is_answer=True)]


def _system(messages: Sequence[Message]) -> tuple[str | None, Sequence[Message]]:
    return (messages[0].content, messages[1:]) if messages[0].role == "system" else (None, messages)


# ---- Emotion-LLaMA ------------------------------------------------------------------------------------------------

_PATCHES = "patches"


def _write_emotion_llama(messages: Sequence[Message], given: _Given) -> list[_Piece]:
    system, turns = _system(messages)
    pieces: list[_Piece] = []
    for index, message in enumerate(turns):
        if message.role == "assistant":
            pieces += _answer_llama2(message.content, closing="")
            continue
        pieces.append(_Mark("<s>"))
        content = _disarm(message.content.strip())
        if index:
            pieces.append(_Text(f"[INST] {content} [/INST]"))
            continue
        told = "" if system is None else f"{_disarm(system.strip())} "
        said = "" if given.transcript is None else f"The person in video says: {_disarm(given.transcript)}.  "
        task = "" if given.task is None else f"[{given.task}] "
        ending = f"{said}{task}{told}{content}  [/INST]"
        if given.layout == "upstream-eval":
            if given.counts:
                pieces += [_Mark("<s>"), _Text("[INST] <video>")]
                pieces += [_Slot(stream, count) for stream, count in given.counts.items()]
                pieces.append(_Text(f"</video> <feature><FeatureHere></feature> {ending}"))
            else:
                pieces += [_Mark("<s>"), _Text(f"[INST] {ending}")]
            continue
        pieces += _train_layout(given.counts, ending)
    return pieces


def _train_layout(counts: Mapping[str, int], ending: str) -> list[_Piece]:
    """Tags stand only around tokens that are there; with all of them it is the published sequence."""
    pieces: list[_Piece] = []
    rest = {stream: count for stream, count in counts.items() if stream != _PATCHES}
    text = "[INST] "
    if _PATCHES in counts:
        pieces += [_Text(f"{text}<video>"), _Slot(_PATCHES, counts[_PATCHES])]
        text = "</video> "
    if rest:
        pieces += [_Text(f"{text}<feature>"), *(_Slot(stream, count) for stream, count in rest.items())]
        text = "</feature> "
    return [*pieces, _Text(f"{text}{ending}")]


_LLAMA3_SPECIALS = ("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>")


def _reserved(index: int) -> str:
    return f"<|reserved_special_token_{16 + index}|>"


def _impossible_byte(index: int) -> str:
    return f"<0x{0xF8 + index:02X}>"  # UTF-8 ends at F4


TEMPLATES: Mapping[str, ChatTemplate] = MappingProxyType(
    {
        "llama-3": ChatTemplate(
            begin="<|begin_of_text|>", end="<|eot_id|>", specials=_LLAMA3_SPECIALS, placeholder=_reserved,
            write=_write_llama3,
        ),
        "llama-2": ChatTemplate(
            begin="<s>", end="</s>", specials=("<s>", "</s>"), placeholder=_impossible_byte, write=_write_llama2
        ),
        "emotion-llama": ChatTemplate(
            begin="<s>", end="</s>", specials=("<s>", "</s>"), placeholder=_impossible_byte,
            write=_write_emotion_llama,
        ),
    }
)  # fmt: skip

# Which template a preset was, or is to be, trained with.
TEMPLATE_OF: Mapping[str, str] = MappingProxyType({"emollama-8b": "llama-3", "emotion-llama-7b": "emotion-llama"})


def chat_template(name: str) -> ChatTemplate:
    """Return the template of that name, or raise `UnknownNameError` with the names that are."""
    if name not in TEMPLATES:
        raise UnknownNameError("template", name, TEMPLATES)
    return TEMPLATES[name]


# ---- the renderer -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """Token ids, and ``is_answer`` [T], true on the tokens of answers and on the token that ends each."""

    ids: tuple[int, ...]
    is_answer: tuple[bool, ...]


class ChatRenderer:
    """Renders dialogues about a clip with one tokenizer and one template; the same for training and answering.

    ``streams`` are the preset's; their order is the order in the prompt. Raises `CheckpointError` when the tokenizer
    lacks a token that the template or a placeholder needs.
    """

    def __init__(self, tokenizer: ChatTokenizer, *, template: str, streams: Sequence[StreamConfig]) -> None:
        self.tokenizer = tokenizer
        self.template = chat_template(template)
        self.streams = tuple(stream.name for stream in streams)
        self._specials = {token: self._id(token) for token in self.template.specials}
        self.placeholder_ids: dict[str, int] = {}
        for index, stream in enumerate(streams):
            own = tokenizer.find(stream.placeholder)
            self.placeholder_ids[stream.name] = self._id(self.template.placeholder(index)) if own is None else own
        self.end_id = self._specials[self.template.end]
        self.pad_id = self.end_id  # padding is masked out, so any id that is no placeholder will do

    def _id(self, token: str) -> int:
        found = self.tokenizer.find(token)
        if found is None:
            raise CheckpointError(f"the tokenizer has no token {token!r}; it is not of the family of this template")
        return found

    def prompt(
        self,
        messages: Sequence[Message],
        *,
        counts: Mapping[str, int] | None = None,
        transcript: str | None = None,
        task: str | None = None,
        layout: Layout = "train",
    ) -> list[int]:
        """Return the ids of a dialogue that ends with a question, up to where the answer begins.

        ``counts`` is how many feature tokens each stream has after its projector; a stream that is not there is an
        absent key. ``task`` is the tag of Emotion-LLaMA ("emotion", "reason"); other templates have none.
        """
        _check_turns(messages, last="user")
        return list(self._render(messages, counts, transcript, task, layout).ids)

    def supervised(
        self,
        messages: Sequence[Message],
        *,
        counts: Mapping[str, int] | None = None,
        transcript: str | None = None,
        task: str | None = None,
        layout: Layout = "train",
    ) -> Rendered:
        """Return the ids of a dialogue that ends with an answer, and which of them are learned.

        Every answer is learned as it is written, with its case and punctuation, and so is the token that ends it.
        """
        _check_turns(messages, last="assistant")
        return self._render(messages, counts, transcript, task, layout)

    def answer(self, text: str) -> list[int]:
        """Return the ids of one answer and its end, as they follow `prompt`; labels are scored on exactly these."""
        from emollama.types import Message

        turns = (Message(role="user", content="?"), Message(role="assistant", content=text))
        rendered = self._render(turns, None, None, None, "train")
        return [token for token, is_answer in zip(rendered.ids, rendered.is_answer, strict=True) if is_answer]

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of an answer."""
        return self.tokenizer.decode([token for token in token_ids if token != self.end_id]).strip()

    def _render(
        self,
        messages: Sequence[Message],
        counts: Mapping[str, int] | None,
        transcript: str | None,
        task: str | None,
        layout: Layout,
    ) -> Rendered:
        if layout not in get_args(Layout):
            raise InputError(f"layout is {layout!r}; allowed: {', '.join(get_args(Layout))}", field="layout")
        given = dict(counts or {})
        unknown = sorted(set(given) - set(self.streams))
        if unknown:
            raise UnknownNameError("stream", unknown[0], self.streams)
        in_order = {name: given[name] for name in self.streams if given.get(name)}
        pieces = self.template.write(
            messages, _Given(counts=in_order, transcript=_shortened(transcript), task=task, layout=layout)
        )
        ids: list[int] = []
        is_answer: list[bool] = []
        for piece in pieces:
            tokens = self._encode(piece)
            ids += tokens
            is_answer += [not isinstance(piece, _Slot) and piece.is_answer] * len(tokens)
        return Rendered(ids=tuple(ids), is_answer=tuple(is_answer))

    def _encode(self, piece: _Piece) -> list[int]:
        if isinstance(piece, _Mark):
            return [self._specials[piece.token]]
        if isinstance(piece, _Slot):
            return [self.placeholder_ids[piece.stream]] * piece.count
        # a tokenizer that adds the space itself must not be given it twice
        text = piece.text.removeprefix(" ") if piece.continues and self.tokenizer.adds_space else piece.text
        return self.tokenizer.encode(text)


def _check_turns(messages: Sequence[Message], *, last: Literal["user", "assistant"]) -> None:
    roles = [message.role for message in messages]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    wanted = [("user", "assistant")[index % 2] for index in range(len(turns))]
    if not turns or turns != wanted or turns[-1] != last:
        raise InputError(
            f"roles are {roles}; allowed: an optional system turn, then user and assistant in turn, {last} last",
            field="messages",
        )


def _shortened(transcript: str | None) -> str | None:
    """One line; a long transcript keeps its two ends."""
    text = " ".join((transcript or "").split())
    if len(text) > MAX_TRANSCRIPT_CHARACTERS:
        half = MAX_TRANSCRIPT_CHARACTERS // 2
        text = f"{text[:half]} … {text[-half:]}"
    return text or None
