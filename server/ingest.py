"""Receives an upload: multipart/form-data streamed into one temporary folder a request, under hard limits.

The framework's own form parser writes a file of any size to disk before a handler sees it, so the body is read here,
with python-multipart's streaming parser (the format: RFC 7578). A declared length over the limit is refused before a
byte is read; a longer body without one is refused at the byte that crosses the limit, and not read on. The bytes are
not looked at: what they are is the decoder's to say.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from emollama.errors import BusyError
from server.errors import ApiError
from server.scratch import Scratch

logger = logging.getLogger("server.ingest")

_WRITE_BYTES = 1024 * 1024
_PART_OVERHEAD_BYTES = 8 * 1024  # boundary and headers of one part, generously
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,8}")
_RETRY_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class UploadLimits:
    """What one request's body may cost."""

    max_file_bytes: int
    max_field_bytes: int = 64 * 1024
    max_parts: int = 16
    timeout_seconds: float = 120.0

    def __post_init__(self) -> None:
        for name in ("max_file_bytes", "max_field_bytes", "max_parts", "timeout_seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be above 0")

    @property
    def max_body_bytes(self) -> int:
        return self.max_file_bytes + self.max_parts * (self.max_field_bytes + _PART_OVERHEAD_BYTES)


@dataclass(frozen=True, kw_only=True)
class UploadedFile:
    """A file that was received: where it lies, and the name that the client gave it (its last part, printable)."""

    path: Path
    name: str
    num_bytes: int


@dataclass(frozen=True, kw_only=True)
class Upload:
    """One request's file and text fields; the file is gone when the request ends."""

    file: UploadedFile
    fields: Mapping[str, str]


class Inbox:
    """Receives uploads, a bounded number at a time."""

    def __init__(self, scratch: Scratch, *, limits: UploadLimits, max_uploads: int) -> None:
        self._scratch = scratch
        self._limits = limits
        self._max_uploads = max_uploads
        self._num_uploads = 0

    @contextlib.asynccontextmanager
    async def receive(self, request: Request, *, file_field: str = "file") -> AsyncIterator[Upload]:
        """Read the request's body and yield its upload; on the way out, by any way, the files are removed."""
        if self._num_uploads >= self._max_uploads:
            raise BusyError(
                f"{self._num_uploads} uploads are being received; try again in {_RETRY_SECONDS:.0f} s",
                retry_after_seconds=_RETRY_SECONDS,
            )
        boundary = self._boundary(request, file_field)
        self._require_length(request, file_field)
        folder = self._scratch.new_folder()
        try:
            self._num_uploads += 1
            try:
                form = _Form(folder, boundary=boundary, limits=self._limits, file_field=file_field)
                upload = await self._read(request, form)
            finally:
                self._num_uploads -= 1
            yield upload
        finally:
            # Not in a thread: unlinking one file is quick, and a cancelled task could not wait for the thread.
            self._scratch.discard(folder)

    def _boundary(self, request: Request, file_field: str) -> bytes:
        content_type, options = parse_options_header(request.headers.get("content-type"))
        kind = content_type.decode("latin-1")
        if kind in ("", "application/x-www-form-urlencoded"):
            # What a client sends when it was given no file: no body at all, or the fields alone.
            raise _missing(file_field)
        if kind != "multipart/form-data":
            message = f"the body is {kind[:60]!r}; allowed: multipart/form-data"
            raise ApiError("unsupported_content_type", message, param=file_field)
        if not options.get(b"boundary"):
            raise ApiError("malformed_multipart", "the content type of the body names no boundary")
        return options[b"boundary"]

    def _require_length(self, request: Request, file_field: str) -> None:
        declared = request.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > self._limits.max_body_bytes:
            raise _too_large(self._limits, file_field)

    async def _read(self, request: Request, form: _Form) -> Upload:
        num_bytes = 0
        try:
            async with asyncio.timeout(self._limits.timeout_seconds):
                async for chunk in request.stream():
                    num_bytes += len(chunk)
                    if num_bytes > self._limits.max_body_bytes:
                        raise _too_large(self._limits, form.file_field)
                    form.feed(chunk)
                    if form.num_pending >= _WRITE_BYTES:
                        await asyncio.to_thread(form.flush)
                await asyncio.to_thread(form.flush)
        except TimeoutError as exc:
            message = f"the upload was not complete after {self._limits.timeout_seconds:g} s"
            raise ApiError("upload_timeout", message) from exc
        except ClientDisconnect as exc:
            raise ApiError("client_closed_request") from exc
        except FormParserError as exc:
            raise ApiError("malformed_multipart", "the multipart body is malformed") from exc
        except OSError as exc:
            if exc.errno in (errno.ENOSPC, errno.EDQUOT):
                logger.error("no room for an upload")
                raise ApiError("storage_full") from exc
            raise
        finally:
            form.close()
            request.scope.setdefault("state", {}).setdefault("log", {})["bytes_in"] = num_bytes
        return form.finish()


