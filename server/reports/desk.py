"""Where reports that take time are written: few at once, some waiting, the rest told when to come back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from server.gate import Gate
from server.media_worker import IS_SUPPORTED
from server.reports.video_worker import VideoHere, VideoProcesses, VideoWriting
from server.settings import Settings


@dataclass(frozen=True, kw_only=True)
class ReportDesk:
    """A gate of its own, so that videos take no place from `/analyze`, and what writes videos."""

    gate: Gate
    videos: VideoWriting

    @classmethod
    def of(cls, settings: Settings, *, ended: Callable[[str], None]) -> ReportDesk:
        gate = Gate(
            concurrency=settings.report_workers,
            queue_size=settings.report_queue_size,
            doing="reports are being written",
        )
        uses_processes = settings.media_workers > 0 and IS_SUPPORTED
        return cls(
            gate=gate,
            videos=VideoProcesses(limits=settings.report_limits(), ended=ended) if uses_processes else VideoHere(),
        )
