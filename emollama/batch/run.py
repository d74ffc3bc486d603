"""The run: items that are not done yet, each clip once, their lines into the folder, and an account at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from emollama.batch.fingerprint import fingerprint_of, versions
from emollama.batch.folder import ERRORS, OutputFolder, now
from emollama.batch.items import Item, Task, digest_of
from emollama.batch.labelling import Labelling
from emollama.batch.outcome import Outcome
from emollama.batch.progress import Progress, Silent, State
from emollama.batch.sources import Source
from emollama.batch.tables import write_tables
from emollama.batch.workers import Workers
from emollama.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Shard:
    """The ``number``-th of ``count`` parts of a list, from 1: every ``count``-th item."""

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise InputError(f"shard is {self}; allowed: 1/N to N/N", field="shard")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> Shard:
        number, slash, count = text.partition("/")
        if not slash or not number.strip().isdecimal() or not count.strip().isdecimal():
            raise InputError(f"shard is {text!r}; allowed: 1/N to N/N, such as 2/8", field="shard")
        return cls(number=int(number), count=int(count))

    def of(self, items: Sequence[Item]) -> Sequence[Item]:
        return items[self.number - 1 :: self.count]


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What a run is besides its list and its labelling; all but ``shard`` and ``limit`` may differ when it goes on."""

    shard: Shard | None = None
    limit: int | None = None
    tables: tuple[str, ...] = ("csv",)
    fail_fast: bool = False
    retry_errors: bool = False

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise InputError(f"limit is {self.limit}; it must be above 0", field="limit")

    def select(self, items: Sequence[Item]) -> Sequence[Item]:
        chosen = items if self.shard is None else self.shard.of(items)
        return chosen if self.limit is None else chosen[: self.limit]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """How a run ended. ``num_new`` clips were finished in this session, ``num_copied`` of them as duplicates."""

    total: int
    done: int
    failed: int
    num_new: int
    num_copied: int
    seconds: float
    ended: str  # finished | interrupted | failed
    failures: Mapping[str, int] = field(default_factory=dict)

    @property
    def left(self) -> int:
        return self.total - self.done - self.failed

    @property
    def clips_per_second(self) -> float:
        return self.num_new / self.seconds if self.seconds > 0 else 0.0


