"""`POST /analyze`: a clip in, an emotion and its reasons out."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable

from fastapi import APIRouter, Request, Response

from server.deps import Analyzing, DecoderDep, GateDep, InboxDep, MetricsDep, ModelsDep, PrincipalDep, SettingsDep
from server.errors import responses
from server.gate import Stop
from server.ingest import UploadedFile
from server.media_worker import Decoding
from server.metrics import Metrics
from server.schemas.analysis import EXAMPLE, AnalysisOut
from server.schemas.analyze import REQUEST_BODY, AnalyzeForm
from server.settings import Settings

router = APIRouter(tags=["analysis"])


@router.post(
    "/analyze",
    summary="What does the person in this clip seem to feel, and what says so?",
    response_model=AnalysisOut,
    responses={
        200: {"content": {"application/json": {"example": EXAMPLE}}},
        **responses(
            "missing_file", "empty_file", "malformed_multipart", "too_many_parts", "unknown_field", "duplicate_field",
            "invalid_value", "model_not_found", "upload_timeout", "file_too_large", "field_too_large",
            "unsupported_content_type", "unsupported_media", "undecodable_media", "media_limit_exceeded", "busy",
            "internal_error", "dependency_missing", "not_ready", "model_load_failed", "deadline_exceeded",
            "storage_full",
        ),
    },
    openapi_extra={"requestBody": REQUEST_BODY},
)  # fmt: skip
async def analyze(
    request: Request,
    models: ModelsDep,
    gate: GateDep,
    inbox: InboxDep,
    settings: SettingsDep,
    principal: PrincipalDep,
    metrics: MetricsDep,
    decoder: DecoderDep,
) -> Response:
    """Send a clip as multipart field `file`. The file is deleted when the answer is sent; nothing of it is kept."""
    models.require_ready()
    gate.require_room()
    async with inbox.receive(request) as upload:
        form = AnalyzeForm.from_fields(upload.fields)
        analyzer = await models.acquire(form.model, owner=principal.sees)
        work = _work(analyzer, decoder, upload.file, form, settings, metrics)
        timeout = settings.request_timeout_seconds
        outcome = await gate.run(work, gone=lambda: until_gone(request), timeout_seconds=timeout)
    metrics.observe_wait(outcome.waited_seconds)
    request.state.log.update(
        waited_ms=round(outcome.waited_seconds * 1000, 1), analyzed_ms=round(outcome.ran_seconds * 1000, 1)
    )
    return Response(outcome.value, media_type="application/json")


def _work(
    analyzer: Analyzing, decoder: Decoding, file: UploadedFile, form: AnalyzeForm, settings: Settings, metrics: Metrics
) -> Callable[[Stop], bytes]:
    """Return what the thread does: decoding and analysis, as the bytes of its JSON."""

    def work(stop: Stop) -> bytes:
        began = time.perf_counter()
        limits = settings.media_limits()
        clip = decoder.decode(file.path, name=file.name, limits=limits, cancelled=stop)
        elsewhere_ms = round((time.perf_counter() - began) * 1000, 2)
        analysis = analyzer.analyze(
            clip,
            name=file.name,
            transcript=form.transcript,
            labels=form.labels,
            language=form.language,
            timeline=form.timeline,
            limits=limits,
            cancelled=stop,
        )
        if clip is not file.path:
            timings = {**analysis.timings_ms, "decode": elsewhere_ms}
            timings["total"] = round(analysis.timings_ms.get("total", 0.0) + elsewhere_ms, 2)
            analysis = dataclasses.replace(analysis, timings_ms=timings)
        metrics.observe_stages(analysis.timings_ms)
        return json.dumps(analysis.to_json_dict(), ensure_ascii=False, allow_nan=False).encode()

    return work


async def until_gone(request: Request) -> None:
    """Return when the client has closed the connection; the body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
