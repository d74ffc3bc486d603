"""Labels tasks in processes of its own, each with the model and a few threads; or here, one after the other.

A process may end in any way: the system kills it for its memory, a decoder crashes on a damaged file. Then it is
replaced, and the clips that it had are done again, each alone in a process, so that the one that ends processes is
found, gets its error, and the rest goes on. Why processes: one core each is fully used, which threads of one Python
are not, and a clip's numbers do not depend on which clips were worked on beside it.

A process speaks through one pipe. Tasks are handed out as places become free, never more than a few ahead, so what
lies in memory is bounded by the number of processes and threads. When the pipe ends, so does the process.
"""

from __future__ import annotations

import multiprocessing
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any, Protocol

from emollama.batch.child import Begun, Broken, Ready, serve
from emollama.batch.items import Item, Task, prepare
from emollama.batch.outcome import Outcome, failure
from emollama.cores import usable_cores
from emollama.errors import EmoLlamaError, InputError, MediaLimitError, UndecodableMediaError

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

    from emollama.batch.labelling import Labels

_AHEAD = 1  # tasks that wait in a process for a thread of it
_MAX_ENDS = 2  # so many processes may end while they work on one clip alone before it is the clip's fault
_POLL_SECONDS = 0.2


class Factory(Protocol):
    """What makes the labels in another process; it is pickled to get there."""

    def load(self, *, num_cores: int | None = None) -> Labels: ...


class Workers(Protocol):
    """Something that answers tasks, in any order."""

    def prepared(self, items: Iterable[Item]) -> Iterator[Task | Outcome]:
        """Yield, in order, each item's task, or its error."""
        ...

    def outcomes(self, tasks: Iterator[Task], *, stopped: Callable[[], bool]) -> Iterator[Outcome]:
        """Yield outcomes as they come; takes from ``tasks`` as it goes, and ends early when ``stopped`` says so."""
        ...

    def close(self) -> None: ...


def prepared_here(items: Iterable[Item]) -> Iterator[Task | Outcome]:
    for item in items:
        try:
            yield prepare(item)
        except (EmoLlamaError, OSError) as error:
            yield failure(item, error)


