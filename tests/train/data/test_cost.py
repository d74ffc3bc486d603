"""Cost: what is counted, what follows from it, and that time is there only when it was measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from emollama.errors import InputError
from emollama.manifest import ManifestMessage, Sample, read_manifest, write_manifest
from train.data.cost import Cost, Size, Speed, measure_encoding, measure_step, nano_tokens, size_of
from train.data.timing import time_nano

SIZE = Size(train_samples=10, valid_samples=2, num_stretches=12, stretch_seconds=30.0)


def test_steps_and_seconds_follow_from_what_was_measured() -> None:
    cost = Cost(size=SIZE, epochs=3, batch_size=4)
    assert (cost.steps, cost.encoding_seconds, cost.training_seconds, cost.trained_tokens) == (9, None, None, None)
    assert "about" not in cost.to_text()
    cost = Cost(
        size=SIZE, epochs=3, batch_size=4, speed=Speed(seconds_per_stretch=0.5, num_encoded=3, seconds_per_step=2.0)
    )
    assert (cost.encoding_seconds, cost.training_seconds) == (6.0, 18.0)
    assert "encoding about 6 s (measured on 3); steps about 18 s" in cost.to_text()
    with pytest.raises(InputError, match="batch_size is 0"):
        Cost(size=SIZE, epochs=1, batch_size=0)


def test_a_stretch_is_counted_once_and_the_test_split_costs_nothing() -> None:
    messages = (
        ManifestMessage(role="user", content="Why so?"),
        ManifestMessage(role="assistant", content="A long yawn"),
    )
    samples = [
        Sample(id="1", clip="a.wav", label="joy"),
        Sample(id="2", clip="a.wav", messages=messages),
        Sample(id="3", clip="a.wav", start=1.0, end=2.5, label="joy", split="valid"),
        Sample(id="4", clip="b.wav", start=3.0, end=99.0, label="joy", transcript="Well then"),
        Sample(id="5", clip="c.wav", label="joy", split="test"),
        Sample(id="6", transcript="No", label="joy"),
    ]
    size = size_of(samples, seconds={"a.wav": 4.0, "b.wav": 5.0, "c.wav": 60.0}, count_tokens=lambda t: len(t.split()))
    assert (size.train_samples, size.valid_samples, size.num_stretches) == (4, 1, 3)
    assert size.stretch_seconds == pytest.approx(4.0 + 1.5 + 2.0)
    assert (size.prompt_tokens, size.answer_tokens) == (2 + 2 + 1, 1 + 3 + 1 + 1)


def test_a_few_of_different_size_are_timed(monkeypatch) -> None:
    clock = {"now": 0.0}
    encoded: list[int] = []

    def encode(item: int) -> None:
        encoded.append(item)
        clock["now"] += item if len(encoded) > 1 else 1000.0  # the first pays for loading

    monkeypatch.setattr("train.data.cost.time.perf_counter", lambda: clock["now"])
    speed = measure_encoding(list(range(9, 0, -1)), encode, size=float, num=3)
    assert encoded == [2, 2, 5, 8]
    assert speed == Speed(seconds_per_stretch=5.0, num_encoded=3)
    assert measure_encoding([], encode, size=float) == Speed()
    with pytest.raises(InputError, match="num is 0"):
        measure_encoding([1], encode, size=float, num=0)


def test_steps_are_timed_after_the_first(monkeypatch) -> None:
    clock = {"now": 0.0}
    lengths = iter([100.0, 2.0, 3.0, 4.0])

    def step() -> None:
        clock["now"] += next(lengths)

    monkeypatch.setattr("train.data.cost.time.perf_counter", lambda: clock["now"])
    assert measure_step(step) == 3.0
    with pytest.raises(InputError, match="num is 0"):
        measure_step(step, num=0)


@pytest.mark.slow
def test_nano_is_really_timed(tmp_path: Path, media) -> None:
    for index in range(3):
        media.wav(tmp_path / f"{index}.wav", seconds=0.5 + index)
    samples = [Sample(id=str(index), clip=f"{index}.wav", label=("joy", "fear")[index % 2]) for index in range(3)]
    write_manifest(tmp_path / "manifest.jsonl", samples)
    speed = time_nano(read_manifest(tmp_path / "manifest.jsonl"), num=2)
    assert speed.num_encoded == 2
    assert speed.seconds_per_stretch is not None
    assert speed.seconds_per_stretch > 0
    assert speed.seconds_per_step is None  # a tone is no voice: there is nothing to take a step on
    words = [Sample(id=str(n), transcript=f"well {n}", label=("joy", "fear")[n % 2]) for n in range(4)]
    write_manifest(tmp_path / "words.jsonl", words)
    speed = time_nano(read_manifest(tmp_path / "words.jsonl"), num=2, batch_size=2)
    assert (speed.seconds_per_stretch, speed.num_encoded) == (None, 0)
    assert speed.seconds_per_step is not None
    assert speed.seconds_per_step > 0


def test_tokens_are_those_of_nanos_renderer() -> None:
    count = nano_tokens()
    assert count("") == 0
    assert 2 <= count("The voice drags.") <= 16
    assert count("<|label|>") > 1  # a user's text never becomes one of our markers
