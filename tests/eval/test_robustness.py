from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emollama.errors import DatasetError, InputError
from emollama.types import Audio, Clip, Transcript
from eval.ask import give
from eval.corruptions import CORRUPTIONS
from eval.robustness import (
    Condition,
    all_conditions,
    corrupt,
    corrupt_clip,
    draw,
    parse_conditions,
    read_manifest,
    sweep,
    write_manifest,
)
from eval.task import Item


@pytest.fixture
def items(tmp_path: Path, media: Any) -> list[Item]:
    media.video(tmp_path / "a.mp4", seconds=1.0, audio=1.0)
    media.video(tmp_path / "b.mp4", seconds=2.0, audio=2.0)
    return [
        Item(id="a", gold="sad", clip=tmp_path / "a.mp4", transcript="You came back to me at last"),
        Item(id="b", gold="happy", clip=tmp_path / "b.mp4", start=0.5, end=1.5, language="en"),
        Item(id="c", gold="sad", transcript="Nobody told me that you had left us"),
        Item(id="d", gold="sad", load=lambda: Clip(name="d", seconds=1.0, audio=Audio(samples=media.tone(1.0)))),
    ]


def content(item: Item) -> tuple[Any, ...]:
    clip = give(item).clip
    return (
        None if clip.frames is None else clip.frames.images.tobytes(),
        None if clip.audio is None else clip.audio.samples.tobytes(),
        clip.transcript,
        item.transcript,
    )


def test_conditions_are_read() -> None:
    read = parse_conditions(["noise=0,5..10", "blur=2", "dark"])
    assert [str(condition) for condition in read] == ["noise=0", "noise=5..10", "blur=2", "dark=2", "dark=4"]
    assert {condition.corruption for condition in all_conditions()} == set(CORRUPTIONS)
    for text, message in (
        ("fog=1", "unknown corruption 'fog'"),
        ("noise=0,", "empty level"),
        ("blur=3", "blur level '3' is not allowed"),
        ("blur=2,2", "blur=2 is named twice"),
    ):
        with pytest.raises(InputError, match=message):
            parse_conditions([text])


def test_a_sweep_is_made_again_from_its_seed_and_from_its_manifest(items: list[Item], tmp_path: Path) -> None:
    conditions = parse_conditions(["noise_white=5..10", "drop=0.5", "words=0.3", "blur=4"])
    first = list(sweep(items, conditions, seed=7))
    assert len(first) == len(items) * len(conditions)
    # neither the order nor the company of an item matters
    alone = {(d.item, d.corruption): content(item) for d, item in sweep(items[2:][::-1], conditions[::-1], seed=7)}
    for drawn, item in first:
        if drawn.item in "cd":
            assert content(item) == alone[drawn.item, drawn.corruption]
    write_manifest(tmp_path / "manifest.csv", (drawn for drawn, _ in first))
    again = read_manifest(tmp_path / "manifest.csv")
    assert again == tuple(drawn for drawn, _ in first)
    by_id = {item.id: item for item in items}
    for drawn, (_, item) in zip(again, first, strict=True):
        assert content(corrupt(by_id[drawn.item], drawn)) == content(item)
    other = list(sweep(items, conditions, seed=8))
    assert [drawn.parameters for drawn, _ in other] != [drawn.parameters for drawn, _ in first]


def test_a_corrupted_item_is_still_the_item(items: list[Item]) -> None:
    (_, noisy), (_, wordless) = sweep(items[1:2], parse_conditions(["noise=0", "words=0.3"]), seed=0)
    assert (noisy.id, noisy.gold, noisy.clip, noisy.start, noisy.language) == ("b", "happy", None, None, "en")
    assert noisy.meta == {"corruption": "noise", "level": "0"}
    clean, spoiled = give(items[1]).clip, give(noisy).clip
    assert clean.seconds == pytest.approx(1.0, abs=0.15), "the stretch between start and end"
    assert spoiled.audio is not None
    assert clean.audio is not None
    assert len(spoiled.audio.samples) == len(clean.audio.samples)
    assert not np.array_equal(spoiled.audio.samples, clean.audio.samples)
    assert "no words" in give(wordless).clip.warnings[-1]


def test_words_are_lost_from_clip_and_item_alike(items: list[Item]) -> None:
    (_, told), _, (_, bare), _ = sweep(items, parse_conditions(["words=0.3"]), seed=0)
    assert told.transcript is not None
    assert len(told.transcript.split()) == 5
    assert give(told).clip.transcript == Transcript(text=told.transcript)
    assert told.clip == items[0].clip, "the file is what it was"
    assert give(bare).clip.frames is None
    assert bare.transcript is not None
    assert len(bare.transcript.split()) == 6


def test_clean_is_the_clip_itself(items: list[Item]) -> None:
    for name in CORRUPTIONS:
        drawn = draw("a", Condition(corruption=name, level="clean"), seed=0)
        clip = give(items[0]).clip
        assert corrupt_clip(clip, drawn) is clip
        assert corrupt(items[0], drawn) is items[0]


def test_a_draw_fits_its_item_only(items: list[Item]) -> None:
    drawn = draw("a", Condition(corruption="blur", level="2"), seed=0)
    with pytest.raises(InputError, match="the draw is for item 'a', not 'b'"):
        corrupt(items[1], drawn)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a,fog,1,{}", "line 2: unknown corruption 'fog'"),
        ("a,blur,3,{}", "line 2: blur level '3'"),
        ("a,blur,2", "line 2: not enough values"),
        ("a,blur,2,[1]", "parameters .* are no JSON object"),
        ('a,blur,2,"{""factor"": "', "line 2: Expecting value"),
        ("a,blur,2,{}\na,blur,2,{}", "line 3: 'a' under blur=2 stands there twice"),
    ],
)
def test_a_damaged_manifest_is_refused(tmp_path: Path, row: str, message: str) -> None:
    path = tmp_path / "m.csv"
    path.write_text(f"item,corruption,level,parameters\n{row}\n")
    with pytest.raises(DatasetError, match=message):
        read_manifest(path)
    path.write_text("name,label\n")
    with pytest.raises(DatasetError, match="is no manifest of corruptions"):
        read_manifest(path)
