"""`RemoteAnalyzer`: what the routes take for an analyzer, and what it does is done in the cluster.

A clip goes to an encoder as the bytes that came in (`server.ray.handles`), its perception comes back and goes on to a
decoder. Nothing but the door holds more than one step of a request, so any replica may die at any time.
"""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from emollama.errors import InputError
from emollama.labels import parse_label_set
from emollama.watch import Watch
from server.ray.handles import Handles
from server.ray.windows import RemoteWindows
from server.ray.wire import AskedFacts, Inquiry, Model, ModelFacts, ReadingFacts, Wish

if TYPE_CHECKING:
    from emollama.conversation import ReplyOptions, Said, Turn
    from emollama.media import MediaLimits
    from emollama.stages import Done, StageEvent
    from emollama.types import Analysis, Clip, Transcript
    from server.ray.senses import Perception


Cancelled = Callable[[], bool]


class RemoteAnalyzer:
    """Has the interface of `emollama.analyze.Analyzer` that the service uses; may be called by several threads."""

    def __init__(self, handles: Handles, model: Model) -> None:
        self._handles, self._model = handles, model
        self._facts = ModelFacts()
        self.conversation = RemoteConversation(handles, model)

    @property
    def window_reader(self) -> RemoteWindows | None:
        """Who reads long clips for this model; ``None`` where it looks at whole clips only."""
        return RemoteWindows(self._handles, self._model) if self._facts.reads_windows else None

    def admit(self, *, seconds: float | None = None) -> None:
        """Load the model in one of the decoders; raises what is wrong with it."""
        (facts,) = self._handles.decide("admit", self._model, seconds=seconds)
        self._facts = facts

    def analyze(self, source: Path | str | bytes | Clip | None, **options: Any) -> Analysis:
        """Analyse one clip, as `Analyzer.analyze` does."""
        *_, done = self.stages(source, **options)
        return cast("Done", done).analysis

    def stages(
        self,
        source: Path | str | bytes | Clip | None,
        *,
        name: str | None = None,
        transcript: str | Transcript | None = None,
        labels: str | Sequence[str] | None = None,
        language: str | None = None,
        timeline: bool = True,
        limits: MediaLimits | None = None,
        cancelled: Cancelled | None = None,
        deadline: float | None = None,
    ) -> Generator[StageEvent, None, None]:
        """Yield what is known of a clip as it is known; arguments, events and errors are those of `Analyzer.stages`."""
        from emollama.stages import Decoded, Done, FacesFound

        began = time.perf_counter()
        watch = Watch(cancelled, deadline=deadline)
        if source is None and transcript is None:
            raise InputError("there is no clip and no transcript; give one of them", field="source")
        if labels is not None:
            parse_label_set(labels)  # raises here, before anything was sent anywhere
        perception: Perception | None = None
        told: set[type] = set()  # what an encoder has told already; a decoder goes through all stages
        if source is not None:
            given = Path(source) if isinstance(source, str) else source
            for item in self._handles.perceive(given, name=name, limits=limits, watch=watch):
                if isinstance(item, (Decoded, FacesFound)):
                    told.add(type(item))
                    yield item
                else:
                    perception = item
        wish = Wish(name=name, transcript=transcript, labels=labels, language=language, timeline=timeline)
        for event in self._handles.decide("analyze", self._model, perception, wish, watch=watch):
            if isinstance(event, Done):
                analysis = event.analysis
                if elsewhere := getattr(perception, "timings_ms", None):
                    total = round(1000 * (time.perf_counter() - began), 2)
                    timings = {**analysis.timings_ms, **elsewhere, "total": total}
                    analysis = dataclasses.replace(analysis, timings_ms=timings)
                yield Done(analysis=analysis)
            elif type(event) not in told:
                yield event


@dataclass(frozen=True, kw_only=True)
class _Seen:
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class RemoteReading:
    """A clip that was read once: what the encoders made of it. The decoders compute its prompt when they need it."""

    perception: Any
    wish: Wish
    facts: ReadingFacts
    num_bytes: int

    @property
    def seen(self) -> _Seen:
        return _Seen(warnings=self.facts.warnings)

    @property
    def num_tokens(self) -> int:
        return self.facts.num_tokens

    @property
    def ms(self) -> dict[str, float]:
        return {**self.facts.ms, **getattr(self.perception, "timings_ms", {})}


@dataclass(frozen=True, kw_only=True)
class RemoteAsked:
    """A question whose answer is on its way."""

    facts: AskedFacts
    rest: Iterator[Any]
    watch: _LateWatch

    @property
    def num_tokens(self) -> int:
        return self.facts.num_tokens

    @property
    def num_dropped(self) -> int:
        return self.facts.num_dropped

    @property
    def ms(self) -> float:
        return self.facts.ms


class RemoteConversation:
    """Has the interface of `emollama.conversation.Conversation` that the service uses."""

    def __init__(self, handles: Handles, model: Model) -> None:
        self._handles, self._model = handles, model

    def read(
        self,
        source: Path | Clip,
        *,
        name: str | None = None,
        transcript: str | None = None,
        limits: MediaLimits | None = None,
        cancelled: Cancelled | None = None,
    ) -> RemoteReading:
        """Have a clip read by an encoder, and its prompt computed by a decoder."""
        watch = Watch(cancelled)
        *_, perception = self._handles.perceive(source, name=name, limits=limits, watch=watch)
        wish = Wish(name=name, transcript=transcript)
        (facts,) = self._handles.decide("read", self._model, perception, wish, watch=watch)
        return RemoteReading(perception=perception, wish=wish, facts=facts, num_bytes=_size_of(perception))

    def ask(
        self, reading: RemoteReading, question: str, *, turns: Sequence[Turn] = (), options: ReplyOptions
    ) -> RemoteAsked:
        """Send a question to a decoder and wait until its prompt is computed there; the replies follow."""
        is_drawn = options.seed is None and options.temperature > 0
        if is_drawn:
            # Drawn here, so that a second replica would go on with what the first one began.
            options = dataclasses.replace(options, seed=random.getrandbits(31))
        inquiry = Inquiry(question=question, turns=tuple(turns), options=options, is_seed_drawn=is_drawn)
        watch = _LateWatch()
        items = self._handles.decide(
            "converse", self._model, reading.perception, reading.wish, reading.facts.state, inquiry, watch=watch
        )
        return RemoteAsked(facts=next(items), rest=items, watch=watch)

    def replies(
        self, asked: RemoteAsked, options: ReplyOptions, *, cancelled: Cancelled | None = None
    ) -> Iterator[Said]:
        """Yield the pieces of the replies; raises `CancelledError` when ``cancelled`` says that nobody waits."""
        asked.watch.cancelled = cancelled
        return asked.rest


class _LateWatch:
    """The check of work that begins before it is known who may stop it."""

    def __init__(self) -> None:
        self.cancelled: Cancelled | None = None

    def __call__(self) -> None:
        Watch(self.cancelled)()


def _size_of(perception: Any) -> int:
    """About how many bytes a perception takes."""
    import pickle

    return len(pickle.dumps(perception, protocol=5)) + 1024
