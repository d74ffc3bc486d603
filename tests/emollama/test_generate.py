"""The engine: several replies at once, each exactly what it would be alone; cancel, deadlines, limits."""

from __future__ import annotations

import threading
from collections import defaultdict

import pytest
import torch

from emollama.backbones.lean import LeanLlama
from emollama.backbones.llama import build_llama
from emollama.config import LlamaShape
from emollama.errors import BusyError, InputError
from emollama.generate import Engine, Event, Request
from emollama.projectors import build_projectors
from emollama.runtime import Row, Runtime, Sampling, one_of

SHAPE = LlamaShape(
    vocab_size=97, hidden_size=32, intermediate_size=48, num_layers=2, num_heads=2, num_kv_heads=1, max_positions=128,
    tie_embeddings=True,
)  # fmt: skip


@pytest.fixture(scope="module", params=["graph", "torch"])
def runtime(request: pytest.FixtureRequest) -> Runtime:
    torch.manual_seed(0)
    backbone = build_llama(SHAPE, seed=0).eval()
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.mul_(3.0)
    steps = "auto" if request.param == "graph" else "torch"
    lean = LeanLlama.from_tensors(SHAPE, backbone.state_dict(), steps=steps)
    return Runtime(lean, dict(build_projectors({"face": 6}, 32).items()), {"face": 90})


def prompts() -> list[Row]:
    generator = torch.Generator().manual_seed(0)
    rows = [Row(torch.randint(3, 80, (n,), generator=generator).tolist()) for n in (3, 14, 7, 7, 21)]
    return [*rows, Row([1, 90, 90, 5], {"face": torch.randn(2, 6, generator=generator)})]


def drain(engine: Engine) -> dict[str, list[Event]]:
    events: dict[str, list[Event]] = defaultdict(list)
    while engine.has_work:
        for event in engine.step():
            events[event.request_id].append(event)
    return events


def tokens_of(events: list[Event]) -> list[int]:
    return [event.token_id for event in events if event.token_id is not None]


@pytest.mark.parametrize("temperature", [0.0, 1.3])
def test_together_is_the_same_as_one_by_one(runtime: Runtime, temperature: float) -> None:
    samplings = [Sampling(max_tokens=5 + 3 * n, temperature=temperature, seed=n) for n in range(6)]
    alone = [
        list(runtime.decode(runtime.prefill([row]), sampling=sampling))
        for row, sampling in zip(prompts(), samplings, strict=True)
    ]
    engine = Engine(runtime, max_rows=3)
    requests = [Request(row=row, sampling=sampling) for row, sampling in zip(prompts(), samplings, strict=True)]
    ids = [engine.add(request) for request in requests[:4]]
    early: dict[str, list[Event]] = defaultdict(list)
    for _ in range(3):  # two requests come while others are being answered
        for event in engine.step():
            early[event.request_id].append(event)
    assert engine.num_running == 3
    ids += [engine.add(request) for request in requests[4:]]
    late = drain(engine)
    assert [tokens_of(early[name] + late[name]) for name in ids] == alone
    for name, sampling, tokens in zip(ids, samplings, alone, strict=True):
        assert (early[name] + late[name])[-1].reason == ("length" if len(tokens) == sampling.max_tokens else "stop")


def test_a_prefix_is_answered_without_computing_it_again(runtime: Runtime) -> None:
    prefix = runtime.prefill(prompts())
    sampling = Sampling(max_tokens=6, num_logprobs=1)
    engine = Engine(runtime)
    names = [engine.add(Request(prefix=prefix, prefix_row=row, sampling=sampling)) for row in (1, 4, 1)]
    events = drain(engine)
    assert (
        tokens_of(events[names[0]]) == tokens_of(events[names[2]]) == list(runtime.decode(prefix, 1, sampling=sampling))
    )
    assert all(event.logprob is not None and event.top for event in events[names[1]] if event.token_id is not None)


def test_cancel_ends_waiting_and_running_requests(runtime: Runtime) -> None:
    engine = Engine(runtime, max_rows=1)
    sampling = Sampling(max_tokens=50, banned=frozenset({2}))
    running, waiting = (engine.add(Request(row=row, sampling=sampling)) for row in prompts()[:2])
    engine.step()
    assert (engine.num_running, engine.num_waiting) == (1, 1)
    assert engine.cancel(running)
    assert engine.cancel(waiting)
    assert {(event.request_id, event.reason) for event in engine.step()} == {
        (running, "cancelled"),
        (waiting, "cancelled"),
    }
    assert not engine.has_work
    assert not engine.cancel(running)


def test_a_deadline_and_an_event_end_a_reply(runtime: Runtime) -> None:
    engine = Engine(runtime)
    event = threading.Event()
    sampling = Sampling(max_tokens=50, banned=frozenset({2}))
    late = engine.add(Request(row=prompts()[0], sampling=sampling, timeout_seconds=1e-9))
    told = engine.add(Request(row=prompts()[1], sampling=sampling, cancel=event))
    first = engine.step()
    assert (late, "deadline") in {(event.request_id, event.reason) for event in first}
    event.set()
    assert [(event.request_id, event.reason) for event in engine.step()] == [(told, "cancelled")]


def test_one_bad_request_does_not_spoil_the_others(runtime: Runtime) -> None:
    engine = Engine(runtime)
    sampling = Sampling(max_tokens=4)
    good = engine.add(Request(row=prompts()[0], sampling=sampling))
    unmatched = engine.add(Request(row=Row([1, 90], {}), sampling=sampling))
    too_long = engine.add(Request(row=Row([5] * 129), sampling=sampling))
    full = engine.add(Request(row=Row([5] * 128), sampling=sampling))
    stuck = engine.add(Request(row=prompts()[1], sampling=Sampling(constraint=lambda ids: [])))
    events = drain(engine)
    assert tokens_of(events[good]) == list(runtime.decode(runtime.prefill(prompts()[:1]), sampling=sampling))
    for name, words in ((unmatched, "placeholders"), (too_long, "at most 128"), (stuck, "no token")):
        assert events[name][-1].reason == "error"
        assert words in str(events[name][-1].error)
    assert events[full][-1].reason == "length"
    assert tokens_of(events[full]) == []


