"""Analyses one clip of the queue in the calling thread, and ends it: with its answer, an error, or nothing more to do.

A clip over the ordinary length is read window by window (`server.analyses.long_clips`), any other as by `/analyze`.

Other requests go first: a clip is begun when a place at the gate is free that nobody waits for, or when it has waited
long enough. When the service stops, the clip goes back into its place in the queue. A clip that ended the whole process
several times is not tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import logging
import threading
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import SQLAlchemyError

from emollama.errors import BusyError, EmoLlamaError, MediaLimitError
from server.analyses import queue
from server.analyses.long_clips import analyze_windows, is_long, require_reader
from server.analyses.queue import Ending, Lease
from server.errors import ApiError, from_library, without_paths
from server.followed import wanted_by
from server.gate import Gate
from server.layout import DataFolder
from server.leases import LeaseLostError
from server.media_worker import Decoding
from server.metrics import Metrics
from server.models import ModelHost
from server.records import analyses
from server.schemas.analyze import MAX_TRANSCRIPT_CHARS
from server.store import Store

if TYPE_CHECKING:
    from emollama.media import MediaLimits
    from emollama.stages import StageEvent
    from emollama.types import Analysis
    from server.deps import Analyzing

logger = logging.getLogger("server.analyses")

MAX_STARTS = 3
_PATIENCE_SECONDS = 30.0
_LOADING_SECONDS = 0.25
# How far an analysis is when the stage of that name begins; about how the time is spread over a short clip.
_BEGINS_AT: Mapping[str, float] = {"decode": 0.0, "faces": 0.3, "judge": 0.6, "rationale": 0.8}


@dataclass(frozen=True, kw_only=True)
class Around:
    """What the analyses of one process share; ``limits`` are those of an ordinary clip, ``long_limits`` of any."""

    store: Store
    data: DataFolder
    models: ModelHost
    gate: Gate
    decoder: Decoding
    metrics: Metrics
    limits: MediaLimits
    long_limits: MediaLimits
    lease_seconds: float
    timeout_seconds: float
    tells_operator: bool
    audits: bool = True
    clock: Callable[[], float] = time.time


class _StoppedError(Exception):
    """It was asked to end, or has taken too long."""


class Worker:
    """Works on the analysis of one lease; ``is_stopping`` says that the service stops."""

    def __init__(self, lease: Lease, around: Around, *, is_stopping: Callable[[], bool]) -> None:
        self.lease = lease
        self._record, self._around, self._is_stopping = lease.record, around, is_stopping
        self._is_cancelled, self._is_lost = threading.Event(), threading.Event()
        self._deadline = time.monotonic() + around.timeout_seconds
        if lease.record.wanted == "cancel":
            self._is_cancelled.set()

    @property
    def id(self) -> str:
        return self._record.id

    def cancel(self) -> None:
        """Let it end as cancelled."""
        self._is_cancelled.set()

    def lose(self) -> None:
        """Let it end and write nothing: it was deleted, or is another process's."""
        self._is_lost.set()

    def run(self) -> None:
        """Work until it has ended, waits again, or belongs to somebody else."""
        try:
            self._run()
        except LeaseLostError:
            logger.info("an analysis was deleted or taken over", extra={"fields": {"analysis": self.id}})
            self._tidy()
        except Exception as exc:  # the thread's edge: one clip's fault must not end the runner
            logger.error("an analysis's worker failed", extra={"fields": {"analysis": self.id}}, exc_info=exc)
            with contextlib.suppress(LeaseLostError, SQLAlchemyError, OSError):
                # The database, or the disk, may be well again by then.
                free_at = self._around.clock() + self._around.lease_seconds
                queue.give_back(self._around.store, self.lease, free_at=free_at, counts=True)

    def _run(self) -> None:
        if self._record.num_starts > MAX_STARTS:
            self._end("failed", error=_body(ApiError("analysis_crashed")))
            return
        try:
            self._around.gate.await_lull(cancelled=self._must_end, patience_seconds=_PATIENCE_SECONDS)
            result = self._analyze(self._analyzer())
        except (LeaseLostError, SQLAlchemyError):
            raise
        except Exception as exc:  # noqa: BLE001  (the thread's edge: a clip's fault is that clip's error)
            self._settle(exc)
        else:
            self._end("succeeded", result=result)

    def _settle(self, exc: Exception) -> None:
        """Say what became of an analysis that has no answer."""
        if self._is_lost.is_set():
            raise LeaseLostError(self.id) from exc
        if self._is_cancelled.is_set():
            self._end("cancelled")
        elif self._is_stopping():
            queue.give_back(self._around.store, self.lease)
        elif isinstance(exc, BusyError):
            free_at = self._around.clock() + exc.retry_after_seconds
            queue.give_back(self._around.store, self.lease, free_at=free_at)
        else:
            self._end("failed", error=self._told(exc))

    # ---- the analysis -------------------------------------------------------------------------------------------

    def _analyzer(self) -> Analyzing:
        """Return the model that was asked for, when it is there."""
        options = self._record.options
        owner = None if options.get("sees_all") else self._record.owner
        while True:
            self._go_on()
            try:
                # The host's own waiting is asynchronous; here is a thread that has nothing else to do.
                return asyncio.run(self._around.models.acquire(options.get("model"), owner=owner))
            except ApiError as exc:
                if exc.code != "not_ready":
                    raise
            time.sleep(_LOADING_SECONDS)

    def _analyze(self, analyzer: Analyzing) -> dict[str, Any]:
        around = self._around
        path = around.data.analysis(self.id)
        if not is_long(around.decoder, path, limits=around.limits, cancelled=self._must_end):
            self._go_on()
            try:
                return self._analyze_whole(analyzer)
            except MediaLimitError as exc:
                if exc.limit != "max_seconds":  # some clips are longer than they declare
                    raise
        return self._analyze_long(require_reader(analyzer, limits=around.limits))

    def _analyze_whole(self, analyzer: Analyzing) -> dict[str, Any]:
        around, record = self._around, self._record
        path, options = around.data.analysis(record.id), record.options
        words = options.get("transcript")
        if words is not None and len(words) > MAX_TRANSCRIPT_CHARS:
            message = f"transcript has {len(words)} characters; allowed for so short a clip: {MAX_TRANSCRIPT_CHARS}"
            raise ApiError("invalid_value", message, param="transcript")
        self._reach("decode")
        began = time.perf_counter()
        clip = around.decoder.decode(
            path, name=record.filename, limits=around.limits, cancelled=self._must_end, follow_faces=wanted_by(analyzer)
        )
        elsewhere_ms = None if clip is path else round((time.perf_counter() - began) * 1000, 2)
        self._go_on()
        labels = options.get("labels")
        events = analyzer.stages(
            clip,
            name=record.filename,
            transcript=words,
            labels=None if labels is None else tuple(labels),
            language=options.get("language"),
            timeline=options.get("timeline", True),
            limits=around.limits,
            cancelled=self._must_end,
        )
        analysis = self._follow(events)
        if elsewhere_ms is not None:
            analysis = _with_decoding(analysis, elsewhere_ms)
        around.metrics.observe_stages(analysis.timings_ms)
        return analysis.to_json_dict()

    def _analyze_long(self, analyzer: Analyzing) -> dict[str, Any]:
        around, record = self._around, self._record
        answer = analyze_windows(
            analyzer, around.decoder, around.data.analysis(record.id), kept_in=around.data.windows(record.id),
            name=record.filename, options=record.options, limits=around.long_limits, advance=self._advance,
            cancelled=self._must_end,
        )  # fmt: skip
        around.metrics.observe_stages(answer.whole.timings_ms)
        return answer.to_json_dict()

    def _advance(self, stage: str, progress: float) -> None:
        """Write how far a long clip is; a database that is busy for a moment must not cost the work of an hour."""
        try:
            queue.advance(self._around.store, self.lease, stage=stage, progress=progress)
        except SQLAlchemyError as exc:
            logger.warning("progress was not written", extra={"fields": {"analysis": self.id}}, exc_info=exc)

    def _follow(self, events: Generator[StageEvent, None, None]) -> Analysis:
        """Write down which stage is reached while an analysis goes on, and return its answer."""
        from emollama.stages import Decoded, Done, FacesFound, Labelled

        next_stage = {Decoded: "faces", FacesFound: "judge", Labelled: "rationale"}
        with contextlib.closing(events):
            for event in events:
                if isinstance(event, Done):
                    return event.analysis
                stage = next_stage.get(type(event))
                if stage is not None:
                    self._reach(stage)
        raise RuntimeError("an analysis ended without an answer")

    def _reach(self, stage: str) -> None:
        queue.advance(self._around.store, self.lease, stage=stage, progress=_BEGINS_AT[stage])

    def _tidy(self) -> None:
        """Remove what was written for an analysis while it was being deleted; another process's is left to it."""
        with contextlib.suppress(SQLAlchemyError, OSError):  # the janitor finds it, too
            if not analyses.exists(self._around.store, self.id):
                self._around.data.remove_analysis(self.id)

    def _must_end(self) -> bool:
        return (
            self._is_cancelled.is_set()
            or self._is_lost.is_set()
            or self._is_stopping()
            or time.monotonic() > self._deadline
        )

    def _go_on(self) -> None:
        if self._must_end():
            raise _StoppedError

    # ---- its end ------------------------------------------------------------------------------------------------

    def _end(
        self, status: str, *, result: Mapping[str, Any] | None = None, error: Mapping[str, Any] | None = None
    ) -> None:
        around = self._around
        model = self._record.options.get("model") or around.models.default
        ending = Ending(
            status=status, at=around.clock(), result=result, error=error, tells_operator=around.tells_operator,
            audited_model=model if around.audits else None,
        )  # fmt: skip
        queue.end(around.store, self.lease, ending)
        # Whoever is killed in between leaves the clip to the janitor.
        around.data.remove_analysis(self.id)
        fields = {"analysis": self.id, "status": status, "error_code": None if error is None else error["code"]}
        logger.info("an analysis has ended", extra={"fields": fields})

    def _told(self, exc: Exception) -> dict[str, Any]:
        """Return an error as the client is told it."""
        if time.monotonic() > self._deadline:
            seconds = self._around.timeout_seconds
            return _body(ApiError("deadline_exceeded", f"the analysis was not complete after {seconds:g} s"))
        error = ApiError("internal_error", "a fault of the service; its log says more under the analysis's id")
        if isinstance(exc, ApiError):
            error = exc
        elif isinstance(exc, EmoLlamaError):
            error = from_library(exc)
        elif isinstance(exc, OSError) and exc.errno in (errno.ENOSPC, errno.EDQUOT):
            error = ApiError("storage_full")
        if error.status >= 500:
            logger.error("an analysis failed", extra={"fields": {"analysis": self.id}}, exc_info=exc)
        error.message = without_paths(error.message, str(self._around.data.root))
        return _body(error)


def _body(error: ApiError) -> dict[str, Any]:
    return {"code": error.code, "message": error.message, "type": error.type, "param": error.param}


def _with_decoding(analysis: Analysis, milliseconds: float) -> Analysis:
    """Count the time of a decoder in another process to the analysis."""
    total = round(analysis.timings_ms.get("total", 0.0) + milliseconds, 2)
    return dataclasses.replace(analysis, timings_ms={**analysis.timings_ms, "decode": milliseconds, "total": total})
