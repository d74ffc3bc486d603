"""Has a clip written anew in a process of its own, as `server.media_worker` has clips decoded in such processes.

A video takes minutes, so it has a process for itself, which ends with it. What comes back is copied into a file piece
by piece and not looked at. A process that takes too long, holds too much, crashes or is no longer wanted is killed.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

from emollama import errors
from server.media_worker import TOLD_ERRORS, WorkerLimits

if TYPE_CHECKING:
    from emollama.media import MediaLimits
    from emollama.reports.video import VideoOptions

logger = logging.getLogger("server.reports.video_worker")

CHILD = (sys.executable, "-m", "server.reports.video_child")
_POLL_SECONDS = 0.05
_MAX_HEADER_BYTES = 2**16
_MAX_VIDEO_BYTES = 2**31
_PIECE_BYTES = 2**20


@dataclass(frozen=True, kw_only=True)
class VideoOrder:
    """What is to be written: the clip and what it is called, its analysis in wire form, and how."""

    source: Path
    name: str
    document: Mapping[str, Any]
    options: VideoOptions
    limits: MediaLimits


class VideoWriting(Protocol):
    """Writes a video whole into ``target``, which is not there yet; blocks.

    Raises `MediaError` or `InputError` for a clip that cannot be written, and `CancelledError`.
    """

    def write(self, order: VideoOrder, target: Path, *, cancelled: Callable[[], bool]) -> None: ...


class VideoHere:
    """Writes in the service itself, where there are no processes for clips."""

    def write(self, order: VideoOrder, target: Path, *, cancelled: Callable[[], bool]) -> None:
        from emollama.reports.video import encode_video
        from emollama.watch import Watch

        encode_video(
            order.source, order.document, target, order.options, name=order.name, limits=order.limits,
            check=Watch(cancelled),
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class VideoProcesses:
    """Writes each video in a process; ``ended`` hears the reason whenever one was ended by its clip."""

    limits: WorkerLimits
    ended: Callable[[str], None] = field(default=lambda reason: None)
    command: Sequence[str] = CHILD

    def write(self, order: VideoOrder, target: Path, *, cancelled: Callable[[], bool]) -> None:
        deadline = time.monotonic() + self.limits.seconds
        with _started(self.command, self.limits) as process:
            talk = _Talk(process, deadline=deadline, memory_bytes=self.limits.memory_bytes, cancelled=cancelled)
            try:
                talk.say(_request(order))
                header = talk.header()
                if "error" in header:
                    raise _error(header)
                with target.open("xb") as file:
                    talk.copy(header.get("num_bytes"), file)
            except _EndedError as exc:
                if exc.reason == "cancelled":
                    raise errors.CancelledError("the writing of the video was cancelled") from exc
                self.ended(exc.reason)
                logger.warning("a process that wrote a video was ended", extra={"fields": {"reason": exc.reason}})
                raise self._told(exc.reason) from exc

    def _told(self, reason: str) -> errors.MediaError:
        if reason == "timeout":
            return errors.MediaLimitError(f"the video was not written within {self.limits.seconds:g} s", field="file")
        if reason == "memory":
            megabytes = self.limits.memory_bytes / 2**20
            return errors.MediaLimitError(f"the video takes more than {megabytes:g} MiB to write", field="file")
        return errors.UndecodableMediaError(
            "the video could not be written: the clip ended the process that wrote it, or took too much processor time",
            field="file",
        )


class _EndedError(Exception):
    """The process has to go: ``reason`` is timeout, memory, crash, cancelled or protocol."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@contextlib.contextmanager
def _started(command: Sequence[str], limits: WorkerLimits) -> Iterator[subprocess.Popen[bytes]]:
    """Yield a process that is gone at the end of the block, whatever the end is."""
    allowed = {name: getattr(limits, name) for name in ("cpu_seconds", "address_bytes", "niceness")}
    # Without the service's own settings, some of which are secrets; but with where the detector's file lies.
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("EMOLLAMA_") or name == "EMOLLAMA_CACHE"
    }
    process = subprocess.Popen(
        [*command, json.dumps(allowed)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        env=environment | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,  # a terminal's interrupt is the service's to handle
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()


def _request(order: VideoOrder) -> bytes:
    """Of the analysis, what is drawn and nothing else."""
    document = {name: order.document[name] for name in ("faces", "timeline")}
    document["emotion"] = {"scores": order.document["emotion"]["scores"]}
    request = {
        "path": str(order.source.absolute()), "name": order.name, "document": document,
        "options": asdict(order.options), "limits": asdict(order.limits),
    }  # fmt: skip
    return json.dumps(request).encode() + b"\n"


class _Talk:
    """What is said to a process and what it says, under watch."""

    def __init__(
        self, process: subprocess.Popen[bytes], *, deadline: float, memory_bytes: int, cancelled: Callable[[], bool]
    ) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._pid, self._in, self._out = process.pid, process.stdin.fileno(), process.stdout.fileno()
        self._deadline, self._memory_bytes, self._cancelled = deadline, memory_bytes, cancelled
        for pipe in (self._in, self._out):
            os.set_blocking(pipe, False)

    def say(self, content: bytes) -> None:
        rest = memoryview(content)
        while rest:
            self._wait(self._in, select.POLLOUT)
            try:
                rest = rest[os.write(self._in, rest) :]
            except BlockingIOError:
                continue
            except OSError as exc:
                raise _EndedError("crash") from exc

    def header(self) -> dict[str, Any]:
        length = struct.unpack("<I", b"".join(self._pieces(4)))[0]
        if length > _MAX_HEADER_BYTES:
            raise _EndedError("protocol")
        try:
            header = json.loads(b"".join(self._pieces(length)))
        except ValueError as exc:
            raise _EndedError("protocol") from exc
        if not isinstance(header, dict):
            raise _EndedError("protocol")
        return header

    def copy(self, length: Any, file: IO[bytes]) -> None:
        """Copy a video of ``length`` bytes, which is what the process says."""
        if not isinstance(length, int) or not 0 < length <= _MAX_VIDEO_BYTES:
            raise _EndedError("protocol")
        for piece in self._pieces(length):
            file.write(piece)

    def _pieces(self, length: int) -> Iterator[bytes]:
        left = length
        while left:
            self._wait(self._out, select.POLLIN)
            try:
                piece = os.read(self._out, min(left, _PIECE_BYTES))
            except BlockingIOError:
                continue
            if not piece:
                raise _EndedError("crash")
            left -= len(piece)
            yield piece

    def _wait(self, pipe: int, what: int) -> None:
        """Return when a pipe is ready; raises `_EndedError` for a process that has to go meanwhile."""
        poller = select.poll()
        poller.register(pipe, what)
        while True:
            if self._cancelled():
                raise _EndedError("cancelled")
            if time.monotonic() > self._deadline:
                raise _EndedError("timeout")
            if poller.poll(_POLL_SECONDS * 1000):
                return
            if self._resident_bytes() > self._memory_bytes:
                raise _EndedError("memory")

    def _resident_bytes(self) -> int:
        import psutil  # type: ignore[import-untyped]

        try:
            return int(psutil.Process(self._pid).memory_info().rss)
        except psutil.Error:
            return 0  # it has ended, which is seen at its pipe


def _error(header: Mapping[str, Any]) -> Exception:
    kind = TOLD_ERRORS.get(str(header.get("error")))
    if kind is None:
        return _EndedError("protocol")
    error = kind(str(header.get("message"))[:500], field="file")
    if isinstance(error, errors.MediaLimitError) and isinstance(header.get("limit"), str):
        error.limit = str(header["limit"])[:60]
    return error
