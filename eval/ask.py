"""How a model is asked about one item: the protocol that the engine knows, and what an answer is.

The shipped analyzer is asked by `eval.analyzer_model`, an OpenAI-compatible endpoint by `eval.endpoint_model`. A model
never guesses: what it has no opinion on is ``None`` and abstained, what cannot be read from a reply is unparseable.

| ``asks`` | ``Answer.prediction`` |
|---|---|
| label | a label of the task (with ``{"label", "valence"}`` where the truth has a valence too) |
| labels | a list of labels; for intensities ``{label: 0..1}`` |
| open | a list of words |
| affect | ``{"valence", "arousal"}``, each in [-1, 1] |
| series | a list with one entry a frame: a label, ``{"valence", "arousal"}``, a list of flags, or ``None`` |
| choice | the letter of the choice |
| rationale | ``{"text", "labels"}`` |
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from emollama.types import Clip, Transcript
from eval.task import EvalTask, Item

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True, kw_only=True)
class Given:
    """What a model is shown of an item: the decoded clip, less what was dropped.

    ``path`` is the item's own file, and only where the file whole says exactly what ``clip`` does.
    """

    item: Item
    clip: Clip
    path: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model said of one item, as plain JSON. ``notes`` counts what the report must say of it."""

    prediction: Any
    probabilities: Mapping[str, float] | None = None
    abstained: bool = False
    unparseable: bool = False
    text: str | None = None
    notes: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))


class EvalModel(Protocol):
    """A model as the engine sees it; ``answer`` may be called from several threads."""

    name: str

    def describe(self) -> dict[str, Any]:
        """Return what tells this model from another, as plain JSON: a run is only resumed with the same."""
        ...

    def check(self, task: EvalTask) -> None:
        """Raise `InputError` when the model cannot be asked what the task asks at all."""
        ...

    def answer(self, given: Given, task: EvalTask) -> Answer:
        """Answer about one item; an `EmoLlamaError` is an item that failed, and the run goes on."""
        ...


def give(item: Item) -> Given:
    """Read an item's clip: from its file (between ``start`` and ``end``), by its ``load``, or words alone."""
    words = None
    if item.transcript is not None and item.transcript.strip():
        words = Transcript(text=" ".join(item.transcript.split()), language=item.language, source="given")
    if item.load is not None:
        clip = item.load()
    elif item.clip is not None:
        from emollama.media import read_clip

        clip = read_clip(item.clip, name=item.id, start=item.start, end=item.end)
    else:
        clip = Clip(name=item.id, seconds=0.0)
    if words is not None:
        clip = dataclasses.replace(clip, transcript=words)
    is_whole = item.clip is not None and item.start is None and item.end is None
    return Given(item=item, clip=clip, path=item.clip if is_whole else None)


def modalities_of(clip: Clip) -> tuple[str, ...]:
    """Return which of visual, audio and text a clip has."""
    has = {"visual": clip.frames, "audio": clip.audio, "text": clip.transcript}
    return tuple(name for name, value in has.items() if value is not None)


def keep(given: Given, modalities: tuple[str, ...]) -> Given:
    """Drop all but some modalities before the model sees the clip: an absent modality is ``None``, never zeros."""
    clip = given.clip
    if set(modalities_of(clip)) <= set(modalities):
        return given
    left = dataclasses.replace(
        clip,
        frames=clip.frames if "visual" in modalities else None,
        audio=clip.audio if "audio" in modalities else None,
        transcript=clip.transcript if "text" in modalities else None,
    )
    # the words lie beside the file: dropping them alone leaves the file as it was
    media = {name for name in modalities_of(clip) if name != "text"}
    return dataclasses.replace(given, clip=left, path=given.path if media <= set(modalities) else None)
