"""Has a clip written anew in a process of its own, as `server.media_worker` has clips decoded in such processes.

A video takes minutes, so it has a process for itself, which ends with it. What comes back is copied into a file piece
by piece and not looked at. A process that takes too long, holds too much, crashes or is no longer wanted is killed.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from emollama import errors
from server.confined_process import ConfinedProcess, EndedError, WorkerLimits

if TYPE_CHECKING:
    from emollama.media import MediaLimits
    from emollama.reports.video import VideoOptions

logger = logging.getLogger("server.reports.video_worker")

CHILD = (sys.executable, "-m", "server.reports.video_child")
_MAX_HEADER_BYTES = 2**16
_MAX_VIDEO_BYTES = 2**31
_PIECE_BYTES = 2**20


@dataclass(frozen=True, kw_only=True)
class VideoOrder:
    """What is to be written: the clip and what it is called, its analysis in wire form, and how."""

    source: Path
    name: str
    document: Mapping[str, Any]
    options: VideoOptions
    limits: MediaLimits


class VideoWriting(Protocol):
    """Writes a video whole into ``target``, which is not there yet; blocks.

    Raises `MediaError` or `InputError` for a clip that cannot be written, and `CancelledError`.
    """

    def write(self, order: VideoOrder, target: Path, *, cancelled: Callable[[], bool]) -> None: ...


class VideoHere:
    """Writes in the service itself, where there are no processes for clips."""

    def write(self, order: VideoOrder, target: Path, *, cancelled: Callable[[], bool]) -> None:
        from emollama.reports.video import encode_video
        from emollama.watch import Watch

        encode_video(
            order.source, order.document, target, order.options, name=order.name, limits=order.limits,
            check=Watch(cancelled),
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class VideoProcesses:
    """Writes each video in a process; ``ended`` hears the reason whenever one was ended by its clip."""

    limits: WorkerLimits
    ended: Callable[[str], None] = field(default=lambda reason: None)
    command: Sequence[str] = CHILD

    def write(self, order: VideoOrder, target: Path, *, cancelled: Callable[[], bool]) -> None:
        deadline = time.monotonic() + self.limits.seconds
        process = ConfinedProcess(
            self.command, self.limits, settings=("EMOLLAMA_CACHE",), max_header_bytes=_MAX_HEADER_BYTES
        )  # the detector's file lies in the cache
        try:
            header = process.answer(_request(order), deadline, cancelled, field="file")
            left = header.get("num_bytes")
            if not isinstance(left, int) or not 0 < left <= _MAX_VIDEO_BYTES:
                raise EndedError("protocol")
            with target.open("xb") as file:
                while left:
                    process.check(deadline, cancelled)
                    left -= file.write(process.read(min(left, _PIECE_BYTES), deadline, cancelled))
        except EndedError as exc:
            if exc.reason == "cancelled":
                raise errors.CancelledError("the writing of the video was cancelled") from exc
            self.ended(exc.reason)
            logger.warning("a process that wrote a video was ended", extra={"fields": {"reason": exc.reason}})
            raise self._told(exc.reason) from exc
        finally:
            process.kill()

    def _told(self, reason: str) -> errors.MediaError:
        if reason == "timeout":
            return errors.MediaLimitError(f"the video was not written within {self.limits.seconds:g} s", field="file")
        if reason == "memory":
            megabytes = self.limits.memory_bytes / 2**20
            return errors.MediaLimitError(f"the video takes more than {megabytes:g} MiB to write", field="file")
        return errors.UndecodableMediaError(
            "the video could not be written: the clip ended the process that wrote it, or took too much processor time",
            field="file",
        )


def _request(order: VideoOrder) -> dict[str, Any]:
    """Of the analysis, what is drawn and nothing else."""
    document = {name: order.document[name] for name in ("faces", "timeline")}
    document["emotion"] = {"scores": order.document["emotion"]["scores"]}
    return {
        "path": str(order.source.absolute()), "name": order.name, "document": document,
        "options": asdict(order.options), "limits": asdict(order.limits),
    }  # fmt: skip
