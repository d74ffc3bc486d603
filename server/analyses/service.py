"""Everything that `/v1/analyses` needs in a process: takes clips into the queue, and works through it."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from sqlalchemy import Connection

from server.analyses import queue
from server.analyses.janitor import Janitor
from server.analyses.runner import analysis_runner
from server.analyses.worker import Around, Worker
from server.errors import ApiError
from server.fetch import parse_url
from server.gate import Gate
from server.layout import DataFolder
from server.lease_runner import LeaseRunner
from server.media_worker import Decoding
from server.metrics import Metrics
from server.models import ModelHost
from server.records import analyses
from server.records.analyses import AnalysisRecord
from server.settings import Settings
from server.store import Store

_FIRST_GUESS_SECONDS = 5.0
_LONGEST_RETRY_SECONDS = 600.0

Also = Callable[[Connection], None]


class AnalysisService:
    """Takes clips, and (unless the setting ``analysis_workers`` is 0) works on what is queued, here or elsewhere."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        data: DataFolder,
        models: ModelHost,
        *,
        gate: Gate,
        decoder: Decoding,
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings, self._store, self._data, self._clock = settings, store, data, clock
        self._runner: LeaseRunner[Worker] | None = None
        self.janitor = Janitor(store, data, audits=settings.audit, clock=clock)
        if settings.analysis_workers:
            around = Around(
                store=store,
                data=data,
                models=models,
                gate=gate,
                decoder=decoder,
                metrics=metrics,
                limits=settings.media_limits(),
                long_limits=settings.long_limits(),
                lease_seconds=settings.job_lease_seconds,
                timeout_seconds=settings.analysis_timeout_seconds,
                tells_operator=settings.webhook_url is not None,
                audits=settings.audit,
                clock=clock,
            )
            self._runner = analysis_runner(
                around,
                self.janitor,
                concurrency=settings.analysis_workers,
                poll_seconds=settings.job_poll_seconds,
            )

    def start(self) -> None:
        if self._runner is not None:
            self._runner.start()

    def stop(self) -> None:
        """Put what is being worked on back into the queue; returns when no thread is left. Blocks."""
        if self._runner is not None:
            self._runner.stop()

    def require_room(self, owner: str) -> None:
        """Raise `ApiError` when an owner has as many analyses waiting as allowed; blocks.

        Asked before a clip is received, to spare the client the sending, and once more when it is taken.
        """
        with self._store.read() as connection:
            self._require_room_within(connection, owner)

    def require_webhook(self, url: str) -> None:
        """Raise `ApiError` unless a webhook of a request may go to this address; touches no network."""
        allowed = self._settings.analysis_webhooks
        if allowed == "off":
            message = "this service sends no webhooks to addresses of requests (EMOLLAMA_ANALYSIS_WEBHOOKS)"
            raise ApiError("webhook_not_allowed", message, param="webhook_url")
        if allowed == "any":
            with contextlib.suppress(ValueError):
                parts = urlsplit(url)
                is_plain = parts.scheme in ("http", "https") and parts.port != 0
                if is_plain and parts.hostname and not parts.username and not parts.fragment and url.isascii():
                    return
            message = "webhook_url is not a plain http or https address"
            raise ApiError("webhook_not_allowed", message, param="webhook_url")
        try:
            is_https = parse_url(url).scheme == "https"
        except ApiError as exc:
            message = str(exc).replace("the address", "webhook_url", 1)
            raise ApiError("webhook_not_allowed", message, param="webhook_url") from exc
        if not is_https:
            raise ApiError("webhook_not_allowed", "webhook_url is http; allowed: https", param="webhook_url")

    def submit(self, record: AnalysisRecord, clip: Path, *, also: Also | None = None) -> AnalysisRecord:
        """Take a clip, which lies in the data folder's file system, into the queue; blocks.

        ``also`` writes what becomes true with it, in the same transaction. What goes wrong leaves nothing: no row, no
        file.
        """
        target = self._data.analysis(record.id)
        os.replace(clip, target)
        try:
            with self._store.write() as connection:
                self._require_room_within(connection, record.owner)
                analyses.add_within(connection, record)
                if also is not None:
                    also(connection)
        except BaseException:
            target.unlink(missing_ok=True)
            raise
        self.wake()
        return record

    def cancel(self, analysis_id: str) -> AnalysisRecord | None:
        """Ask one to end; None: there is no such one. Blocks."""
        record = queue.cancel(
            self._store, analysis_id, now=self._clock(), tells_operator=self._settings.webhook_url is not None
        )
        if record is not None and record.has_ended:
            self._data.remove_analysis(analysis_id)
        self.wake()
        return record

    def delete(self, analysis_id: str) -> bool:
        """Forget one with its clip and result, also while it is worked on; blocks."""
        with self._store.write() as connection:
            num_gone = analyses.remove_within(connection, [analysis_id])
        self._data.remove_analysis(analysis_id)
        self.wake()
        self._store.scrub()
        return num_gone > 0

    def wake(self) -> None:
        """Look at the queue now."""
        if self._runner is not None:
            self._runner.wake()

    def _require_room_within(self, connection: Connection, owner: str) -> None:
        most = self._settings.analysis_queue_size
        waiting = analyses.num_waiting_within(connection, owner)
        if waiting < most:
            return
        seconds = math.ceil(self._seconds_until_one_ends(analyses.num_waiting_within(connection)))
        message = f"{waiting} of your analyses wait; allowed: {most}. Try again in {seconds} s"
        raise ApiError("analysis_queue_full", message, headers={"Retry-After": str(seconds)})

    def _seconds_until_one_ends(self, num_waiting: int) -> float:
        """Turns go around the owners, so the next of one's own ends about when all have had theirs."""
        each = analyses.mean_seconds(self._store) or _FIRST_GUESS_SECONDS
        workers = max(1, self._settings.analysis_workers)
        return min(_LONGEST_RETRY_SECONDS, max(1.0, each * num_waiting / workers))
