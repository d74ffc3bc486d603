"""`POST /v1/reports/video`: a clip in, the same clip with boxes and captions, covered faces or another voice out.

A clip is not kept once it has been analysed, so whoever wants it back marked sends it, and gets it in the answer.
"""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import PurePosixPath
from typing import Any

from fastapi import APIRouter, Request, Response

from server.auth import Principal
from server.deadline import Deadline
from server.deps import (
    Analyzing,
    DecoderDep,
    GateDep,
    InboxDep,
    ModelsDep,
    PrincipalDep,
    ReportDeskDep,
    SettingsDep,
    StoreDep,
)
from server.errors import ApiError, responses
from server.followed import wanted_by
from server.gate import Stop
from server.ingest import UploadedFile
from server.media_worker import Decoding
from server.reports.file_answer import HeldFileResponse
from server.reports.video_worker import VideoOrder
from server.routes.analyses import find_analysis
from server.routes.analyze import until_gone
from server.schemas.reports import VIDEO_BODY, VideoForm
from server.settings import Settings
from server.store import Store
from server.trust.auditing import about, handed_out
from server.trust.declared import consent_of

router = APIRouter(prefix="/v1/reports", tags=["analysis"])

_NOTHING: Mapping[str, Any] = {"faces": [], "timeline": [], "emotion": {"scores": {}}}
_SLACK = 0.05  # of its length, and a second: how far a clip may be from what its analysis says of it


@router.post(
    "/video",
    summary="A clip with boxes and captions, covered faces, another voice",
    response_class=Response,
    responses={
        200: {"content": {"video/mp4": {"schema": {"type": "string", "format": "binary"}}}},
        **responses(
            "missing_file", "empty_file", "malformed_multipart", "too_many_parts", "unknown_field", "duplicate_field",
            "invalid_value", "consent_required", "purpose_required", "prohibited_purpose", "purpose_not_declared",
            "model_not_found", "analysis_not_found", "analysis_unfinished", "upload_timeout",
            "file_too_large", "field_too_large", "unsupported_content_type", "unsupported_media", "undecodable_media",
            "media_limit_exceeded", "busy", "internal_error", "dependency_missing", "not_ready", "model_load_failed",
            "deadline_exceeded", "storage_full",
        ),
    },
    openapi_extra={"requestBody": VIDEO_BODY},
)  # fmt: skip
async def make_video(
    request: Request,
    desk: ReportDeskDep,
    models: ModelsDep,
    gate: GateDep,
    inbox: InboxDep,
    decoder: DecoderDep,
    store: StoreDep,
    settings: SettingsDep,
    principal: PrincipalDep,
) -> Response:
    """The clip is under the limits of `/analyze`. Clip and video are deleted when the answer has been sent."""
    desk.gate.require_room()
    async with AsyncExitStack() as held:
        upload = await held.enter_async_context(inbox.receive(request))
        deadline = Deadline(settings.report_seconds)
        form = VideoForm.from_fields(upload.fields)
        gone = functools.partial(until_gone, request)
        file, document = upload.file, _NOTHING
        if form.analysis_id is not None:
            document = await asyncio.to_thread(_kept, store, form.analysis_id, principal)
            handed_out(request, form.analysis_id)
            await asyncio.to_thread(_require_same_clip, decoder, file, document)
        elif form.marks:
            models.require_ready()
            consent_of(request, form.consent_reference, is_required=settings.require_consent)
            async with deadline.within():
                analyzer = await models.acquire(form.model, owner=principal.sees)
            about(request, model=form.model or models.default)
            analyze = functools.partial(_analyzed, analyzer, decoder, file, settings)
            document = (await gate.run(analyze, gone=gone, deadline=deadline)).value
        target = file.path.with_name("video.mp4")
        order = _order(file, document, form, settings)
        await desk.gate.run(lambda stop: desk.videos.write(order, target, cancelled=stop), gone=gone, deadline=deadline)
        name = f"{PurePosixPath(file.name).stem or 'clip'}.report.mp4"
        return HeldFileResponse(target, held=held.pop_all(), media_type="video/mp4", filename=name)


def _kept(store: Store, analysis_id: str, principal: Principal) -> Mapping[str, Any]:
    record = find_analysis(store, analysis_id, principal)
    if record.result is None:
        message = f"analysis {record.id} has no result: it is {record.status}"
        raise ApiError("analysis_unfinished", message, param="analysis_id")
    return dict(json.loads(record.result))


def _require_same_clip(decoder: Decoding, file: UploadedFile, document: Mapping[str, Any]) -> None:
    """Refuse a clip that is not as long as the one that was analysed: its boxes would lie anywhere."""
    seconds = decoder.length(file.path)
    analysed = float(document["seconds"])
    if seconds is not None and abs(seconds - analysed) > 1.0 + _SLACK * analysed:
        message = (
            f"the clip has {seconds:.1f} s and the analysis is of one of {analysed:.1f} s; allowed: the clip that was "
            "analysed"
        )
        raise ApiError("invalid_value", message, param="analysis_id")


def _analyzed(
    analyzer: Analyzing, decoder: Decoding, file: UploadedFile, settings: Settings, stop: Stop
) -> Mapping[str, Any]:
    limits = settings.media_limits()
    clip = decoder.decode(file.path, name=file.name, limits=limits, cancelled=stop, follow_faces=wanted_by(analyzer))
    return analyzer.analyze(clip, name=file.name, limits=limits, timeline=True, cancelled=stop).to_json_dict()


def _order(file: UploadedFile, document: Mapping[str, Any], form: VideoForm, settings: Settings) -> VideoOrder:
    from emollama.reports.video import VideoOptions

    return VideoOrder(
        source=file.path, name=file.name, document=document, limits=settings.media_limits(),
        options=VideoOptions(marks=form.marks, blur=form.blur, voice=form.voice),
    )  # fmt: skip
