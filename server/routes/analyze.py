"""`POST /analyze`: a clip in, an emotion and its reasons out, whole or stage by stage."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import json
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from emollama.errors import MediaLimitError
from server.deadline import Deadline
from server.deps import Analyzing, DecoderDep, GateDep, InboxDep, MetricsDep, ModelsDep, PrincipalDep, SettingsDep
from server.errors import responses
from server.followed import wanted_by
from server.gate import Outcome, Stop
from server.ingest import UploadedFile
from server.media_worker import Decoding
from server.metrics import Metrics
from server.schemas.analysis import EXAMPLE, AnalysisOut
from server.schemas.analyze import REQUEST_BODY, AnalyzeForm
from server.schemas.stages import STREAM
from server.settings import Settings
from server.streaming.analysis_events import Told, stream_analysis, told
from server.streaming.feed import Feed
from server.streaming.sse import EventResponse
from server.trust.auditing import about
from server.trust.declared import consent_of

if TYPE_CHECKING:
    from emollama.types import Analysis

router = APIRouter(tags=["analysis"])


@router.post(
    "/analyze",
    summary="What does the person in this clip seem to feel, and what says so?",
    response_model=AnalysisOut,
    responses={
        200: {"content": {"application/json": {"example": EXAMPLE}, "text/event-stream": STREAM}},
        **responses(
            "missing_file", "empty_file", "malformed_multipart", "too_many_parts", "unknown_field", "duplicate_field",
            "invalid_value", "consent_required", "purpose_required", "prohibited_purpose", "purpose_not_declared",
            "model_not_found", "upload_timeout", "file_too_large", "field_too_large",
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
    stream: Annotated[
        bool | None,
        Query(
            description="Answer stage by stage, as server-sent events; `Accept: text/event-stream` asks for it, too."
        ),
    ] = None,
) -> Response:
    """Send a clip as multipart field `file`. The file is deleted when the answer is sent; nothing of it is kept."""
    models.require_ready()
    gate.require_room()
    async with AsyncExitStack() as held:
        receiving = await held.enter_async_context(AsyncExitStack())
        upload = await receiving.enter_async_context(inbox.receive(request))
        deadline = Deadline(settings.request_timeout_seconds)
        form = AnalyzeForm.from_fields(upload.fields)
        consent_of(request, form.consent_reference, is_required=settings.require_consent)
        async with deadline.within():
            analyzer = await models.acquire(form.model, owner=principal.sees)
        about(request, model=form.model or models.default)
        work = _Work(analyzer=analyzer, decoder=decoder, file=upload.file, form=form, settings=settings)
        finished, gone = _finished(request, metrics), functools.partial(until_gone, request)
        if not _wants_stream(request, stream):
            outcome = await gate.run(work.whole, gone=gone, deadline=deadline)
            finished(outcome)
            return Response(outcome.value[0], media_type="application/json")
        feed: Feed[Told] = Feed(gate, work.staged, gone=gone, deadline=deadline)
        held.push_async_callback(feed.close)
        beat = settings.stream_heartbeat_seconds
        first = await _unless_late(feed.next(), beat)
        events = stream_analysis(first, feed, request=request, upload=receiving, finished=finished)
        return EventResponse(events, held=held.pop_all(), heartbeat_seconds=beat)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Work:
    """What the thread does with a clip: decoding and analysis, as the bytes of their JSON."""

    analyzer: Analyzing
    decoder: Decoding
    file: UploadedFile
    form: AnalyzeForm
    settings: Settings

    def whole(self, stop: Stop) -> tuple[bytes, dict[str, float]]:
        """Return the answer, and what its stages took in milliseconds."""
        with self._way_out():
            source, elsewhere_ms = self._decode(stop)
            analysis = _with_decoding(self.analyzer.analyze(source, **self._options(stop)), elsewhere_ms)
        document = json.dumps(analysis.to_json_dict(), ensure_ascii=False, allow_nan=False).encode()
        return document, dict(analysis.timings_ms)

    def staged(self, stop: Stop, put: Callable[[Told], None]) -> tuple[bytes, dict[str, float]]:
        """Put the stages as they are reached, the last with the answer; return what `whole` does but the answer."""
        from emollama.stages import Done

        timings: dict[str, float] = {}
        with self._way_out():
            source, elsewhere_ms = self._decode(stop)
            with contextlib.closing(self.analyzer.stages(source, **self._options(stop))) as events:
                for event in events:
                    if isinstance(event, Done):
                        event = Done(analysis=_with_decoding(event.analysis, elsewhere_ms))
                        timings = dict(event.analysis.timings_ms)
                    put(told(event))
        return b"", timings

    @contextlib.contextmanager
    def _way_out(self) -> Iterator[None]:
        """Tell whoever sent too long a clip which route takes it, where one does."""
        try:
            yield
        except MediaLimitError as exc:
            longest = self.settings.long_limits().max_seconds
            if exc.limit != "max_seconds" or longest <= self.settings.max_seconds or not self._reads_long_clips():
                raise
            message = f"{exc}; POST /v1/analyses takes clips of up to {longest:g} s"
            raise MediaLimitError(message, field=exc.field, limit=exc.limit) from exc

    def _reads_long_clips(self) -> bool:
        from emollama.long_clip import reads_long_clips

        return reads_long_clips(self.analyzer)

    def _decode(self, stop: Stop) -> tuple[Any, float | None]:
        """Return the clip and what decoding it elsewhere took; or the file itself, for the analyzer to decode."""
        began = time.perf_counter()
        limits = self.settings.media_limits()
        clip = self.decoder.decode(
            self.file.path, name=self.file.name, limits=limits, cancelled=stop, follow_faces=wanted_by(self.analyzer)
        )
        return clip, None if clip is self.file.path else round((time.perf_counter() - began) * 1000, 2)

    def _options(self, stop: Stop) -> dict[str, Any]:
        form = self.form
        return {
            "name": self.file.name, "transcript": form.transcript, "labels": form.labels, "language": form.language,
            "timeline": form.timeline, "limits": self.settings.media_limits(), "cancelled": stop,
        }  # fmt: skip


def _with_decoding(analysis: Analysis, elsewhere_ms: float | None) -> Analysis:
    if elsewhere_ms is None:
        return analysis
    timings = {**analysis.timings_ms, "decode": elsewhere_ms}
    timings["total"] = round(analysis.timings_ms.get("total", 0.0) + elsewhere_ms, 2)
    return dataclasses.replace(analysis, timings_ms=timings)


def _finished(request: Request, metrics: Metrics) -> Callable[[Outcome[tuple[bytes, dict[str, float]]]], None]:
    """Return what writes down how long the work waited, ran, and spent at what."""

    def finished(outcome: Outcome[tuple[bytes, dict[str, float]]]) -> None:
        metrics.observe_wait(outcome.waited_seconds)
        metrics.observe_stages(outcome.value[1])
        request.state.log.update(
            waited_ms=round(outcome.waited_seconds * 1000, 1), analyzed_ms=round(outcome.ran_seconds * 1000, 1)
        )

    return finished


def _wants_stream(request: Request, asked: bool | None) -> bool:
    if asked is not None:
        return asked
    accepted = request.headers.get("accept", "").split(",")
    return any(each.split(";")[0].strip().lower() == "text/event-stream" for each in accepted)


async def _unless_late(coming: Any, seconds: float) -> Any:
    """Wait so long for the first event, so that what is known by then still has its status; ``None`` after that."""
    try:
        async with asyncio.timeout(seconds):
            return await coming
    except TimeoutError:
        return None


async def until_gone(request: Request) -> None:
    """Return when the client has closed the connection; the body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
