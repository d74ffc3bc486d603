"""The step of fixed shapes says token for token what transformers' generate says: alone, side by side, and joining."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from emollama.backbones.lean import LeanLlama
from emollama.backbones.llama import build_llama
from emollama.backbones.reference import ReferenceLlama
from emollama.backbones.static_step import StaticStep
from emollama.config import LlamaShape
from emollama.generate import Engine, Request
from emollama.runtime import Row, Runtime, Sampling

SHAPES = {
    "one head a key": LlamaShape(
        vocab_size=97, hidden_size=64, intermediate_size=80, num_layers=2, num_heads=4, num_kv_heads=4,
        max_positions=200, rms_norm_eps=1e-3,
    ),
    "grouped heads": LlamaShape(
        vocab_size=97, hidden_size=48, intermediate_size=64, num_layers=3, num_heads=8, num_kv_heads=2, head_dim=16,
        max_positions=200, tie_embeddings=True,
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=SHAPES)
def both(request: pytest.FixtureRequest) -> tuple[Runtime, ReferenceLlama]:
    shape = SHAPES[request.param]
    theirs = build_llama(shape, seed=3)
    with torch.no_grad():  # weights large enough that attention is not uniform and choices are clear
        for name, parameter in theirs.named_parameters():
            parameter.uniform_(0.5, 1.5) if "norm" in name else parameter.mul_(4.0)
    lean = LeanLlama.from_tensors(shape, theirs.state_dict(), steps="static")
    return Runtime(lean, {}, {}, eos_ids=()), ReferenceLlama(theirs)


def prompt_of(length: int, seed: int) -> list[int]:
    return torch.randint(3, 97, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def drain(engine: Engine, said: dict[str, list[int]]) -> None:
    while engine.has_work:
        take(engine, said)


def take(engine: Engine, said: dict[str, list[int]]) -> None:
    for event in engine.step():
        assert event.error is None
        if event.token_id is not None:
            said.setdefault(event.request_id, []).append(event.token_id)


def ask(engine: Engine, prompt: list[int], count: int) -> str:
    return engine.add(Request(row=Row(prompt), sampling=Sampling(max_tokens=count)))


@pytest.mark.parametrize("lengths", [[7], [60], [5, 23, 61, 2, 40]])  # within and over a bucket of positions; 5 of 8
def test_replies_are_those_of_generate(both: tuple[Runtime, ReferenceLlama], lengths: list[int]) -> None:
    runtime, reference = both
    prompts = [prompt_of(length, seed) for seed, length in enumerate(lengths)]
    engine, said = Engine(runtime), dict[str, list[int]]()
    names = [ask(engine, prompt, 20) for prompt in prompts]
    drain(engine, said)
    assert [said[name] for name in names] == reference.generate(prompts, num_tokens=20)


def test_who_joins_and_who_leaves_changes_nothing_for_the_others(both: tuple[Runtime, ReferenceLlama]) -> None:
    runtime, reference = both
    first, second, third = prompt_of(58, 1), prompt_of(9, 2), prompt_of(31, 3)
    engine, said = Engine(runtime), dict[str, list[int]]()
    names = [ask(engine, first, 24)]
    for _ in range(4):
        take(engine, said)
    names.append(ask(engine, second, 6))  # it ends while the others go on, and the last row takes its place
    take(engine, said)
    names.append(ask(engine, third, 24))
    drain(engine, said)
    wanted = [reference.generate([prompt], num_tokens=n)[0] for prompt, n in ((first, 24), (second, 6), (third, 24))]
    assert [said[name] for name in names] == wanted


def test_a_batch_that_was_empty_goes_on_in_the_memory_of_before(both: tuple[Runtime, ReferenceLlama]) -> None:
    """Or every reply of a quiet hour would be captured anew."""
    runtime, reference = both
    engine, said = Engine(runtime), dict[str, list[int]]()
    batch: Any = engine._batch
    places, forms = set(), set()
    for seed in range(3):
        name = ask(engine, prompt_of(11, seed), 5)
        drain(engine, said)
        assert said[name] == reference.generate([prompt_of(11, seed)], num_tokens=5)[0]
        places.add(batch._cache.held.data_ptr())
        forms |= {id(form) for form in batch._cache.binding.forms.values()}
        assert batch.num_rows == 0
    assert (len(places), len(forms)) == (1, 1)


def test_a_step_has_the_hidden_state_of_the_plain_one() -> None:
    shape = SHAPES["grouped heads"]
    theirs = build_llama(shape, seed=5)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 0.05)):
        plain, fixed = (
            LeanLlama.from_tensors(shape, theirs.state_dict(), dtype=dtype, steps=steps)
            for steps in ("torch", "static")
        )
        hidden = []
        for model in (plain, fixed):
            cache = model.new_cache(rows=3, capacity=64)
            model.extend(cache, [model.embed(torch.tensor(prompt_of(n, n))) for n in (4, 63, 17)])
            hidden.append(torch.stack([model.step(cache, [5, 6, 7]), model.step(cache, [8, 9, 10])]).float())
        torch.testing.assert_close(hidden[0], hidden[1], atol=tolerance, rtol=tolerance)


def test_random_weights_have_the_size_of_a_model_and_numbers_that_stay_finite() -> None:
    shape = SHAPES["one head a key"]
    model = LeanLlama.with_random_weights(shape, seed=1, steps="static")
    read = LeanLlama.from_tensors(shape, build_llama(shape, seed=1).state_dict())
    assert model.num_bytes == read.num_bytes == 4 * 64 * (2 * (4 * 64 + 3 * 80) + 97)
    cache = model.new_cache(rows=1, capacity=64)
    model.extend(cache, [model.embed(torch.tensor(prompt_of(20, 0)))])
    logits = model.advance(cache, [[3]])
    assert torch.isfinite(logits).all()
    assert float(logits.std()) > 0.1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_what_is_captured_says_what_is_computed() -> None:
    shape = SHAPES["grouped heads"]
    theirs = build_llama(shape, seed=3)
    captured, plain = (
        LeanLlama.from_tensors(shape, theirs.state_dict(), dtype=torch.bfloat16, device="cuda", steps=steps)
        for steps in ("auto", "torch")
    )
    assert captured._static is not None
    assert captured._static.is_captured
    found = []
    for model in (captured, plain):
        cache = model.new_cache(rows=3, capacity=64)
        rows = [model.embed(torch.tensor(prompt_of(n, n), device="cuda")) for n in (4, 60, 17)]
        model.extend(cache, rows)
        found.append(torch.stack([model.advance(cache, [[5 + k], [6], [7]]).clone() for k in range(8)]))
    torch.testing.assert_close(found[0], found[1], atol=0.1, rtol=0.1)


def test_a_processor_computes_what_a_gpu_would_replay(both: tuple[Runtime, ReferenceLlama]) -> None:
    static = both[0].backbone._static
    assert isinstance(static, StaticStep)
    assert not static.is_captured
