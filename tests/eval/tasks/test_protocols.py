"""What a benchmark's protocol demands of its items, where a reading of the labels alone would get it wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emollama.errors import DatasetError
from eval.ask import give
from eval.tasks import load_task

Miniature = Callable[[str], Path]


def test_a_fold_of_dfew_tests_what_the_others_train_on(miniature: Miniature, tmp_path: Path) -> None:
    task, data = load_task("dfew"), tmp_path / "DFEW"
    shutil.copytree(miniature("dfew"), data)
    assert [item.id for item in task.items(data, "fold1")] == ["00001", "00002"]
    assert [item.meta["fold"] for item in task.items(data, "all")] == [1, 1, 2, 3, 4, 5]
    table = data / "EmoLabel_DataSplit" / "test(single-labeled)" / "set_2.csv"
    table.write_text("video_name,label\n1,1\n", encoding="utf-8")
    train = data / "EmoLabel_DataSplit" / "train(single-labeled)" / "set_2.csv"
    train.write_text("video_name,label\n2,5\n", encoding="utf-8")
    with pytest.raises(DatasetError, match="clip 00001 is in the test sets of two folds"):
        list(task.items(data, "all"))
    with pytest.raises(DatasetError, match="there is no split 'fold6'; allowed: fold1"):
        list(task.items(data, "fold6"))


def test_valence_of_mer2023_keeps_the_challenges_scale(miniature: Miniature) -> None:
    items = list(load_task("mer2023_multi").items(miniature("mer2023_multi"), "test1"))
    assert [item.gold["valence"] for item in items] == [2.3, -3.7]
    assert {item.meta["valence_limit"] for item in items} == {5.0}


def test_words_that_are_not_there_are_absent_not_empty(miniature: Miniature) -> None:
    """Test clip 2 has an empty cell of subtitles: the model is given no text at all."""
    first, second = load_task("mer2023_multi").items(miniature("mer2023_multi"), "test1")
    assert give(first).clip.transcript is not None
    assert give(second).clip.transcript is None


def test_the_one_clip_that_meld_lacks_is_judged_by_its_words(miniature: Miniature) -> None:
    items = {item.id: item for item in load_task("meld").items(miniature("meld"), "dev")}
    clip = give(items["dia110_utt7"]).clip
    assert clip.frames is None
    assert clip.audio is None
    assert clip.transcript is not None


def test_fixed_sentences_are_not_given_away(miniature: Miniature) -> None:
    for name in ("ravdess", "cremad"):
        task = load_task(name)
        assert all(item.transcript is None for item in task.items(miniature(name), task.split))


def test_a_frame_without_a_crop_is_still_asked_for(miniature: Miniature) -> None:
    """Frame 2 of the left person has no crop and is annotated: its row is wanted, though no picture shows it."""
    *_, item = load_task("abaw_expr").items(miniature("abaw_expr"), "validation")
    assert item.gold["frames"] == ["pair_left/00001.jpg", "pair_left/00002.jpg"]
    clip = give(item).clip
    assert clip.frames is not None
    assert clip.frames.images.shape == (1, 112, 112, 3)
    assert clip.frames.times.tolist() == [0.0]
    assert item.gold["times"] == [0.0, 1 / 30]


def test_many_crops_are_thinned_out_evenly(tmp_path: Path, media: Any) -> None:
    from emollama.datasets.aff_wild2 import Stretch
    from eval.items import MAX_CROPS, series_items

    media.image(tmp_path / "1.jpg")
    crops = {number / 30: tmp_path / "1.jpg" for number in range(900)}
    stretch = Stretch(
        id="v#00001", video="v", frames=("v/00001.jpg",), times=(0.0,), values=("anger",), seconds=30.0, crops=crops
    )
    (item,) = series_items([stretch])
    frames = give(item).clip.frames
    assert frames is not None
    assert len(frames.times) == MAX_CROPS
    assert (frames.times[0], frames.times[-1]) == (0.0, 899 / 30)
    assert np.diff(frames.times).max() < 5 / 30


def test_a_question_of_multiple_choice_goes_with_its_clip(miniature: Miniature) -> None:
    items = list(load_task("emobench_m").items(miniature("emobench_m"), "test"))
    assert items[1].question == "Why does she laugh?"
    assert items[1].choices == ("a joke", "fear", "habit")
    assert items[2].clip is None
