"""Chat JSONL in the shape of OpenAI's fine-tuning files, with a clip as a part of a user's turn.

Parts: ``text``; ``video_url``, ``audio_url``, ``image_url`` with ``{"url": ...}`` (vLLM's extension of the chat API);
``input_audio`` with ``{"data": base64, "format": ...}``. A URL is a path relative to the media folder or a ``data:``
URL (RFC 2397). Nothing is fetched. Beside ``messages`` a line may hold fields of the manifest (id, label, split, ...).
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn
from urllib.parse import unquote, unquote_to_bytes

from emollama.errors import DatasetError
from emollama.importers.clips import ClipFolder
from emollama.importers.rows import SampleMaker
from emollama.manifest import Sample

_MEDIA_PARTS = {
    "video_url": "video_url",
    "audio_url": "audio_url",
    "image_url": "image_url",
    "input_audio": "input_audio",
}
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_SIDE_FIELDS = frozenset(Sample.model_fields) - {"messages", "clip"}
# Keys of OpenAI's files that say nothing about a clip and do not change what is learned.
_IGNORED = frozenset({"tools", "parallel_tool_calls", "functions"})


def import_openai_chat(
    source: Path,
    *,
    media: Path | None = None,
    clips: ClipFolder | None = None,
    max_clip_bytes: int = 200 * 10**6,
) -> Iterator[Sample]:
    """Yield a sample for each line; a ``data:`` URL is decoded into a file beside the manifest.

    A dialogue is about one clip. Raises `DatasetError` with file, line and field.
    """
    source = Path(source)
    reader = _Reader(
        base=media or source.parent,
        clips=clips or ClipFolder(root=media or source.parent),
        max_clip_bytes=max_clip_bytes,
    )
    maker = SampleMaker(path=source)
    for line, text in _lines(source, max_bytes=max_clip_bytes * 4 // 3 + (1 << 20)):
        where = maker.where(line)
        facts = reader.read(_object(text, where), where)
        if facts is not None:
            facts.setdefault("id", f"{source.stem}-{line}")
            yield maker.make(line, **facts)


def _lines(path: Path, *, max_bytes: int) -> Iterator[tuple[int, bytes]]:
    if not path.is_file():
        raise DatasetError(f"{path} is not a file; give the chat JSONL")
    number = 0
    with path.open("rb") as stream:
        while raw := stream.readline(max_bytes + 1):
            number += 1
            if len(raw) > max_bytes:
                raise DatasetError(
                    f"{path}:{number}: the line is longer than {max_bytes} bytes; put the clip in a file"
                )
            if number == 1:
                raw = raw.removeprefix(b"\xef\xbb\xbf")
            if raw.strip():
                yield number, raw
    if not number:
        raise DatasetError(f"{path} is empty; a line of JSON for each dialogue is wanted")


def _object(raw: bytes, where: str) -> dict[str, Any]:
    try:
        document = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{where}: not a line of JSON in UTF-8: {error}") from error
    if not isinstance(document, dict) or not isinstance(document.get("messages"), list):
        raise DatasetError(f'{where}: messages: a line must be {{"messages": [...]}}', field="messages")
    return document


class _Reader:
    """Turns one line's document into the facts of a sample."""

    def __init__(self, *, base: Path, clips: ClipFolder, max_clip_bytes: int) -> None:
        self._base, self._clips, self._max_clip_bytes = base, clips, max_clip_bytes

    def read(self, document: dict[str, Any], where: str) -> dict[str, Any] | None:
        """Return the facts, or None for a clip that is not there and may be skipped."""
        unknown = sorted(set(document) - _SIDE_FIELDS - _IGNORED - {"messages"})
        if unknown:
            allowed = ", ".join(sorted(_SIDE_FIELDS))
            _refuse(where, unknown[0], f"an unknown field; beside messages are allowed: {allowed}")
        messages, media = [], []
        for index, message in enumerate(document["messages"]):
            field = f"messages[{index}]"
            role, content = self._turn(message, where, field)
            texts = []
            for number, part in enumerate([content] if isinstance(content, str) else content):
                text, source = self._part(part, where, f"{field}.content[{number}]")
                texts += [text] if text is not None else []
                media += [(f"{field}.content[{number}]", source)] if source is not None else []
            if media and role != "user" and media[-1][0].startswith(field):
                _refuse(where, field, f"a clip in a turn of role {role!r}; it goes into a user's turn")
            messages.append({"role": role, "content": "\n".join(texts)})
        if len(media) > 1:
            _refuse(where, media[1][0], "a second clip; a sample is about one clip, so make it a line of its own")
        facts = {name: value for name, value in document.items() if name in _SIDE_FIELDS}
        if media:
            clip = self._clip(*media[0], where)
            if clip is None:
                return None
            facts["clip"] = clip
        elif not facts.get("transcript"):
            _refuse(where, "messages", "no clip; add a video_url, audio_url, image_url or input_audio part, or a "
                    "transcript beside messages when the dialogue is about words alone")  # fmt: skip
        return {**facts, "messages": messages}

    def _turn(self, message: Any, where: str, field: str) -> tuple[str, Any]:
        if not isinstance(message, dict):
            _refuse(where, field, f"{type(message).__name__}; allowed: an object with role and content")
        role = _ROLES.get(str(message.get("role")))
        if role is None:
            _refuse(where, f"{field}.role", f"{message.get('role')!r}; allowed: {', '.join(_ROLES)}")
        if message.get("weight", 1) != 1:
            _refuse(where, f"{field}.weight", f"{message['weight']!r}; every answer is learned: remove the turn, or 1")
        content = message.get("content")
        if not isinstance(content, (str, list)):
            _refuse(where, f"{field}.content", f"{type(content).__name__}; allowed: a text, or a list of parts")
        return role, content

    def _part(self, part: Any, where: str, field: str) -> tuple[str | None, str | bytes | None]:
        """Return (text, None), or (None, where the clip is: a URL, or base64 as bytes)."""
        if isinstance(part, str):
            return part, None
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            return part["text"], None
        if kind not in _MEDIA_PARTS:
            _refuse(where, field, f"a part of type {kind!r}; allowed: text, {', '.join(_MEDIA_PARTS)}")
        inner = part.get(kind)
        key = "data" if kind == "input_audio" else "url"
        value = (
            inner if isinstance(inner, str) and key == "url" else inner.get(key) if isinstance(inner, dict) else None
        )
        if not isinstance(value, str) or not value:
            _refuse(where, f"{field}.{kind}.{key}", "missing; give a path or a data: URL, or base64 for input_audio")
        return None, value.encode() if key == "data" else value

    def _clip(self, field: str, source: str | bytes, where: str) -> str | None:
        if isinstance(source, bytes):
            return self._clips.write(self._decoded(source, where, field), where=f"{where}: {field}")
        if source.startswith("data:"):
            return self._clips.write(self._data_url(source, where, field), where=f"{where}: {field}")
        scheme = source.partition(":")[0].lower() if "://" in source else ""
        if scheme in ("http", "https"):
            _refuse(where, field, f"{source[:80]!r} is on the network, and this importer fetches nothing (what a URL "
                    "answers can change after you looked at it); download it and give its path")  # fmt: skip
        if scheme:
            _refuse(where, field, f"{source[:80]!r}; allowed: a path relative to the media folder, or a data: URL")
        path = PurePosixPath(unquote(source) if "%" in source and not (self._base / source).exists() else source)
        if path.is_absolute() or ".." in path.parts or "\\" in source:
            _refuse(where, field, f"{source[:80]!r} leads out of the media folder; give a path relative to it")
        file = self._base / path
        if not file.is_file():
            self._clips.missing(f"{field}: no file {str(path)!r} below {str(self._base)!r}", where=where)
            return None
        return self._clips.place(file, base=self._base, where=f"{where}: {field}")

    def _data_url(self, url: str, where: str, field: str) -> bytes:
        head, comma, body = url[5:].partition(",")
        if not comma:
            _refuse(where, field, "a data: URL without a comma; write data:video/mp4;base64,...")
        if head.lower().endswith(";base64"):
            return self._decoded(body.encode(), where, field)
        if len(body) > 3 * self._max_clip_bytes:
            self._too_large(where, field)
        return self._bounded(unquote_to_bytes(body), where, field)

    def _decoded(self, text: bytes, where: str, field: str) -> bytes:
        if len(text) * 3 // 4 > self._max_clip_bytes + 3:
            self._too_large(where, field)
        try:
            content = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise DatasetError(f"{where}: {field}: not base64 ({error}); encode the file's bytes again") from error
        return self._bounded(content, where, field)

    def _bounded(self, content: bytes, where: str, field: str) -> bytes:
        if len(content) > self._max_clip_bytes:
            self._too_large(where, field)
        return content

    def _too_large(self, where: str, field: str) -> NoReturn:
        _refuse(where, field, f"the clip has more than {self._max_clip_bytes} bytes; shorten it (max_clip_bytes)")


def _refuse(where: str, field: str, message: str) -> NoReturn:
    raise DatasetError(f"{where}: {field}: {message}", field=field)
