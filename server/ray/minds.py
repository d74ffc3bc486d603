"""The decoders' half of an analyzer: models and adapters in memory, which judge and speak of what encoders read.

An adapter comes with the first request that names it and stays while it is among those asked most recently. A clip that
is chatted about is prefilled once a replica: the prompts of recent clips are kept, and a replica that does not have one
computes it from the perception that comes with every question.
"""

from __future__ import annotations

import dataclasses
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emollama.errors import CheckpointError
from server.ray.senses import Perception, with_recorded_senses
from server.ray.wire import AskedFacts, Inquiry, Model, ModelFacts, ReadingFacts, Wish

if TYPE_CHECKING:
    from emollama.analyze import Analyzer
    from emollama.conversation import Reading
    from emollama.long_clip import KeptWindow, LongAnalysis
    from emollama.long_clip.kept import LongQuestion
    from emollama.media_windows import ClipWindow
    from emollama.parts import Parts
    from emollama.preset_parts import Bases
    from emollama.types import Transcript
    from server.ray.plan import Plan

# What loading an adapter that is damaged or does not fit may raise, beside the library's own errors.
_DAMAGE = (LookupError, TypeError, RuntimeError)
_READINGS, _READING_SECONDS = 64, 600.0  # prompts of clips that are kept a model, and how long after their last use