class _Form:
    """Collects the parts of one body; the parser calls the ``_on_`` methods."""

    def __init__(self, folder: Path, *, boundary: bytes, limits: UploadLimits, file_field: str) -> None:
        self.file_field = file_field
        self._folder = folder
        self._limits = limits
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._on_part_begin,
                "on_header_field": self._on_header_field,
                "on_header_value": self._on_header_value,
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_headers_finished,
                "on_part_data": self._on_part_data,
                "on_part_end": self._on_part_end,
                "on_end": self._on_end,
            },
        )
        self._num_parts = 0
        self._is_complete = False
        self._header_name = b""
        self._header_value = b""
        self._disposition = b""
        self._name = ""
        self._is_file = False
        self._value = bytearray()
        self._fields: dict[str, str] = {}
        self._handle: BinaryIO | None = None
        self._path: Path | None = None
        self._file_name = ""
        self._num_file_bytes = 0
        self._pending = bytearray()

    @property
    def num_pending(self) -> int:
        """Bytes of the file that wait in memory for `flush`."""
        return len(self._pending)

    def feed(self, chunk: bytes) -> None:
        """Parse the next bytes of the body; touches no disk."""
        if chunk and not self._is_complete:
            self._parser.write(chunk)

    def flush(self) -> None:
        """Write what waits; blocks."""
        if self._path is None:
            return
        if self._handle is None:
            self._handle = self._path.open("xb")
        self._handle.write(self._pending)
        self._pending.clear()

    def close(self) -> None:
        if self._handle is not None:
            self._handle.close()

    def finish(self) -> Upload:
        """Return what was received; a body that broke off, or held no file, is an error."""
        if not self._is_complete:
            raise ApiError("malformed_multipart", "the multipart body ends too early")
        if self._path is None:
            if self.file_field in self._fields:
                message = f"field {self.file_field!r} is text; send it as a file, with a file name"
                raise ApiError("missing_file", message, param=self.file_field)
            raise _missing(self.file_field)
        if not self._num_file_bytes:
            # A browser sends an empty file without a name when nobody chose one.
            if not self._file_name:
                raise _missing(self.file_field)
            raise ApiError("empty_file", f"{self._file_name} is empty", param=self.file_field)
        file = UploadedFile(path=self._path, name=self._file_name or self._path.name, num_bytes=self._num_file_bytes)
        return Upload(file=file, fields=self._fields)

    def _on_part_begin(self) -> None:
        self._num_parts += 1
        if self._num_parts > self._limits.max_parts:
            raise ApiError("too_many_parts", f"the body has more than {self._limits.max_parts} parts")
        self._disposition, self._name, self._is_file = b"", "", False
        self._value = bytearray()

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = self._header_value
        self._header_name = self._header_value = b""

    def _on_headers_finished(self) -> None:
        kind, options = parse_options_header(self._disposition.decode("latin-1"))
        if kind != b"form-data" or not options.get(b"name"):
            raise ApiError("malformed_multipart", "a part of the body has no name")
        self._name = _text(options[b"name"])
        self._is_file = b"filename" in options
        if not self._is_file:
            if self._name in self._fields:
                raise ApiError("duplicate_field", f"field {self._name[:60]!r} was sent twice", param=self._name[:60])
            return
        if self._name != self.file_field:
            message = f"field {self._name[:60]!r} is a file; the file goes into {self.file_field!r}"
            raise ApiError("unknown_field", message, param=self._name[:60])
        if self._path is not None:
            raise ApiError("duplicate_field", "more than one file was sent", param=self.file_field)
        self._file_name = safe_name(_text(options[b"filename"]))
        suffix = PurePosixPath(self._file_name).suffix
        self._path = self._folder / f"upload{suffix.lower() if _SUFFIX.fullmatch(suffix) else ''}"

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._num_file_bytes += end - start
            if self._num_file_bytes > self._limits.max_file_bytes:
                raise _too_large(self._limits, self.file_field)
            self._pending += data[start:end]
            return
        if len(self._value) + end - start > self._limits.max_field_bytes:
            message = f"field {self._name[:60]!r} is larger than {self._limits.max_field_bytes / 1024:g} KiB"
            raise ApiError("field_too_large", message, param=self._name[:60])
        self._value += data[start:end]

    def _on_part_end(self) -> None:
        if not self._is_file:
            try:
                self._fields[self._name] = self._value.decode("utf-8")
            except UnicodeDecodeError as exc:
                name = self._name[:60]
                raise ApiError("invalid_value", f"field {name!r} is not UTF-8 text", param=name) from exc

    def _on_end(self) -> None:
        self._is_complete = True


def safe_name(name: str) -> str:
    """Return the last part of a client's file name, printable and at most 120 characters; it never becomes a path."""
    last = re.split(r"[/\\]", name)[-1]
    return "".join(char for char in last if char.isprintable()).strip()[-120:]


def _text(value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _missing(file_field: str) -> ApiError:
    message = f"the request has no file; send one as multipart/form-data, field {file_field!r}"
    return ApiError("missing_file", message, param=file_field)


def _too_large(limits: UploadLimits, file_field: str) -> ApiError:
    message = f"the file is larger than {limits.max_file_bytes / (1024 * 1024):g} MiB"
    return ApiError("file_too_large", message, param=file_field)
