"""What training on a data set will cost: samples, seconds of clips, tokens, steps; and time, where it was measured.

Nothing is assumed about speed. Seconds are there only when the caller hands in a probe: a few real encodings are timed,
spread over the clips by length, and a few real training steps, which the caller knows how to take.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from emollama.errors import InputError
from emollama.manifest import Sample

CountTokens = Callable[[str], int]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much there is. Tokens are those of the texts of one epoch's samples, without the tokens of face and voice."""

    train_samples: int
    valid_samples: int
    num_stretches: int  # different clips, or stretches of clips, that are encoded once
    stretch_seconds: float
    prompt_tokens: int | None = None
    answer_tokens: int | None = None


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What was measured: seconds to encode a stretch (mean of ``num_encoded``), seconds of a training step."""

    seconds_per_stretch: float | None = None
    num_encoded: int = 0
    seconds_per_step: float | None = None


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Size, and what follows from epochs and batch size; ``speed`` is None when nothing was measured."""

    size: Size
    epochs: int
    batch_size: int
    speed: Speed | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)!r}; allowed: from 1", field=name)

    @property
    def steps(self) -> int:
        """Return the optimiser's steps: each epoch goes once through the samples, its last batch may be smaller."""
        return self.epochs * math.ceil(self.size.train_samples / self.batch_size)

    @property
    def trained_tokens(self) -> int | None:
        """Return the texts' tokens over all epochs."""
        if self.size.prompt_tokens is None or self.size.answer_tokens is None:
            return None
        return self.epochs * (self.size.prompt_tokens + self.size.answer_tokens)

    @property
    def encoding_seconds(self) -> float | None:
        """Return how long the clips will be encoded, once for all epochs."""
        per = None if self.speed is None else self.speed.seconds_per_stretch
        return None if per is None else per * self.size.num_stretches

    @property
    def training_seconds(self) -> float | None:
        per = None if self.speed is None else self.speed.seconds_per_step
        return None if per is None else per * self.steps

    def to_json_dict(self) -> dict[str, Any]:
        return {
            "train_samples": self.size.train_samples,
            "valid_samples": self.size.valid_samples,
            "num_stretches": self.size.num_stretches,
            "stretch_seconds": round(self.size.stretch_seconds, 3),
            "prompt_tokens": self.size.prompt_tokens,
            "answer_tokens": self.size.answer_tokens,
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "steps": self.steps,
            "trained_tokens": self.trained_tokens,
            "encoding_seconds": self.encoding_seconds,
            "training_seconds": self.training_seconds,
            "measured_encodings": 0 if self.speed is None else self.speed.num_encoded,
        }

    def to_text(self) -> str:
        """Return the cost as one line."""
        tokens = "" if self.trained_tokens is None else f", {self.trained_tokens} tokens of text"
        text = (
            f"training: {self.steps} steps ({self.epochs} epochs of {self.size.train_samples} samples, "
            f"batches of {self.batch_size}){tokens}"
        )
        if self.encoding_seconds is not None and self.speed is not None:
            text += f"; encoding about {self.encoding_seconds:.0f} s (measured on {self.speed.num_encoded})"
        if self.training_seconds is not None:
            text += f"; steps about {self.training_seconds:.0f} s"
        return text


def size_of(
    samples: Sequence[Sample], *, seconds: Mapping[str, float], count_tokens: CountTokens | None = None
) -> Size:
    """Measure the samples; ``seconds`` holds the length of each clip by its path in the manifest."""
    train = [sample for sample in samples if (sample.split or "train") == "train"]
    valid = [sample for sample in samples if sample.split == "valid"]
    stretches = {
        (sample.clip, sample.start, sample.end): stretch_seconds(sample, seconds.get(sample.clip, 0.0))
        for sample in [*train, *valid]
        if sample.clip is not None
    }
    prompt = answer = None
    if count_tokens is not None:
        prompt = sum(count_tokens(text) for sample in train for text in _asked(sample))
        answer = sum(count_tokens(text) for sample in train for text in _answers(sample))
    return Size(
        train_samples=len(train),
        valid_samples=len(valid),
        num_stretches=len(stretches),
        stretch_seconds=math.fsum(stretches.values()),
        prompt_tokens=prompt,
        answer_tokens=answer,
    )


def stretch_seconds(sample: Sample, clip_seconds: float) -> float:
    """Return how many seconds of its clip a sample is about."""
    end = clip_seconds if sample.end is None else min(sample.end, clip_seconds)
    return max(0.0, end - (sample.start or 0.0))


def measure_encoding(
    items: Sequence[T], encode: Callable[[T], object], *, size: Callable[[T], float], num: int = 3
) -> Speed:
    """Time ``encode`` on ``num`` of the items, taken at even places in the order of their size.

    The first is encoded twice and its first time is dropped: it pays for loading and for caches.
    """
    if num < 1:
        raise InputError(f"num is {num}; allowed: from 1", field="num")
    ordered = sorted(items, key=size)
    if not ordered:
        return Speed()
    num = min(num, len(ordered))
    chosen = [ordered[int((place + 0.5) * len(ordered) / num)] for place in range(num)]
    encode(chosen[0])
    begun = time.perf_counter()
    for item in chosen:
        encode(item)
    return Speed(seconds_per_stretch=(time.perf_counter() - begun) / num, num_encoded=num)


def measure_step(step: Callable[[], object], *, num: int = 3) -> float:
    """Return the seconds of one training step: the mean of ``num``, after one that is not counted."""
    if num < 1:
        raise InputError(f"num is {num}; allowed: from 1", field="num")
    step()
    begun = time.perf_counter()
    for _ in range(num):
        step()
    return (time.perf_counter() - begun) / num


def nano_tokens() -> CountTokens:
    """Return what counts a text's tokens as nano's renderer makes them."""
    from emollama.checkpoint import ASSETS
    from emollama.prompt import Renderer

    renderer = Renderer.load(ASSETS / "nano" / "tokenizer.json")
    return lambda text: len(renderer.encode_untrusted(text))


def _asked(sample: Sample) -> list[str]:
    asked = [message.content for message in sample.messages or () if message.role != "assistant"]
    return [*asked, *([sample.transcript] if sample.transcript else [])]


def _answers(sample: Sample) -> list[str]:
    answers = [message.content for message in sample.messages or () if message.role == "assistant"]
    return [*answers, *([sample.top_label] if sample.top_label else [])]