class InProcess:
    """Labels one task after the other in this process."""

    def __init__(self, factory: Factory) -> None:
        self._factory = factory

    def prepared(self, items: Iterable[Item]) -> Iterator[Task | Outcome]:
        return prepared_here(items)

    def outcomes(self, tasks: Iterator[Task], *, stopped: Callable[[], bool]) -> Iterator[Outcome]:
        labels: Labels | None = None
        for task in tasks:
            labels = labels or self._factory.load()
            if stopped():
                return
            yield labels.label(task)

    def close(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class PoolSize:
    """How many processes, and how many clips at once in each; ``timeout_seconds`` is what one clip may take.

    ``cores`` is what an operation in a process may use; by default the processes share those that there are.
    """

    processes: int
    threads: int = 1
    timeout_seconds: float = 3600.0
    cores: int | None = None

    def __post_init__(self) -> None:
        for name, allowed in (("processes", 256), ("threads", 64)):
            if not 1 <= getattr(self, name) <= allowed:
                raise InputError(f"{name} is {getattr(self, name)}; allowed: 1 to {allowed}", field=name)
        if not self.timeout_seconds > 0:
            raise InputError(f"timeout is {self.timeout_seconds:g} s; it must be above 0", field="timeout")


class _Process:
    """One process, and the tasks that it has: index -> (task, when it was begun)."""

    def __init__(self, context: Any, factory: Factory, size: PoolSize, cores: int) -> None:
        self.connection: Connection
        self.connection, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(
            target=serve, args=(theirs, factory, size.threads, cores), name="emollama-batch", daemon=True
        )
        self.process.start()
        theirs.close()
        self.is_ready = self.is_testing = False
        self.tasks: dict[int, tuple[Task, float | None]] = {}

    @property
    def is_idle(self) -> bool:
        return self.is_ready and not self.tasks

    def send(self, task: Task) -> bool:
        """Hand over a task; False when the process has ended."""
        try:
            self.connection.send(task)
        except OSError:
            return False
        self.tasks[task.item.index] = (task, None)
        return True

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


class ProcessPool:
    """Labels in processes. Start and stop it with `close`; `outcomes` may be called once at a time."""

    def __init__(self, factory: Factory, size: PoolSize) -> None:
        self._factory, self._size = factory, size
        self._context = multiprocessing.get_context("spawn")
        self._cores = size.cores or max(1, usable_cores() // size.processes)
        self._processes: list[_Process] = []
        self._ends: dict[int, int] = {}  # index -> processes that ended while they worked on it alone
        self._suspects: deque[Task] = deque()  # to be done again, each alone in its process
        self.num_restarts = 0

    def pids(self) -> list[int]:
        return [each.process.pid for each in self._processes if each.process.pid is not None]

    def prepared(self, items: Iterable[Item]) -> Iterator[Task | Outcome]:
        return prepared_here(items)

    def outcomes(self, tasks: Iterator[Task], *, stopped: Callable[[], bool]) -> Iterator[Outcome]:
        """See `Workers`. Raises what loading the model raised, and `EmoLlamaError` when no process can be started."""
        waiting = iter(tasks)
        upcoming = next(waiting, None)
        while not stopped():
            while len(self._processes) < self._size.processes and (upcoming or self._suspects):
                self._processes.append(_Process(self._context, self._factory, self._size, self._cores))
            for each in self._processes:
                if self._suspects and each.is_idle and each.send(self._suspects[0]):
                    self._suspects.popleft()
                    each.is_testing = True
                while upcoming is not None and self._has_room(each) and each.send(upcoming):
                    upcoming = next(waiting, None)
            if upcoming is None and not self._suspects and not any(each.tasks for each in self._processes):
                return
            yield from self._received()
            yield from self._overdue()

    def close(self) -> None:
        for each in self._processes:
            each.end()
        self._processes.clear()

    def _has_room(self, each: _Process) -> bool:
        return each.is_ready and not each.is_testing and len(each.tasks) < self._size.threads + _AHEAD

    def _received(self) -> Iterator[Outcome]:
        by_connection: dict[Any, _Process] = {each.connection: each for each in self._processes}
        for connection in wait(list(by_connection), timeout=_POLL_SECONDS):
            each = by_connection[connection]
            try:
                message = each.connection.recv()
            except (EOFError, OSError):
                yield from self._ended(each)
                continue
            if isinstance(message, Ready):
                each.is_ready = True
            elif isinstance(message, Broken):
                raise message.error()
            elif isinstance(message, Begun):
                each.tasks[message.index] = (each.tasks[message.index][0], time.monotonic())
            else:
                each.tasks.pop(message.index)
                each.is_testing = False
                yield message

    def _ended(self, each: _Process) -> Iterator[Outcome]:
        """Replace a process that has ended; what it had is done again, or has failed too often."""
        each.process.join()
        code = each.process.exitcode
        if not each.is_ready:
            raise EmoLlamaError(f"a process for labelling ended while it loaded the model ({_cause(code)})")
        self._remove(each)
        begun = [task.item.index for task, since in each.tasks.values() if since is not None]
        if len(begun) == 1:
            self._ends[begun[0]] = self._ends.get(begun[0], 0) + 1
        for index, (task, _) in each.tasks.items():
            if self._ends.get(index, 0) < _MAX_ENDS:
                self._suspects.append(task)
            else:
                error = UndecodableMediaError(f"the clip ends the process that reads it ({_cause(code)})", field="file")
                yield failure(task.item, error, task=task)

    def _overdue(self) -> Iterator[Outcome]:
        now, allowed = time.monotonic(), self._size.timeout_seconds
        for each in list(self._processes):
            late = [t for t, begun in each.tasks.values() if begun is not None and now - begun > allowed]
            if not late:
                continue
            self._remove(each)
            for task, _ in each.tasks.values():
                if task in late:
                    error = MediaLimitError(f"the clip was not done within {allowed:g} s (--timeout)", field="file")
                    yield failure(task.item, error, task=task)
                else:
                    self._suspects.append(task)

    def _remove(self, each: _Process) -> None:
        each.end()
        self._processes.remove(each)
        self.num_restarts += 1


def _cause(code: int | None) -> str:
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