def run_batch(
    source: Source,
    out: Path,
    labelling: Labelling,
    make_workers: Callable[[], Workers],
    *,
    options: RunOptions = RunOptions(),
    command: str = "",
    progress: Progress | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Summary:
    """Label what ``source`` lists into the folder ``out``, going on where an earlier run of the same kind ended.

    ``make_workers`` is called when there is something to do. ``stopped`` is asked all the time; when it says so, what
    is under way is given up, and the folder is left in order. Raises `InputError` when the folder holds another run,
    and what loading the model raises.
    """
    items = options.select(source.items)
    if not items:
        raise InputError(f"shard {options.shard} of {len(source.items)} clips is empty", field="shard")
    folder = OutputFolder(out, _identity(source, labelling, options), items, retry_errors=options.retry_errors)
    try:
        return _Run(folder, items, options, progress or Silent(), stopped).run(make_workers, command)
    finally:
        folder.close()


def _identity(source: Source, labelling: Labelling, options: RunOptions) -> dict[str, Any]:
    asked = asdict(labelling)
    model, adapter, _ = (asked.pop(name) for name in ("model", "adapter", "device"))
    return {
        "source": {
            "path": str(source.path),
            "kind": source.kind,
            "sha256": digest_of(source.items),
            "num_items": len(source.items),
            "num_left_out": source.num_left_out,
        },
        "model": {"name": model, "sha256": fingerprint_of(model)},
        "adapter": None if adapter is None else {"path": adapter, "sha256": fingerprint_of(adapter)},
        "options": {
            **asked,
            "labels": None if labelling.labels is None else list(labelling.labels),
            "shard": None if options.shard is None else str(options.shard),
            "limit": options.limit,
        },
    }


class _Run:
    def __init__(
        self,
        folder: OutputFolder,
        items: Sequence[Item],
        options: RunOptions,
        progress: Progress,
        stopped: Callable[[], bool],
    ) -> None:
        self._folder, self._items, self._options = folder, items, options
        self._progress, self._stopped = progress, stopped
        self._by_index = {item.index: item for item in items}
        self._under_way: dict[str, tuple[Task, list[Task]]] = {}  # key -> the task, and those that wait for its answer
        self._keys: dict[int, str] = {}
        self._has_failed = False
        self.num_new = self.num_copied = 0

    def run(self, make_workers: Callable[[], Workers], command: str) -> Summary:
        sessions: list[dict[str, Any]] = self._folder.document["sessions"]
        session: dict[str, Any] = {"command": command, "started": now(), "ended": None, "versions": versions()}
        self._folder.save(sessions=[*sessions, session], counts=self._counts())
        started = time.perf_counter()
        ended = "failed"
        try:
            self._show()
            todo = [item for item in self._items if item.id not in self._folder.done]
            if todo:
                self._work(todo, make_workers)
            is_whole = len(self._folder.done) == len(self._items)
            ended = "finished" if is_whole else "interrupted" if self._stopped() else "failed"
        except KeyboardInterrupt:
            ended = "interrupted"
        finally:
            self._progress.close()
            seconds = time.perf_counter() - started
            self._folder.settle()
            write_tables(self._folder, [item.id for item in self._items], self._options.tables)
            session |= {
                "ended": now(),
                "outcome": ended,
                "seconds": round(seconds, 3),
                "num_new": self.num_new,
                "num_copied": self.num_copied,
                "clips_per_second": round(self.num_new / seconds, 4) if seconds > 0 else None,
            }
            self._folder.save(sessions=[*sessions, session], counts=self._counts())
        return Summary(
            total=len(self._items), done=self._folder.num_done, failed=self._folder.num_failed, num_new=self.num_new,
            num_copied=self.num_copied, seconds=seconds, ended=ended, failures=self._failures(),
        )  # fmt: skip

    def _work(self, todo: Sequence[Item], make_workers: Callable[[], Workers]) -> None:
        workers = make_workers()
        try:
            for outcome in workers.outcomes(self._tasks(workers.prepared(todo)), stopped=self._is_over):
                key = self._keys.pop(outcome.index)
                _, twins = self._under_way.pop(key)
                self._write(outcome, key)
                for twin in twins:
                    self._copy(twin)
                self._folder.sync(time.monotonic())
        finally:
            workers.close()

    def _tasks(self, prepared: Iterator[Task | Outcome]) -> Iterator[Task]:
        """Yield the tasks that have to be done; write what is known without."""
        for each in prepared:
            if self._is_over():
                return
            if isinstance(each, Outcome):
                self._write(each, None)
            elif each.key in self._under_way:
                self._under_way[each.key][1].append(each)
            elif not self._copy(each):
                self._under_way[each.key] = (each, [])
                self._keys[each.item.index] = each.key
                yield each

    def _copy(self, task: Task) -> bool:
        outcome = self._folder.copy(task)
        if outcome is None:
            return False
        self.num_copied += 1
        self._write(outcome, None)
        return True

    def _write(self, outcome: Outcome, key: str | None) -> None:
        self._folder.append(outcome, self._by_index[outcome.index], key=key)
        self.num_new += 1
        self._has_failed |= outcome.failed
        self._show()

    def _is_over(self) -> bool:
        return self._stopped() or (self._options.fail_fast and self._has_failed)

    def _show(self) -> None:
        self._progress.show(State(total=len(self._items), done=self._folder.num_done, failed=self._folder.num_failed))

    def _counts(self) -> dict[str, int]:
        done, failed = self._folder.num_done, self._folder.num_failed
        return {"items": len(self._items), "done": done, "failed": failed, "left": len(self._items) - done - failed}

    def _failures(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for line in self._folder.lines(ERRORS):
            kind = str(line["error"]["type"])
            found[kind] = found.get(kind, 0) + 1
        return found