class Minds:
    """The analyzers of one replica; any number of threads may ask."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._lock = threading.Lock()
        self._loading = threading.Lock()  # one at a time: two would need twice the memory
        self._bases: Bases | None = None
        self._base = self._load(None, None)
        self._adapters: OrderedDict[tuple[str, str | None], Analyzer] = OrderedDict()

    def admit(self, model: Model) -> ModelFacts:
        """Load a model strictly, if it is not here; raises what is wrong with it."""
        from emollama.preset_parts import is_preset

        self._analyzer(model)
        return ModelFacts(reads_windows=not is_preset(self._plan.model))

    def analyze(
        self, model: Model, perception: Perception | None, wish: Wish, cancelled: Callable[[], bool]
    ) -> Iterator[Any]:
        """Yield what `Analyzer.stages` does for a clip that encoders read; ``None`` is no clip, but words alone."""
        yield from self._analyzer(model).stages(
            None if perception is None else perception.recorded_clip(),
            name=wish.name,
            transcript=wish.transcript,
            labels=wish.labels,
            language=wish.language,
            timeline=wish.timeline,
            cancelled=cancelled,
        )

    def read(
        self, model: Model, perception: Perception, wish: Wish, cancelled: Callable[[], bool]
    ) -> Iterator[ReadingFacts]:
        """Yield what a door must know of a clip that will be chatted about."""
        reading = self._reading(model, perception, wish, cancelled)
        yield ReadingFacts(num_tokens=reading.num_tokens, warnings=reading.seen.warnings, ms=reading.ms)

    def converse(
        self,
        model: Model,
        perception: Perception,
        wish: Wish,
        state: Any,
        inquiry: Inquiry,
        cancelled: Callable[[], bool],
    ) -> Iterator[Any]:
        """Yield `AskedFacts`, then the pieces of the replies."""
        from emollama.conversation import conversation_of

        conversation = conversation_of(self._analyzer(model))
        reading = self._reading(model, perception, wish, cancelled)
        options = inquiry.options
        if inquiry.is_seed_drawn and not conversation.takes_seeds:
            options = dataclasses.replace(options, seed=None)
        asked = conversation.ask(reading, inquiry.question, turns=inquiry.turns, options=options)
        yield AskedFacts(num_tokens=asked.num_tokens, num_dropped=asked.num_dropped, ms=asked.ms)
        yield from conversation.replies(asked, options, cancelled=cancelled)

    def read_window(
        self,
        model: Model,
        window: ClipWindow,
        perception: Perception,
        question: LongQuestion,
        said: Transcript | None,
        cancelled: Callable[[], bool],
    ) -> Iterator[KeptWindow]:
        """Yield what is kept of a window of a long clip; ``window`` comes without its pictures and sound."""
        from emollama.long_clip.reading import read_window

        seen = dataclasses.replace(window, clip=perception.recorded_clip())
        yield read_window(self._analyzer(model), seen, question, said=said, cancelled=cancelled)

    def judge_windows(
        self, model: Model, windows: Sequence[KeptWindow], question: LongQuestion, cancelled: Callable[[], bool]
    ) -> Iterator[LongAnalysis]:
        """Yield the answer about a long clip whose windows were read."""
        from emollama.long_clip.whole import answer_whole

        yield answer_whole(self._analyzer(model), windows, question, cancelled=cancelled)

    def check(self) -> None:
        """Compute something small; raises when the model cannot answer any more."""
        self._base.judge({"words": "a word"}, self._base.labels)

    def _reading(self, model: Model, perception: Perception, wish: Wish, cancelled: Callable[[], bool]) -> Reading:
        from emollama.conversation import conversation_of

        analyzer = self._analyzer(model)
        kept = analyzer.attachments.setdefault(_Readings, _Readings())
        key = (perception.digest, wish)
        reading = kept.get(key)
        if reading is None:
            reading = conversation_of(analyzer).read(
                perception.recorded_clip(), name=wish.name, transcript=wish.transcript, cancelled=cancelled
            )
            kept.put(key, reading)
        return reading

    def _analyzer(self, model: Model) -> Analyzer:
        if model.base != self._plan.model:
            raise CheckpointError(
                f"the decoders were started with the model {self._plan.model!r}, not {model.base!r}; give every door "
                "the same settings",
                field="model",
            )
        if model.adapter is None:
            return self._base
        key = (model.adapter, model.name)
        with self._loading:
            with self._lock:
                if key in self._adapters:
                    self._adapters.move_to_end(key)
                    return self._adapters[key]
            try:
                analyzer = self._load(*_unreferenced(model))
            except _DAMAGE as exc:
                message = f"the adapter {model.name!r} cannot be loaded ({type(exc).__name__})"
                raise CheckpointError(message, field="adapter") from exc
            with self._lock:
                self._adapters[key] = analyzer
                while len(self._adapters) > self._plan.adapters_in_memory:
                    self._adapters.popitem(last=False)
            return analyzer

    def _load(self, name: str | None, packed: Any) -> Analyzer:
        from emollama.analyze import Analyzer

        if packed is None:
            return Analyzer(with_recorded_senses(self._parts(None)))
        with tempfile.TemporaryDirectory(prefix="emollama-adapter-") as folder:
            packed.unpack(Path(folder))
            parts = self._parts(Path(folder))
        # The folder's own name says nothing; an answer names the adapter as the request did.
        return Analyzer(with_recorded_senses(dataclasses.replace(parts, adapter=name)))

    def _parts(self, adapter: Path | None) -> Parts:
        """Load the model, or an adapter on it; of a large preset no encoder, and what adapters share only once."""
        from emollama.analyze import Analyzer
        from emollama.preset_parts import Bases, is_preset, load_preset_parts

        plan = self._plan
        if not is_preset(plan.model):
            return Analyzer.load(plan.model, adapter=adapter, device=plan.device, engine=plan.engine).parts
        self._bases = self._bases or Bases()
        return load_preset_parts(
            plan.model, adapter=adapter, device=plan.device, engine=plan.engine, bases=self._bases, with_encoders=False
        )


class _Readings:
    """Prompts of clips, the most recently asked ones."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[Any, tuple[float, Reading]] = OrderedDict()

    def get(self, key: Any) -> Reading | None:
        with self._lock:
            self._forget()
            if key not in self._kept:
                return None
            _, reading = self._kept.pop(key)
            self._kept[key] = (time.monotonic(), reading)
            return reading

    def put(self, key: Any, reading: Reading) -> None:
        with self._lock:
            self._kept[key] = (time.monotonic(), reading)
            self._forget()

    def _forget(self) -> None:
        """Drop what was not used for long, and what is too much; the least recently used come first."""
        oldest = time.monotonic() - _READING_SECONDS
        while self._kept and (len(self._kept) > _READINGS or next(iter(self._kept.values()))[0] < oldest):
            self._kept.popitem(last=False)


def _unreferenced(model: Model) -> tuple[str | None, Any]:
    """Return an adapter's name and its files, which are fetched from the object store of the door's machine."""
    import ray

    (reference,) = model.packed
    return model.name, ray.get(reference)
