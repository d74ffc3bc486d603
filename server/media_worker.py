"""Decodes clips of strangers in processes of their own, so that a hostile file ends such a process and nothing else.

A few processes (`server.media_child`) live long and take one clip at a time. One that takes too long, uses too much,
crashes or is no longer wanted is killed and replaced at once; its clip gets an error that says so. What comes back is
not believed: a JSON header is checked against the limits, and the arrays are raw bytes of the size that the header
promised. Nothing is unpickled.

A long clip comes window by window, from a process of its own, so that those who wait for short ones keep theirs. It
decodes a window when it is asked for one, under the limits of a clip, and a limit of time for all of them together.
Pictures of a camera come as bytes behind their request, and faces go back.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
import queue
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from emollama import errors
from server.confined_process import POLL_SECONDS, ConfinedProcess, EndedError, WorkerLimits
from server.errors import ApiError
from server.followed import unpack
from server.glances import told_look, unpack_glance

if TYPE_CHECKING:
    from emollama.glance import Glance, Look, PictureLimits
    from emollama.media import MediaLimits
    from emollama.media_windows import ClipWindow
    from emollama.types import Audio, Clip, Frames

logger = logging.getLogger("server.media_worker")
Answer = TypeVar("Answer")

CHILD = (sys.executable, "-m", "server.media_child")
IS_SUPPORTED = os.name == "posix"
_START_SECONDS = 60.0
_CLIPS_PER_PROCESS = 1000
_LIMITS = WorkerLimits()
# What comes of taking an answer apart that is none; infinity as a number of pixels is an OverflowError.
_NOT_AN_ANSWER = (KeyError, TypeError, ValueError, OverflowError)


class WorkerError(errors.EmoLlamaError):
    """A decoding process could not be started: a fault of the service, not of a clip."""


class Decoding(Protocol):
    """Makes of an upload what an analyzer takes; blocks, may be called by several threads at once."""

    def decode(
        self,
        path: Path,
        *,
        name: str,
        limits: MediaLimits,
        cancelled: Callable[[], bool] | None = None,
        follow_faces: bool = False,
    ) -> Clip | Path:
        """With ``follow_faces`` a clip may come with its faces followed (`Clip.tracks`) and without its pictures."""
        ...

    def length(self, path: Path, *, cancelled: Callable[[], bool] | None = None) -> float | None:
        """Return the seconds that a file declares; ``None`` where it declares none."""
        ...

    def windows(
        self,
        path: Path,
        *,
        name: str,
        seconds: float,
        fps: float,
        limits: MediaLimits,
        cancelled: Callable[[], bool] | None = None,
    ) -> Iterator[ClipWindow]:
        """Decode a long clip window by window (`emollama.media_windows`)."""
        ...

    def close(self) -> None: ...


class InProcess:
    """Leaves the decoding to the analyzer."""

    def decode(
        self,
        path: Path,
        *,
        name: str,
        limits: MediaLimits,
        cancelled: Callable[[], bool] | None = None,
        follow_faces: bool = False,
    ) -> Path:
        return path

    def length(self, path: Path, *, cancelled: Callable[[], bool] | None = None) -> float | None:
        from emollama.media_windows import clip_seconds

        return clip_seconds(path)

    def windows(
        self,
        path: Path,
        *,
        name: str,
        seconds: float,
        fps: float,
        limits: MediaLimits,
        cancelled: Callable[[], bool] | None = None,
    ) -> Iterator[ClipWindow]:
        from emollama.media_windows import read_windows

        return read_windows(path, name=name, seconds=seconds, fps=fps, limits=limits, cancelled=cancelled)

    def close(self) -> None: ...


class _Process(ConfinedProcess):
    """One decoding process."""

    def __init__(self, command: Sequence[str], limits: WorkerLimits) -> None:
        super().__init__(command, limits)
        self._ready_by = time.monotonic() + _START_SECONDS  # however many clips wait for it in turn
        self.is_ready = False
        self.num_clips = 0

    def wait_until_ready(self, cancelled: Callable[[], bool]) -> None:
        """Return when the process takes clips; raises `WorkerError` when it cannot be started.

        After a "cancelled" it may be waited for again: what it says when it is ready comes in one piece or not yet.
        """
        if self.is_ready:
            return
        try:
            self.is_ready = bool(self.header(self._ready_by, cancelled).get("ready"))
        except EndedError as exc:
            if exc.reason == "cancelled":
                raise
            raise WorkerError(f"a process for decoding could not be started ({exc.reason})") from exc

    def ask(self, request: dict[str, Any], *, deadline: float, cancelled: Callable[[], bool]) -> Clip:
        """Return the clip; raises what the library raised there, or `EndedError`."""
        self.num_clips += 1
        return self._clip(self.answer(request, deadline, cancelled), deadline, cancelled)

    def ask_length(self, path: str, *, deadline: float, cancelled: Callable[[], bool]) -> float | None:
        """Return the seconds that a file declares; raises as `ask` does."""
        self.num_clips += 1
        header = self.answer({"length_of": path}, deadline, cancelled)
        try:
            return None if header["seconds"] is None else _finite(header["seconds"])
        except _NOT_AN_ANSWER as exc:
            raise EndedError("protocol") from exc

    def ask_window(
        self, request: dict[str, Any], *, index: int, start: float, deadline: float, cancelled: Callable[[], bool]
    ) -> ClipWindow:
        """Return the next window, which must be number ``index`` and begin at ``start``; raises as `ask` does."""
        from emollama.media_windows import ClipWindow

        header = self.answer(request, deadline, cancelled)
        clip = self._clip(header, deadline, cancelled)
        try:
            told = header["window"]
            window = ClipWindow(
                index=int(told["index"]), start=_finite(told["start"]), end=_finite(told["end"]), clip=clip,
                share=_finite(told["share"]), is_last=bool(told["is_last"]),
            )  # fmt: skip
        except _NOT_AN_ANSWER as exc:
            raise EndedError("protocol") from exc
        follows = window.index == index and abs(window.start - start) < 1e-6
        if not follows or not (window.is_last or window.end - window.start >= 1.0) or not 0 <= window.share <= 1:
            raise EndedError("protocol")
        return window

    def ask_glance(
        self, request: dict[str, Any], picture: bytes, *, deadline: float, cancelled: Callable[[], bool]
    ) -> Glance:
        """Return what a picture shows; raises as `ask` does."""
        self.num_clips += 1
        header = self.answer(request, deadline, cancelled, body=picture)
        try:
            return unpack_glance(
                header,
                lambda size: self.read(size, deadline, cancelled),
                num_followed=len(request["glance"]["follow"]),
                crop_size=request["glance"]["crop_size"],
            )
        except _NOT_AN_ANSWER as exc:
            raise EndedError("protocol") from exc

    def _clip(self, header: dict[str, Any], deadline: float, cancelled: Callable[[], bool]) -> Clip:
        from emollama.types import Clip

        try:
            told, audio, followed = header["frames"], header["audio"], header.get("tracks")
            frames = None if told is None else self._frames(told, deadline, cancelled, is_bare=followed is not None)
            return Clip(
                name=str(header["name"]),
                seconds=_finite(header["seconds"]),
                frames=frames,
                audio=None if audio is None else self._audio(audio, deadline, cancelled),
                sha256=None if header["sha256"] is None else str(header["sha256"]),
                warnings=tuple(str(each) for each in header["warnings"]),
                tracks=None
                if followed is None or frames is None
                else unpack(
                    followed, lambda size: self.read(size, deadline, cancelled), num_pictures=len(frames.times)
                ),
            )
        except _NOT_AN_ANSWER as exc:
            raise EndedError("protocol") from exc

    def _frames(self, told: dict[str, Any], deadline: float, cancelled: Callable[[], bool], *, is_bare: bool) -> Frames:
        """``is_bare`` frames come without their pictures."""
        import numpy as np

        from emollama.types import Frames

        number, height, width, channels = (int(size) for size in told["shape"])
        if min(number, height, width) < 1 or channels != 3:
            raise ValueError("no pictures have this shape")
        held = 0 if is_bare else number
        images = self.read(held * height * width * 3, deadline, cancelled)
        times = self.read(number * 8, deadline, cancelled)
        rate = told["source_fps"]
        return Frames(
            images=np.frombuffer(images, np.uint8).reshape(held, height, width, 3),
            times=np.frombuffer(times, "<f8"),
            source_fps=None if rate is None else _finite(rate),
            is_still=bool(told["is_still"]),
        )

    def _audio(self, told: dict[str, Any], deadline: float, cancelled: Callable[[], bool]) -> Audio:
        import numpy as np

        from emollama.types import Audio

        samples = self.read(int(told["length"]) * 4, deadline, cancelled)
        return Audio(
            samples=np.frombuffer(samples, "<f4"), sample_rate=int(told["sample_rate"]), start=_finite(told["start"])
        )


class MediaPool:
    """Decodes in ``size`` processes; ``ended`` hears the reason whenever one was ended by a clip."""

    def __init__(
        self,
        size: int,
        *,
        limits: WorkerLimits = _LIMITS,
        ended: Callable[[str], None] = lambda reason: None,
        command: Sequence[str] = CHILD,
        clips_per_process: int = _CLIPS_PER_PROCESS,
    ) -> None:
        self._limits, self._ended, self._command = limits, ended, tuple(command)
        self._clips_per_process = clips_per_process
        self._size = size
        self._is_closing = False
        self._own: list[_Process] = []  # of long clips
        # The one that was used last is warmest, so it is the first to be taken.
        self._idle: queue.LifoQueue[_Process] = queue.LifoQueue()
        for _ in range(size):
            self._idle.put(self._start())

    def decode(
        self,
        path: Path,
        *,
        name: str,
        limits: MediaLimits,
        cancelled: Callable[[], bool] | None = None,
        follow_faces: bool = False,
    ) -> Clip:
        """Decode a file. Raises `MediaError` for one that cannot be read, costs too much, or ended its process."""
        from emollama.face_detectors import yunet_path

        request = {
            "path": str(path.absolute()), "name": name, "limits": dataclasses.asdict(limits),
            "follow_faces": follow_faces, "detector": str(yunet_path()) if yunet_path().is_file() else None,
        }  # fmt: skip
        return self._lent(lambda process, **watch: process.ask(request, **watch), cancelled)

    def glance(
        self, picture: bytes, look: Look, *, limits: PictureLimits, cancelled: Callable[[], bool] | None = None
    ) -> Glance:
        """Decode a picture of a camera and look for faces in it; raises as `decode` does."""
        from emollama.face_detectors import yunet_path

        limits.check(picture)  # its header is read here; what is too large goes to no process
        detector = str(yunet_path()) if yunet_path().is_file() else None
        request = {"glance": {**told_look(look, limits), "num_bytes": len(picture), "detector": detector}}
        return self._lent(lambda process, **watch: process.ask_glance(request, picture, **watch), cancelled)

    def length(self, path: Path, *, cancelled: Callable[[], bool] | None = None) -> float | None:
        """Return the seconds that a file declares; raises as `decode` does."""
        where = str(path.absolute())
        return self._lent(lambda process, **watch: process.ask_length(where, **watch), cancelled)

    def windows(
        self,
        path: Path,
        *,
        name: str,
        seconds: float,
        fps: float,
        limits: MediaLimits,
        cancelled: Callable[[], bool] | None = None,
    ) -> Iterator[ClipWindow]:
        """Decode a long clip window by window; the process lives until the iterator ends or is closed.

        Raises `MediaError` as `decode` does, and `CancelledError`.
        """
        asked_to_stop = cancelled or (lambda: False)
        request: dict[str, Any] = {
            "path": str(path.absolute()), "name": name, "limits": dataclasses.asdict(limits),
            "windows": {"seconds": seconds, "fps": fps},
        }  # fmt: skip
        process = self._start()
        self._own.append(process)
        index, start, spent = 0, 0.0, 0.0
        try:
            process.wait_until_ready(asked_to_stop)
            while True:
                if asked_to_stop():
                    raise EndedError("cancelled")
                began = time.monotonic()
                rest = self._limits.long_seconds - spent
                window = process.ask_window(
                    request, index=index, start=start, deadline=began + min(self._limits.seconds, rest),
                    cancelled=asked_to_stop,
                )  # fmt: skip
                spent += time.monotonic() - began
                request, index, start = {"next": True}, index + 1, window.end
                yield window
                if window.is_last:
                    return
        except EndedError as exc:
            if exc.reason == "cancelled":
                raise errors.CancelledError("the reading of the clip was cancelled") from exc
            self._ended(exc.reason)
            raise self._told(exc.reason) from exc
        except errors.EmoLlamaError:
            if asked_to_stop():  # which is why the file may be gone
                raise errors.CancelledError("the reading of the clip was cancelled") from None
            raise
        finally:
            process.kill()
            with contextlib.suppress(ValueError):
                self._own.remove(process)

    def _lent(self, ask: Callable[..., Answer], cancelled: Callable[[], bool] | None) -> Answer:
        """Ask one of the processes, and have it replaced where the question ends it."""
        asked_to_stop = cancelled or (lambda: False)
        process = self._take(asked_to_stop)
        keep = False
        try:
            try:
                process.wait_until_ready(asked_to_stop)
            except EndedError as exc:
                keep = True  # it has seen nothing of the clip, and will be ready for the next
                raise self._told(exc.reason) from exc
            deadline = time.monotonic() + self._limits.seconds
            try:
                answer = ask(process, deadline=deadline, cancelled=asked_to_stop)
            except errors.EmoLlamaError:
                keep = True
                if asked_to_stop():  # which is why the file may be gone
                    raise self._told("cancelled") from None
                raise
            keep = True
            return answer
        except EndedError as exc:
            self._ended(exc.reason)
            raise self._told(exc.reason) from exc
        finally:
            self._give_back(process, keep=keep and process.num_clips < self._clips_per_process)

    def pids(self) -> list[int]:
        """Return the processes that wait for a clip."""
        with self._idle.mutex:
            return [process.pid for process in self._idle.queue]

    def close(self) -> None:
        """End the processes; nothing is being decoded any more."""
        self._is_closing = True
        for process in tuple(self._own):
            process.kill()
        with contextlib.suppress(queue.Empty):
            while True:
                self._idle.get_nowait().kill()

    def _start(self) -> _Process:
        return _Process(self._command, self._limits)

    def _take(self, cancelled: Callable[[], bool]) -> _Process:
        while True:
            try:
                return self._idle.get(timeout=POLL_SECONDS)
            except queue.Empty:
                if cancelled() or self._is_closing:
                    raise ApiError("client_closed_request") from None

    def _give_back(self, process: _Process, *, keep: bool) -> None:
        if not keep or self._is_closing:
            process.kill()
        if not self._is_closing:
            self._idle.put(process if keep else self._start())

    def _told(self, reason: str) -> Exception:
        if reason == "cancelled":
            return ApiError("client_closed_request")
        logger.warning("a decoding process was ended", extra={"fields": {"reason": reason}})
        if reason == "timeout":
            seconds = self._limits.seconds
            return errors.MediaLimitError(f"the file was not decoded within {seconds:g} s", field="file")
        if reason == "memory":
            megabytes = self._limits.memory_bytes / 2**20
            return errors.MediaLimitError(f"the file takes more than {megabytes:g} MiB to decode", field="file")
        return errors.UndecodableMediaError(
            "the file could not be decoded: it ended the process that read it, or took too much processor time",
            field="file",
        )


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{number} is not finite")
    return number
