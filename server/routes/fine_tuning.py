"""`/v1/fine_tuning/jobs`: adapters from one's own clips, in OpenAI's shapes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from sqlalchemy import Connection

from server.auth import EVERYBODY, Principal
from server.body import read_json_body
from server.deps import DataDep, IdempotencyDep, JobsDep, PrincipalDep, SettingsDep, StoreDep
from server.errors import ApiError, responses
from server.idempotency import PARAMETER, REPLAYED
from server.idempotency import fingerprint as fingerprint_of
from server.jobs import requests
from server.jobs.data_check import BadDataError
from server.jobs.event_stream import stream_events
from server.jobs.requests import unknown_job
from server.jobs.run_folder import RunFolder
from server.jobs.service import JobService
from server.jobs.submit import Order
from server.records import jobs
from server.records.jobs import JobRecord
from server.routes.files import find_file
from server.schemas.fine_tuning import (
    REQUEST_BODY,
    CheckpointList,
    CheckpointOut,
    EventList,
    EventOut,
    JobIn,
    JobList,
    JobOut,
)
from server.settings import Settings
from server.store import Store
from server.streaming.sse import EVENT_SCHEMA
from server.trust.auditing import about

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine-tuning"])

# How long cancel and pause wait for a running trainer to stop before they answer with the state as it is.
_PATIENCE_SECONDS = 2.0
# What creating a job takes beyond checking its files.
_SLACK_SECONDS = 60.0
_METADATA = re.compile(r"metadata\[(.{1,64})\]")

After = Annotated[str | None, Query(max_length=64, description="Go on after this one.")]


@router.post(
    "",
    summary="Fine-tune a model on uploaded clips",
    responses=responses(
        "invalid_value", "unknown_field", "unsupported_option", "invalid_training_file", "invalid_validation_file",
        "file_not_found", "model_not_found", "idempotency_in_flight", "body_too_large", "unsupported_content_type",
        "idempotency_key_reused", "internal_error", "storage_full",
    ),
    openapi_extra={"requestBody": REQUEST_BODY, "parameters": [PARAMETER]},
)  # fmt: skip
async def create_job(
    request: Request,
    response: Response,
    store: StoreDep,
    service: JobsDep,
    settings: SettingsDep,
    principal: PrincipalDep,
    idempotency: IdempotencyDep,
) -> JobOut:
    """The files are unpacked and every line and clip is checked; a refusal lists all that is wrong in `problems`."""
    seconds = settings.submit_seconds + _SLACK_SECONDS
    async with idempotency.claim(request, principal.owner, seconds=seconds) as claim:
        wanted = JobIn.from_json(await read_json_body(request))
        fingerprint = fingerprint_of("POST /v1/fine_tuning/jobs", wanted.model_dump())
        made = claim.replays(fingerprint)
        if made is not None:
            about(request, subject=made)
            response.headers.update(REPLAYED)
            return JobOut.of(await asyncio.to_thread(_find, store, made, principal), org=settings.org)
        order = await asyncio.to_thread(_order, wanted, store, service, principal)

        def note(job_id: str, connection: Connection) -> None:
            claim.completes(fingerprint, job_id)(connection)

        try:
            job = await service.submitter.submit(order, also=note)
        except BadDataError as exc:
            raise ApiError(exc.code, exc.message, param=exc.param, problems=exc.problems_as_json()) from exc
    about(request, subject=job.id, model=job.base)
    service.wake()
    return JobOut.of(job, org=settings.org)


def _order(wanted: JobIn, store: Store, service: JobService, principal: Principal) -> Order:
    """Return what is asked for, once the model and the files are known to be there."""
    service.require_base(wanted.model)
    for param in ("training_file", "validation_file"):
        file_id = getattr(wanted, param)
        if file_id is None:
            continue
        if find_file(store, file_id, owner=principal.sees, param=param).purpose != "fine-tune":
            raise ApiError("invalid_value", f"{param} {file_id!r} has not the purpose fine-tune", param=param)
    return Order(
        base=wanted.model,
        training_file=wanted.training_file,
        validation_file=wanted.validation_file,
        suffix=wanted.suffix,
        seed=wanted.seed,
        hyperparameters=wanted.chosen_hyperparameters(),
        metadata=wanted.metadata or {},
        owner=principal.owner,
    )


@router.get("", summary="Jobs, newest first", responses=responses("invalid_value"))
def list_jobs(
    request: Request,
    store: StoreDep,
    settings: SettingsDep,
    principal: PrincipalDep,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> JobList:
    """`metadata[key]=value` in the query keeps the jobs that have it."""
    wanted = {match[1]: value for name, value in request.query_params.items() if (match := _METADATA.fullmatch(name))}
    page = jobs.page(store, metadata=wanted, after=after, limit=limit, owner=principal.sees)
    return JobList(
        data=[JobOut.of(job, org=settings.org) for job in page.items], has_more=page.has_more, **_ends(page.items)
    )


@router.get("/{fine_tuning_job_id}", summary="One job", responses=responses("job_not_found"))
def get_job(fine_tuning_job_id: str, store: StoreDep, settings: SettingsDep, principal: PrincipalDep) -> JobOut:
    return JobOut.of(_find(store, fine_tuning_job_id, principal), org=settings.org)


@router.post(
    "/{fine_tuning_job_id}/cancel",
    summary="End a job",
    responses=responses("job_not_found", "invalid_job_state"),
)
async def cancel_job(
    fine_tuning_job_id: str,
    store: StoreDep,
    data: DataDep,
    service: JobsDep,
    settings: SettingsDep,
    principal: PrincipalDep,
) -> JobOut:
    """Its checkpoints stay. A running trainer is stopped; the answer may still say `running`."""

    def cancel() -> JobRecord:
        _find(store, fine_tuning_job_id, principal)
        job = requests.cancel(store, fine_tuning_job_id, notify=settings.webhook_url is not None)
        if job.has_ended:
            RunFolder(data.job(job.id)).prune()
        return job

    return await _ask(cancel, store, service, settings, until=lambda job: job.has_ended)


@router.post(
    "/{fine_tuning_job_id}/pause",
    summary="Stop a job after a checkpoint, until it is resumed",
    responses=responses("job_not_found", "invalid_job_state"),
)
async def pause_job(
    fine_tuning_job_id: str, store: StoreDep, service: JobsDep, settings: SettingsDep, principal: PrincipalDep
) -> JobOut:
    """A running trainer saves a checkpoint and ends; the answer may still say `running`."""

    def is_settled(job: JobRecord) -> bool:
        return job.has_ended or job.status == "paused"

    def pause() -> JobRecord:
        _find(store, fine_tuning_job_id, principal)
        return requests.pause(store, fine_tuning_job_id)

    return await _ask(pause, store, service, settings, until=is_settled)


@router.post(
    "/{fine_tuning_job_id}/resume",
    summary="Let a paused job go on",
    responses=responses("job_not_found", "invalid_job_state"),
)
async def resume_job(
    fine_tuning_job_id: str, store: StoreDep, service: JobsDep, settings: SettingsDep, principal: PrincipalDep
) -> JobOut:
    def resume() -> JobRecord:
        _find(store, fine_tuning_job_id, principal)
        return requests.resume(store, fine_tuning_job_id)

    return await _ask(resume, store, service, settings, until=lambda job: True)


@router.get(
    "/{fine_tuning_job_id}/events",
    summary="What happened to a job, newest first",
    response_model=EventList,
    responses={
        200: {"content": {"text/event-stream": {"schema": EVENT_SCHEMA}}},
        **responses("job_not_found", "invalid_value"),
    },
)
async def list_events(
    request: Request,
    fine_tuning_job_id: str,
    store: StoreDep,
    settings: SettingsDep,
    principal: PrincipalDep,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 20,
    stream: Annotated[bool, Query(description="Oldest first as server-sent events, until the job has ended.")] = False,
) -> Any:
    """With `stream=true`, `after` (or the header `Last-Event-ID`) says where to go on."""
    await asyncio.to_thread(_find, store, fine_tuning_job_id, principal)
    if stream:
        after = after or request.headers.get("last-event-id")
        if after is not None:
            await asyncio.to_thread(
                jobs.events_page, store, fine_tuning_job_id, after=after, limit=1, newest_first=False
            )
        body = stream_events(
            store,
            fine_tuning_job_id,
            after=after,
            poll_seconds=settings.job_poll_seconds,
            is_stopping=request.app.state.stopping.is_set,
        )
        return StreamingResponse(body, media_type="text/event-stream")
    page = await asyncio.to_thread(jobs.events_page, store, fine_tuning_job_id, after=after, limit=limit)
    return EventList(data=[EventOut.of(each) for each in page.items], has_more=page.has_more, **_ends(page.items))


@router.get(
    "/{fine_tuning_job_id}/checkpoints",
    summary="States of a job's adapter that answer already, newest first",
    responses=responses("job_not_found", "invalid_value"),
)
def list_checkpoints(
    fine_tuning_job_id: str,
    store: StoreDep,
    principal: PrincipalDep,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 10,
) -> CheckpointList:
    _find(store, fine_tuning_job_id, principal)
    page = jobs.checkpoints_page(store, fine_tuning_job_id, after=after, limit=limit)
    data = [CheckpointOut.of(each, job_id=fine_tuning_job_id) for each in page.items]
    return CheckpointList(data=data, has_more=page.has_more, **_ends(page.items))


async def _ask(
    change: Callable[[], JobRecord],
    store: Store,
    service: JobService,
    settings: Settings,
    *,
    until: Callable[[JobRecord], bool],
) -> JobOut:
    """Make a wish, and wait a moment for the runner to fulfil it."""
    job = await asyncio.to_thread(change)
    service.wake()
    waited = 0.0
    while not until(job) and waited < _PATIENCE_SECONDS:
        pause = min(settings.job_poll_seconds, 0.1)
        await asyncio.sleep(pause)
        waited += pause
        job = await asyncio.to_thread(_find, store, job.id, EVERYBODY)
    return JobOut.of(job, org=settings.org)


def _find(store: Store, job_id: str, principal: Principal) -> JobRecord:
    job = jobs.find(store, job_id, owner=principal.sees)
    if job is None:
        raise unknown_job(job_id)
    return job


def _ends(items: Any) -> dict[str, str | None]:
    return {"first_id": items[0].id if items else None, "last_id": items[-1].id if items else None}
