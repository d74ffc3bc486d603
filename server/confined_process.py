"""A process that reads strangers' files, as the service holds it: started without secrets, watched, and killed.

The service writes a line of JSON; what the process answers is a header of JSON behind its length, and raw bytes of the
size that the header promised. Nothing is unpickled. What such a process may not do it sets itself
(`server.confinement`); how long it takes and how much memory it holds is watched from here.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import struct
import subprocess
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from emollama import errors

POLL_SECONDS = 0.05
_MAX_READ_BYTES = 2**30
_PIPE_BYTES = 2**20  # as large as an unprivileged process may make it
_TOLD_ERRORS = {  # what a process may say of a clip, by name
    kind.__name__: kind
    for kind in (
        errors.InputError,
        errors.UnsupportedMediaError,
        errors.UndecodableMediaError,
        errors.MediaLimitError,
        errors.DependencyError,
    )
}


@dataclass(frozen=True, kw_only=True)
class WorkerLimits:
    """What one clip may cost: wall-clock seconds, processor seconds, and the bytes that its process holds in memory.

    Of a long clip every window may cost that, and the decoding of all windows together ``long_seconds``.

    Decoders reserve far more addresses than they ever use, one arena a thread, and what fails to reserve looks like a
    damaged file. So memory is watched, a few times a second, and the limit of addresses (``address_bytes``) is wide and
    only there for what happens between two looks.
    """

    seconds: float = 60.0
    long_seconds: float = 3600.0
    cpu_seconds: int = 120
    memory_bytes: int = 3 * 2**29
    address_bytes: int = 8 * 2**30
    niceness: int = 5


class EndedError(Exception):
    """The process has to go: ``reason`` is timeout, memory, crash, cancelled or protocol."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ConfinedProcess:
    """One process and its two pipes. ``settings`` names those of the service's variables that it may know;
    ``max_header_bytes`` is how much it may say beside raw bytes.

    Whatever waits here raises `EndedError` when ``cancelled`` says so, when the ``deadline`` (of `time.monotonic`) is
    over, when the process holds too much memory, has ended, or says what it must not.
    """

    def __init__(
        self,
        command: Sequence[str],
        limits: WorkerLimits,
        *,
        settings: Collection[str] = (),
        max_header_bytes: int = 2**20,
    ) -> None:
        allowed = {name: getattr(limits, name) for name in ("cpu_seconds", "address_bytes", "niceness")}
        # Without the service's own settings, some of which are secrets.
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("EMOLLAMA_") or name in settings
        }
        self._process = subprocess.Popen(
            [*command, json.dumps(allowed)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env=environment | {"OMP_NUM_THREADS": "1"},
            start_new_session=True,  # a terminal's interrupt is the service's to handle
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        os.set_blocking(self._stdin.fileno(), False)
        with contextlib.suppress(ImportError, AttributeError, OSError):
            import fcntl

            fcntl.fcntl(self._stdout, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        os.set_blocking(self._stdout.fileno(), False)
        self._memory_bytes, self._max_header_bytes = limits.memory_bytes, max_header_bytes

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()
        for pipe in (self._stdin, self._stdout):
            with contextlib.suppress(OSError):
                pipe.close()

    def answer(
        self,
        request: dict[str, Any],
        deadline: float,
        cancelled: Callable[[], bool],
        *,
        body: bytes = b"",
        field: str | None = None,
    ) -> dict[str, Any]:
        """Ask, and return the header; raises what the library raised there, about ``field`` where none is told."""
        self.write(json.dumps(request).encode() + b"\n" + body, deadline, cancelled)
        header = self.header(deadline, cancelled)
        if "error" in header:
            kind = _TOLD_ERRORS.get(str(header["error"]))
            if kind is None:
                raise EndedError("protocol")
            told = header.get("field", field)
            error = kind(str(header.get("message"))[:500], field=None if told is None else str(told)[:60])
            if isinstance(error, errors.MediaLimitError) and isinstance(header.get("limit"), str):
                error.limit = header["limit"][:60]
            raise error
        return header

    def header(self, deadline: float, cancelled: Callable[[], bool]) -> dict[str, Any]:
        length = struct.unpack("<I", self.read(4, deadline, cancelled))[0]
        if length > self._max_header_bytes:
            raise EndedError("protocol")
        try:
            header = json.loads(bytes(self.read(length, deadline, cancelled)))
        except ValueError as exc:
            raise EndedError("protocol") from exc
        if not isinstance(header, dict):
            raise EndedError("protocol")
        return header

    def write(self, content: bytes, deadline: float, cancelled: Callable[[], bool]) -> None:
        """Send it all; a process that takes nothing is ended as one that answers nothing is."""
        view, fd = memoryview(content), self._stdin.fileno()
        poller = select.poll()
        poller.register(fd, select.POLLOUT)
        while view:
            if not poller.poll(POLL_SECONDS * 1000):
                self.check(deadline, cancelled)
                continue
            try:
                view = view[os.write(fd, view) :]
            except BlockingIOError:
                continue
            except OSError as exc:
                raise EndedError("crash") from exc

    def read(self, length: int, deadline: float, cancelled: Callable[[], bool]) -> memoryview:
        import numpy as np

        if not 0 <= length <= _MAX_READ_BYTES:
            raise EndedError("protocol")
        view = np.empty(length, np.uint8).data  # not filled with zeros first
        filled, fd = 0, self._stdout.fileno()
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        while filled < length:
            if not poller.poll(POLL_SECONDS * 1000):
                self.check(deadline, cancelled)
                continue
            try:
                received = os.readv(fd, [view[filled:]])
            except BlockingIOError:
                continue
            if not received:
                raise EndedError("crash")
            filled += received
        return view

    def check(self, deadline: float, cancelled: Callable[[], bool]) -> None:
        """Raise `EndedError` for a process that has to go."""
        if cancelled():
            raise EndedError("cancelled")
        if time.monotonic() > deadline:
            raise EndedError("timeout")
        if self._resident_bytes() > self._memory_bytes:
            raise EndedError("memory")

    def _resident_bytes(self) -> int:
        import psutil  # type: ignore[import-untyped]

        try:
            return int(psutil.Process(self.pid).memory_info().rss)
        except psutil.Error:
            return 0  # it has ended, which is seen at its pipe
