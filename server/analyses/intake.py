"""Receives what is to be analysed: a file in a form, or JSON that names an uploaded file or an address.

The clip is brought into the data folder's file system, so that taking it into the queue is one rename, and looked at
just far enough to know that it is media at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from fastapi import Request
from python_multipart.multipart import parse_options_header

from emollama.errors import UnsupportedMediaError
from emollama.sniff import HEAD_BYTES, sniff
from server.body import read_json_body
from server.errors import ApiError
from server.fetch import Fetcher
from server.idempotency import fingerprint
from server.ingest import Inbox, UploadedFile, UploadLimits, safe_name
from server.layout import DataFolder
from server.records import files
from server.schemas.analyses import MAX_TRANSCRIPT_CHARS, AnalysisIn
from server.scratch import Scratch
from server.store import Store

PURPOSES = frozenset({"vision", "user_data"})
# Room for the words of a long clip, which are the largest field.
MAX_FIELD_BYTES = 4 * MAX_TRANSCRIPT_CHARS
_MAX_JSON_BYTES = MAX_FIELD_BYTES + 64 * 1024


@dataclass(frozen=True, kw_only=True)
class Order:
    """One request as it was read: what is asked for, a folder of its own, and the file when one was sent."""

    given: AnalysisIn
    folder: Path
    file: UploadedFile | None

    def fingerprint(self) -> str:
        """Return what tells this request from others; blocks."""
        fields = self.given.model_dump()
        if self.file is None:
            return fingerprint("POST /v1/analyses", fields)
        return fingerprint("POST /v1/analyses", {**fields, "file": self.file.name}, file=self.file.path)


class Intake:
    """Receives orders into ``scratch``, which lies in the data folder; its files are gone when a request ends."""

    def __init__(
        self,
        scratch: Scratch,
        *,
        limits: UploadLimits,
        max_uploads: int,
        store: Store,
        data: DataFolder,
        fetcher: Fetcher,
    ) -> None:
        self._scratch, self._limits = scratch, limits
        self._inbox = Inbox(scratch, limits=limits, max_uploads=max_uploads)
        self._store, self._data, self._fetcher = store, data, fetcher

    @contextlib.asynccontextmanager
    async def receive(self, request: Request) -> AsyncIterator[Order]:
        """Read a request's body, of either kind."""
        kind, _ = parse_options_header(request.headers.get("content-type"))
        if kind == b"application/json":
            given = AnalysisIn.from_json(await read_json_body(request, max_bytes=_MAX_JSON_BYTES))
            folder = self._scratch.new_folder()
            try:
                yield Order(given=given, folder=folder, file=None)
            finally:
                self._scratch.discard(folder)
            return
        async with self._inbox.receive(request) as upload:
            given = AnalysisIn.from_fields(upload.fields)
            yield Order(given=given, folder=upload.file.path.parent, file=upload.file)

    async def bring(self, order: Order, *, sees: str | None) -> UploadedFile:
        """Return the clip, wherever it comes from; ``sees`` None: everybody's files. Raises for what is no media."""
        given = order.given
        if order.file is not None:
            clip = order.file
        elif given.url is not None:
            target = order.folder / "clip"
            fetched = await self._fetcher.fetch(given.url, target, param="url")
            return UploadedFile(path=target, name=_name_of(given.url), num_bytes=fetched.num_bytes)
        else:
            clip = await asyncio.to_thread(self._link, order, sees)
        await asyncio.to_thread(_require_media, clip, "file" if order.file is not None else "file_id")
        return clip

    def _link(self, order: Order, sees: str | None) -> UploadedFile:
        """Give an uploaded file a second name, so that it may be deleted meanwhile."""
        file_id = order.given.file_id
        assert file_id is not None
        record = files.find(self._store, file_id, now=time.time(), owner=sees)
        path = None if record is None else self._data.file(record.id)
        if record is None or path is None or not path.is_file():
            raise ApiError("file_not_found", f"no file {file_id[:64]!r}", param="file_id")
        if record.purpose not in PURPOSES:
            message = f"file {record.id!r} is for {record.purpose}; allowed: {', '.join(sorted(PURPOSES))}"
            raise ApiError("invalid_value", message, param="file_id")
        if record.num_bytes > self._limits.max_file_bytes:
            message = f"the file is larger than {self._limits.max_file_bytes / 2**20:g} MiB"
            raise ApiError("file_too_large", message, param="file_id")
        target = order.folder / "clip"
        try:
            os.link(path, target)
        except OSError:
            shutil.copyfile(path, target)  # a file system without links
        return UploadedFile(path=target, name=record.filename, num_bytes=record.num_bytes)


def _require_media(clip: UploadedFile, param: str) -> None:
    with clip.path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    try:
        sniff(head)
    except UnsupportedMediaError as exc:
        raise ApiError("unsupported_media", f"{clip.name or 'the file'}: {exc}", param=param) from exc


def _name_of(url: str) -> str:
    return safe_name(unquote(urlsplit(url).path)) or "clip"
