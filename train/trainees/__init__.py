"""Trainees: what each family of models brings to fine-tuning; `TRAINEES` names them by preset.

A trainee reads a clip into feature tokens (cached by `train.features`), writes a sample as token ids, builds the model
that learns, scores labels with it, and exports an adapter that the service can load. `train.clip_task` does the rest
and knows nothing of prompts, tokenizers or encoders.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from emollama.errors import UnknownNameError

if TYPE_CHECKING:
    from emollama.config import LoraSettings
    from emollama.manifest import Sample
    from emollama.model import EmoLlama
    from emollama.types import Clip
    from train.data_facts import DataFacts


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a trainee's encoders made of one clip, before any sample is written; this is what the cache holds.

    ``tokens`` maps a stream to its feature tokens [T, D] float32; a modality that was not there is an absent key.
    ``facts`` is plain JSON: what was measured and may be spoken of (cues), of the trainee's own shape.
    """

    tokens: Mapping[str, np.ndarray]
    facts: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Example:
    """One sample as token ids. ``is_answer`` [T] marks the tokens that are learned.

    ``label_at`` is the position whose next token begins the label; ``target`` and ``asked`` (bool) [U] are over the
    trainee's ``label_token_ids``: what is right, and among which (``None`` when the sample teaches no label in this
    way). ``features`` are the streams that are present.
    """

    ids: tuple[int, ...]
    is_answer: tuple[bool, ...]
    features: Mapping[str, np.ndarray]
    label_at: int | None = None
    target: np.ndarray | None = None
    asked: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What an export says of its run: the recipe, the last validation's figures, how many samples taught it.

    ``calibration`` maps a subset of modalities ("face+voice") to validation scores [N, K] and truths [N], from which a
    trainee may fit its confidence. ``has_messages`` is true when the samples brought answers of their own. ``data`` is
    what is known of the data itself.
    """

    recipe: str
    figures: Mapping[str, float] = field(default_factory=dict)
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # split -> label -> samples
    calibration: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    has_messages: bool = False
    license: str | None = None
    data: DataFacts | None = None


class Trainee(Protocol):
    """What `train.clip_task` asks of a family of models. ``version`` changes whenever readings would."""

    name: str
    version: str
    labels: tuple[str, ...]  # the label set that is being learned
    label_token_ids: tuple[int, ...]  # U tokens that may begin a label; empty when labels are learned as plain answers
    pad_id: int

    def read(self, clip: Clip) -> Reading:
        """Run the encoders over a decoded clip; slow, and cached."""
        ...

    def present(self, sample: Sample, reading: Reading) -> tuple[str, ...]:
        """Return the modalities that a sample really has."""
        ...

    def teaches(self, sample: Sample) -> bool:
        """Say whether anything of a sample is learned; one that teaches nothing is not trained on."""
        ...

    def examples(
        self, sample: Sample, reading: Reading, *, present: Sequence[str], rng: Random, training: bool
    ) -> list[Example]:
        """Write a sample, with only the modalities in ``present``, as one or more examples.

        In training, what the sample teaches (its label, its dialogue); else the one prompt whose label is scored.
        """
        ...

    def replay(self, rng: Random) -> Example | None:
        """Draw an example of what the base model knew before, or ``None`` when there is no such data."""
        ...

    def build_model(self, *, lora: LoraSettings | None, train_projectors: bool, seed: int) -> EmoLlama:
        """Return the base model with fresh LoRA (or none); only what is trained has ``requires_grad``."""
        ...

    def label_scores(self, model: EmoLlama, examples: Sequence[Example]) -> np.ndarray:
        """Return log-likelihoods [N, K] of the labels after each prompt; called without gradients in eval mode."""
        ...

    def export(self, model: EmoLlama, folder: Path, *, outcome: Outcome) -> None:
        """Write an adapter folder that the service can load."""
        ...


# preset -> "module:class"; built with (options: train.clip_task.ClipOptions, labels: Sequence[str])
TRAINEES: Mapping[str, str] = MappingProxyType(
    {
        "nano": "train.trainees.nano:NanoTrainee",
        "emollama-8b": "train.trainees.preset:PresetTrainee",
        "emotion-llama-7b": "train.trainees.preset:PresetTrainee",
    }
)


def preset_of(model: str) -> str:
    """Return the preset whose trainee a model has: a folder of a model in nano's layout is trained as nano is."""
    return "nano" if Path(model).is_dir() else model


def trainee_factory(name: str) -> Any:
    """Return the class behind a preset's name; an unknown one raises `UnknownNameError` with those that are."""
    if name not in TRAINEES:
        raise UnknownNameError("model", name, TRAINEES)
    module, _, attribute = TRAINEES[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
