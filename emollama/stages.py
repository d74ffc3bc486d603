"""What is known of a clip while it is being analysed, stage by stage, and how long each stage takes.

`emollama.analyze.Analyzer.stages` yields these events in this order, each at most once but the pieces: `Decoded`,
`FacesFound`, `Labelled`, `RationalePiece` after `RationalePiece`, `Done`. What an event has said is not taken back:
it stands in `Done.analysis` as it was told, and the pieces in their order are the rationale.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from emollama.cores import CORES
from emollama.types import Affect, Analysis, Emotion, Evidence, FaceSummary, Modality, Transcript
from emollama.watch import Check


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """The file was read: its length, how many pictures of it are looked at, and what could not be read."""

    seconds: float
    num_frames: int
    has_audio: bool
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class FacesFound:
    """The faces were followed, one of them as the main one; none for a clip without a picture or a face."""

    tracks: tuple[FaceSummary, ...]


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """The clip was judged: the label with its scores, and the observations that a rationale may rest on."""

    emotion: Emotion
    open_vocabulary: tuple[str, ...]
    affect: Affect
    evidence: Mapping[Modality, tuple[Evidence, ...]]
    transcript: Transcript | None


@dataclass(frozen=True, kw_only=True)
class RationalePiece:
    """The next characters of the rationale."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Done:
    """The whole answer."""

    analysis: Analysis


StageEvent = Decoded | FacesFound | Labelled | RationalePiece | Done


class Clock:
    """Milliseconds by stage; asks before each whether to go on, and gives it its share of the cores."""

    def __init__(self, check: Check) -> None:
        self.ms: dict[str, float] = {}
        self.check = check
        self._started = time.perf_counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the block's time to a stage. Entered again, a stage takes up where it was."""
        self.check()
        CORES.divide()
        started = time.perf_counter()
        yield
        self.ms[name] = round(self.ms.get(name, 0.0) + 1000 * (time.perf_counter() - started), 2)

    def total(self) -> dict[str, float]:
        return {**self.ms, "total": round(1000 * (time.perf_counter() - self._started), 2)}
