"""The models that the service answers with: loaded in the background at start, listed, and picked by name.

Each name is a model or a LoRA adapter on it. What a request gets is an analyzer (`server.deps.Analyzing`); how one is
loaded is a function that is handed in, so that nothing here knows of weights. Names given at start are loaded at start
and stay. The adapters of fine-tuning jobs are in a `Catalog` that grows and shrinks while the service runs, here or in
another process: such an adapter is loaded when it is first asked for (or when its job has just ended), and a bounded
number of them is kept, the most recently asked ones. Those that the operator installs while the service runs lie on
a `Shelf`, which remembers them, and share the places in memory.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from emollama.errors import EmoLlamaError, UnknownNameError
from server.errors import ApiError
from server.schemas.models import ModelOut

if TYPE_CHECKING:
    from emollama.preset_parts import Bases
    from server.deps import Analyzing

logger = logging.getLogger("server.models")


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A name that requests may use: a model, or (with ``adapter``) an adapter folder on the model ``base``.

    ``created`` is Unix seconds, ``None`` for what the service was started with. An adapter with an ``owner`` is there
    for that one alone.
    """

    name: str
    base: str
    adapter: Path | None = None
    created: int | None = None
    owner: str | None = None

    def is_seen_by(self, owner: str | None) -> bool:
        """Whether it exists for ``owner`` (None: who may see everybody's)."""
        return owner is None or self.owner is None or self.owner == owner


Load = Callable[[ModelSpec], "Analyzing"]

# What loading an adapter that is damaged or does not fit may raise; torch has RuntimeError for tensors that do not fit.
LOAD_ERRORS = (EmoLlamaError, OSError, ValueError, LookupError, TypeError, RuntimeError)


class Catalog(Protocol):
    """The adapters of fine-tuning jobs; both methods block."""

    def find(self, name: str) -> ModelSpec | None: ...

    def all(self) -> Sequence[ModelSpec]: ...


class Shelf(Protocol):
    """The adapters that the operator installed; all methods block."""

    def add(self, spec: ModelSpec) -> bool: ...

    def remove(self, name: str) -> bool: ...

    def find(self, name: str) -> ModelSpec | None: ...

    def all(self) -> Sequence[ModelSpec]: ...


class Remembered:
    """A `Shelf` of this process, gone with it."""

    def __init__(self) -> None:
        self._specs: dict[str, ModelSpec] = {}

    def add(self, spec: ModelSpec) -> bool:
        return self._specs.setdefault(spec.name, spec) is spec

    def remove(self, name: str) -> bool:
        return self._specs.pop(name, None) is not None

    def find(self, name: str) -> ModelSpec | None:
        return self._specs.get(name)

    def all(self) -> Sequence[ModelSpec]:
        return tuple(self._specs.values())


