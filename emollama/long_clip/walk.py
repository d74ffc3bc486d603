"""A long clip from beginning to end: window after window is read and judged, and then the whole from all of them.

Of a window its readings, tokens and words are kept, not its pictures and sound, so that memory stays where one window
needs it (`emollama.long_clip.reading`). The whole is asked of the same model by the same prefill, from what stands for
all windows (`emollama.long_clip.whole`). A walk that was broken off goes on behind the windows that were kept of it.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, cast

from emollama.errors import CancelledError, DeadlineError, InputError
from emollama.labels import parse_label_set
from emollama.long_clip.analysis import LongAnalysis
from emollama.long_clip.following import TrackIds
from emollama.long_clip.kept import KeptWindow, LongQuestion
from emollama.long_clip.reading import WindowReader, placed, reader_of
from emollama.long_clip.words import SpokenWords
from emollama.media import MediaLimits
from emollama.media_windows import LONG_FPS, LONG_LIMITS, WINDOW_SECONDS, ClipWindow, read_windows
from emollama.types import Transcript
from emollama.watch import Watch

LongSource = Path | str | bytes | BinaryIO | Iterable[ClipWindow]
_WHOLE_SHARE = 0.02  # of the progress


def reads_long_clips(analyzer: Any) -> bool:
    """Tell whether an analyzer can be asked for the windows of a clip: one that reads as nano does, also elsewhere."""
    return reader_of(analyzer) is not None


def analyze_long(
    analyzer: Any,
    source: LongSource,
    *,
    name: str | None = None,
    window_seconds: float = WINDOW_SECONDS,
    fps: float = LONG_FPS,
    transcript: str | Transcript | None = None,
    labels: str | Sequence[str] | None = None,
    language: str | None = None,
    asr: str | None = None,
    rationales: bool = True,
    timeline: bool = True,
    limits: MediaLimits = LONG_LIMITS,
    progress: Callable[[float], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
    deadline: float | None = None,
    done: Sequence[KeptWindow] = (),
    keep: Callable[[KeptWindow], None] | None = None,
) -> LongAnalysis:
    """Analyse a clip of any length, window by window and as a whole, in memory that hardly grows with its length.

    ``source`` is a path, bytes, an open file, or windows that were decoded elsewhere. ``transcript`` may be words, the
    text of a subtitle file, or a `Transcript`; with times, words go to the windows in which they are said, without
    they count for the whole alone. ``rationales=False`` leaves out the sentences about single windows, which take time,
    ``timeline=False`` the timeline of the whole, for which other faces than the main one are read.
    ``progress`` hears how much is done, in [0, 1], rising. ``cancelled`` is asked several times a second; ``deadline``
    is a reading of `time.monotonic`. ``keep`` hears what is kept of each window as soon as it was read; whoever gives
    that again as ``done``, of the first windows of the same clip, with the same analyzer and arguments, has only the
    others read and gets the same answer.

    Raises what `read_clip` and `Analyzer.analyze` raise, `CancelledError`, and `DeadlineError`; and `InputError` for a
    large preset, whose encoders look at whole clips.
    """
    reader = reader_of(analyzer)
    if reader is None:
        model = analyzer.parts.name if hasattr(analyzer, "parts") else "asked"
        raise InputError(f"model {model!r} reads no long clips; nano does", field="model")
    question = LongQuestion(
        name=name,
        window_seconds=window_seconds,
        transcript=SpokenWords.given(transcript, language=language).transcript,
        labels=None if labels is None else parse_label_set(labels),
        language=language,
        asr=asr,
        rationales=rationales,
        timeline=timeline,
    )
    watch = Watch(cancelled, deadline=deadline)
    windows: Iterable[ClipWindow]
    if isinstance(source, (str, Path, bytes, io.IOBase)):
        windows = read_windows(
            cast("Path | str | bytes | BinaryIO", source), name=name, seconds=window_seconds, fps=fps, limits=limits,
            cancelled=_asker(watch),
        )  # fmt: skip
    else:
        windows = cast("Iterable[ClipWindow]", source)
    tell = _Progress(progress)
    kept = list(done)
    try:
        if not kept or not kept[-1].is_last:
            with closing(_read(reader, windows, question, done, watch)) as reading:
                for window in reading:
                    kept.append(window)
                    if keep is not None:
                        keep(window)
                    tell(window.share * (1 - _WHOLE_SHARE))
        answer = reader.judge(kept, question, cancelled=_asker(watch))
    except CancelledError:
        watch()  # a time that has passed is told as what it is
        raise
    tell(1.0)
    return answer


def _read(
    reader: WindowReader,
    windows: Iterable[ClipWindow],
    question: LongQuestion,
    done: Sequence[KeptWindow],
    watch: Watch,
) -> Generator[KeptWindow, None, None]:
    """Yield what is kept of each window behind those that are done; these are decoded, and not looked at again."""
    words = SpokenWords(question.transcript)
    ids = TrackIds(endings=done[-1].endings, num_tracks=done[-1].num_tracks) if done else TrackIds()
    left = time.perf_counter()  # when the last window was done with
    for window in windows:
        watch()
        if window.index < len(done):
            before = done[window.index]
            if (window.start, window.end) != (before.start, before.end):
                raise InputError(f"window {window.index} of those that are done is not of this clip", field="done")
            continue
        arrived = time.perf_counter()
        said = words.between(window.start, window.end, is_last=window.is_last)
        kept = reader.read(placed(window), question, said=said, ids=ids, cancelled=_asker(watch))
        now = time.perf_counter()
        spent = {"decode": 1000 * (arrived - left), **kept.timings_ms, "total": 1000 * (now - left)}
        left = now
        yield replace(kept, endings=ids.endings, num_tracks=ids.num_tracks, timings_ms=spent)


def _asker(watch: Watch) -> Callable[[], bool]:
    """Ask a watch without its errors: for those who want a yes or no."""

    def is_over() -> bool:
        try:
            watch()
        except (CancelledError, DeadlineError):
            return True
        return False

    return is_over


class _Progress:
    """Tells a listener how much is done: never less than before, and not for changes that nobody sees."""

    def __init__(self, listener: Callable[[float], None] | None) -> None:
        self._listener, self._told = listener, -1.0

    def __call__(self, share: float) -> None:
        share = min(1.0, max(share, self._told))
        if self._listener is not None and (share > self._told):
            self._told = share
            self._listener(share)
