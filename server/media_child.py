"""The process in which files of strangers are decoded: ``python -m server.media_child`` (see `server.media_worker`).

It reads one request a line from its standard input and answers each with a frame: the length of a JSON header as four
bytes, the header, then the arrays that the header lists, as they lie in memory. A long clip is answered window by
window, each asked for by a line of its own; a picture of a camera is the bytes behind its line. Where it is asked to,
the process also follows the faces, and sends their crops in place of the pictures. It has no secrets of the service in
its environment, may write to no file, open few, and use so much processor time and address space; over that, the kernel
ends it, or an allocation fails. What it really holds in memory is watched from outside.
"""

from __future__ import annotations

import json
import os
import struct
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from server.confinement import allow_processor_time, restrict, take_pipes
from server.followed import pack
from server.glances import asked_look, pack_glance

if TYPE_CHECKING:
    from emollama.errors import EmoLlamaError
    from emollama.media_windows import ClipWindow
    from emollama.types import Clip


def main() -> None:
    allowed = json.loads(sys.argv[1])
    requests, answers = take_pipes()
    import cv2

    import emollama.faces
    import emollama.glance
    import emollama.media_windows  # noqa: F401  (whatever it takes is taken before the limits are set)

    cv2.setNumThreads(1)  # other clips are decoded beside this one

    restrict(allowed["address_bytes"])
    os.nice(allowed["niceness"])
    _send(answers, {"ready": True}, [])
    windows: Iterator[ClipWindow] | None = None
    for line in requests:
        allow_processor_time(allowed["cpu_seconds"])
        request = json.loads(line)
        if "windows" in request:
            windows = _windows(request)
        if "glance" in request:
            header, arrays = _glance(request["glance"], requests)
        elif windows is not None:
            header, arrays = _next(windows)
        else:
            header, arrays = _answer(request)
        _send(answers, header, arrays)


def _windows(request: dict[str, Any]) -> Iterator[ClipWindow]:
    """Open a long clip. This process reads nothing else any more."""
    from emollama.media import MediaLimits
    from emollama.media_windows import read_windows

    with open(request["path"], "rb") as file:
        yield from read_windows(
            file, name=request["name"], limits=MediaLimits(**request["limits"]), **request["windows"]
        )


def _next(windows: Iterator[ClipWindow]) -> tuple[dict[str, Any], list[Any]]:
    from emollama.errors import EmoLlamaError

    try:
        window = next(windows)
    except FileNotFoundError:
        return _gone(), []
    except EmoLlamaError as exc:
        return _error(exc), []
    header, arrays = _clip(window.clip)
    header["window"] = {
        "index": window.index, "start": window.start, "end": window.end, "share": window.share,
        "is_last": window.is_last,
    }  # fmt: skip
    return header, arrays


def _glance(told: dict[str, Any], requests: IO[bytes]) -> tuple[dict[str, Any], list[Any]]:
    """Look at a picture whose bytes follow their request."""
    from emollama.errors import EmoLlamaError
    from emollama.face_detectors import default_detector
    from emollama.glance import look_at

    picture = requests.read(told["num_bytes"])
    look, limits = asked_look(told)
    detector = default_detector(None if told["detector"] is None else Path(told["detector"]))
    try:
        return pack_glance(look_at(picture, look, limits=limits, detector=detector))
    except EmoLlamaError as exc:
        return _error(exc), []


def _answer(request: dict[str, Any]) -> tuple[dict[str, Any], list[Any]]:
    from emollama.errors import EmoLlamaError
    from emollama.media import MediaLimits, read_clip
    from emollama.media_windows import clip_seconds

    try:
        if "length_of" in request:
            with open(request["length_of"], "rb") as file:
                return {"seconds": clip_seconds(file)}, []
        with open(request["path"], "rb") as file:
            # One thread: with more, FFmpeg skips other pictures, and an answer would depend on the load.
            clip = read_clip(file, name=request["name"], limits=MediaLimits(**request["limits"]), threads=1)
        if request.get("follow_faces"):
            clip = _with_tracks(clip, request["detector"])
    except FileNotFoundError:
        return _gone(), []
    except EmoLlamaError as exc:
        return _error(exc), []
    return _clip(clip)


def _gone() -> dict[str, Any]:
    """Of an upload whose client left, so that it was deleted before it was opened; its path is nobody's business."""
    from emollama.errors import UndecodableMediaError

    return _error(UndecodableMediaError("the file was deleted before it was read", field="file"))


def _error(error: EmoLlamaError) -> dict[str, Any]:
    return {
        "error": type(error).__name__, "message": str(error), "field": error.field,
        "limit": getattr(error, "limit", None),
    }  # fmt: skip


def _clip(clip: Clip) -> tuple[dict[str, Any], list[Any]]:
    header: dict[str, Any] = {
        "name": clip.name,
        "seconds": clip.seconds,
        "sha256": clip.sha256,
        "warnings": list(clip.warnings),
        "frames": None,
        "audio": None,
        "tracks": None,
    }
    arrays: list[Any] = []
    if clip.frames is not None:
        images, times = clip.frames.images, clip.frames.times
        header["frames"] = {
            "shape": [len(times), *images.shape[1:]], "source_fps": clip.frames.source_fps,
            "is_still": clip.frames.is_still,
        }  # fmt: skip
        arrays += [images.astype("uint8", copy=False), times.astype("<f8", copy=False)]
    if clip.audio is not None:
        samples = clip.audio.samples
        header["audio"] = {"length": len(samples), "sample_rate": clip.audio.sample_rate, "start": clip.audio.start}
        arrays.append(samples.astype("<f4", copy=False))
    if clip.tracks is not None:
        header["tracks"], followed = pack(clip.tracks)
        arrays += followed
    return header, arrays


def _with_tracks(clip: Clip, detector: str | None) -> Clip:
    """Follow the faces here, so that their crops travel instead of whole pictures."""
    from emollama.face_detectors import default_detector
    from emollama.faces import track_faces

    if clip.frames is None:
        return clip
    finder = default_detector(None if detector is None else Path(detector))
    tracks = track_faces(clip.frames, audio=clip.audio, detector=finder)
    return replace(clip, tracks=tracks, frames=replace(clip.frames, images=clip.frames.images[:0]))


def _send(answers: IO[bytes], header: dict[str, Any], arrays: list[Any]) -> None:
    import numpy as np

    text = json.dumps(header).encode()
    answers.write(struct.pack("<I", len(text)) + text)
    for array in arrays:
        answers.write(np.ascontiguousarray(array).data.cast("B") if array.size else b"")
    answers.flush()


if __name__ == "__main__":
    main()
