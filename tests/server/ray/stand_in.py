"""Stand-ins of an analyzer across a cluster: the replicas call back into the process of the tests.

Everything that the service asks of an analyzer goes the whole way, from the door through the deployments of encoders
and decoder, and ends in a stand-in that the test made and looks at: `Stage` gives such a stand-in a `RemoteAnalyzer`.
"""

from __future__ import annotations

import contextlib
import itertools
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

from server.ray.failures import TOLD, Failure
from server.ray.wire import AskedFacts, Inquiry, Model, ModelFacts, ReadingFacts, Wish

_KEY = b"between the tests and their replicas"
_END = "end"


@dataclass(frozen=True)
class Upload:
    """What the stand-in encoders make of a clip: its bytes, unread, or the clip as it was given."""

    name: str
    content: Any
    limits: Any


class StandInSenses:
    def __init__(self, plan: Any) -> None: ...

    def perceive(self, source: Any, *, limits: Any, **_: Any) -> Iterator[Upload]:
        yield Upload(source.name, source.read_bytes() if isinstance(source, Path) else source, limits)


class StandInMinds:
    """Asks the test's process; ``model.base`` says where it listens and which stand-in is meant."""

    def __init__(self, plan: Any) -> None: ...

    def check(self) -> None: ...

    def admit(self, model: Model) -> ModelFacts:
        return ModelFacts()

    def analyze(self, model: Model, upload: Any, wish: Wish, cancelled: Callable[[], bool]) -> Iterator[Any]:
        return self._ask(model, cancelled, "analyze", upload, wish)

    def read(self, model: Model, upload: Any, wish: Wish, cancelled: Callable[[], bool]) -> Iterator[Any]:
        return self._ask(model, cancelled, "read", upload, wish)

    def converse(
        self, model: Model, upload: Any, wish: Wish, state: Any, inquiry: Inquiry, cancelled: Callable[[], bool]
    ) -> Iterator[Any]:
        return self._ask(model, cancelled, "converse", state, inquiry)

    def _ask(self, model: Model, cancelled: Callable[[], bool], *request: Any) -> Iterator[Any]:
        port, _, key = model.base.partition("/")
        with Client(("127.0.0.1", int(port)), authkey=_KEY) as line:
            line.send((int(key), *request))
            is_told = False
            while True:
                if not line.poll(0.01):
                    if cancelled() and not is_told:
                        line.send("stop")
                        is_told = True
                    continue
                item = line.recv()
                if item == _END:
                    return
                if isinstance(item, Failure):
                    raise item.error()
                if isinstance(item, BaseException):
                    raise item
                yield item


class Stage:
    """Where the stand-ins stand: a port, and each stand-in under a number."""

    def __init__(self, handles: Any) -> None:
        self._handles = handles
        self._numbers = itertools.count()
        self._stand_ins: dict[int, Any] = {}
        self._readings: dict[int, Any] = {}
        self._listener = Listener(("127.0.0.1", 0), backlog=64, authkey=_KEY)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def remote(self, stand_in: Any) -> Any:
        """Return an analyzer that asks the cluster, which asks ``stand_in``."""
        from server.ray.analyzer import RemoteAnalyzer

        number = next(self._numbers)
        self._stand_ins[number] = stand_in
        return RemoteAnalyzer(self._handles, Model(base=f"{self._listener.address[1]}/{number}"))

    def close(self) -> None:
        self._listener.close()

    def _listen(self) -> None:
        while True:
            try:
                line = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(line,), daemon=True).start()

    def _serve(self, line: Connection) -> None:
        stopped = threading.Event()

        def cancelled() -> bool:
            if not stopped.is_set() and line.poll():
                stopped.set()
            return stopped.is_set()

        with line, tempfile.TemporaryDirectory() as folder, contextlib.suppress(OSError, EOFError):
            number, verb, *arguments = line.recv()
            try:
                for item in getattr(self, f"_{verb}")(self._stand_ins[number], Path(folder), cancelled, *arguments):
                    line.send(item)
            except TOLD as exc:
                line.send(Failure.of(exc))
            except Exception as exc:  # noqa: BLE001  (the stand-in's faults are its replica's)
                line.send(exc)
            line.send(_END)

    def _analyze(self, analyzer: Any, folder: Path, cancelled: Any, upload: Upload | None, wish: Wish) -> Iterator[Any]:
        from emollama.stages import Done

        options = {**vars(wish), "limits": None if upload is None else upload.limits, "cancelled": cancelled}
        source = _again(upload, folder)
        if hasattr(analyzer, "stages"):
            yield from analyzer.stages(source, **options)
        else:
            yield Done(analysis=analyzer.analyze(source, **options))

    def _read(self, analyzer: Any, folder: Path, cancelled: Any, upload: Upload, wish: Wish) -> Iterator[Any]:
        from server.chat.service import conversing

        reading = conversing(analyzer).read(
            _again(upload, folder), name=wish.name, transcript=wish.transcript, cancelled=cancelled
        )
        state = next(self._numbers)
        self._readings[state] = reading
        yield ReadingFacts(
            num_tokens=reading.num_tokens, warnings=reading.seen.warnings, ms=dict(reading.ms), state=state
        )

    def _converse(self, analyzer: Any, folder: Path, cancelled: Any, state: int, inquiry: Inquiry) -> Iterator[Any]:
        from server.chat.service import conversing

        conversation = conversing(analyzer)
        asked = conversation.ask(
            self._readings[state], inquiry.question, turns=list(inquiry.turns), options=inquiry.options
        )
        yield AskedFacts(num_tokens=asked.num_tokens, num_dropped=asked.num_dropped, ms=asked.ms)
        yield from conversation.replies(asked, inquiry.options, cancelled=cancelled)


def _again(upload: Upload | None, folder: Path) -> Any:
    """Return the clip as the stand-in would have got it without a cluster."""
    if upload is None or not isinstance(upload.content, bytes):
        return None if upload is None else upload.content
    path = folder / upload.name
    path.write_bytes(upload.content)
    return path
