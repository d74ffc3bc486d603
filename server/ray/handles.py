"""The two deployments as a door calls them: a clip or a window of one to an encoder, everything else to a decoder.

What is large goes through Ray's object store: it is put there once, and lies there until the call is answered, however
often that has to be made.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emollama.watch import Check, unwatched
from server.ray.calls import Calls

if TYPE_CHECKING:
    from emollama.media import MediaLimits
    from emollama.types import Clip


@dataclass(frozen=True, kw_only=True)
class Handles:
    """The deployments' handles, and how calls are made."""

    encoders: Any
    decoder: Any
    calls: Calls

    def perceive(
        self, source: Path | bytes | Clip, *, name: str | None, limits: MediaLimits | None, watch: Check
    ) -> Iterator[Any]:
        """Yield what an encoder tells of a clip; the last item is its perception."""
        import numpy as np
        import ray

        from emollama.media import MediaLimits as Limits

        limits = limits or Limits()
        file_name = None
        given: Any = source
        if isinstance(source, (bytes, bytearray)):
            given = np.frombuffer(source, np.uint8)
        elif isinstance(source, Path):
            given, file_name = np.fromfile(source, np.uint8), source.name
        reference = ray.put(given)
        method = self.encoders.options(stream=True).perceive
        yield from self.calls.stream(
            lambda: method.remote(reference, name, file_name, limits), what="perceive", watch=watch
        )

    def decide(self, method: str, *arguments: Any, watch: Check = unwatched, **options: Any) -> Iterator[Any]:
        """Yield what a decoder tells."""
        ask = getattr(self.decoder.options(stream=True), method)
        return self.calls.stream(lambda: ask.remote(*arguments), what=method, watch=watch, **options)
