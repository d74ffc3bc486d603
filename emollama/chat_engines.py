"""What a conversation needs of an engine: keep a computed clip, put a question after it, stream replies.

Our own runtime keeps keys and values and branches off them. The paged engine keeps the prompt itself; the pages that
were computed for it are found again by content, so a further question costs its own tokens alone as well. What that
engine cannot do for one reply is refused by the name that the caller used, before anything is computed.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from emollama.errors import InputError

if TYPE_CHECKING:
    from emollama.assemble import RuntimeEngine
    from emollama.conversation import ReplyOptions
    from emollama.generate import Engine, Event
    from emollama.paged_engine import PagedEngine
    from emollama.paged_parts import PagedChatEngine
    from emollama.runtime import Sampling


class ChatEngine(Protocol):
    """``replies`` is the engine underneath; a prefix is opaque, but for ``lengths`` and ``num_bytes``."""

    @property
    def replies(self) -> Engine | PagedEngine: ...

    @property
    def takes_seeds(self) -> bool: ...

    @property
    def max_positions(self) -> int: ...

    def check(self, options: ReplyOptions) -> None:
        """Raise `InputError` for what this engine cannot do."""
        ...

    def keep(self, prefix: Any) -> Any:
        """Return the first row of a prefix, to be held for as long as the clip may be asked about."""
        ...

    def extend(self, prefix: Any, ids: Sequence[int]) -> Any: ...

    def stream(self, prefix: Any, sampling: Sampling, cancel: Callable[[], bool] | None) -> Iterator[Event]: ...


class LeanChat:
    """Over our own runtime; replies of all conversations of one model are decoded as one batch."""

    takes_seeds = True

    def __init__(self, engine: RuntimeEngine, *, max_rows: int, max_waiting: int) -> None:
        from emollama.generate import Engine

        self._runtime = engine.runtime
        self.replies = Engine(engine.runtime, max_rows=max_rows, max_waiting=max_waiting)
        self._lock = threading.Lock()

    @property
    def max_positions(self) -> int:
        return self._runtime.backbone.shape.max_positions

    def check(self, options: ReplyOptions) -> None:
        """Everything can be done."""

    def keep(self, prefix: Any) -> Any:
        from emollama.runtime import Prefix

        return Prefix(prefix.cache.fork([0], capacity=prefix.lengths[0]), prefix.hidden[:1].clone())

    def extend(self, prefix: Any, ids: Sequence[int]) -> Any:
        with self._lock:
            return self._runtime.extend(prefix, 0, ids)

    def stream(self, prefix: Any, sampling: Sampling, cancel: Callable[[], bool] | None) -> Iterator[Event]:
        from emollama.generate import Request

        return self.replies.stream(Request(sampling=sampling, prefix=prefix, cancel=cancel))


class PagedChat:
    """Over transformers' continuous batching. A token that is banned ends the reply: no answer holds one."""

    takes_seeds = False

    def __init__(self, engine: PagedChatEngine) -> None:
        self.replies = engine.replies

    @property
    def max_positions(self) -> int:
        return min(self.replies.backbone.max_positions, self.replies.backbone.capacity)

    def check(self, options: ReplyOptions) -> None:
        refused = (
            ("response_format", options.form.kind != "text", "text"),
            ("seed", options.seed is not None and options.temperature > 0, "none, for a reply that is drawn"),
            ("logprobs", options.top_logprobs is not None, "none"),
        )
        for name, is_refused, allowed in refused:
            if is_refused:
                raise InputError(f"{name} is set; this model's engine (paged) allows: {allowed}", field=name)

    def keep(self, prefix: Any) -> Any:
        return dataclasses.replace(prefix, rows=prefix.rows[:1])

    def extend(self, prefix: Any, ids: Sequence[int]) -> Any:
        row = prefix.rows[0]
        return dataclasses.replace(prefix, rows=(dataclasses.replace(row, ids=[*row.ids, *ids]),))

    def stream(self, prefix: Any, sampling: Sampling, cancel: Callable[[], bool] | None) -> Iterator[Event]:
        from emollama.generate import Request
        from emollama.runtime import Row

        ends = tuple(sorted({*sampling.stop_ids, *sampling.banned}))
        sampling = dataclasses.replace(sampling, stop_ids=ends, banned=frozenset(), seed=None)
        row = prefix.rows[0]
        return self.replies.stream(Request(row=Row(row.ids, row.features), sampling=sampling, cancel=cancel))


def chat_engine_of(engine: Any, *, max_rows: int, max_waiting: int) -> ChatEngine:
    """Return what chats over an analyzer's engine; raises `InputError` for one that cannot."""
    from emollama.assemble import RuntimeEngine

    if isinstance(engine, RuntimeEngine):
        return LeanChat(engine, max_rows=max_rows, max_waiting=max_waiting)
    from emollama.paged_parts import PagedChatEngine

    if isinstance(engine, PagedChatEngine):
        return PagedChat(engine)
    raise InputError("this model's engine cannot chat", field="model")
