"""The paged engine: the tokens that `generate` gives for embeddings, whoever shares batch, pages or slots."""

from __future__ import annotations

import dataclasses
import threading
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from emollama.backbones import paged
from emollama.backbones.llama import build_llama
from emollama.backbones.paged import PagedBackbone, PagedOptions
from emollama.config import LlamaShape, ProjectorConfig
from emollama.errors import BusyError, DependencyError, InputError
from emollama.generate import Event, Request
from emollama.model import splice
from emollama.paged_engine import PagedEngine
from emollama.projectors import build_projector
from emollama.runtime import Row, Sampling

SHAPE = LlamaShape(
    vocab_size=97, hidden_size=32, intermediate_size=48, num_layers=2, num_heads=4, num_kv_heads=2, max_positions=256,
)  # fmt: skip
FACE, VOICE = 90, 91
OPTIONS = PagedOptions(num_slots=24, max_rows=4, page_size=4, num_pages=200, step_tokens=64)


def make_llama() -> Any:
    model = build_llama(SHAPE, seed=0).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)
    return model


@pytest.fixture(scope="module")
def llama() -> Any:
    """The model that is asked as transformers asks it."""
    return make_llama()


@pytest.fixture(scope="module")
def served() -> Any:
    """The same weights, in the engine's hands: it may change how attention is computed."""
    return make_llama()


@pytest.fixture(scope="module")
def projectors() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    resampler = ProjectorConfig(kind="resampler", num_queries=5, num_heads=2, depth=1)
    return {"face": build_projector(6, 32), "voice": build_projector(8, 32, resampler).eval()}


def engine_of(
    llama: Any, projectors: dict[str, nn.Module], options: PagedOptions = OPTIONS, **more: Any
) -> PagedEngine:
    return PagedEngine(PagedBackbone(llama, options), projectors, {"face": FACE, "voice": VOICE}, **more)


@pytest.fixture
def engine(served: Any, projectors: dict[str, nn.Module]) -> Iterator[PagedEngine]:
    made = engine_of(served, projectors)
    yield made
    made.close()


def row(seed: int, *, length: int = 6, faces: int = 3, hears: bool = True) -> Row:
    """A prompt with a face and a voice in front of its words; the prompt is the same for all seeds, the clip is not."""
    generator = torch.Generator().manual_seed(seed)
    features = {"face": torch.randn(faces, 6, generator=generator), "voice": torch.randn(9, 8, generator=generator)}
    ids = [1, *[FACE] * faces, *([VOICE] * 5 if hears else []), *range(10, 10 + length)]
    return Row(ids, {name: tokens for name, tokens in features.items() if hears or name == "face"})


@torch.no_grad()
def expected(llama: Any, projectors: dict[str, nn.Module], given: Row, *, num_tokens: int) -> list[int]:
    """What transformers' own `generate` answers to the projected embeddings."""
    from transformers import GenerationConfig

    ids = torch.tensor([list(given.input_ids)])
    projected = {name: projectors[name](tokens) for name, tokens in given.features.items()}
    embedded = splice(llama.get_input_embeddings()(ids), ids, projected, {"face": FACE, "voice": VOICE})
    settings = GenerationConfig(max_new_tokens=num_tokens, do_sample=False, eos_token_id=2, pad_token_id=0)
    mask = torch.ones(ids.shape, dtype=torch.long)
    found = llama.generate(inputs_embeds=embedded, attention_mask=mask, generation_config=settings)[0].tolist()
    return [token for token in found if token != 2]


def tokens_of(events: list[Event]) -> list[int]:
    return [event.token_id for event in events if event.token_id is not None]


def answer(engine: PagedEngine, given: Row, **sampling: Any) -> list[int]:
    return tokens_of(list(engine.stream(Request(row=given, sampling=Sampling(**sampling)))))


def drain(engine: PagedEngine) -> dict[str, list[Event]]:
    events: dict[str, list[Event]] = defaultdict(list)
    while engine.has_work:
        for event in engine.step():
            events[event.request_id].append(event)
    return events


