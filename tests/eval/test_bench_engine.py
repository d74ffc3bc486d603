"""The comparison of engines: both decode, figures come from the times that were taken; no speed is asserted."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from emollama.backbones.lean import LeanLlama
from emollama.backbones.llama import build_llama, load_llama, save_llama
from emollama.backbones.reference import ReferenceLlama
from emollama.config import LlamaShape
from emollama.runtime import Runtime
from eval.bench_engine import Comparison, compare, decode, table_of

SHAPE = LlamaShape(
    vocab_size=61, hidden_size=32, intermediate_size=48, num_layers=2, num_heads=4, num_kv_heads=2, max_positions=64,
    tie_embeddings=True,
)  # fmt: skip
PROMPTS = [[5, 9, 11, 30], [7], [3, 4, 8, 20, 21, 22, 50]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llama")
    model = build_llama(SHAPE, seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0)
    save_llama(model, path, shape=SHAPE, dtype=torch.float32)
    return path


def test_both_engines_say_the_same(folder: Path) -> None:
    runtime = Runtime(LeanLlama.load(folder), {}, {}, eos_ids=())
    reference = ReferenceLlama.load(folder)
    found = compare(
        lambda rows, count: decode(runtime, rows, num_tokens=count),
        lambda rows, count: reference.generate(rows, num_tokens=count),
        PROMPTS,
        num_tokens=12,
        runs=2,
    )
    assert (found.num_requests, found.num_tokens, found.num_same) == (3, 12, 3)
    assert len(found.ours_seconds) == len(found.theirs_seconds) == 2


def test_neither_stops_at_an_end_token(folder: Path, tmp_path: Path) -> None:
    runtime = Runtime(LeanLlama.load(folder), {}, {}, eos_ids=())
    said = decode(runtime, PROMPTS, num_tokens=12)
    model = load_llama(folder)
    save_llama(model, tmp_path, shape=dataclasses.replace(SHAPE, eos_token_ids=(said[0][3],)), dtype=torch.float32)
    assert ReferenceLlama.load(tmp_path).generate(PROMPTS, num_tokens=12) == said
    assert {len(reply) for reply in said} == {12}


def test_figures_are_medians_of_whole_replies() -> None:
    found = Comparison(
        num_requests=2, num_tokens=10, ours_seconds=(1.0, 0.5, 9.0), theirs_seconds=(4.0, 2.0, 3.0), num_same=1
    )
    figures = found.to_json_dict()
    assert figures["ours_tokens_per_second"] == 20.0
    assert figures["theirs_tokens_per_second"] == 6.7
    assert figures["times_as_fast"] == 3.0
    assert table_of([found], title="x").row_count == 1
