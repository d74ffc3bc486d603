"""The GoEmotions task: label-token scoring of a small random model on a small file."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from emollama.backbones.llama import build_llama, save_llama
from emollama.config import LlamaShape
from emollama.errors import CheckpointError, DatasetError
from emollama.labels import NANO_LABELS
from eval.parts.goemotions import evaluate, figures

NANO = Path(__file__).parents[3] / "emollama" / "assets" / "nano" / "tokenizer.json"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    shape = LlamaShape(
        vocab_size=6016, hidden_size=16, intermediate_size=32, num_layers=1, num_heads=2, num_kv_heads=2,
        tie_embeddings=True,
    )  # fmt: skip
    save_llama(build_llama(shape, seed=0), folder / "backbone", shape=shape)
    shutil.copy(NANO, folder / "tokenizer.json")
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data" / "text" / "goemotions-dev.parquet"
    path.parent.mkdir(parents=True)
    labels = [["joy"], ["anger", "joy"], ["fear"], ["annoyance", "anger"], ["neutral"]]
    texts = ["great!", "both", "help me", "go away", "at noon"]
    pq.write_table(pa.table({"id": list("abcde"), "text": texts, "labels": labels}), path)
    return tmp_path / "data"


def test_comments_with_one_class_are_scored(model: Path, data: Path) -> None:
    seen: list[tuple[int, int]] = []
    result = evaluate(data, model=model, progress=lambda done, total: seen.append((done, total)))
    assert result["n"] == 4
    assert result["support"] == {
        "anger": 1, "disgust": 0, "fear": 1, "happiness": 1, "sadness": 0, "surprise": 0, "neutral": 1,
    }  # fmt: skip
    assert 0 <= result["macro_f1"] <= 1
    assert result["recall"]["disgust"] is None
    assert not result["adapter"]
    assert seen[-1] == (4, 4)
    assert evaluate(data / "text" / "goemotions-dev.parquet", model=model)["nll"] == result["nll"]
    assert evaluate(data, model=model, limit=2)["n"] == 2


def test_perfect_answers_score_one() -> None:
    truth = np.arange(7)
    result = figures(np.eye(8)[truth], truth)
    assert result["macro_f1"] == result["accuracy"] == 1.0
    assert set(result["f1"]) == set(NANO_LABELS) - {"contempt"}


def test_what_is_missing_is_named(model: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        evaluate(data, model=tmp_path)
    path = tmp_path / "none.parquet"
    pq.write_table(pa.table({"id": ["a"], "text": ["x"], "labels": [["joy", "anger"]]}), path)
    with pytest.raises(DatasetError, match="exactly one"):
        evaluate(path, model=model)