class ModelHost:
    """Holds one analyzer a name; the first spec is the default model."""

    def __init__(
        self,
        specs: Sequence[ModelSpec],
        *,
        load: Load,
        catalog: Catalog | None = None,
        shelf: Shelf | None = None,
        max_adapters: int = 4,
    ) -> None:
        self._specs = {spec.name: spec for spec in specs}
        if len(self._specs) != len(specs):
            raise ValueError(f"two models have the same name: {', '.join(spec.name for spec in specs)}")
        self._default = specs[0].name
        self._load = load
        self._catalog = catalog
        self._max_adapters = max_adapters
        self._installed = shelf or Remembered()
        self._loaded: dict[str, Analyzing] = {}
        self._failed: set[str] = set()
        self._created = int(time.time())
        self._lock = threading.Lock()
        self._adapters: OrderedDict[str, Analyzing] = OrderedDict()
        # One load at a time: two would need twice the memory, and two for the same name would do the work twice.
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="load-adapter")

    @property
    def names(self) -> tuple[str, ...]:
        """Names that answer at once: those of the start that are loaded, then adapters that are in memory."""
        with self._lock:
            adapters = tuple(self._adapters)
        return tuple(name for name in self._specs if name in self._loaded) + adapters

    async def load_all(self) -> None:
        """Load every spec, one after the other, in a thread; a failure is logged and leaves the others alone."""
        for spec in self._specs.values():
            started_at = time.perf_counter()
            try:
                self._loaded[spec.name] = await asyncio.to_thread(self._load, spec)
            except Exception as exc:  # the process's edge: it stays up and says so
                self._failed.add(spec.name)
                fields = _failure(spec.name, exc)
                logger.error("model could not be loaded", extra={"fields": fields}, exc_info=exc)
            else:
                seconds = round(time.perf_counter() - started_at, 3)
                logger.info("model is ready", extra={"fields": {"model": spec.name, "seconds": seconds}})

    @property
    def default(self) -> str:
        """The model that answers when a request names none."""
        return self._default

    def require_ready(self) -> None:
        """Raise unless the default model answers."""
        self.get(None)

    def get(self, name: str | None) -> Analyzing:
        """Return the analyzer of a name that the service was started with (``None``: the default model)."""
        name = name or self._default
        if name not in self._specs:
            raise UnknownNameError("model", name[:100], self._specs)
        if name in self._failed:
            raise ApiError("model_load_failed", f"model {name!r} could not be loaded")
        if name not in self._loaded:
            message = f"model {name!r} is still being loaded"
            raise ApiError("not_ready", message, headers={"Retry-After": "2"})
        return self._loaded[name]

    async def acquire(self, name: str | None, *, owner: str | None = None) -> Analyzing:
        """Return the analyzer of any name, loading an adapter that is not in memory; other requests go on meanwhile.

        ``owner`` says for whom: another owner's adapter is unknown (None: everybody's are known).

        It stays usable for who holds it, also when the adapter is dropped from memory or deleted.
        """
        if name is None or name in self._specs:
            return self.get(name)
        # The catalog is asked each time: the adapter may have been deleted, here or by another process.
        spec = await asyncio.to_thread(self._find, name, owner)
        with self._lock:
            if name in self._adapters:
                self._adapters.move_to_end(name)
                return self._adapters[name]
        try:
            return await asyncio.wrap_future(self._loader.submit(self._load_adapter, spec))
        except LOAD_ERRORS as exc:
            logger.error("model could not be loaded", extra={"fields": _failure(name, exc)}, exc_info=exc)
            raise ApiError("model_load_failed", f"model {name[:100]!r} could not be loaded") from exc

    def publish(self, spec: ModelSpec) -> None:
        """Load a new adapter strictly and keep it for requests; raises what is wrong with it. Blocks."""
        self._loader.submit(self._load_adapter, spec).result()

    def forget(self, name: str) -> None:
        """Drop an adapter that was deleted."""
        with self._lock:
            self._adapters.pop(name, None)

    def base_of(self, name: str | None) -> str:
        """Return what the model of a name is loaded from (``None``: the default one); an adapter is no base."""
        bases = {spec.name: spec.base for spec in self._specs.values() if spec.adapter is None}
        name = name or self._default
        if name not in bases:
            raise UnknownNameError("model", name[:100], bases)
        return bases[name]

    def install(self, spec: ModelSpec) -> None:
        """Load an adapter strictly and let it answer; raises what is wrong with it, and for a name in use. Blocks."""
        taken = ApiError("adapter_exists", f"there is a model {spec.name!r} already", param="lora_name")
        known = spec.name in self._specs or self._installed.find(spec.name) is not None
        if known or (self._catalog is not None and self._catalog.find(spec.name) is not None):
            raise taken
        self.publish(spec)
        if not self._installed.add(spec):  # somebody was faster
            self.forget(spec.name)
            raise taken

    def uninstall(self, name: str) -> None:
        """Drop an adapter that was installed; raises `UnknownNameError` for any other name. Blocks."""
        if not self._installed.remove(name):
            raise UnknownNameError("model", name[:100], [spec.name for spec in self._installed.all()])
        self.forget(name)

    def is_part_of_service(self, name: str) -> bool:
        """Whether a name was given at start or by the operator, and so cannot be deleted. Blocks."""
        return name in self._specs or self._installed.find(name) is not None

    def describe(self, name: str, *, owner: str | None = None) -> ModelOut:
        """Return a name's entry in `/v1/models`; the folder of an adapter is told without its path. Blocks."""
        return self._entry(self._find(name, owner))

    def describe_all(self, *, owner: str | None = None) -> list[ModelOut]:
        """Return every name (with ``owner``: that one sees) whose loading did not fail, jobs' adapters last. Blocks."""
        fixed = [self._entry(spec) for name, spec in self._specs.items() if name not in self._failed]
        fixed += [self._entry(spec) for spec in self._installed.all()]
        return fixed + [self._entry(spec) for spec in self._shelf(owner)]

    def close(self) -> None:
        self._loader.shutdown(wait=True, cancel_futures=True)

    def _find(self, name: str, owner: str | None) -> ModelSpec:
        spec = (
            self._specs.get(name) or self._installed.find(name) or (self._catalog.find(name) if self._catalog else None)
        )
        if spec is None:
            self.forget(name)
        if spec is None or not spec.is_seen_by(owner):
            mine = (*self._installed.all(), *self._shelf(owner))
            known = (*self._specs, *(each.name for each in mine))
            raise UnknownNameError("model", name[:100], known)
        return spec

    def _shelf(self, owner: str | None) -> list[ModelSpec]:
        return [spec for spec in (self._catalog.all() if self._catalog else ()) if spec.is_seen_by(owner)]

    def _entry(self, spec: ModelSpec) -> ModelOut:
        base = Path(spec.base).name
        if spec.adapter is None:
            root = base
        else:
            # The adapter of a job lies in a folder that says nothing; its name says all.
            root = spec.adapter.name if spec.created is None else spec.name
        created = self._created if spec.created is None else spec.created
        return ModelOut(id=spec.name, created=created, root=root, parent=base if spec.adapter else None)

    def _load_adapter(self, spec: ModelSpec) -> Analyzing:
        with self._lock:
            if spec.name in self._adapters:
                return self._adapters[spec.name]
        started_at = time.perf_counter()
        analyzer = self._load(spec)
        with self._lock:
            self._adapters[spec.name] = analyzer
            while len(self._adapters) > self._max_adapters:
                self._adapters.popitem(last=False)
        seconds = round(time.perf_counter() - started_at, 3)
        logger.info("adapter is ready", extra={"fields": {"model": spec.name, "seconds": seconds}})
        return analyzer


def _failure(name: str, exc: Exception) -> dict[str, str]:
    return {"model": name, "reason": str(exc) if isinstance(exc, EmoLlamaError) else type(exc).__name__}


class AnalyzerLoader:
    """Loads models from the library; takes seconds and imports what is heavy. Adapters of a large preset share it."""

    def __init__(self, *, device: str, engine: str = "auto") -> None:
        self._device, self._engine = device, engine
        self._bases: Bases | None = None

    def __call__(self, spec: ModelSpec) -> Analyzing:
        if self._bases is None:
            from emollama.preset_parts import Bases

            self._bases = Bases()
        return load_analyzer(spec, device=self._device, engine=self._engine, bases=self._bases)


def load_analyzer(spec: ModelSpec, *, device: str, engine: str = "auto", bases: Bases | None = None) -> Analyzing:
    """Load one model from the library."""
    from emollama.analyze import Analyzer

    analyzer = Analyzer.load(spec.base, adapter=spec.adapter, device=device, engine=engine, bases=bases)
    if spec.adapter is None:
        return analyzer
    # An answer names the adapter as the request did; the library knows only its folder.
    return Analyzer(dataclasses.replace(analyzer.parts, adapter=spec.name))
