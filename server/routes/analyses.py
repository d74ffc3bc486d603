"""`/v1/analyses`: a clip now, its analysis later; in the shapes of OpenAI's resources."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, StreamingResponse

from server.analyses.event_stream import stream_analysis
from server.auth import Principal
from server.deps import AnalysesDep, IdempotencyDep, IntakeDep, ModelsDep, PrincipalDep, SettingsDep, StoreDep
from server.errors import ApiError, responses
from server.idempotency import PARAMETER, REPLAYED
from server.records import analyses
from server.records.analyses import AnalysisRecord
from server.records.ids import new_id
from server.schemas.analyses import (
    DONE_EXAMPLE,
    QUEUED_EXAMPLE,
    REQUEST_BODY,
    AnalysisDeletedOut,
    AnalysisIn,
    AnalysisList,
    AnalysisSummaryOut,
    AnalysisTaskOut,
    document_of,
)
from server.store import Store
from server.streaming.sse import EVENT_SCHEMA
from server.trust.auditing import about, handed_out
from server.trust.declared import consent_of

router = APIRouter(prefix="/v1/analyses", tags=["analysis"])

# A request is received, and perhaps fetches its clip; beyond that it takes moments.
_SLACK_SECONDS = 30.0
# How long cancelling waits for a worker to stop before it answers with the state as it is.
_PATIENCE_SECONDS = 2.0


@router.post(
    "",
    status_code=202,
    summary="Analyse a clip, and read the result later",
    response_model=AnalysisTaskOut,
    responses={
        202: {"content": {"application/json": {"example": QUEUED_EXAMPLE}}},
        **responses(
            "missing_file", "empty_file", "malformed_multipart", "too_many_parts", "unknown_field", "duplicate_field",
            "invalid_value", "consent_required", "purpose_required", "prohibited_purpose", "purpose_not_declared",
            "url_not_allowed", "url_fetch_failed", "webhook_not_allowed", "model_not_found",
            "file_not_found", "upload_timeout", "idempotency_in_flight", "file_too_large", "field_too_large",
            "body_too_large", "url_too_large", "unsupported_content_type", "unsupported_media",
            "idempotency_key_reused", "analysis_queue_full", "busy", "internal_error", "storage_full",
        ),
    },
    openapi_extra={"requestBody": REQUEST_BODY, "parameters": [PARAMETER]},
)  # fmt: skip
async def create_analysis(
    request: Request,
    service: AnalysesDep,
    intake: IntakeDep,
    idempotency: IdempotencyDep,
    models: ModelsDep,
    store: StoreDep,
    settings: SettingsDep,
    principal: PrincipalDep,
) -> JSONResponse:
    """The clip is on the disk when the answer is sent, and survives the end of the service. It is deleted as soon as
    it has been analysed; the result is kept for a while."""
    seconds = settings.analysis_upload_seconds + _SLACK_SECONDS
    async with idempotency.claim(request, principal.owner, seconds=seconds) as claim:
        if not claim.is_replay:
            await asyncio.to_thread(service.require_room, principal.owner)
        async with intake.receive(request) as order:
            fingerprint = await asyncio.to_thread(order.fingerprint) if claim.key is not None else ""
            made = claim.replays(fingerprint)
            if made is not None:
                about(request, subject=made)
                return _answer(await asyncio.to_thread(find_analysis, store, made, principal), headers=REPLAYED)
            if order.given.webhook_url is not None:
                service.require_webhook(order.given.webhook_url)
            consent = consent_of(request, order.given.consent_reference, is_required=settings.require_consent)
            seconds = order.given.kept_seconds(settings.analysis_retention_seconds)
            if order.given.model is not None:
                await asyncio.to_thread(models.describe, order.given.model, owner=principal.sees)
                about(request, model=order.given.model)
            clip = await intake.bring(order, sees=principal.sees)
            record = _record(order.given, clip.name, clip.num_bytes, principal, seconds)
            record = dataclasses.replace(record, purpose=request.state.purpose, consent_reference=consent)
            about(request, subject=record.id)
            also = claim.completes(fingerprint, record.id)
            await asyncio.to_thread(service.submit, record, clip.path, also=also)
    return _answer(record)


def _record(given: AnalysisIn, name: str, num_bytes: int, principal: Principal, seconds: float) -> AnalysisRecord:
    return AnalysisRecord(
        id=new_id("analysis-"),
        owner=principal.owner,
        filename=name,
        num_bytes=num_bytes,
        options={**given.options(), "sees_all": principal.sees is None},
        metadata=given.metadata or {},
        webhook_url=given.webhook_url,
        webhook_secret=given.webhook_secret,
        retention_seconds=seconds,
        created_at=time.time(),
    )


def _answer(record: AnalysisRecord, *, headers: dict[str, str] | None = None) -> JSONResponse:
    location = {"Location": f"/v1/analyses/{record.id}"}
    return JSONResponse(document_of(record), status_code=202, headers={**location, **(headers or {})})


@router.get("", summary="Analyses, newest first", responses=responses("invalid_value"))
def list_analyses(
    store: StoreDep,
    principal: PrincipalDep,
    after: Annotated[str | None, Query(max_length=64, description="Go on after this analysis.")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    status: Annotated[
        Literal["queued", "running", "succeeded", "failed", "cancelled"] | None,
        Query(description="Only those in this state."),
    ] = None,
) -> AnalysisList:
    """Without their results."""
    page = analyses.page(store, now=time.time(), after=after, limit=limit, status=status, owner=principal.sees)
    ids = [record.id for record in page.items]
    return AnalysisList(
        data=[AnalysisSummaryOut.of(record) for record in page.items],
        has_more=page.has_more,
        first_id=ids[0] if ids else None,
        last_id=ids[-1] if ids else None,
    )


@router.get(
    "/{analysis_id}",
    summary="One analysis, with its result",
    response_model=AnalysisTaskOut,
    responses={
        200: {"content": {"application/json": {"example": DONE_EXAMPLE}}},
        **responses("analysis_not_found"),
    },
)
def get_analysis(request: Request, analysis_id: str, store: StoreDep, principal: PrincipalDep) -> JSONResponse:
    record = find_analysis(store, analysis_id, principal)
    if record.result is not None:
        handed_out(request, record.id)
    return JSONResponse(document_of(record))


@router.get(
    "/{analysis_id}/events",
    summary="How far an analysis is, as it goes on",
    response_model=None,
    responses={
        200: {"content": {"text/event-stream": {"schema": EVENT_SCHEMA}}},
        **responses("analysis_not_found"),
    },
)
async def stream_events(
    request: Request, analysis_id: str, store: StoreDep, settings: SettingsDep, principal: PrincipalDep
) -> StreamingResponse:
    """Server-sent events: the analysis whenever its status, stage or progress changes, at last with its result, then
    `[DONE]`."""
    await asyncio.to_thread(find_analysis, store, analysis_id, principal, with_result=False)
    handed_out(request, analysis_id)
    return StreamingResponse(
        stream_analysis(
            store,
            analysis_id,
            poll_seconds=settings.job_poll_seconds,
            is_stopping=request.app.state.stopping.is_set,
        ),
        media_type="text/event-stream",
    )


@router.post(
    "/{analysis_id}/cancel",
    summary="End an analysis",
    response_model=AnalysisTaskOut,
    responses=responses("analysis_not_found"),
)
async def cancel_analysis(
    analysis_id: str, store: StoreDep, service: AnalysesDep, settings: SettingsDep, principal: PrincipalDep
) -> JSONResponse:
    """One that waits is cancelled at once; one that is worked on is stopped, and the answer may still say `running`.
    One that has ended stays as it is."""
    record: AnalysisRecord | None = await asyncio.to_thread(
        find_analysis, store, analysis_id, principal, with_result=False
    )
    record = await asyncio.to_thread(service.cancel, analysis_id)
    waited = 0.0
    while record is not None and not record.has_ended and waited < _PATIENCE_SECONDS:
        pause = min(settings.job_poll_seconds, 0.1)
        await asyncio.sleep(pause)
        waited += pause
        record = await asyncio.to_thread(find_analysis, store, analysis_id, principal, with_result=False)
    return JSONResponse(document_of(await asyncio.to_thread(find_analysis, store, analysis_id, principal)))


@router.delete("/{analysis_id}", summary="Delete an analysis", responses=responses("analysis_not_found"))
def delete_analysis(
    analysis_id: str, store: StoreDep, service: AnalysesDep, principal: PrincipalDep
) -> AnalysisDeletedOut:
    """With its clip, its result and everything that was kept of it; one that is worked on is stopped."""
    find_analysis(store, analysis_id, principal, with_result=False)
    service.delete(analysis_id)
    return AnalysisDeletedOut(id=analysis_id)


def find_analysis(store: Store, analysis_id: str, principal: Principal, *, with_result: bool = True) -> AnalysisRecord:
    """Return the caller's analysis; raises `ApiError` when there is none, or none that they may see."""
    record = analyses.find(store, analysis_id, now=time.time(), owner=principal.sees, with_result=with_result)
    if record is None:
        raise ApiError("analysis_not_found", f"no analysis {analysis_id[:64]!r}", param="analysis_id")
    return record
