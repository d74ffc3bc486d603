"""`POST /v1/chat/completions`: questions about clips, in the dialect of OpenAI and vLLM."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from fastapi import APIRouter, Request

from server.body import read_json_body
from server.chat.answers import Tally, stream, whole
from server.chat.dialogue import read_dialogue
from server.chat.service import Running, gather
from server.chat.sources import Sources
from server.deadline import Deadline
from server.deps import (
    ChatDep,
    DataDep,
    DecoderDep,
    FetcherDep,
    GateDep,
    MetricsDep,
    ModelsDep,
    PrincipalDep,
    SettingsDep,
    StoreDep,
)
from server.errors import ApiError, responses
from server.routes.analyze import until_gone
from server.schemas.chat import REQUEST_BODY, ChatClipForgottenOut, ChatIn, ChatOut
from server.streaming.sse import EVENT_SCHEMA, EventResponse
from server.trust.auditing import about
from server.trust.declared import consent_of

T = TypeVar("T")

router = APIRouter(prefix="/v1/chat", tags=["chat"])


@router.post(
    "/completions",
    summary="Ask about a clip",
    response_model=ChatOut,
    responses={
        200: {"content": {"text/event-stream": {"schema": EVENT_SCHEMA}}},
        **responses(
            "invalid_value", "unknown_field", "unsupported_parameter", "clip_not_cached", "empty_file",
            "url_not_allowed", "url_fetch_failed", "model_not_found", "file_not_found", "upload_timeout",
            "file_too_large", "body_too_large", "url_too_large", "unsupported_content_type", "unsupported_media",
            "undecodable_media", "media_limit_exceeded", "busy", "internal_error", "not_ready", "model_load_failed",
            "deadline_exceeded", "storage_full",
        ),
    },
    openapi_extra={"requestBody": REQUEST_BODY},
)  # fmt: skip
async def create_chat_completion(
    request: Request, models: ModelsDep, gate: GateDep, desk: ChatDep, settings: SettingsDep, store: StoreDep,
    data: DataDep, fetcher: FetcherDep, decoder: DecoderDep, principal: PrincipalDep, metrics: MetricsDep,
) -> Any:  # fmt: skip
    """The newest clip is asked about, unless the question names another. With `stream` the answer comes in pieces."""
    began = time.perf_counter()
    models.require_ready()
    gate.require_room()
    with desk.place():
        body = await _in_time(read_json_body(request, max_bytes=desk.max_body_bytes), settings.upload_timeout_seconds)
        given = await asyncio.to_thread(ChatIn.from_json, body)
        del body
    consent_of(request, None, is_required=settings.require_consent)
    deadline = Deadline(settings.request_timeout_seconds)
    dialogue = await asyncio.to_thread(read_dialogue, given.messages)
    async with deadline.within():
        analyzer = await models.acquire(given.model, owner=principal.sees)
    about(request, model=given.model)
    sources = Sources(max_bytes=settings.max_upload_bytes, store=store, data=data, fetcher=fetcher, sees=principal.sees)
    async with AsyncExitStack() as held:
        with desk.folder() as folder:
            async with deadline.within():
                chat = await _unless_gone(
                    request,
                    gather(
                        given, dialogue, sources=sources, folder=folder, owner=principal.owner, model=given.model,
                        analyzer=analyzer, cache=desk.cache, decoder=decoder, limits=settings.media_limits(),
                    ),
                )  # fmt: skip
            running = Running(chat, gate, gone=lambda: until_gone(request), deadline=deadline)
            held.push_async_callback(running.close)
            tally = Tally(given, await running.prepared(), metrics, began)
        desk.forget_later()
        if not given.stream:
            return await whole(running, tally, given.model)
        events = stream(running, tally, given.model)
        return EventResponse(events, held=held.pop_all(), heartbeat_seconds=settings.stream_heartbeat_seconds)


@router.delete("/clips/{uuid}", summary="Forget a clip that was asked about", responses=responses("internal_error"))
def forget_clip(uuid: str, desk: ChatDep, principal: PrincipalDep) -> ChatClipForgottenOut:
    """What was read of the clip of that `uuid` goes from the memory of this process, before its time is over."""
    return ChatClipForgottenOut(id=uuid, deleted=desk.cache.drop(principal.owner, uuid))


async def _in_time(reading: Awaitable[T], seconds: float) -> T:
    try:
        async with asyncio.timeout(seconds):
            return await reading
    except TimeoutError as exc:
        raise ApiError("upload_timeout", f"the upload was not complete after {seconds:g} s") from exc


async def _unless_gone(request: Request, work: Any) -> Any:
    """Do ``work``, and give it up when the client goes away."""
    task, watch = asyncio.ensure_future(work), asyncio.ensure_future(until_gone(request))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ApiError("client_closed_request")
        return task.result()
    finally:
        task.cancel()
        watch.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)
