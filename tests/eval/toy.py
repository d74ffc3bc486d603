"""A small benchmark and a model without weights, for the tests of the engine: every answer is known in advance."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emollama.errors import InputError
from emollama.types import Audio, Clip, Frames
from eval.ask import Answer, Given, modalities_of
from eval.task import EvalTask, Item, Published

LABELS = ("happy", "sad", "neutral", "angry")


def same_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs believe that the checkout does not change while they are cut and resumed."""
    monkeypatch.setattr("eval.run_dir.provenance", lambda: {"command": "emollama eval toy", "git_revision": "abc"})


def clip_of(truth: int, *, seen: int, heard: int) -> Clip:
    """A clip whose picture shows class ``seen`` and whose sound says class ``heard``, whatever the truth is."""
    return Clip(
        name="toy",
        seconds=1.0,
        frames=Frames(images=np.full((2, 8, 8, 3), 10 + seen, np.uint8), times=np.array([0.0, 0.5]), source_fps=2.0),
        audio=Audio(samples=np.full(1600, (1 + heard) / 10, np.float32)),
    )


def toy_items(count: int = 24) -> list[Item]:
    """Items whose words are always right, whose sound is wrong in every third and whose picture in every second."""
    items = []
    for place in range(count):
        truth = place % len(LABELS)
        seen = truth if place % 2 else (truth + 1) % len(LABELS)
        heard = truth if place % 3 else (truth + 1) % len(LABELS)
        items.append(
            Item(
                id=f"clip{place:02d}",
                gold=LABELS[truth],
                load=partial(clip_of, truth, seen=seen, heard=heard),
                transcript=LABELS[truth],
                group=f"speaker{place % 5}",
            )
        )
    return items


def toy_task(items: Callable[[Path, str], Iterable[Item]] | None = None, **changes: Any) -> EvalTask:
    settings: dict[str, Any] = {
        "name": "toy",
        "title": "Toy & co",
        "score": "iemocap",
        "items": items or (lambda data, split: toy_items()),
        "splits": ("test",),
        "split": "test",
        "asks": "label",
        "labels": LABELS,
        "instruction": "Which one?",
        "modalities": ("visual", "audio", "text"),
        "published": (
            Published(system="Somebody <1999>", figure="waf", value=0.5, source="a paper", note="other split"),
        ),
    }
    return EvalTask(**{**settings, **changes})


class ToyModel:
    """Believes the words, then the sound, then the picture; the sets name items that it treats otherwise.

    After ``stop_after`` answers it is interrupted, as by Ctrl-C.
    """

    def __init__(
        self,
        *,
        name: str = "toy-model",
        fails: Iterable[str] = (),
        silent: Iterable[str] = (),
        mumbles: Iterable[str] = (),
        wrong: Iterable[str] = (),
        stop_after: int | None = None,
    ) -> None:
        self.name = name
        self.fails, self.silent, self.mumbles, self.wrong = set(fails), set(silent), set(mumbles), set(wrong)
        self.stop_after = stop_after
        self.asked: list[tuple[str, tuple[str, ...]]] = []
        self._lock = threading.Lock()

    def describe(self) -> dict[str, Any]:
        return {"kind": "toy", "name": self.name}

    def check(self, task: EvalTask) -> None:
        pass

    def answer(self, given: Given, task: EvalTask) -> Answer:
        with self._lock:
            if self.stop_after is not None and len(self.asked) >= self.stop_after:
                raise KeyboardInterrupt
            self.asked.append((given.item.id, modalities_of(given.clip)))
        name, clip = given.item.id, given.clip
        if name in self.fails:
            raise InputError("the clip | broke\nin two", field="clip")
        if name in self.mumbles:
            return Answer(prediction=None, unparseable=True, text="mumble")
        if clip.transcript is not None:
            found = LABELS.index(clip.transcript.text)
        elif clip.audio is not None:
            found = round(float(clip.audio.samples[0]) * 10) - 1
        else:
            assert clip.frames is not None
            found = int(clip.frames.images[0, 0, 0, 0]) - 10
        if name in self.wrong:
            found = (found + 1) % len(LABELS)
        sure = 0.4 if name in self.silent else 0.7
        rest = (1 - sure) / (len(LABELS) - 1)
        scores = {label: sure if place == found else rest for place, label in enumerate(LABELS)}
        return Answer(prediction=LABELS[found], probabilities=scores, abstained=name in self.silent)
