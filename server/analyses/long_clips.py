"""A clip of the queue that is over the length of an ordinary one: read window by window, and judged as a whole.

The windows come from the decoder one at a time, so what is held is one window and what was made of the others
(`emollama.long_clip`). Progress is that of the windows; what is not written down of it is lost and nothing else. What
was made of each window is written down, too, so that a clip whose process was killed is gone on with, not begun anew.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emollama.errors import MediaError
from server.errors import ApiError
from server.media_worker import Decoding

if TYPE_CHECKING:
    from emollama.long_clip import LongAnalysis
    from emollama.media import MediaLimits
    from emollama.media_windows import ClipWindow
    from server.deps import Analyzing

logger = logging.getLogger("server.analyses")

_WHOLE_BEGINS_AT = 0.98  # of the progress


def is_long(decoder: Decoding, path: Path, *, limits: MediaLimits, cancelled: Callable[[], bool]) -> bool:
    """Tell whether a clip is over the limits of an ordinary one, by its size or the length that it declares."""
    if path.stat().st_size > limits.max_bytes:
        return True
    try:
        seconds = decoder.length(path, cancelled=cancelled)
    except MediaError:  # what is wrong with it is for whoever decodes it to say
        return False
    return seconds is not None and seconds > limits.max_seconds


def require_reader(analyzer: Analyzing, *, limits: MediaLimits) -> Analyzing:
    """Return the analyzer as one that reads long clips, or raise `ApiError`; ``limits`` are those of an ordinary clip.

    A large preset looks at whole clips only.
    """
    from emollama.long_clip import reads_long_clips

    if reads_long_clips(analyzer):
        return analyzer
    message = (
        f"the clip is over {limits.max_seconds:g} s or {limits.max_bytes / 2**20:g} MiB, and this model looks at "
        "whole clips only; send shorter pieces, or ask a service that runs nano"
    )
    raise ApiError("media_limit_exceeded", message, param="file")


def analyze_windows(
    analyzer: Analyzing,
    decoder: Decoding,
    path: Path,
    *,
    kept_in: Path,
    name: str,
    options: Mapping[str, Any],
    limits: MediaLimits,
    advance: Callable[[str, float], None],
    cancelled: Callable[[], bool],
) -> LongAnalysis:
    """Analyse a long clip with the options of a request; ``advance`` hears the stage and the progress in [0, 1].

    Every window that was read is written to the folder ``kept_in``, and of those that are there already none is read
    again. Raises what `emollama.long_clip.analyze_long` raises.
    """
    from emollama.long_clip import KeptWindow, analyze_long
    from emollama.long_clip.durable import KeptFolder
    from emollama.media_windows import LONG_FPS, WINDOW_SECONDS

    labels = options.get("labels")
    asked = {
        "transcript": options.get("transcript"),
        "labels": None if labels is None else tuple(labels),
        "language": options.get("language"),
        "timeline": options.get("timeline", True),
    }
    kept = KeptFolder(kept_in, about={**asked, "model": options.get("model"), "fps": LONG_FPS, "name": name})
    kept_in.mkdir(mode=0o700, exist_ok=True)
    done = kept.load()
    # After the folder was made: that the analysis was deleted before is told here, and who deletes it later finds the
    # folder.
    advance("windows", _WHOLE_BEGINS_AT * done[-1].share if done else 0.0)
    if done:
        fields = {"analysis": path.name, "windows": len(done)}
        logger.info("a long analysis goes on behind the windows that were read", extra={"fields": fields})

    def keep(window: KeptWindow) -> None:
        try:
            kept.add(window)
        except OSError as exc:  # a full disk costs what a restart would save, and not the analysis
            fields = {"analysis": path.name, "window": window.analysis.index}
            logger.warning("a window was not written", extra={"fields": fields}, exc_info=exc)

    decoded = decoder.windows(
        path, name=name, seconds=WINDOW_SECONDS, fps=LONG_FPS, limits=limits, cancelled=cancelled
    )  # fmt: skip
    with contextlib.closing(_told(decoded, advance)) as windows:
        return analyze_long(
            analyzer,
            windows,
            name=name,
            window_seconds=WINDOW_SECONDS,
            **asked,
            progress=lambda share: advance("windows", share) if share < 1.0 else None,
            cancelled=cancelled,
            done=done,
            keep=keep,
        )


def _told(windows: Iterator[ClipWindow], advance: Callable[[str, float], None]) -> Generator[ClipWindow, None, None]:
    """Pass windows on, and tell when there are no more and the whole is judged; closing this closes ``windows``."""
    yield from windows
    advance("whole", _WHOLE_BEGINS_AT)
