"""The models that the service answers with: loaded in the background at start, listed, and picked by name.

Each name is a model or a LoRA adapter on it. What a request gets is an analyzer (`server.deps.Analyzing`); how one is
loaded is a function that is handed in, so that nothing here knows of weights.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from emollama.errors import EmoLlamaError, UnknownNameError
from server.errors import ApiError
from server.schemas.models import ModelOut

if TYPE_CHECKING:
    from server.deps import Analyzing

logger = logging.getLogger("server.models")


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A name that requests may use: a model, or (with ``adapter``) an adapter folder on the model ``base``."""

    name: str
    base: str
    adapter: Path | None = None


Load = Callable[[ModelSpec], "Analyzing"]


class ModelHost:
    """Holds one analyzer a name; the first spec is the default model."""

    def __init__(self, specs: Sequence[ModelSpec], *, load: Load) -> None:
        self._specs = {spec.name: spec for spec in specs}
        if len(self._specs) != len(specs):
            raise ValueError(f"two models have the same name: {', '.join(spec.name for spec in specs)}")
        self._default = specs[0].name
        self._load = load
        self._loaded: dict[str, Analyzing] = {}
        self._failed: set[str] = set()
        self._created = int(time.time())

    @property
    def names(self) -> tuple[str, ...]:
        """Names that answer now."""
        return tuple(name for name in self._specs if name in self._loaded)

    async def load_all(self) -> None:
        """Load every spec, one after the other, in a thread; a failure is logged and leaves the others alone."""
        for spec in self._specs.values():
            started_at = time.perf_counter()
            try:
                self._loaded[spec.name] = await asyncio.to_thread(self._load, spec)
            except Exception as exc:  # the process's edge: it stays up and says so
                self._failed.add(spec.name)
                reason = str(exc) if isinstance(exc, EmoLlamaError) else type(exc).__name__
                fields = {"model": spec.name, "reason": reason}
                logger.error("model could not be loaded", extra={"fields": fields}, exc_info=exc)
            else:
                seconds = round(time.perf_counter() - started_at, 3)
                logger.info("model is ready", extra={"fields": {"model": spec.name, "seconds": seconds}})

    def require_ready(self) -> None:
        """Raise unless the default model answers."""
        self.get(None)

    def get(self, name: str | None) -> Analyzing:
        """Return the analyzer of a name (``None``: the default model)."""
        spec = self._spec(name or self._default)
        if spec.name in self._failed:
            raise ApiError("model_load_failed", f"model {spec.name!r} could not be loaded")
        if spec.name not in self._loaded:
            message = f"model {spec.name!r} is still being loaded"
            raise ApiError("not_ready", message, headers={"Retry-After": "2"})
        return self._loaded[spec.name]

    def describe(self, name: str) -> ModelOut:
        """Return a name's entry in `/v1/models`; the folder of an adapter is told without its path."""
        spec = self._spec(name)
        base = Path(spec.base).name
        root = spec.adapter.name if spec.adapter else base
        return ModelOut(id=spec.name, created=self._created, root=root, parent=base if spec.adapter else None)

    def describe_all(self) -> list[ModelOut]:
        """Return every name whose loading did not fail."""
        return [self.describe(name) for name in self._specs if name not in self._failed]

    def _spec(self, name: str) -> ModelSpec:
        if name not in self._specs:
            raise UnknownNameError("model", name[:100], self._specs)
        return self._specs[name]


def load_analyzer(spec: ModelSpec, *, device: str) -> Analyzing:
    """Load a model from the library; takes seconds and imports what is heavy."""
    from emollama.analyze import Analyzer

    return Analyzer.load(spec.base, adapter=spec.adapter, device=device)