def test_streams_in_two_threads_each_get_their_own_reply(runtime: Runtime) -> None:
    engine, rows = Engine(runtime), prompts()[:2]
    sampling = Sampling(max_tokens=12, banned=frozenset({2}))
    wanted = [list(runtime.decode(runtime.prefill([row]), sampling=sampling)) for row in rows]
    got: dict[int, list[int]] = {}

    def work(index: int) -> None:
        got[index] = tokens_of(list(engine.stream(Request(row=rows[index], sampling=sampling))))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert [got[0], got[1]] == wanted


def test_closing_a_stream_cancels_it(runtime: Runtime) -> None:
    engine = Engine(runtime)
    stream = engine.stream(Request(row=prompts()[0], sampling=Sampling(max_tokens=50, banned=frozenset({2}))))
    next(stream)
    assert engine.num_running == 1
    stream.close()
    assert engine.num_running == 0  # at once: there may be no further step
    assert engine.step() == []


def test_a_full_queue_says_when_to_come_back(runtime: Runtime) -> None:
    engine = Engine(runtime, max_rows=1, max_waiting=1)
    engine.add(Request(row=prompts()[0], sampling=Sampling()))
    with pytest.raises(BusyError) as error:
        engine.add(Request(row=prompts()[0], sampling=Sampling()))
    assert error.value.retry_after_seconds > 0


def test_requests_and_limits_are_checked(runtime: Runtime) -> None:
    with pytest.raises(InputError, match="either row or prefix"):
        Request(sampling=Sampling())
    with pytest.raises(InputError, match="timeout_seconds"):
        Request(row=prompts()[0], sampling=Sampling(), timeout_seconds=0)
    with pytest.raises(InputError, match="max_rows"):
        Engine(runtime, max_rows=0)


def test_forced_tokens_cost_no_step_and_change_nothing(runtime: Runtime) -> None:
    choices = [[40, 41, 42, 43, 44, 45, 46, 47], [40, 41, 42, 50, 51, 52], [60, 61, 62, 63]]
    constraint = one_of(choices, end=[2])
    chosen = []
    for row in prompts():
        prefix, said = runtime.prefill([row]), []
        while True:  # token by token, each step computed: the plain meaning of a constraint
            allowed = list(constraint(said) or ())
            logits = runtime.next_logits(prefix, allowed)[0]
            token = allowed[int(logits.argmax())]
            if token == 2:
                break
            said.append(token)
            prefix = runtime.extend(prefix, 0, [token])
        chosen.append(said)
    sampling = Sampling(max_tokens=20, constraint=constraint, stop_ids=(2,))
    assert [list(runtime.decode(runtime.prefill([row]), sampling=sampling)) for row in prompts()] == chosen
    engine = Engine(runtime, max_rows=4)
    free = engine.add(Request(row=prompts()[2], sampling=Sampling(max_tokens=9)))  # an unforced neighbour
    names = [engine.add(Request(row=row, sampling=sampling)) for row in prompts()]
    num_steps, events = 0, defaultdict(list)
    while engine.has_work:
        num_steps += 1
        for event in engine.step():
            events[event.request_id].append(event)
    assert [tokens_of(events[name]) for name in names] == chosen
    assert {events[name][-1].reason for name in names} == {"stop"}
    assert tokens_of(events[free]) == list(
        runtime.decode(runtime.prefill([prompts()[2]]), sampling=Sampling(max_tokens=9))
    )
    assert num_steps < max(len(said) for said in chosen) + 9


def test_forced_tokens_still_end_at_the_limit_and_at_a_cancel(runtime: Runtime) -> None:
    constraint = one_of([list(range(30, 70))], end=[2])
    prefix = runtime.prefill(prompts()[:1])
    assert list(runtime.decode(prefix, sampling=Sampling(max_tokens=5, constraint=constraint))) == [30, 31, 32, 33, 34]
    engine = Engine(runtime)
    short = engine.add(Request(prefix=prefix, sampling=Sampling(max_tokens=5, constraint=constraint)))
    long = engine.add(Request(prefix=prefix, sampling=Sampling(max_tokens=40, constraint=constraint)))
    first = engine.step()
    assert [event.reason for event in first if event.request_id == short][-1] == "length"
    assert len([event for event in first if event.request_id == long]) < 40
    engine.cancel(long)
    assert [event.reason for event in engine.step()] == ["cancelled"]
    assert not engine.has_work


def test_many_streams_that_come_and_go_get_what_they_would_alone(runtime: Runtime) -> None:
    sampling = Sampling(max_tokens=10, banned=frozenset({2}))
    rows = [prompts()[index % 6] for index in range(24)]
    wanted = [list(runtime.decode(runtime.prefill([row]), sampling=sampling)) for row in rows]
    engine = Engine(runtime, max_rows=3, max_waiting=24)
    got: dict[int, list[int]] = {}

    def work(index: int) -> None:
        stream = engine.stream(Request(row=rows[index], sampling=sampling))
        if index % 5 == 4:  # some go away after their first token
            next(stream)
            stream.close()
            return
        got[index] = tokens_of(list(stream))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not any(thread.is_alive() for thread in threads)
    assert got == {index: wanted[index] for index in range(24) if index % 5 != 4}
    while engine.has_work:
        engine.step()
    assert engine.num_running == engine.num_waiting == 0
