"""What the messages of a request hold: questions, answers and clips, and which clip the last question is about.

A question is about the newest clip that was sent with it or before it, unless it names another one: by its number
("the first clip", "video 2"), as "the previous clip", or by its file name or `uuid`. Earlier questions and answers are
part of the prompt when they were about the same clip.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from server.errors import ApiError
from server.schemas.chat import unsupported

MAX_CLIPS = 16
MAX_TEXT_CHARACTERS = 20_000
_UUID = re.compile(r"[!-~]{1,128}")
_THING = r"(?:clip|video|recording|picture|image|photo|audio|sound)"
_ORDINALS = {word: number for number, word in enumerate(("first", "second", "third", "fourth", "fifth"), 1)}
_NUMBERED = re.compile(
    rf"\b(?:(?P<ordinal>{'|'.join(_ORDINALS)})\s+{_THING}|(?P<place>\d{{1,2}})(?:st|nd|rd|th)\s+{_THING}"
    rf"|{_THING}\s+(?:number\s+|no\.?\s*|#)?(?P<number>\d{{1,2}}))\b",
    re.IGNORECASE,
)
_PREVIOUS = re.compile(rf"\b(?:previous|earlier|other)\s+{_THING}\b", re.IGNORECASE)

PartKind = Literal["video", "audio", "image", "file"]


@dataclass(frozen=True, kw_only=True)
class ClipPart:
    """A clip as a part of a message: ``url``, base64 ``data`` or ``file_id``; none of them: known by its ``uuid``."""

    kind: PartKind
    param: str
    url: str | None = None
    data: str | None = None
    file_id: str | None = None
    uuid: str | None = None
    name: str | None = None
    transcript: str | None = None

    @property
    def is_reference(self) -> bool:
        return self.url is None and self.data is None and self.file_id is None


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """A question, the place of the clip that it is about (None: before any clip), and the answer if there was one."""

    question: str
    clip: int | None
    answer: str | None = None


@dataclass(frozen=True, kw_only=True)
class Dialogue:
    """``exchanges`` ends with the question to be answered."""

    clips: tuple[ClipPart, ...]
    exchanges: tuple[Exchange, ...]

    @property
    def question(self) -> str:
        return self.exchanges[-1].question

    @property
    def target(self) -> int:
        place = self.exchanges[-1].clip
        assert place is not None
        return place

    def earlier(self) -> list[Exchange]:
        """Answered questions about the clip that the last one is about."""
        return [each for each in self.exchanges[:-1] if each.answer is not None and each.clip == self.target]


def read_dialogue(messages: Sequence[Mapping[str, Any]]) -> Dialogue:
    """Read messages strictly; an error names the place."""
    clips: list[ClipPart] = []
    exchanges: list[Exchange] = []
    instructions: list[str] = []
    asked: list[str] = []
    for index, message in enumerate(messages):
        where = f"messages.{index}"
        role = message.get("role")
        if role in ("system", "developer"):
            _known(message, ("role", "content", "name"), where)
            instructions.append(_text(message.get("content"), f"{where}.content"))
        elif role == "user":
            _known(message, ("role", "content", "name"), where)
            asked.append(_user(message.get("content"), f"{where}.content", clips))
        elif role == "assistant":
            _known(message, ("role", "content", "name", "refusal", "audio", "tool_calls", "annotations"), where)
            for name in ("audio", "tool_calls"):
                if message.get(name):
                    raise unsupported(name, param=f"{where}.{name}")
            answer = _text(message.get("content"), f"{where}.content")
            if asked:
                exchanges.append(_exchange(asked, instructions, clips, answer))
                asked = []
        elif role in ("tool", "function"):
            raise unsupported(str(role), param=f"{where}.role")
        else:
            message_ = f"{where}.role is {str(role)[:60]!r}; allowed: system, developer, user, assistant"
            raise ApiError("invalid_value", message_, param=f"{where}.role")
    if not asked:
        raise ApiError("invalid_value", "the last message must be a user's", param="messages")
    exchanges.append(_exchange(asked, instructions, clips, None))
    if exchanges[-1].clip is None:
        message_ = "the conversation has no clip; add a part video_url, audio_url, image_url, input_audio or file"
        raise ApiError("invalid_value", message_, param="messages")
    return Dialogue(clips=tuple(clips), exchanges=tuple(exchanges))


def which_clip(question: str, clips: Sequence[ClipPart]) -> int | None:
    """Return the place of the clip that a question is about; None when there is none yet.

    Raises `ApiError` for the number of a clip that there is not.
    """
    if not clips:
        return None
    match = _NUMBERED.search(question)
    if match is not None:
        ordinal = match["ordinal"]
        number = _ORDINALS[ordinal.lower()] if ordinal else int(match["place"] or match["number"])
        if not 1 <= number <= len(clips):
            message = f"the question names clip {number}; the conversation has {len(clips)}"
            raise ApiError("invalid_value", message, param="messages")
        return number - 1
    for place in reversed(range(len(clips))):
        names = [name for name in (clips[place].name, clips[place].uuid) if name and len(name) > 2]
        if any(re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", question) for name in names):
            return place
    if len(clips) > 1 and _PREVIOUS.search(question):
        return len(clips) - 2
    return len(clips) - 1


def _exchange(asked: Sequence[str], instructions: list[str], clips: Sequence[ClipPart], answer: str | None) -> Exchange:
    question = "\n".join(text for text in asked if text.strip())
    place = which_clip(question, clips)
    # The model has no turn for instructions; they stand in front of the question that they come before.
    text = "\n".join([*instructions, question]) if question else "\n".join(instructions)
    instructions.clear()
    return Exchange(question=text, clip=place, answer=answer)


def _text(content: Any, where: str) -> str:
    if isinstance(content, str):
        return _bounded(content, where)
    if not isinstance(content, list):
        raise ApiError("invalid_value", f"{where} must be a text or a list of parts", param=where)
    texts = []
    for index, part in enumerate(content):
        place = f"{where}.{index}"
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind not in ("text", "refusal"):
            raise ApiError("invalid_value", f"{place}.type is {str(kind)[:60]!r}; allowed: text", param=place)
        texts.append(_string(part.get(kind), f"{place}.{kind}"))
    return _bounded("\n".join(texts), where)


def _user(content: Any, where: str, clips: list[ClipPart]) -> str:
    """Return the text of a user's message and add its clips."""
    if isinstance(content, str):
        return _bounded(content, where)
    if not isinstance(content, list) or not content:
        raise ApiError("invalid_value", f"{where} must be a text or a list of parts", param=where)
    texts = []
    for index, part in enumerate(content):
        place = f"{where}.{index}"
        if not isinstance(part, Mapping):
            raise ApiError("invalid_value", f"{place} must be an object", param=place)
        kind = part.get("type")
        if kind == "text":
            _known(part, ("type", "text"), place)
            texts.append(_string(part.get("text"), f"{place}.text"))
            continue
        if not isinstance(kind, str) or kind not in _READERS:
            allowed = ", ".join(("text", *_READERS))
            raise ApiError(
                "unsupported_parameter", f"{place}.type is {str(kind)[:60]!r}; supported: {allowed}", param=place
            )
        _known(part, ("type", kind, "uuid", "transcript"), place)
        clips.append(_clip(part, kind, place))
        if len(clips) > MAX_CLIPS:
            raise ApiError("invalid_value", f"the conversation has more than {MAX_CLIPS} clips", param="messages")
    return _bounded("\n".join(texts), where)


