"""The graph and torch compute the same: logits, hidden states, keys and values, over rows that come, grow and go."""

from __future__ import annotations

import dataclasses
import threading

import pytest
import torch

from emollama.backbones.lean import LeanLlama
from emollama.backbones.llama import build_llama
from emollama.backbones.step_graph import StepGraph
from emollama.config import LlamaShape
from emollama.errors import InputError
from emollama.runtime import DecodeBatch, Prefix, Runtime, Sampling

TIED = LlamaShape(
    vocab_size=97, hidden_size=64, intermediate_size=80, num_layers=3, num_heads=4, num_kv_heads=4, max_positions=640,
    tie_embeddings=True,
)  # fmt: skip
GROUPED = dataclasses.replace(
    TIED,
    num_heads=8,
    num_kv_heads=2,
    head_dim=32,
    tie_embeddings=False,
    rms_norm_eps=1e-3,
    rope_scaling={
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
)  # fmt: skip
ONE_LAYER = dataclasses.replace(TIED, num_layers=1)
SHAPES = {"tied": TIED, "grouped": GROUPED, "one layer": ONE_LAYER}
TOLERANCE = {"atol": 1e-4, "rtol": 1e-4}


@pytest.fixture(scope="module", params=SHAPES)
def both(request: pytest.FixtureRequest) -> tuple[LeanLlama, LeanLlama]:
    shape = SHAPES[request.param]
    theirs = build_llama(shape, seed=3)
    with torch.no_grad():  # weights large enough that attention is not uniform and choices are clear
        for name, parameter in theirs.named_parameters():
            parameter.uniform_(0.5, 1.5) if "norm" in name else parameter.mul_(4.0)
    fast, plain = (LeanLlama.from_tensors(shape, theirs.state_dict(), steps=steps) for steps in ("auto", "torch"))
    return fast, plain


def ids_of(length: int, seed: int) -> list[int]:
    return torch.randint(3, 97, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def embedded(model: LeanLlama, rows: list[list[int]]) -> list[torch.Tensor]:
    return [model.embed(torch.tensor(row)) for row in rows]


def test_one_computes_by_the_graph_and_the_other_does_not(both: tuple[LeanLlama, LeanLlama]) -> None:
    fast, plain = both
    assert StepGraph.supports(fast)
    assert fast._step_graph() is not None
    assert plain._step_graph() is None


def test_prompts_steps_runs_and_branches_are_the_same(both: tuple[LeanLlama, LeanLlama]) -> None:
    prompts = [ids_of(5, 1), ids_of(70, 2), ids_of(1, 3)]
    ragged = [ids_of(4, 4), ids_of(1, 5), ids_of(9, 6)]
    found = []
    for model in both:
        cache = model.new_cache(rows=3, capacity=8)
        told = [model.extend(cache, embedded(model, prompts))]
        told.append(model.step(cache, [4, 5, 6]))
        told.append(model.extend(cache, embedded(model, ragged)))
        told.append(model.branch(cache, [[7, 8], [9]]).flatten(0, 1))
        told.append(model.advance(cache, [[10], [11], [12]]).clone())
        told.append(model.advance(cache, [[10, 13], [11], [12, 14, 15]]).clone())
        for position in range(60):  # through a growth of the cache
            told.append(model.step(cache, [position % 90, 20, 30]))
        found.append((told, cache))
    for fast, plain in zip(found[0][0], found[1][0], strict=True):
        assert torch.allclose(fast, plain, **TOLERANCE)
    (_, first), (_, second) = found
    assert first.lengths == second.lengths == [5 + 1 + 4 + 1 + 2 + 60, 70 + 1 + 1 + 1 + 1 + 60, 1 + 1 + 9 + 1 + 3 + 60]
    for row, length in enumerate(first.lengths):
        held = (cache.held[:, :, row, :, :length] for cache in (first, second))
        assert torch.allclose(*held, **TOLERANCE)


def test_one_row_is_continued_by_several_tokens(both: tuple[LeanLlama, LeanLlama]) -> None:
    for lengths in ((1, 1, 3), (12, 7, 1), (3, 50, 30)):
        told = []
        for model in both:
            cache = model.new_cache(rows=1, capacity=1)
            told.append([model.extend(cache, embedded(model, [ids_of(length, length)])) for length in lengths])
        assert all(torch.allclose(a, b, **TOLERANCE) for a, b in zip(*told, strict=True))


def test_rows_that_come_and_go_say_what_they_say_alone(both: tuple[LeanLlama, LeanLlama]) -> None:
    prompts = [ids_of(3 + 5 * index, index) for index in range(6)]
    alone: dict[int, list[int]] = {}
    for index, prompt in enumerate(prompts):
        runtime = Runtime(both[1], {}, {}, eos_ids=())
        alone[index] = list(runtime.decode(runtime.prefill([(prompt, {})]), sampling=Sampling(max_tokens=40)))
    model = both[0]
    runtime = Runtime(model, {}, {}, eos_ids=())
    batch, running, said = DecodeBatch(model), [], {index: [] for index in alone}
    schedule = {0: [0, 1], 3: [2], 7: [3, 4], 11: [5]}  # who joins at which step
    for step in range(11 + 40):  # the last who joins is the last who goes
        for index in schedule.get(step, ()):
            batch.admit(runtime.prefill([(prompts[index], {})]), 0, reserve=4)
            running.append(index)
        chosen = batch.logits().argmax(-1).tolist()
        for index, token in zip(running, chosen, strict=True):
            said[index].append(token)
        for place in reversed(range(len(running))):
            if len(said[running[place]]) == 40:
                batch.drop(place)
                chosen[place] = chosen[-1]
                chosen.pop()
                running[place] = running[-1]
                running.pop()
        if running:
            batch.advance([[token] for token in chosen])
    assert said == alone


def test_a_prefix_is_left_as_it_was(both: tuple[LeanLlama, LeanLlama]) -> None:
    runtime = Runtime(both[0], {}, {}, eos_ids=())
    prefix: Prefix = runtime.prefill([(ids_of(9, 1), {}), (ids_of(4, 2), {})])
    before = prefix.cache.held.clone()
    once = list(runtime.decode(prefix, 1, sampling=Sampling(max_tokens=12)))
    runtime.extend(prefix, 1, [5, 6])
    assert torch.equal(prefix.cache.held, before)
    assert prefix.lengths == (9, 4)
    assert list(runtime.decode(prefix, 1, sampling=Sampling(max_tokens=12))) == once


def test_threads_compute_on_caches_of_their_own(both: tuple[LeanLlama, LeanLlama]) -> None:
    runtime = Runtime(both[0], {}, {}, eos_ids=())
    prompts = [ids_of(3 + 4 * index, index) for index in range(4)]

    def reply(prompt: list[int]) -> list[int]:
        return list(runtime.decode(runtime.prefill([(prompt, {})]), sampling=Sampling(max_tokens=30)))

    wanted = [reply(prompt) for prompt in prompts]
    found: dict[int, list[int]] = {}
    threads = [
        threading.Thread(target=lambda place=place: found.update({place: reply(prompts[place])})) for place in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[place] for place in range(4)] == wanted


def test_too_much_is_refused_as_by_torch(both: tuple[LeanLlama, LeanLlama]) -> None:
    model = both[0]
    cache = model.new_cache(rows=1, capacity=640)
    model.extend(cache, embedded(model, [ids_of(639, 1)]))
    model.step(cache, [5])
    for refused in (lambda: model.step(cache, [5]), lambda: model.advance(cache, [[5, 6]])):
        with pytest.raises(InputError, match="at most 640"):
            refused()
    assert cache.lengths == [640]


@pytest.mark.parametrize("change", [{"dtype": torch.bfloat16}, {"shape": dataclasses.replace(TIED, num_heads=8)}])
def test_what_the_graph_cannot_do_is_computed_by_torch(change: dict) -> None:
    shape = change.pop("shape", TIED)
    shape = dataclasses.replace(shape, num_kv_heads=shape.num_heads)
    model = LeanLlama.from_tensors(shape, build_llama(shape, seed=1).state_dict(), **change)
    assert not StepGraph.supports(model)
    cache = model.new_cache(rows=2, capacity=4)
    model.extend(cache, embedded(model, [[5, 6], [7]]))
    assert model.advance(cache, [[8], [9, 10]]).shape == (2, 97)
