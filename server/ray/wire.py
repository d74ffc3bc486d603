"""What a door asks of the decoders, and what they answer beside the library's own records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emollama.conversation import ReplyOptions, Turn
    from emollama.types import Transcript


@dataclass(frozen=True, kw_only=True)
class Model:
    """Which model answers: ``base``, or with ``adapter`` (the digest of a `PackedAdapter`) the adapter on it.

    ``name`` is how answers name the adapter. ``packed`` holds a reference to the adapter's files, in a tuple, so that
    it is looked up where it is needed and not on every way.
    """

    base: str
    name: str | None = None
    adapter: str | None = None
    packed: tuple[Any, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Wish:
    """How a clip is to be analysed; the options of `Analyzer.analyze` that are not the clip."""

    name: str | None = None
    transcript: str | Transcript | None = None
    labels: str | Sequence[str] | None = None
    language: str | None = None
    timeline: bool = True


@dataclass(frozen=True, kw_only=True)
class Inquiry:
    """A question of a chat, with everything before it; ``is_seed_drawn`` when the door chose the seed by itself."""

    question: str
    turns: tuple[Turn, ...]
    options: ReplyOptions
    is_seed_drawn: bool = False


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What a door must know of a model that a decoder has loaded: whether it may be asked for windows of a clip."""

    reads_windows: bool = False


@dataclass(frozen=True, kw_only=True)
class ReadingFacts:
    """What a door keeps of a clip that a decoder has read; ``state`` is opaque to it."""

    num_tokens: int
    warnings: tuple[str, ...]
    ms: Mapping[str, float] = field(default_factory=dict)
    state: Any = None


@dataclass(frozen=True, kw_only=True)
class AskedFacts:
    """What is known of a question before its first reply."""

    num_tokens: int
    num_dropped: int
    ms: float
