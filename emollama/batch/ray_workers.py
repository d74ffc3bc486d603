"""Labels tasks on a Ray cluster, or on this machine by a Ray of its own: Ray Data, an actor for each copy of the model.

The list goes out in small blocks, outcomes come back as they are done, and the folder is written here, so a run on Ray
and one without leave the same folder and may continue each other. Every node must see the clips under the same paths
and have this package.

An actor holds one process with the model (`emollama.batch.workers`): a clip that ends a process is that clip's error,
while an actor that is lost with its node is replaced by Ray and its block is done again.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from emollama.batch.items import Item, Task
from emollama.batch.outcome import Outcome
from emollama.batch.workers import Factory, PoolSize, ProcessPool, prepared_here
from emollama.errors import DependencyError, EmoLlamaError

_OBJECT_STORE_BYTES = 100 * 10**6  # lists and lines pass through it, clips never
_LARGEST_BLOCK = 16  # clips that are done again when an actor is lost
_BLOCKS_PER_ACTOR = 4
_CELL = "pickled"


class RayWorkers:
    """Labels on Ray: ``size.processes`` actors at most, each with ``size.threads`` clips at once.

    ``address`` is a cluster's (``auto``: the one that this machine belongs to); without it, Ray is started here and
    ended by `close`. An actor takes a core, or a GPU when ``uses_gpu``.
    """

    def __init__(self, factory: Factory, size: PoolSize, *, address: str | None = None, uses_gpu: bool = False) -> None:
        try:
            import ray
            import ray.data
        except ImportError as error:
            raise DependencyError(
                f"--ray needs the extra: pip install 'emollama[ray]' ({error})", field="ray"
            ) from error
        self._ray, self._factory, self._size, self._uses_gpu = ray, factory, size, uses_gpu
        self._is_ours = not ray.is_initialized()
        if self._is_ours:
            where: dict[str, Any] = {"address": address}
            if address is None:
                where = {
                    "address": "local",
                    "num_cpus": size.processes,
                    "include_dashboard": False,
                    "object_store_memory": _OBJECT_STORE_BYTES,
                }
            try:
                ray.init(log_to_driver=False, logging_level=logging.ERROR, **where)
            except ConnectionError as error:
                raise EmoLlamaError(f"no Ray cluster at {address}: {error}", field="ray_address") from error
        logging.getLogger("ray.data").setLevel(logging.ERROR)  # the run tells of its progress itself
        ray.data.DataContext.get_current().enable_progress_bars = False

    def prepared(self, items: Iterable[Item]) -> Iterator[Task | Outcome]:
        """Read the clips' bytes on the cluster; the tasks come in the order of the items when all are there."""
        blocks = self._blocks(list(items))
        found = [each for row in self._rows(blocks.map_batches(_prepare, batch_size=None)) for each in row]
        yield from sorted(found, key=lambda each: each.index if isinstance(each, Outcome) else each.item.index)

    def outcomes(self, tasks: Iterator[Task], *, stopped: Callable[[], bool]) -> Iterator[Outcome]:
        """See `emollama.batch.workers.Workers`; all tasks are taken at once, each outcome is given once."""
        left = {task.item.index: task for task in tasks}
        if not left or stopped():
            return
        labelled = self._blocks(list(left.values())).map_batches(
            _Actor,
            fn_constructor_kwargs={"factory": self._factory, "size": self._size_of_actor()},
            compute=self._ray.data.ActorPoolStrategy(min_size=1, max_size=min(self._size.processes, len(left))),
            batch_size=None,
            **({"num_gpus": 1} if self._uses_gpu else {"num_cpus": 1}),
        )
        for row in self._rows(labelled):
            for outcome in row:
                if isinstance(outcome, EmoLlamaError):
                    raise outcome
                if left.pop(outcome.index, None) is not None:
                    yield outcome
            if stopped():
                return
        if left:
            raise EmoLlamaError(f"Ray gave no answer about {len(left)} clips; run the same command again")

    def _size_of_actor(self) -> PoolSize:
        return replace(self._size, processes=1, cores=None if self._uses_gpu else 1)

    def close(self) -> None:
        if self._is_ours:
            self._ray.shutdown()

    def _blocks(self, rows: Sequence[Item] | Sequence[Task]) -> Any:
        wanted = _BLOCKS_PER_ACTOR * self._size.processes
        length = max(1, min(_LARGEST_BLOCK, len(rows) // wanted))
        pieces = [{_CELL: pickle.dumps(rows[at : at + length])} for at in range(0, len(rows), length)]
        return self._ray.data.from_items(pieces, override_num_blocks=len(pieces))

    def _rows(self, dataset: Any) -> Iterator[list[Any]]:
        for row in dataset.iter_rows():
            yield pickle.loads(row[_CELL])


def _prepare(batch: dict[str, Any]) -> dict[str, Any]:
    return {_CELL: [pickle.dumps(list(prepared_here(pickle.loads(cell)))) for cell in batch[_CELL]]}


class _Actor:
    """One process with the model, for as long as Ray keeps the actor."""

    def __init__(self, *, factory: Factory, size: PoolSize) -> None:
        self._pool = ProcessPool(factory, size)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        cells = []
        for cell in batch[_CELL]:
            found: list[Outcome | EmoLlamaError] = []
            try:
                found.extend(self._pool.outcomes(iter(pickle.loads(cell)), stopped=lambda: False))
            except EmoLlamaError as error:  # wrong for every clip: it is raised where the run is
                found.append(EmoLlamaError(str(error), field=error.field))
            cells.append(pickle.dumps(found))
        return {_CELL: cells}
