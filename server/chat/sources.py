"""Brings the clips of a conversation into a request's scratch folder: data: URLs, base64, uploaded files, addresses.

A data: URL (RFC 2397) is read strictly and only in base64; its size is known from its length and checked before it is
decoded. What a clip is, is told from its first bytes; the declared type only has to be of audio, video or images. An
address is fetched by `server.fetch`, which is off until the operator names hosts.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from emollama.errors import UnsupportedMediaError
from emollama.sniff import HEAD_BYTES, MediaType, sniff
from server.chat.dialogue import ClipPart
from server.errors import ApiError
from server.fetch import Fetcher
from server.layout import DataFolder
from server.records import files
from server.store import Store

CHAT_PURPOSES = frozenset({"vision", "user_data"})
_DATA_URL = re.compile(
    r"data:(?:audio|video|image|application)/[A-Za-z0-9][A-Za-z0-9.+-]{0,63}(?:;[A-Za-z0-9-]{1,32}=[A-Za-z0-9.,_+-]{1,64}){0,4}"
    r";base64,",
    re.ASCII,
)
_MAX_HEADER_CHARACTERS = 512


@dataclass(frozen=True, kw_only=True)
class ClipFile:
    """A clip that lies on the disk while its request runs; ``content`` identifies it and its transcript."""

    path: Path
    name: str
    content: str


@dataclass(frozen=True, kw_only=True)
class Sources:
    """From where the clips of one owner's request may come; ``sees`` None: everybody's files."""

    max_bytes: int
    store: Store
    data: DataFolder
    fetcher: Fetcher
    sees: str | None

    async def bring(self, part: ClipPart, folder: Path, place: int) -> ClipFile:
        """Put a clip into ``folder``. Raises `ApiError` and `UnsupportedMediaError`, naming the part."""
        target = folder / f"clip-{place}"
        name = part.name or f"clip-{place + 1}"
        if part.file_id is not None:
            name = await asyncio.to_thread(self._copy, part, target, name)
        elif part.data is not None or (part.url or "").startswith("data:"):
            await asyncio.to_thread(self._decode, part, target)
        else:
            assert part.url is not None
            await self.fetcher.fetch(part.url, target, param=f"{part.param}.url")
        content = await asyncio.to_thread(_examine, part, target)
        return ClipFile(path=target, name=name, content=content)

    def _copy(self, part: ClipPart, target: Path, name: str) -> str:
        """Copy an uploaded file, so that it may be deleted meanwhile; return its name."""
        assert part.file_id is not None
        record = files.find(self.store, part.file_id, now=time.time(), owner=self.sees)
        path = None if record is None else self.data.file(record.id)
        if record is None or path is None or not path.is_file():
            raise ApiError("file_not_found", f"no file {part.file_id[:64]!r}", param=part.param)
        if record.purpose not in CHAT_PURPOSES:
            message = f"file {record.id!r} is for {record.purpose}; allowed: {', '.join(sorted(CHAT_PURPOSES))}"
            raise ApiError("invalid_value", message, param=part.param)
        if record.num_bytes > self.max_bytes:
            raise self._too_large(part)
        shutil.copyfile(path, target)
        return part.name or record.filename

    def _decode(self, part: ClipPart, target: Path) -> None:
        text = part.data
        if text is None:
            assert part.url is not None
            match = _DATA_URL.match(part.url[:_MAX_HEADER_CHARACTERS])
            if match is None:
                message = f"{part.param}: the data: URL is not of the form data:TYPE/SUBTYPE;base64,DATA"
                raise ApiError("invalid_value", message, param=part.param)
            text = part.url[match.end() :]
        if len(text) // 4 * 3 - 2 > self.max_bytes:
            raise self._too_large(part)
        try:
            content = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as exc:
            raise ApiError("invalid_value", f"{part.param}: the data is not base64", param=part.param) from exc
        if not content:
            raise ApiError("empty_file", f"{part.param}: the clip has no bytes", param=part.param)
        target.write_bytes(content)

    def _too_large(self, part: ClipPart) -> ApiError:
        message = f"{part.param}: the clip is larger than {self.max_bytes / 2**20:g} MiB"
        return ApiError("file_too_large", message, param=part.param)


def _examine(part: ClipPart, path: Path) -> str:
    """Check what a file is, and return the hash of it and of its transcript."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
        try:
            media_type = sniff(head)
        except UnsupportedMediaError as exc:
            raise ApiError("unsupported_media", f"{part.param}: {exc}", param=part.param) from exc
        if not _fits(part, media_type):
            message = f"{part.param}: the file is {media_type.family} ({media_type.extension}); allowed: {part.kind}"
            raise ApiError("unsupported_media", message, param=part.param)
        digest.update(head)
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    digest.update(b"\0" + (part.transcript or "").encode())
    return digest.hexdigest()


def _fits(part: ClipPart, media_type: MediaType) -> bool:
    if part.kind == "file" or media_type.family == part.kind:
        return True
    # A container of video may hold sound alone (m4a, webm), and a GIF is a picture as well.
    return (part.kind, media_type.demuxer) in {("audio", "mov"), ("audio", "matroska"), ("image", "gif")}
