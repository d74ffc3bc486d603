"""The FER+ task: figures that add up, for a model of random weights and, with the shared data, for nano's."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from PIL import Image

from emollama.encoders.face import FaceEncoder
from eval.parts import load_part
from eval.parts.ferplus import DEFAULT_MODEL, evaluate

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"


@pytest.fixture
def data(tmp_path) -> Path:
    generator = np.random.default_rng(0)
    table = {"name": [], "png": [], "votes": []}
    for index in range(30):
        buffer = io.BytesIO()
        Image.fromarray(generator.integers(0, 255, (48, 48), np.uint8)).save(buffer, "png")
        votes = [0] * 10
        votes[index % 7], votes[7] = (8, 2) if index < 28 else (5, 5)
        for column, value in (("name", str(index)), ("png", buffer.getvalue()), ("votes", votes)):
            table[column].append(value)
    (tmp_path / "faces").mkdir()
    parquet.write_table(pa.table(table), tmp_path / "faces" / "ferplus-valid.parquet")
    return tmp_path


def test_the_figures_add_up(data, tmp_path):
    encoder = FaceEncoder.build("nano-face", debug=True)
    seen = []
    result = evaluate(data, model=encoder, progress=lambda done, total: seen.append((done, total)))
    assert (result["pictures"], result["majority_pictures"]) == (30, 28)
    confusion = np.array(result["confusion"])
    assert confusion.sum() == 28
    assert result["accuracy"] == pytest.approx(np.trace(confusion) / 28)
    assert result["support"]["neutral"] == 4
    assert result["recall"]["contempt"] is None
    assert 0 <= result["ece"] <= 1
    assert seen[-1] == (30, 30)
    json.dumps(result)
    encoder.save(tmp_path / "face.safetensors")
    by_path = evaluate(data / "faces" / "ferplus-valid.parquet", model=tmp_path)
    assert by_path["accuracy"] == pytest.approx(result["accuracy"], abs=0.08)


def test_a_higher_temperature_is_less_sure_and_as_right(data):
    encoder = FaceEncoder.build("nano-face", debug=True)
    plain, soft = evaluate(data, model=encoder), evaluate(data, model=encoder, temperature=100.0)
    assert plain["accuracy"] == soft["accuracy"]
    assert soft["brier"] == pytest.approx(7 / 8, abs=0.02)  # uniform over eight


def test_the_registry_names_it():
    assert load_part("ferplus") is evaluate


@pytest.mark.shared_data
@pytest.mark.slow
def test_nano_passes_its_floor_on_the_validation_split():
    if not SHARED.is_dir() or not DEFAULT_MODEL.is_file():
        pytest.skip("wants ../shared/data and nano's weights")
    assert evaluate(SHARED)["accuracy"] >= 0.88
