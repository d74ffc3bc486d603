"""The process in which files of strangers are decoded: ``python -m server.media_child`` (see `server.media_worker`).

It reads one request a line from its standard input and answers each with a frame: the length of a JSON header as four
bytes, the header, then the arrays that the header lists, as they lie in memory. It has no secrets of the service in its
environment, may write to no file, open few, and use so much processor time and address space; over that, the kernel
ends it, or an allocation fails. What it really holds in memory is watched from outside.
"""

from __future__ import annotations

import json
import os
import struct
import sys
from typing import IO, Any

_OPEN_FILES = 64  # the interpreter's own, shared libraries while they are loaded, and one clip


def main() -> None:
    allowed = json.loads(sys.argv[1])
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # What a library writes, to wherever, must not get between the frames, nor into a log: it may quote the clip.
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nowhere, number)
    import emollama.media  # noqa: F401  (whatever it takes is taken before the limits are set)

    _restrict(allowed["address_bytes"])
    os.nice(allowed["niceness"])
    _send(answers, {"ready": True}, [])
    for line in requests:
        _allow_processor_time(allowed["cpu_seconds"])
        header, arrays = _answer(json.loads(line))
        _send(answers, header, arrays)


def _restrict(address_bytes: int) -> None:
    import resource

    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, 0)
    _lower(resource.RLIMIT_NOFILE, _OPEN_FILES)
    _lower(resource.RLIMIT_AS, _address_space() + address_bytes)


def _lower(which: int, value: int) -> None:
    import resource

    _, hard = resource.getrlimit(which)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, value))


def _address_space() -> int:
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # another system than Linux
        return 2 * 2**30


def _allow_processor_time(seconds: int) -> None:
    """Let the next clip use so much; what the earlier ones used does not count against it."""
    import resource

    usage = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = int(usage.ru_utime + usage.ru_stime) + 1 + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def _answer(request: dict[str, Any]) -> tuple[dict[str, Any], list[Any]]:
    from emollama.errors import EmoLlamaError
    from emollama.media import MediaLimits, read_clip

    try:
        with open(request["path"], "rb") as file:
            clip = read_clip(file, name=request["name"], limits=MediaLimits(**request["limits"]))
    except EmoLlamaError as exc:
        return {"error": type(exc).__name__, "message": str(exc), "field": exc.field}, []
    header: dict[str, Any] = {
        "name": clip.name,
        "seconds": clip.seconds,
        "sha256": clip.sha256,
        "warnings": list(clip.warnings),
        "frames": None,
        "audio": None,
    }
    arrays = []
    if clip.frames is not None:
        images = clip.frames.images
        header["frames"] = {
            "shape": list(images.shape), "source_fps": clip.frames.source_fps, "is_still": clip.frames.is_still,
        }  # fmt: skip
        arrays += [images.astype("uint8", copy=False), clip.frames.times.astype("<f8", copy=False)]
    if clip.audio is not None:
        samples = clip.audio.samples
        header["audio"] = {"length": len(samples), "sample_rate": clip.audio.sample_rate, "start": clip.audio.start}
        arrays.append(samples.astype("<f4", copy=False))
    return header, arrays


def _send(answers: IO[bytes], header: dict[str, Any], arrays: list[Any]) -> None:
    import numpy as np

    text = json.dumps(header).encode()
    answers.write(struct.pack("<I", len(text)) + text)
    for array in arrays:
        answers.write(np.ascontiguousarray(array).data.cast("B") if array.size else b"")
    answers.flush()


if __name__ == "__main__":
    main()
