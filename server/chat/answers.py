"""Pieces of replies as a chat completion, or as the chunks of a stream.

The stream (https://html.spec.whatwg.org/multipage/server-sent-events.html) is OpenAI's: a chunk with the role, pieces
of content, a chunk with the reason of the end for each choice, the usage if it was asked for, ``[DONE]``. An error
after the beginning is an event with the error's envelope, and the stream ends without ``[DONE]``.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from emollama.errors import EmoLlamaError
from server.chat.service import Prepared, Running
from server.errors import ApiError, from_library
from server.metrics import Metrics
from server.records.ids import new_id
from server.schemas.chat import (
    ChatIn,
    ChatOut,
    ChoiceOut,
    LogprobOut,
    LogprobsOut,
    MessageOut,
    MetricsOut,
    PromptDetailsOut,
    TopLogprobOut,
    UsageOut,
)
from server.streaming import sse

if TYPE_CHECKING:
    from emollama.conversation import Said, TokenChance


@dataclass
class Tally:
    """What a request has got so far."""

    given: ChatIn
    prepared: Prepared
    meter: Metrics
    requested_at: float  # of `time.perf_counter`
    id: str = field(default_factory=lambda: new_id("chatcmpl-"))
    created: int = field(default_factory=lambda: int(time.time()))
    num_tokens: int = 0
    warnings: list[str] = field(default_factory=list)
    started_at: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        self.warnings.extend(self.prepared.warnings)
        self.meter.observe_tokens(prompt=self.prepared.prompt_tokens, completion=0)

    def count(self, said: Said) -> None:
        if said.num_tokens and not self.num_tokens:
            self.meter.observe_first_token(time.perf_counter() - self.requested_at)
        self.meter.observe_tokens(prompt=0, completion=said.num_tokens)
        self.num_tokens += said.num_tokens
        self.warnings.extend(said.warnings)

    def usage(self) -> UsageOut:
        prompt = self.prepared.prompt_tokens
        details = PromptDetailsOut(cached_tokens=self.prepared.cached_tokens)
        return UsageOut(
            prompt_tokens=prompt, completion_tokens=self.num_tokens, total_tokens=prompt + self.num_tokens,
            prompt_tokens_details=details,
        )  # fmt: skip

    def metrics(self) -> MetricsOut:
        return MetricsOut(
            queue_ms=self.prepared.queue_ms, decode_ms=self.prepared.decode_ms, encoder_ms=self.prepared.encoder_ms,
            prompt_ms=self.prepared.prompt_ms,
            generation_ms=round(1000 * (time.perf_counter() - self.started_at), 2),
        )  # fmt: skip


async def whole(running: Running, tally: Tally, model: str) -> ChatOut:
    """Wait for all replies and return the completion."""
    count = tally.given.n or 1
    texts, chances, ends = ([""] * count), [[] for _ in range(count)], ["stop"] * count  # type: ignore[var-annotated]
    async for said in running.said():
        tally.count(said)
        texts[said.index] += said.text
        chances[said.index].extend(_logprob(chance) for chance in said.chances)
        if said.finish is not None:
            ends[said.index] = said.finish
    choices = [
        ChoiceOut.model_validate(
            {
                "index": index,
                "message": MessageOut(content=texts[index]),
                "logprobs": LogprobsOut(content=chances[index]) if tally.given.logprobs else None,
                "finish_reason": ends[index],
            }
        )
        for index in range(count)
    ]
    return ChatOut(
        id=tally.id, created=tally.created, model=model, choices=choices, usage=tally.usage(), metrics=tally.metrics(),
        warnings=tally.warnings,
    )  # fmt: skip


async def stream(running: Running, tally: Tally, model: str) -> AsyncIterator[bytes]:
    """Yield the events of a stream. Closing it stops the work."""
    given = tally.given
    wants_usage = given.stream_options is not None and given.stream_options.include_usage
    frame = {"id": tally.id, "object": "chat.completion.chunk", "created": tally.created, "model": model}

    def chunk(choices: list[dict[str, Any]], **more: Any) -> bytes:
        usage = {"usage": None} if wants_usage else {}
        return sse.event({**frame, "choices": choices, "system_fingerprint": None, **usage, **more})

    pieces = running.said()
    try:
        for index in range(given.n or 1):
            yield chunk([_choice(index, {"role": "assistant", "content": ""})])
        left = given.n or 1
        async for said in pieces:
            tally.count(said)
            if said.text or said.chances:
                yield chunk([_choice(said.index, {"content": said.text}, said.chances if given.logprobs else None)])
            if said.finish is not None:
                left -= 1
                more = {} if left else {"metrics": tally.metrics().model_dump(), "warnings": tally.warnings}
                yield chunk([_choice(said.index, {}, finish=said.finish)], **more)
        if wants_usage:
            yield chunk([], usage=tally.usage().model_dump())
        yield sse.DONE
    except (ApiError, EmoLlamaError) as exc:
        error = exc if isinstance(exc, ApiError) else from_library(exc)
        yield sse.event(bytes(error.response().body))
    finally:
        await pieces.aclose()  # type: ignore[attr-defined]  # an async generator


def _choice(
    index: int, delta: dict[str, Any], chances: tuple[TokenChance, ...] | None = None, *, finish: str | None = None
) -> dict[str, Any]:
    logprobs = None
    if chances is not None:
        logprobs = LogprobsOut(content=[_logprob(chance) for chance in chances]).model_dump()
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}


def _logprob(chance: TokenChance) -> LogprobOut:
    return LogprobOut(
        token=chance.text, logprob=chance.logprob, bytes=list(chance.text.encode()),
        top_logprobs=[TopLogprobOut(token=text, logprob=p, bytes=list(text.encode())) for text, p in chance.top],
    )  # fmt: skip
