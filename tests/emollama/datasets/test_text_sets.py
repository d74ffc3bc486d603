"""GoEmotions, XED and EmoBank: what a reader makes of small Parquet files in their format."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from emollama.datasets import emobank, goemotions, xed
from emollama.errors import DatasetError


def write(path: Path, **columns: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def test_goemotions_groups_fine_labels_into_ekman_classes_without_repeats(tmp_path: Path) -> None:
    path = goemotions.table_path(tmp_path, "dev")
    labels = [["joy", "love"], ["annoyance", "neutral"], ["curiosity"]]
    write(
        path,
        id=["a", "b", "c"],
        text=["x", "y", "z"],
        labels=labels,
        ekman=[["joy"], ["anger", "neutral"], ["surprise"]],
    )
    comments = goemotions.read(tmp_path, split="dev")
    assert [comment.ekman for comment in comments] == [("happiness",), ("anger", "neutral"), ("surprise",)]
    assert comments[0].labels == ("joy", "love")


def test_goemotions_says_which_row_is_wrong(tmp_path: Path) -> None:
    path = write(tmp_path / "bad.parquet", id=["a", "b"], text=["x", "y"], labels=[["joy"], ["hunger"]])
    with pytest.raises(DatasetError, match=r"row 1.*hunger"):
        goemotions.read_file(path)


def test_xed_without_label_is_neutral_and_trust_alone_has_no_class(tmp_path: Path) -> None:
    labels = pa.array([[], ["joy", "trust"], ["trust", "anticipation"]], type=pa.list_(pa.string()))
    write(xed.table_path(tmp_path), text=["a", "b", "c"], labels=labels)
    assert [line.ekman for line in xed.read(tmp_path)] == [("neutral",), ("happiness",), ()]


def test_xed_refuses_an_unknown_label(tmp_path: Path) -> None:
    write(xed.table_path(tmp_path), text=["a"], labels=[["happiness"]])
    with pytest.raises(DatasetError, match="row 0"):
        xed.read(tmp_path)


def test_emobank_moves_ratings_to_the_project_range_and_keeps_splits_apart(tmp_path: Path) -> None:
    path = emobank.table_path(tmp_path)
    write(path, id=["a", "b"], split=["train", "dev"], text=["x", "y"], v=[1.0, 3.0], a=[5.0, 4.0], d=[3.0, 3.0])
    (train,) = emobank.read(tmp_path, split="train")
    assert (train.valence, train.arousal, train.dominance) == (-1.0, 1.0, 0.0)
    (dev,) = emobank.read(tmp_path, split="dev")
    assert (dev.id, dev.valence, dev.arousal) == ("b", 0.0, 0.5)


def test_emobank_refuses_a_rating_off_the_scale(tmp_path: Path) -> None:
    path = emobank.table_path(tmp_path)
    write(path, id=["a"], split=["train"], text=["x"], v=[0.0], a=[3.0], d=[3.0])
    with pytest.raises(DatasetError, match="1 to 5"):
        emobank.read(tmp_path, split="train")


def test_prepare_writes_a_manifest_that_reads_back(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write(goemotions.table_path(data, "train"), id=["a"], text=["süß"], labels=[["joy"]])
    write(xed.table_path(data), text=["b"], labels=[["fear"]])
    write(emobank.table_path(data), id=["c"], split=["train"], text=["z"], v=[4.0], a=[3.0], d=[2.0])
    assert goemotions.prepare(data, tmp_path / "m" / "g.jsonl") == 1
    assert xed.prepare(data, tmp_path / "m" / "x.jsonl") == 1
    assert emobank.prepare(data, tmp_path / "m" / "e.jsonl") == 1
    rows = [json.loads(line) for name in "gxe" for line in (tmp_path / "m" / f"{name}.jsonl").read_text().splitlines()]
    assert rows[0] == {"id": "a", "text": "süß", "labels": ["joy"], "ekman": ["happiness"]}
    assert rows[1]["ekman"] == ["fear"]
    assert rows[2]["valence"] == 0.5
    assert sorted(file.name for file in (tmp_path / "m").iterdir()) == ["e.jsonl", "g.jsonl", "x.jsonl"]


def test_missing_and_malformed_files_name_path_and_remedy(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="EMOLLAMA_DATA"):
        xed.read(tmp_path)
    xed.table_path(tmp_path).parent.mkdir()
    xed.table_path(tmp_path).write_bytes(b"not parquet")
    with pytest.raises(DatasetError, match="cannot be read as Parquet"):
        xed.read(tmp_path)
    write(xed.table_path(tmp_path), text=["a"])
    with pytest.raises(DatasetError, match="lacks the columns labels"):
        xed.read(tmp_path)