# Part type -> what it holds.
_READERS: Mapping[str, PartKind] = {
    "video_url": "video",
    "audio_url": "audio",
    "image_url": "image",
    "input_audio": "audio",
    "file": "file",
}


def _clip(part: Mapping[str, Any], kind: str, where: str) -> ClipPart:
    uuid, transcript = part.get("uuid"), part.get("transcript")
    if uuid is not None and not (isinstance(uuid, str) and _UUID.fullmatch(uuid)):
        message = f"{where}.uuid must be 1 to 128 visible ASCII characters"
        raise ApiError("invalid_value", message, param=f"{where}.uuid")
    if transcript is not None:
        transcript = _bounded(_string(transcript, f"{where}.transcript"), f"{where}.transcript")
    inner, place = part.get(kind), f"{where}.{kind}"
    found: dict[str, Any] = {"kind": _READERS[kind], "param": place, "uuid": uuid, "transcript": transcript}
    if inner is None:
        if uuid is None:
            raise ApiError("invalid_value", f"{place} is null; that needs a uuid that was sent before", param=place)
        return ClipPart(**found)
    if isinstance(inner, str) and kind.endswith("_url"):
        inner = {"url": inner}
    if not isinstance(inner, Mapping):
        raise ApiError("invalid_value", f"{place} must be an object", param=place)
    if kind == "input_audio":
        _known(inner, ("data", "format"), place)
        _string(inner.get("format"), f"{place}.format")
        return ClipPart(**found, data=_string(inner.get("data"), f"{place}.data"))
    if kind == "file":
        _known(inner, ("file_id", "file_data", "filename"), place)
        name = inner.get("filename")
        name = None if name is None else _string(name, f"{place}.filename")[:120]
        if inner.get("file_data") is not None:
            return ClipPart(**found, url=_string(inner["file_data"], f"{place}.file_data"), name=name)
        return ClipPart(**found, file_id=_string(inner.get("file_id"), f"{place}.file_id"), name=name)
    _known(inner, ("url", "detail") if kind == "image_url" else ("url",), place)
    if inner.get("detail") not in (None, "auto"):
        raise unsupported("detail", param=f"{place}.detail")
    url = _string(inner.get("url"), f"{place}.url")
    if url.startswith("file-"):
        return ClipPart(**found, file_id=url)
    return ClipPart(**found, url=url)


def _known(found: Mapping[str, Any], allowed: Sequence[str], where: str) -> None:
    for name in found:
        if name not in allowed:
            message = f"unknown field {str(name)[:60]!r} in {where}; allowed: {', '.join(allowed)}"
            raise ApiError("unknown_field", message, param=f"{where}.{str(name)[:60]}")


def _string(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise ApiError("invalid_value", f"{where} must be a string", param=where)
    return value


def _bounded(text: str, where: str) -> str:
    if len(text) > MAX_TEXT_CHARACTERS:
        message = f"{where} has {len(text)} characters; allowed: {MAX_TEXT_CHARACTERS}"
        raise ApiError("invalid_value", message, param=where)
    return text
