"""FER+: the protocol on votes made by hand, and files that are not as they should be."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from PIL import Image

from emollama.datasets import DATASETS, ferplus
from emollama.errors import DatasetError

VOTES = [
    # neutral, happiness, surprise, sadness, anger, disgust, fear, contempt, unknown, not-a-face
    [0, 9, 1, 0, 0, 0, 0, 0, 0, 0],  # the single vote is noise: all happiness
    [4, 0, 0, 4, 0, 0, 0, 2, 0, 0],  # nobody has more than five
    [2, 2, 0, 0, 0, 0, 0, 0, 6, 0],  # unknown
    [0, 0, 0, 3, 0, 0, 0, 0, 0, 7],  # not a face
    [1, 1, 1, 1, 1, 1, 1, 1, 1, 1],  # nothing but noise
    [0, 0, 0, 0, 6, 0, 4, 0, 0, 0],  # anger, with fear in it
]


def png(size: int = 48, value: int = 9) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((size, size), value, np.uint8)).save(buffer, "png")
    return buffer.getvalue()


def write(file: Path, **columns: list) -> Path:
    table = {"name": [f"p{i}" for i in range(6)], "png": [png(value=i) for i in range(6)], "votes": VOTES} | columns
    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table({k: v for k, v in table.items() if v}), file)
    return file


def test_the_protocol_keeps_what_people_agree_is_a_face(tmp_path):
    write(tmp_path / "faces" / "ferplus-train.parquet")
    pictures = ferplus.load(tmp_path, "train")
    assert pictures.names == ("p0", "p1", "p5")
    assert len(pictures) == 3
    assert pictures.images[:, 0, 0].tolist() == [0, 1, 5]
    assert pictures.majority.tolist() == [1, -1, 4]
    assert pictures.targets[0].tolist() == [0, 1, 0, 0, 0, 0, 0, 0]
    assert pictures.targets[2][[4, 6]].tolist() == pytest.approx([0.6, 0.4])
    assert pictures.affect[0].tolist() == pytest.approx([0.80, 0.35])
    assert pictures.affect[2].tolist() == pytest.approx([-0.60, 0.67])


def test_a_missing_file_names_the_remedy(tmp_path):
    with pytest.raises(DatasetError, match="EMOLLAMA_DATA"):
        ferplus.load(tmp_path, "valid")
    with pytest.raises(DatasetError, match="train, valid"):
        ferplus.load(tmp_path, "test")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"votes": None}, "lacks the columns votes"),
        ({"votes": [[1, 2]] * 6}, "row 0: votes must hold 10"),
        ({"png": [b"no picture"] * 6}, r"row 0 \(p0\): the picture cannot be read"),
        ({"png": [png(size=64)] * 6}, "64"),
    ],
)
def test_a_malformed_file_names_the_row(tmp_path, columns, message):
    with pytest.raises(DatasetError, match=message):
        ferplus.read_parquet(write(tmp_path / "x.parquet", **columns))


def test_the_registry_knows_it():
    assert DATASETS["ferplus"] == ferplus.__name__