def test_replies_are_those_of_generate_whoever_is_beside(
    llama: Any, projectors: dict[str, nn.Module], engine: PagedEngine
) -> None:
    rows = [row(n, length=3 + 4 * n, faces=1 + n, hears=n % 2 == 0) for n in range(6)]
    rows.append(Row([1, 5, 6, 7, 8, 9]))
    asked = {
        engine.add(Request(row=given, sampling=Sampling(max_tokens=4 + 3 * n))): (n, given)
        for n, given in enumerate(rows)
    }
    assert engine.num_running <= 4
    found = drain(engine)
    for request_id, (n, given) in asked.items():
        assert tokens_of(found[request_id]) == expected(llama, projectors, given, num_tokens=4 + 3 * n)
        assert [event.reason for event in found[request_id]][-1] in ("length", "stop")
    assert engine.num_slots_used == 0


def test_a_slot_that_was_another_clips_gives_nothing_of_it(
    llama: Any, projectors: dict[str, nn.Module], engine: PagedEngine
) -> None:
    """Eight slots a clip and 24 in all: each clip comes to lie where others were, and the words are all the same.

    Pages hold four tokens and are shared by prefix: were ids used twice, the second clip would be answered from the
    keys and values of the first.
    """
    clips = [row(n) for n in range(7)]
    want = [expected(llama, projectors, given, num_tokens=8) for given in clips]
    assert len({tuple(tokens) for tokens in want}) > 4
    for _ in range(3):
        assert [answer(engine, given, max_tokens=8) for given in clips] == want
    threads = [
        threading.Thread(target=lambda given=given: several.append((given, answer(engine, given, max_tokens=8))))
        for given in clips * 3
    ]
    several: list[tuple[Row, list[int]]] = []
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(several) == 21
    for given, found in several:
        assert found == want[next(index for index, clip in enumerate(clips) if clip is given)]
    assert engine.num_slots_used == 0


def test_the_same_clip_is_projected_once_and_its_prefix_is_shared(
    llama: Any, served: Any, projectors: dict[str, nn.Module], engine: PagedEngine
) -> None:
    first, again = row(2), row(2)
    longer = Row([*again.input_ids, 40, 41], again.features)
    want = [expected(llama, projectors, first, num_tokens=6), expected(llama, projectors, longer, num_tokens=1)]
    calls: list[int] = []
    passes: list[int] = []
    hooks = [
        engine.projectors["face"].register_forward_hook(lambda *_: calls.append(1)),
        served.model.layers[0].register_forward_pre_hook(lambda _, args: passes.append(args[0].shape[1])),
    ]
    assert answer(engine, first, max_tokens=6) == want[0]
    passes.clear()
    assert answer(engine, longer, max_tokens=1) == want[1]
    for hook in hooks:
        hook.remove()
    assert len(calls) == 1
    # of 17 tokens, whole pages of what was asked before are not computed again
    assert passes[0] <= 8


def test_more_clips_than_slots_wait_their_turn_in_a_queue_that_ends(
    llama: Any, served: Any, projectors: dict[str, nn.Module]
) -> None:
    engine = engine_of(
        served, projectors, PagedOptions(num_slots=9, max_rows=4, page_size=4, num_pages=200), max_waiting=2
    )
    try:
        clips = [row(n) for n in range(3)]
        ids = [engine.add(Request(row=given, sampling=Sampling(max_tokens=5))) for given in clips]
        assert (engine.num_running, engine.num_waiting) == (1, 2)
        with pytest.raises(BusyError, match="2 requests are waiting"):
            engine.add(Request(row=row(9), sampling=Sampling()))
        found = drain(engine)
        for request_id, given in zip(ids, clips, strict=True):
            assert tokens_of(found[request_id]) == expected(llama, projectors, given, num_tokens=5)
        with pytest.raises(InputError, match="10 feature tokens; allowed: at most 9"):
            engine.add(Request(row=row(0, faces=5), sampling=Sampling()))
    finally:
        engine.close()


