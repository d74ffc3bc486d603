"""The process in which a stranger's clip is written anew: ``python -m server.reports.video_child``.

One request comes as a line of JSON on its standard input; the answer is four bytes of length, a JSON header, and the
video. It lives under the limits of the processes that decode (`server.media_child`): it may write to no file, so the
video is made in memory, which is watched from outside.
"""

from __future__ import annotations

import io
import json
import os
import struct
import sys
from pathlib import Path
from typing import Any

from server.confinement import allow_processor_time, restrict, take_pipes


def main() -> None:
    allowed = json.loads(sys.argv[1])
    requests, answers = take_pipes()
    import cv2

    import emollama.reports.video  # noqa: F401  (whatever it takes is taken before the limits are set)

    cv2.setNumThreads(1)  # clips are analysed beside this
    restrict(allowed["address_bytes"])
    os.nice(allowed["niceness"])
    allow_processor_time(allowed["cpu_seconds"])
    header, video = _answer(json.loads(requests.readline()))
    text = json.dumps(header).encode()
    answers.write(struct.pack("<I", len(text)) + text)
    answers.write(video)
    answers.flush()


def _answer(request: dict[str, Any]) -> tuple[dict[str, Any], memoryview]:
    from emollama.errors import EmoLlamaError
    from emollama.media import MediaLimits
    from emollama.reports.video import VideoOptions, encode_video

    video = io.BytesIO()
    try:
        encode_video(
            Path(request["path"]), request["document"], video, VideoOptions(**request["options"]),
            name=request["name"], limits=MediaLimits(**request["limits"]),
        )  # fmt: skip
    except EmoLlamaError as error:
        told = {"error": type(error).__name__, "message": str(error), "limit": getattr(error, "limit", None)}
        return told, memoryview(b"")
    made = video.getbuffer()
    return {"num_bytes": len(made)}, made


if __name__ == "__main__":
    main()
