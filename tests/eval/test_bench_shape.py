"""Random weights of a shape are decoded; the bytes counted are those that a step must read. No speed is asserted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from emollama.backbones.lean import LeanLlama
from emollama.config import LlamaShape
from emollama.errors import InputError
from eval.bench_engine import app
from eval.bench_shape import SHAPES, Decoding, bytes_a_step, measure_bandwidth, random_model, shape_of, shape_table

SMALL = LlamaShape(
    vocab_size=50, hidden_size=32, intermediate_size=40, num_layers=2, num_heads=4, num_kv_heads=2, max_positions=64
)


def test_a_shape_is_decoded_and_the_figures_are_written(tmp_path: Path) -> None:
    told = CliRunner().invoke(
        app,
        ["--shape", "tiny", "--batches", "1,3", "--tokens", "5", "--prompt", "9", "--runs", "2", "--bandwidth", "100",
         "--json", str(tmp_path / "figures.json")],
    )  # fmt: skip
    assert told.exit_code == 0, told.output
    document = json.loads((tmp_path / "figures.json").read_text())
    one, three = document["decoding"]
    assert (one["num_requests"], three["num_requests"], len(one["seconds"])) == (1, 3, 2)
    assert (document["shape"], document["device"], document["dtype"]) == ("tiny", "processor", "float32")
    weights, held = document["bytes_of_weights"], 9 + 3
    of_a_token = 2 * 2 * 2 * 16 * 4  # keys and values, layers, heads, size, bytes
    assert one["bytes_a_step"] == weights + held * of_a_token + 64 * 4
    assert three["bytes_a_token"] == pytest.approx(weights / 3 + held * of_a_token + 64 * 4, abs=1)
    for each in (one, three):
        assert each["gigabytes_per_second"] > 0
        assert each["share_of_vendor_bandwidth"] == pytest.approx(each["gigabytes_per_second"] / 100, abs=0.01)
    assert document["gigabytes_per_second"]["vendor"] == 100


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--shape", "huge"], "huge"),
        (["--shape", "tiny", "--batches", "1,x"], "batches"),
        (["--shape", "tiny", "--batches", "0"], "batches"),
        (["--shape", "tiny", "--dtype", "int3"], "allowed: float32, bfloat16, float16"),
        (["--shape", "tiny", "--tokens", "2000"], "do not fit"),
        (["--shape", "tiny", "--device", "abacus"], "device"),
    ],
)
def test_what_cannot_be_measured_is_refused_by_name(given: list[str], said: str) -> None:
    told = CliRunner().invoke(app, given)
    assert (told.exit_code, said in " ".join(told.output.split())) == (2, True), told.output


def test_a_rate_is_the_median_step_times_the_replies() -> None:
    measured = Decoding(num_requests=4, num_tokens=10, seconds=(1.0, 2.0, 9.0), bytes_a_step=1_000)
    figures = measured.to_json_dict(bandwidth=10_000.0, vendor=20_000.0)
    assert figures["tokens_per_second"] == 20.0
    assert figures["bytes_a_token"] == 250
    assert (figures["share_of_measured_bandwidth"], figures["share_of_vendor_bandwidth"]) == (0.5, 0.25)
    assert measured.to_json_dict(bandwidth=1e4, vendor=None)["share_of_vendor_bandwidth"] is None
    table = shape_table([figures], title="")
    assert [next(iter(column.cells)) for column in table.columns][4:] == ["50%", "25%"]


def test_weights_in_half_the_bits_are_half_the_bytes() -> None:
    sizes = {}
    for dtype in (torch.float32, torch.bfloat16):
        model = LeanLlama.with_random_weights(SMALL, dtype=dtype)
        sizes[dtype] = bytes_a_step(model, num_requests=2, num_tokens=4, prompt=3)
    assert sizes[torch.float32] == 2 * sizes[torch.bfloat16]


def test_the_seven_billion_shape_has_seven_billion_weights() -> None:
    shape = SHAPES["llama-7b"]
    of_a_layer = 4 * shape.hidden_size**2 + 3 * shape.hidden_size * shape.intermediate_size
    assert shape.num_layers * of_a_layer + 2 * shape.vocab_size * shape.hidden_size == pytest.approx(6.74e9, rel=0.001)
    with pytest.raises(InputError):
        shape_of("seven")


def test_a_copy_tells_a_bandwidth() -> None:
    assert measure_bandwidth(torch.device("cpu")) > 1e8  # slower than any memory of this century


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_shape_is_decoded_on_a_gpu(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    given = ["--shape", "tiny", "--device", "cuda", "--dtype", "bfloat16", "--batches", "1,64", "--json", str(path)]
    told = CliRunner().invoke(app, given)
    assert told.exit_code == 0, told.output
    model = random_model("tiny", device=torch.device("cuda"), dtype="bfloat16", seed=0)
    assert model.keeps_cache
    assert [each["num_requests"] for each in json.loads(path.read_text())["decoding"]] == [1, 64]