def test_who_leaves_gives_the_slots_to_who_waits(llama: Any, served: Any, projectors: dict[str, nn.Module]) -> None:
    engine = engine_of(served, projectors, PagedOptions(num_slots=8, max_rows=4, page_size=4, num_pages=200))
    try:
        long = engine.add(Request(row=row(0), sampling=Sampling(max_tokens=200)))
        waits = engine.add(Request(row=row(1), sampling=Sampling(max_tokens=5)))
        assert engine.num_waiting == 1
        assert engine.cancel(long)
        assert not engine.cancel(long)
        assert engine.num_slots_used == 8  # the other's by now
        found = drain(engine)
        assert found[long][-1].reason == "cancelled"
        assert tokens_of(found[waits]) == expected(llama, projectors, row(1), num_tokens=5)
        assert engine.num_slots_used == 0
        stream = engine.stream(Request(row=row(2), sampling=Sampling(max_tokens=200)))
        assert next(stream).token_id is not None
        stream.close()
        assert (engine.num_slots_used, engine.num_running) == (0, 0)
        late = list(engine.stream(Request(row=row(3), sampling=Sampling(max_tokens=200), timeout_seconds=1e-6)))
        assert [event.reason for event in late] == ["deadline"]
        gone = list(engine.stream(Request(row=row(3), sampling=Sampling(), cancel=lambda: True)))
        assert [event.reason for event in gone] == ["cancelled"]
        assert answer(engine, row(3), max_tokens=5) == expected(llama, projectors, row(3), num_tokens=5)
    finally:
        engine.close()


