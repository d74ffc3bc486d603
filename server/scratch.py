"""Where uploads lie while they are used: one folder a process, one folder in it a request.

A request's folder is removed at its end, the process's folder at shutdown. A process that was killed could do neither:
its folder is removed by the next process that starts. It is known to be dead because nobody holds the lock on the file
``lock`` in it, which the kernel releases with the process.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import tempfile
import time
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # pragma: no cover  (not on Windows: there, nothing is swept)
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger("server.scratch")

_PREFIX = "emollama-server-"
# A folder this young may belong to a process that has not locked it yet.
_SWEEP_AFTER_SECONDS = 60.0


class Scratch:
    """The folders of one process; readable by its user alone."""

    def __init__(self, parent: Path | None = None) -> None:
        self._parent = parent or Path(tempfile.gettempdir())
        self._parent.mkdir(parents=True, exist_ok=True)
        self.sweep()
        self.root = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=self._parent))
        self._lock = (self.root / "lock").open("w")
        if fcntl is not None:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def new_folder(self) -> Path:
        """Make an empty folder for one request."""
        return Path(tempfile.mkdtemp(prefix="r-", dir=self.root))

    def discard(self, folder: Path) -> None:
        """Remove a request's folder with what is in it."""
        _remove(folder)

    def close(self) -> None:
        """Remove everything."""
        self._lock.close()
        _remove(self.root)

    def sweep(self) -> None:
        """Remove the folders of processes that were killed."""
        if fcntl is None:  # pragma: no cover
            return
        for folder in self._parent.glob(f"{_PREFIX}*"):
            with contextlib.suppress(OSError):
                if time.time() - folder.stat().st_mtime < _SWEEP_AFTER_SECONDS:
                    continue
                with (folder / "lock").open("r+") as lock:
                    if not _is_held(lock):
                        shutil.rmtree(folder)
                        logger.warning("removed the uploads of a process that was killed")


def _is_held(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _remove(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return
    except OSError as exc:
        logger.error("could not remove an upload", extra={"fields": {"errno": exc.errno}})
