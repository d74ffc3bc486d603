"""The lean runtime gives transformers' numbers: logits, greedy tokens, merged adapters, every padding and prefix."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from emollama.backbones.kv_cache import KvCache
from emollama.backbones.lean import LeanLlama, adapter_fits
from emollama.backbones.llama import build_llama, load_llama, save_llama
from emollama.backbones.lora import attach_lora, load_lora, save_lora
from emollama.config import LlamaShape, LoraSettings
from emollama.errors import CheckpointError, InputError

TIED = LlamaShape(
    vocab_size=97, hidden_size=48, intermediate_size=80, num_layers=3, num_heads=6, num_kv_heads=2, max_positions=640,
    tie_embeddings=True,
)  # fmt: skip
LLAMA2 = dataclasses.replace(TIED, num_kv_heads=6, tie_embeddings=False, rms_norm_eps=1e-3)
LLAMA3 = dataclasses.replace(
    TIED,
    tie_embeddings=False,
    head_dim=16,
    rope_theta=500_000.0,
    rope_scaling={
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
)  # fmt: skip
SHAPES = pytest.mark.parametrize("shape", [TIED, LLAMA2, LLAMA3], ids=["tied", "llama2", "llama3"])


def make(shape: LlamaShape, seed: int = 0) -> tuple[torch.nn.Module, LeanLlama]:
    theirs = build_llama(shape, seed=seed).eval()
    with torch.no_grad():  # gains other than 1, weights large enough that attention is not uniform
        for name, parameter in theirs.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
            else:
                parameter.mul_(4.0)
    return theirs, LeanLlama.from_tensors(shape, theirs.state_dict())


def ids_of(length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, 97, (length,), generator=torch.Generator().manual_seed(seed))


@SHAPES
def test_prefill_and_steps_give_the_logits_of_transformers(shape: LlamaShape) -> None:
    theirs, ours = make(shape)
    ids = ids_of(40)
    with torch.inference_mode():
        wanted = theirs(ids[None]).logits[0]
    cache = ours.new_cache(rows=1, capacity=30)
    hidden = ours.extend(cache, [ours.embed(ids[:25])])
    assert torch.allclose(ours.logits(hidden)[0], wanted[24], atol=1e-4)
    for position in range(25, 40):  # beyond the capacity asked for, too
        hidden = ours.step(cache, [int(ids[position])])
        assert torch.allclose(ours.logits(hidden)[0], wanted[position], atol=1e-4)
    assert torch.allclose(ours.logits(hidden, torch.tensor([5, 7]))[0], wanted[39, [5, 7]], atol=1e-4)


@SHAPES
def test_greedy_tokens_are_those_of_transformers(shape: LlamaShape) -> None:
    theirs, ours = make(shape)
    ids = ids_of(12)
    wanted = theirs.generate(ids[None], max_new_tokens=20, min_new_tokens=20, do_sample=False, pad_token_id=0)
    cache = ours.new_cache(rows=1, capacity=12)
    hidden = ours.extend(cache, [ours.embed(ids)])
    tokens: list[int] = []
    for _ in range(20):
        logits = ours.logits(hidden)[0]
        logits[2] = -torch.inf  # what min_new_tokens does to the end token
        tokens.append(int(logits.argmax()))
        hidden = ours.step(cache, tokens[-1:])
    assert tokens == wanted[0, 12:].tolist()


def test_rows_of_different_length_do_not_see_each_other() -> None:
    _, ours = make(TIED)
    rows = [ids_of(5, 1), ids_of(17, 2), ids_of(9, 3)]
    together = ours.new_cache(rows=3, capacity=20)
    hidden = ours.extend(together, [ours.embed(row) for row in rows])
    stepped = ours.step(together, [4, 5, 6])
    more = [ids_of(3, 4), ids_of(1, 5), ids_of(6, 6)]
    extended = ours.extend(together, [ours.embed(row) for row in more])
    for index, row in enumerate(rows):
        alone = ours.new_cache(rows=1, capacity=20)
        assert torch.allclose(ours.extend(alone, [ours.embed(row)])[0], hidden[index], atol=1e-4)
        assert torch.allclose(ours.step(alone, [4 + index])[0], stepped[index], atol=1e-4)
        assert torch.allclose(ours.extend(alone, [ours.embed(more[index])])[0], extended[index], atol=1e-4)
    assert together.lengths == [9, 19, 16]


def test_branches_see_their_prefix_and_themselves_only() -> None:
    _, ours = make(LLAMA3)
    rows = [ids_of(6, 1), ids_of(11, 2)]
    cache = ours.new_cache(rows=2, capacity=12)
    ours.extend(cache, [ours.embed(row) for row in rows])
    branches = [[5, 6, 7], [8], [5, 9]]
    hidden = ours.branch(cache, branches)
    assert cache.lengths == [6, 11]
    for index, row in enumerate(rows):
        place = 0
        for branch in branches:
            alone = ours.new_cache(rows=1, capacity=16)
            ours.extend(alone, [ours.embed(row)])
            for token in branch:
                assert torch.allclose(ours.step(alone, [token])[0], hidden[index, place], atol=1e-4)
                place += 1


def test_forked_and_appended_rows_go_their_own_ways() -> None:
    _, ours = make(TIED)
    cache = ours.new_cache(rows=2, capacity=8)
    ours.extend(cache, [ours.embed(ids_of(5, 1)), ours.embed(ids_of(8, 2))])
    fork = cache.fork([1, 1, 0], capacity=100)
    assert fork.lengths == [8, 8, 5]
    assert fork.capacity >= 100
    hidden = ours.step(fork, [5, 6, 7])
    assert cache.lengths == [5, 8]
    joined = cache.fork([0], capacity=8)
    joined.append(cache, 1)
    joined.drop(0)
    assert joined.lengths == [8]
    assert torch.allclose(ours.step(joined, [6])[0], hidden[1], atol=1e-5)
    assert joined.num_bytes > 0


def test_bf16_stays_close() -> None:
    theirs, _ = make(TIED)
    exact = LeanLlama.from_tensors(TIED, theirs.state_dict())
    short = LeanLlama.from_tensors(TIED, theirs.state_dict(), dtype=torch.bfloat16)
    results = []
    for model in (exact, short):
        cache = model.new_cache(rows=2, capacity=12)
        model.extend(cache, [model.embed(ids_of(6, 1)), model.embed(ids_of(9, 2))])
        results.append(model.logits(model.step(cache, [5, 6])).log_softmax(-1))
    assert results[1].dtype == torch.float32
    assert torch.nn.functional.kl_div(results[1], results[0], log_target=True, reduction="batchmean") < 0.05


def test_a_folder_with_an_adapter_equals_peft(tmp_path: Path) -> None:
    theirs, _ = make(TIED)
    save_llama(theirs, tmp_path / "backbone", shape=TIED)
    settings = LoraSettings(rank=3, alpha=9.0, targets=("q_proj", "down_proj", "k_proj"))
    adapted = attach_lora(load_llama(tmp_path / "backbone"), settings)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.3)
    save_lora(adapted, tmp_path / "adapter")
    ours = LeanLlama.load(tmp_path / "backbone", adapter=tmp_path / "adapter")
    plain = LeanLlama.load(tmp_path / "backbone")
    ids = ids_of(10)
    wanted = load_lora(load_llama(tmp_path / "backbone"), tmp_path / "adapter").eval()(ids[None]).logits[0, -1]
    outputs = []
    for model in (ours, plain):
        cache = model.new_cache(rows=1, capacity=10)
        outputs.append(model.logits(model.extend(cache, [model.embed(ids)]))[0])
    assert torch.allclose(outputs[0], wanted, atol=1e-4)
    assert not torch.allclose(outputs[1], wanted, atol=1e-2)
    assert adapter_fits(tmp_path / "adapter", TIED) is None
    assert "unexpected" in (adapter_fits(tmp_path / "adapter", dataclasses.replace(TIED, num_layers=2)) or "")
    with pytest.raises(CheckpointError, match="wrong shape"):
        LeanLlama.from_tensors(
            dataclasses.replace(TIED, num_kv_heads=6), make(dataclasses.replace(TIED, num_kv_heads=6))[0].state_dict(),
            adapter=tmp_path / "adapter",
        )  # fmt: skip


def test_a_missing_weight_is_named() -> None:
    theirs, _ = make(TIED)
    tensors = dict(theirs.state_dict())
    del tensors["model.layers.2.mlp.up_proj.weight"]
    with pytest.raises(CheckpointError, match=r"1 missing: model\.layers\.2\.mlp\.up_proj\.weight"):
        LeanLlama.from_tensors(TIED, tensors)


def test_what_does_not_fit_the_context_is_refused() -> None:
    _, ours = make(TIED)
    with pytest.raises(InputError, match="at most 640"):
        ours.new_cache(rows=1, capacity=641)
    cache = ours.new_cache(rows=1, capacity=640)
    ours.extend(cache, [ours.embed(ids_of(640))])
    with pytest.raises(InputError, match="at most 640"):
        ours.step(cache, [5])
    with pytest.raises(InputError, match="1 or more tokens"):
        ours.extend(cache, [ours.embed(ids_of(1)), ours.embed(ids_of(1))])


def test_an_empty_cache_starts_at_nothing() -> None:
    cache = KvCache.empty(TIED, rows=2, capacity=3, like=torch.zeros(1))
    assert cache.lengths == [0, 0]
    assert cache.num_rows == 2
