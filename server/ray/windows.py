"""The windows of a long clip, read in the cluster one by one.

A window is decoded at the door, goes to an encoder as pictures and sound, and what that makes of it goes on to a
decoder; both calls are made again when their replica dies, and what was done before is not done again. The door holds
one window, and of the others what is kept of them. It names the faces, because a face goes on from the window before,
and that one may have been seen by another encoder.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

from emollama.errors import InputError
from emollama.watch import Watch
from server.ray.handles import Handles
from server.ray.wire import Model

if TYPE_CHECKING:
    from emollama.long_clip import KeptWindow, LongAnalysis
    from emollama.long_clip.following import TrackIds
    from emollama.long_clip.kept import LongQuestion
    from emollama.media_windows import ClipWindow
    from emollama.types import Transcript


class RemoteWindows:
    """An `emollama.long_clip.reading.WindowReader` whose work is done in the cluster."""

    def __init__(self, handles: Handles, model: Model) -> None:
        self._handles, self._model = handles, model

    def read(
        self,
        window: ClipWindow,
        question: LongQuestion,
        *,
        said: Transcript | None,
        ids: TrackIds,
        cancelled: Callable[[], bool],
    ) -> KeptWindow:
        if question.asr is not None:
            raise InputError(f"asr is {question.asr!r}; a model on a cluster hears no words", field="asr")
        watch = Watch(cancelled)
        *_, perception = self._handles.perceive(window.clip, name=None, limits=None, watch=watch)
        perception = perception.with_ids(ids)
        bare = dataclasses.replace(window, clip=perception.clip)
        (kept,) = self._handles.decide("read_window", self._model, bare, perception, question, said, watch=watch)
        spent = {**kept.timings_ms, **{name: ms for name, ms in perception.timings_ms.items() if name != "decode"}}
        return dataclasses.replace(cast("KeptWindow", kept), timings_ms=spent)

    def judge(
        self, windows: Sequence[KeptWindow], question: LongQuestion, *, cancelled: Callable[[], bool]
    ) -> LongAnalysis:
        import ray

        watch, given = Watch(cancelled), ray.put(tuple(windows))
        (answer,) = self._handles.decide("judge_windows", self._model, given, question, watch=watch)
        return cast("LongAnalysis", answer)
