"""From a chat request to its answers: which clips must be read, reading them, and the replies piece by piece.

What needs the network or the disk comes first, then one piece of work in the gate: read what is new, compute the
prompt, decode the replies. It emits what it has done as it goes, from its thread into the request's queue.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from server.chat.cache import ClipCache, ClipKey
from server.chat.dialogue import Dialogue
from server.chat.sources import ClipFile, Sources
from server.deadline import Deadline
from server.errors import ApiError
from server.followed import wanted_by
from server.gate import Gate, Stop
from server.media_worker import Decoding
from server.schemas.chat import ChatIn
from server.streaming.feed import Feed

if TYPE_CHECKING:
    from emollama.conversation import Asked, Reading, ReplyOptions, Said, Turn
    from emollama.media import MediaLimits
    from emollama.types import Clip


class Conversing(Protocol):
    """What the service needs of a conversation: `emollama.conversation.Conversation`, or a stand-in in a test."""

    def read(
        self,
        source: Path | Clip,
        *,
        name: str | None = None,
        transcript: str | None = None,
        limits: MediaLimits | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Reading: ...

    def ask(self, reading: Reading, question: str, *, turns: list[Turn], options: ReplyOptions) -> Asked: ...

    def replies(
        self, asked: Asked, options: ReplyOptions, *, cancelled: Callable[[], bool] | None = None
    ) -> Iterator[Said]: ...


def conversing(analyzer: Any) -> Conversing:
    """Return the conversation of an analyzer: its own, or the library's on it."""
    own = getattr(analyzer, "conversation", None)
    if own is not None:
        return cast(Conversing, own)
    from emollama.analyze import Analyzer
    from emollama.conversation import conversation_of

    if not isinstance(analyzer, Analyzer):
        raise ApiError("invalid_value", "this model cannot chat", param="model")
    return conversation_of(analyzer)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The clip that is asked about is known: what it cost, and how long the prompt is."""

    prompt_tokens: int
    cached_tokens: int
    queue_ms: float
    decode_ms: float
    encoder_ms: float
    prompt_ms: float
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Chat:
    """One request, ready for the gate. ``held`` are readings from the cache, ``fresh`` the clips to be read."""

    given: ChatIn
    dialogue: Dialogue
    owner: str
    model: str
    analyzer: Any
    cache: ClipCache
    decoder: Decoding
    limits: MediaLimits
    held: Mapping[int, Any] = field(default_factory=dict)
    fresh: Mapping[int, ClipFile] = field(default_factory=dict)

    def work(self, stop: Stop, emit: Callable[[Any], None], queued_at: float) -> None:
        """Read, compute and decode; blocks. Emits one `Prepared`, then `Said` after `Said`."""
        from emollama.conversation import Turn

        queue_ms = _ms(queued_at)
        conversation = conversing(self.analyzer)
        readings = dict(self.held)
        decode_ms = encoder_ms = 0.0
        for place, file in self.fresh.items():
            part = self.dialogue.clips[place]
            began = time.perf_counter()
            clip = self.decoder.decode(
                file.path, name=file.name, limits=self.limits, cancelled=stop, follow_faces=wanted_by(self.analyzer)
            )
            decode_ms += 0.0 if clip is file.path else _ms(began)
            reading = conversation.read(
                clip, name=file.name, transcript=part.transcript, limits=self.limits, cancelled=stop
            )
            key = ClipKey(self.owner, self.model, file.content)
            self.cache.put(key, reading, made_by=self.analyzer)
            if part.uuid is not None:
                self.cache.name(key, part.uuid)
            readings[place] = reading
            decode_ms += reading.ms.get("decode", 0.0) + reading.ms.get("faces", 0.0)
            encoder_ms += reading.ms.get("encoders", 0.0) + reading.ms.get("prefill", 0.0)
        target = self.dialogue.target
        reading, options = readings[target], options_of(self.given)
        turns = [Turn(question=each.question, answer=each.answer or "") for each in self.dialogue.earlier()]
        asked = conversation.ask(reading, self.dialogue.question, turns=turns, options=options)
        warnings = list(reading.seen.warnings)
        if asked.num_dropped:
            warnings.append(
                f"The conversation is longer than this model's memory: the first {asked.num_dropped} of its earlier "
                "questions and answers were left out."
            )
        emit(
            Prepared(
                prompt_tokens=asked.num_tokens,
                cached_tokens=0 if target in self.fresh else reading.num_tokens,
                queue_ms=queue_ms,
                decode_ms=round(decode_ms, 2),
                encoder_ms=round(encoder_ms, 2),
                prompt_ms=asked.ms,
                warnings=tuple(warnings),
            )
        )
        for said in conversation.replies(asked, options, cancelled=stop):
            emit(said)


def options_of(given: ChatIn) -> ReplyOptions:
    """Return how a request wants its replies decoded."""
    from emollama.conversation import AnswerForm, ReplyOptions

    form = AnswerForm()
    if given.response_format is not None:
        wanted = given.response_format
        schema = None if wanted.json_schema is None else wanted.json_schema.schema_
        form = AnswerForm(kind=wanted.type, schema=schema)
    return ReplyOptions(
        max_tokens=given.most_tokens,
        temperature=given.temperature or 0.0,
        top_p=1.0 if given.top_p is None else given.top_p,
        seed=given.seed,
        stop=given.stops,
        top_logprobs=(given.top_logprobs or 0) if given.logprobs else None,
        count=given.n or 1,
        form=form,
    )


async def gather(
    given: ChatIn,
    dialogue: Dialogue,
    *,
    sources: Sources,
    folder: Path,
    owner: str,
    model: str,
    analyzer: Any,
    cache: ClipCache,
    decoder: Decoding,
    limits: MediaLimits,
) -> Chat:
    """Find in the cache, or bring into ``folder``, the clip that is asked about and those that are given a uuid.

    Raises `ApiError` ``clip_not_cached`` when the clip that is asked about is known by its uuid alone, and is not.
    """
    held: dict[int, Any] = {}
    fresh: dict[int, ClipFile] = {}
    for place, part in enumerate(dialogue.clips):
        if place != dialogue.target and (part.uuid is None or part.is_reference):
            continue
        if part.is_reference:
            assert part.uuid is not None
            key = cache.find(owner, model, part.uuid)
            reading = None if key is None else cache.get(key, made_by=analyzer)
            if reading is None:
                message = f"{part.param}: no clip is held under the uuid {part.uuid!r}; send the clip again"
                raise ApiError("clip_not_cached", message, param=part.param)
            held[place] = reading
            continue
        file = await sources.bring(part, folder, place)
        key = ClipKey(owner, model, file.content)
        reading = cache.get(key, made_by=analyzer)
        if reading is None:
            fresh[place] = file
            continue
        held[place] = reading
        if part.uuid is not None:
            cache.name(key, part.uuid)
    return Chat(
        given=given, dialogue=dialogue, owner=owner, model=model, analyzer=analyzer, cache=cache, decoder=decoder,
        limits=limits,         held=held, fresh=fresh,
    )  # fmt: skip


class Running:
    """A chat in the gate, and what it has put so far."""

    def __init__(self, chat: Chat, gate: Gate, *, gone: Callable[[], Awaitable[None]], deadline: Deadline) -> None:
        queued_at = time.perf_counter()

        def work(stop: Stop, put: Callable[[Any], None]) -> None:
            chat.work(stop, put, queued_at)

        self._feed: Feed[Any] = Feed(gate, work, gone=gone, deadline=deadline)

    async def prepared(self) -> Prepared:
        """Wait until the clip is known; raises what went wrong."""
        item = await self._feed.next()
        assert isinstance(item, Prepared)
        return item

    async def said(self) -> AsyncIterator[Said]:
        """Yield the pieces of the replies; raises what goes wrong, and stops the work when it is closed."""
        try:
            while (item := await self._feed.next()) is not None:
                yield item
        finally:
            await self.close()

    async def close(self) -> None:
        """Ask the work to stop, when it still runs."""
        await self._feed.close()


def _ms(since: float) -> float:
    return round(1000 * (time.perf_counter() - since), 2)
