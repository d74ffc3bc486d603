"""The trainer's process: started in a session of its own, found again after a restart of the service, stopped.

A trainer outlives the process that started it. That one lives is known from a lock on a file in its run directory: the
starter takes the lock and hands the open file down, and the kernel holds the lock until the trainer and everything it
forked have ended, whatever the way. So nobody starts a second trainer in the same run directory, and nobody mistakes
another process that has the same number for it; who to signal is read from ``trainer.json``, and is signalled only
when its command line is the trainer's.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from emollama.errors import EmoLlamaError
from server.jobs.run_folder import RunFolder, write_json

try:
    import fcntl
except ImportError:  # pragma: no cover  (not on Windows: there, no job is run)
    fcntl = None  # type: ignore[assignment]

IS_SUPPORTED = fcntl is not None
# What a trainer has no use for is not told to it.
_SECRETS = ("EMOLLAMA_DATABASE_URL", "EMOLLAMA_WEBHOOK_SECRET", "EMOLLAMA_ADMIN_KEY")

_KILL_SECONDS = 5.0

# Children that this process let go of (their job goes on without it): kept so that they are reaped when they end.
_LET_GO: list[subprocess.Popen[bytes]] = []


class ForeignTrainerError(EmoLlamaError):
    """The run's trainer lives on another machine, where this process cannot reach it."""


class Trainer:
    """A trainer that runs, as a child of this process or found again."""

    def __init__(self, folder: RunFolder, pid: int, child: subprocess.Popen[bytes] | None) -> None:
        self.pid = pid
        self._folder = folder
        self._child = child

    def is_alive(self) -> bool:
        """Whether a process of the trainer lives; what it left behind when it was killed is killed too."""
        if self._child is not None and self._child.poll() is None:
            return True
        if not is_locked(self._folder.lock):
            return False
        if self._child is not None or not _is_trainer(self.pid, self._folder):
            # The trainer has ended, and something it started holds its lock; the group is still the trainer's.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        return True

    def exit_code(self) -> int | None:
        """Return how it ended (negative: by that signal); None when it was not a child of this process."""
        return None if self._child is None else self._child.poll()

    def terminate(self) -> None:
        """Ask it to save a checkpoint and end."""
        if self._child is not None or _is_trainer(self.pid, self._folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End it and what it started at once; returns when they are gone, or cannot be for a while."""
        deadline = time.monotonic() + _KILL_SECONDS
        while self.is_alive() and time.monotonic() < deadline:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            time.sleep(0.01)

    def let_go(self) -> None:
        """Leave it running without this process."""
        if self._child is not None:
            _LET_GO.append(self._child)


def start(folder: RunFolder, command: Sequence[str], *, niceness: int) -> Trainer | None:
    """Start ``command RUN_DIR``; return None when a trainer is running there already."""
    _reap()
    lock = os.open(folder.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        folder.process_file.unlink(missing_ok=True)
        folder.clear_verdict()
        with folder.log.open("ab") as log:
            child = subprocess.Popen(
                [*command, str(folder.path)],
                env={name: value for name, value in os.environ.items() if name not in _SECRETS},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=(lock,),
            )
    finally:
        os.close(lock)
    try:
        write_json(folder.process_file, {"pid": child.pid, "machine": _machine()})
        if niceness:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                most = min(19, os.getpriority(os.PRIO_PROCESS, 0) + niceness)
                os.setpriority(os.PRIO_PROCESS, child.pid, most)
    except BaseException:
        # Whoever takes the job next could not stop a trainer whose number is not written down.
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        raise
    return Trainer(folder, child.pid, child)


def find(folder: RunFolder) -> Trainer | None:
    """Return the trainer that runs in a run directory, whoever started it, or None.

    Raises `ForeignTrainerError` when it runs on another machine.
    """
    _reap()
    # The one who starts a trainer holds the lock for an instant before the number is written down.
    for _ in range(100):
        if not is_locked(folder.lock):
            return None
        try:
            document = json.loads(folder.process_file.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            time.sleep(0.05)
            continue
        if document["machine"] != _machine():
            raise ForeignTrainerError(f"the trainer of {folder.path.name} runs on machine {document['machine']!r}")
        return Trainer(folder, int(document["pid"]), None)
    raise ForeignTrainerError(f"the trainer of {folder.path.name} is not written down in {folder.process_file.name}")


def is_locked(lock: Path) -> bool:
    """Whether a process holds the lock."""
    try:
        handle = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        # A shared lock: two that look at the same time do not take each other for a trainer.
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _is_trainer(pid: int, folder: RunFolder) -> bool:
    """Whether the process with this number is the trainer of this run directory (and not only its unreaped entry)."""
    import psutil  # type: ignore[import-untyped]

    try:
        return psutil.Process(pid).cmdline()[-1:] == [str(folder.path)]
    except psutil.Error:
        return False


def _reap() -> None:
    _LET_GO[:] = [child for child in _LET_GO if child.poll() is None]


def _machine() -> str:
    return platform.node()