def test_when_ids_run_out_the_engine_begins_again_and_confuses_nothing(
    llama: Any, served: Any, projectors: dict[str, nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(served, projectors, PagedOptions(num_slots=8, max_rows=4, page_size=4, num_pages=200))
    monkeypatch.setattr(engine._ledger, "last_id", 97 + 3 * 8 - 1)  # three times each row, then no more
    restarts = []
    restart = engine.backbone.restart

    def counted() -> None:
        restarts.append(1)
        restart()

    monkeypatch.setattr(engine.backbone, "restart", counted)
    try:
        for n in range(8):
            assert answer(engine, row(n), max_tokens=5) == expected(llama, projectors, row(n), num_tokens=5)
        assert len(restarts) == 3  # the start, and after three and six clips
    finally:
        engine.close()


def test_stop_ids_lengths_and_log_probabilities(
    llama: Any, projectors: dict[str, nn.Module], engine: PagedEngine
) -> None:
    want = expected(llama, projectors, row(1), num_tokens=12)
    stop = want[4]
    events = list(engine.stream(Request(row=row(1), sampling=Sampling(max_tokens=12, stop_ids=(stop,)))))
    assert tokens_of(events) == want[: want.index(stop)]
    assert events[-1].reason == "stop"
    events = list(engine.stream(Request(row=row(1), sampling=Sampling(max_tokens=3, num_logprobs=0))))
    assert events[-1].reason == "length"
    with torch.no_grad():
        ids = torch.tensor([list(row(1).input_ids)])
        projected = {name: projectors[name](tokens) for name, tokens in row(1).features.items()}
        table = llama.get_input_embeddings()
        embedded = splice(table(ids), ids, projected, {"face": FACE, "voice": VOICE})
        told = llama(inputs_embeds=torch.cat((embedded, table(torch.tensor([want[:2]]))), 1)).logits[0, -3:]
    chances = told.log_softmax(-1)[torch.arange(3), torch.tensor(want[:3])]
    assert [event.logprob for event in events] == pytest.approx(chances.tolist(), abs=1e-4)
    # 254 and 2 are all that the backbone reads
    assert len(answer(engine, Row([*range(3, 80)] * 3 + [5] * 23), max_tokens=500)) == 2
    full = list(engine.stream(Request(row=Row([5] * 256), sampling=Sampling())))
    assert [event.reason for event in full] == ["length"]


def test_what_the_engine_cannot_do_is_refused_by_name(engine: PagedEngine) -> None:
    refused: dict[str, dict[str, Any]] = {
        "banned": {"banned": frozenset({3})},
        "constraint": {"constraint": lambda _: [1]},
        "repetition_penalty": {"repetition_penalty": 1.2},
        "temperature": {"temperature": 0.7},
        "num_logprobs": {"num_logprobs": 3},
    }
    for name, sampling in refused.items():
        with pytest.raises(InputError, match=f"{name} is .*the paged engine allows"):
            engine.add(Request(row=row(0), sampling=Sampling(**sampling)))
    with pytest.raises(InputError, match="no computed prefix"):
        engine.add(Request(prefix=object(), sampling=Sampling()))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="input_ids holds 97; allowed: 0 to 96"):
        engine.add(Request(row=Row([1, 97]), sampling=Sampling()))  # a slot of somebody else's
    with pytest.raises(InputError, match="2 feature tokens for 1 placeholders"):
        engine.add(Request(row=Row([1, FACE], {"face": torch.zeros(2, 6)}), sampling=Sampling()))
    with pytest.raises(InputError, match=r"face has shape \(2, 5\); allowed: \[T, 6\]"):
        engine.add(Request(row=Row([1, FACE, FACE], {"face": torch.zeros(2, 5)}), sampling=Sampling()))
    with pytest.raises(InputError, match="unknown stream smell"):
        engine.add(Request(row=Row([1], {"smell": torch.zeros(2, 5)}), sampling=Sampling()))
    assert not engine.has_work


def test_drawn_replies_follow_their_own_temperature_and_greedy_ones_do_not_draw(
    llama: Any, served: Any, projectors: dict[str, nn.Module]
) -> None:
    engine = engine_of(served, projectors, dataclasses.replace(OPTIONS, mode="sample", num_slots=64))
    try:
        want = expected(llama, projectors, row(1), num_tokens=10)
        asked = {
            engine.add(Request(row=row(1), sampling=Sampling(max_tokens=10, temperature=temperature))): temperature
            for temperature in (0.0, 2.0, 0.0, 2.0, 2.0, 1e-3)
        }
        found = {request_id: tokens_of(events) for request_id, events in drain(engine).items()}
        for request_id, temperature in asked.items():
            assert (found[request_id] == want) == (temperature < 1)
        drawn = [tuple(found[request_id]) for request_id, temperature in asked.items() if temperature == 2.0]
        assert len(set(drawn)) == 3
        for wrong in (Sampling(temperature=1.0, seed=3), Sampling(num_logprobs=0)):
            with pytest.raises(InputError, match="the paged engine allows: none"):
                engine.add(Request(row=row(1), sampling=wrong))
    finally:
        engine.close()


def test_an_engine_that_died_says_so_and_the_next_request_starts_it_again(
    llama: Any, served: Any, projectors: dict[str, nn.Module], engine: PagedEngine
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    hook = served.model.layers[1].register_forward_pre_hook(fail)
    events = list(engine.stream(Request(row=row(0), sampling=Sampling(max_tokens=5))))
    hook.remove()
    assert events[-1].reason == "error"
    assert "out of memory" in str(events[-1].error)
    assert engine.num_slots_used == 0
    assert answer(engine, row(0), max_tokens=5) == expected(llama, projectors, row(0), num_tokens=5)


def test_closing_ends_what_runs_and_gives_the_embedding_back(served: Any, projectors: dict[str, nn.Module]) -> None:
    engine = engine_of(served, projectors)
    request_id = engine.add(Request(row=row(0), sampling=Sampling(max_tokens=200)))
    assert isinstance(served.get_input_embeddings(), nn.Module)
    assert not isinstance(served.get_input_embeddings(), nn.Embedding)
    engine.close()
    assert isinstance(served.get_input_embeddings(), nn.Embedding)
    assert not engine.cancel(request_id)
    assert not any(thread.name for thread in threading.enumerate() if "_run_generation_loop" in thread.name)


def test_an_older_transformers_is_told_with_what_it_lacks(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.generation import configuration_utils

    monkeypatch.delattr(configuration_utils, "ContinuousBatchingConfig")
    with pytest.raises(DependencyError, match=r"has no .*num_blocks.* for continuous batching; .*5\.17 or later"):
        PagedBackbone(served, OPTIONS)
    with pytest.raises(InputError, match="mode is 'beam'; allowed: greedy, sample"):
        PagedOptions(mode="beam")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="num_slots is 0"):
        PagedOptions(num_slots=0)
    assert paged.MODES == ("greedy", "sample")
