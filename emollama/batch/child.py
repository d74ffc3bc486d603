"""The process in which clips of a batch are labelled (see `emollama.batch.workers`).

It loads the model, says that it is ready, and answers tasks as they come. An interrupt from the terminal is its
parent's to handle; it ends when its parent's end of the pipe does.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from emollama import errors
from emollama.batch.outcome import failure
from emollama.errors import EmoLlamaError

if TYPE_CHECKING:
    from emollama.batch.items import Task


@dataclass(frozen=True, kw_only=True)
class Ready:
    """The model is loaded."""


@dataclass(frozen=True, kw_only=True)
class Begun:
    """Work on a task has begun."""

    index: int


@dataclass(frozen=True, kw_only=True)
class Broken:
    """No clip can be answered: the model cannot be loaded, or a package is missing."""

    kind: str
    message: str
    field: str | None

    @classmethod
    def of(cls, error: BaseException) -> Broken:
        field = getattr(error, "field", None)
        return cls(kind=type(error).__name__, message=" ".join(str(error).split()), field=field)

    def error(self) -> EmoLlamaError:
        """Return the error as it was raised there, as far as a message can say it."""
        kinds: dict[str, type[EmoLlamaError]] = {
            "CheckpointError": errors.CheckpointError,
            "DependencyError": errors.DependencyError,
            "InputError": errors.InputError,
            "UnknownNameError": errors.InputError,
        }
        kind = kinds.get(self.kind)
        if kind is None:
            return EmoLlamaError(f"{self.kind}: {self.message}", field=self.field)
        return kind(self.message, field=self.field)


def serve(connection: Connection, factory: Any, num_threads: int, num_cores: int) -> None:
    """Answer tasks until the pipe ends; each operation uses ``num_cores`` cores."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # Read when torch and OpenCV are imported, which happens below.
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"):
        os.environ[name] = str(num_cores)
    _Child(connection, factory, num_threads).run(num_cores)


class _Child:
    def __init__(self, connection: Connection, factory: Any, num_threads: int) -> None:
        self._connection, self._factory, self._num_threads = connection, factory, num_threads
        self._sending = threading.Lock()
        self._tasks: queue.SimpleQueue[Task] = queue.SimpleQueue()

    def run(self, num_cores: int) -> None:
        try:
            self._labels = self._factory.load(num_cores=num_cores)
        except Exception as error:  # noqa: BLE001  (the edge of a process: it is told, and raised there)
            self._send(Broken.of(error))
            return
        if (torch := sys.modules.get("torch")) is not None:
            torch.set_num_threads(num_cores)
        for _ in range(self._num_threads):
            threading.Thread(target=self._work, daemon=True).start()
        self._send(Ready())
        try:
            while True:
                self._tasks.put(self._connection.recv())
        except (EOFError, OSError):
            os._exit(0)  # nobody wants the answers of the threads that are still at work

    def _work(self) -> None:
        while True:
            task = self._tasks.get()
            self._send(Begun(index=task.item.index))
            from emollama.batch.labelling import FATAL

            try:
                self._send(self._labels.label(task))
            except FATAL as error:
                self._send(Broken.of(error))
            except Exception as error:  # noqa: BLE001  (the edge of a process: one clip's fault is that clip's error)
                self._send(failure(task.item, error, task=task))

    def _send(self, message: Any) -> None:
        try:
            with self._sending:
                self._connection.send(message)
        except OSError:
            os._exit(0)
