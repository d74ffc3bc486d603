"""Analyses share the cores while they run at once, and give them back."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import pytest
import torch

from emollama.cores import Cores


@pytest.fixture(autouse=True)
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def test_one_alone_has_all_threads_and_two_have_half_each() -> None:
    cores, seen = Cores(), {}
    both, done = threading.Barrier(2), threading.Barrier(2)

    def work(name: str) -> None:
        torch.set_num_threads(4)
        with cores.working():
            both.wait(timeout=20)
            cores.divide()
            seen[name] = torch.get_num_threads()
            done.wait(timeout=20)
        seen[f"{name} afterwards"] = torch.get_num_threads()

    with cores.working():
        cores.divide()
        assert torch.get_num_threads() == 4
    threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert seen == {"a": 2, "b": 2, "a afterwards": 4, "b afterwards": 4}
    assert cores.num_working == 0


@contextlib.contextmanager
def others(cores: Cores, count: int) -> Iterator[None]:
    """So many analyses in threads of their own, under way until the block ends."""
    ready, done = threading.Barrier(count + 1), threading.Event()

    def work() -> None:
        with cores.working():
            ready.wait(timeout=20)
            done.wait(timeout=20)

    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    ready.wait(timeout=20)
    try:
        yield
    finally:
        done.set()
        for thread in threads:
            thread.join(timeout=20)


def test_who_is_left_takes_all_threads_at_its_next_stage() -> None:
    cores = Cores()
    with cores.working():
        with others(cores, 1):
            cores.divide()
            assert torch.get_num_threads() == 2
        cores.divide()
        assert torch.get_num_threads() == 4


def test_an_analysis_inside_of_a_counted_one_is_counted_once() -> None:
    cores = Cores()
    with cores.working():
        with cores.working():
            assert cores.num_working == 1
            cores.divide()
            assert torch.get_num_threads() == 4
        assert cores.num_working == 1
    assert cores.num_working == 0


def test_many_have_one_thread_each_and_a_failure_is_no_longer_counted() -> None:
    cores = Cores()

    def fail() -> None:
        with others(cores, 6), cores.working():
            cores.divide()
            assert torch.get_num_threads() == 1
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    assert cores.num_working == 0
    assert torch.get_num_threads() == 4
