"""What an analyzer is made of: the protocols of its parts, and the record that holds them.

A part whose work may be long asks ``check`` every few tenths of a second; it raises when the work is not wanted any
more (`emollama.watch`).

Tests hand in stand-ins; `emollama.assemble` builds the real ones. Nothing here computes.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from emollama.adapter import Answers
from emollama.calibration import Calibration
from emollama.prompt import Renderer, Source
from emollama.types import Audio, Clip, FaceReadings, FaceTrack, Features, Frames, Transcript, VoiceReadings
from emollama.watch import Check, unwatched


@dataclass(frozen=True, kw_only=True)
class PromptRow:
    """Token ids of one prompt and the features [T, D] that overwrite its placeholders, by stream."""

    ids: list[int]
    features: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Query:
    """A question to every row of a prefix: after ``marker``, how likely is each of ``options`` (token ids)?"""

    marker: Sequence[int]
    options: Sequence[Sequence[int]]


class Engine(Protocol):
    """What the analyzer needs of a language model. A prefix is opaque; it holds B prefilled rows."""

    def prefill(self, rows: Sequence[PromptRow]) -> Any: ...

    def score(self, prefix: Any, queries: Sequence[Query]) -> list[np.ndarray]:
        """Return, for each query, the summed log-likelihood of its options under every row: [B, len(options)]."""
        ...

    def generate(
        self,
        prefix: Any,
        ids: Sequence[int],
        *,
        stop_id: int,
        max_new_tokens: int,
        temperature: float,
        seed: int,
        banned: frozenset[int],
        choices: Sequence[Sequence[int]] | None = None,
    ) -> Generator[int, None, None]:
        """Continue the first row by ``ids`` and yield new tokens up to, without, the stop token; none of ``banned``.

        With ``choices`` the tokens are those of one of these sequences, chosen token by token. Closing the generator
        gives up the reply and what is held for it.
        """
        ...


class FaceReader(Protocol):
    def read(
        self, crops: np.ndarray, times: np.ndarray, track_id: int, *, check: Check = unwatched
    ) -> tuple[FaceReadings, Features]: ...


class VoiceReader(Protocol):
    def read(
        self, audio: Audio, readings: VoiceReadings, *, check: Check = unwatched
    ) -> tuple[VoiceReadings, Features | None]: ...


class VoiceMeter(Protocol):
    """Sound -> where there is a voice, and its measures."""

    def __call__(self, audio: Audio, *, check: Check = unwatched) -> VoiceReadings: ...


class Tracker(Protocol):
    def __call__(
        self, frames: Frames, *, audio: Audio | None = None, check: Check = unwatched
    ) -> tuple[FaceTrack, ...]: ...


class Recogniser(Protocol):
    """Audio -> words; ``None`` when nothing was said."""

    def __call__(self, audio: Audio, *, language: str | None = None, check: Check = unwatched) -> Transcript | None: ...


@dataclass(frozen=True, kw_only=True)
class Sensed:
    """What was read of a clip before its words: readings of the main face and others, of the voice, and the tokens.

    ``tokens`` [T, D] are by the names that the judge knows them by; ``voice`` without any of its tokens was not used.
    """

    face: FaceReadings | None = None
    others: tuple[FaceReadings, ...] = ()
    voice: VoiceReadings | None = None
    tokens: Mapping[str, np.ndarray] = field(default_factory=dict)
    present: tuple[Source, ...] = ()


class Senses(Protocol):
    """Encoders that look at a whole clip and the track of its main face, where face and voice are not all there is."""

    def read(self, clip: Clip, main: FaceTrack | None, *, check: Check = unwatched) -> Sensed: ...


class Judging(Protocol):
    """Answers the closed questions about a clip: `emollama.judge.Judge`, or a preset's own."""

    def judge(self, used: Mapping[Any, Any], asked: tuple[str, ...]) -> Any: ...

    def open_words(self, used: Mapping[Any, Any], judged: Any, *, check: Check = unwatched) -> tuple[str, ...]:
        """Return what the emotion may be called without a list to choose from."""
        ...

    def quote(self, text: str, label: str | None) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What an analyzer is made of. ``recogniser(name)`` gives the speech recogniser of that name.

    ``labels`` is the set that is answered with when none is asked for (nano's own when empty); ``answers`` says whether
    sentences are held to what the readings support while they are decoded, or checked afterwards. A preset brings
    ``senses`` in place of ``face`` and ``voice``, and its own ``judge``.
    """

    name: str
    renderer: Renderer
    engine: Engine
    face: FaceReader
    voice: VoiceReader
    measure_voice: VoiceMeter
    track_faces: Tracker
    calibration: Calibration = field(default_factory=Calibration)
    recogniser: Callable[[str], Recogniser] | None = None
    adapter: str | None = None
    labels: tuple[str, ...] = ()
    answers: Answers = "supported"
    languages: tuple[str, ...] = ("en",)
    senses: Senses | None = None
    judge: Judging | None = None
