"""The models of a running service: adapters that come, are bounded in memory, and go, while others are asked."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from emollama.errors import CheckpointError, UnknownNameError
from server.errors import ApiError
from server.models import ModelHost, ModelSpec

pytestmark = pytest.mark.anyio

BASE = ModelSpec(name="nano", base="nano")


class Shelf:
    """A catalog that is a dict."""

    def __init__(self, *names: str) -> None:
        self.specs = {name: spec_of(name) for name in names}

    def find(self, name: str) -> ModelSpec | None:
        return self.specs.get(name)

    def all(self) -> Sequence[ModelSpec]:
        return list(self.specs.values())


def spec_of(name: str) -> ModelSpec:
    return ModelSpec(name=name, base="nano", adapter=Path(f"/adapters/{name}"), created=5)


class Loader:
    """Counts what is loaded; loading ``held`` waits for ``go``, loading ``broken`` fails."""

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.go = threading.Event()
        self.began = threading.Event()

    def __call__(self, spec: ModelSpec) -> Any:
        if spec.name == "held":
            self.began.set()
            self.go.wait(20)
        if spec.name == "broken":
            raise CheckpointError(f"{spec.adapter} is damaged")
        self.loaded.append(spec.name)
        return spec


@pytest.fixture
def loader() -> Loader:
    return Loader()


async def test_an_adapter_is_loaded_when_it_is_first_asked_for(loader: Loader) -> None:
    host = ModelHost([BASE], load=loader, catalog=Shelf("a", "b"))
    await host.load_all()
    assert loader.loaded == ["nano"]
    assert [entry.id for entry in host.describe_all()] == ["nano", "a", "b"]
    first = await host.acquire("a")
    assert await host.acquire("a") is first
    assert loader.loaded == ["nano", "a"]
    assert host.names == ("nano", "a")
    entry = host.describe("a")
    assert (entry.parent, entry.root, entry.created) == ("nano", "a", 5)
    host.close()


async def test_many_that_ask_for_an_adapter_at_once_load_it_once(loader: Loader) -> None:
    host = ModelHost([BASE], load=loader, catalog=Shelf("held"))
    await host.load_all()
    asked = [asyncio.create_task(host.acquire("held")) for _ in range(5)]
    await asyncio.to_thread(loader.began.wait, 20)
    # Loading holds nobody else up.
    assert await host.acquire(None) is await host.acquire("nano")
    loader.go.set()
    answers = await asyncio.gather(*asked)
    assert len({id(answer) for answer in answers}) == 1
    assert loader.loaded == ["nano", "held"]
    host.close()


async def test_the_adapter_that_was_asked_least_recently_makes_room(loader: Loader) -> None:
    host = ModelHost([BASE], load=loader, catalog=Shelf("a", "b", "c"), max_adapters=2)
    await host.load_all()
    for name in ("a", "b", "a", "c"):
        await host.acquire(name)
    assert host.names == ("nano", "a", "c")
    await host.acquire("b")
    assert loader.loaded == ["nano", "a", "b", "c", "b"]
    host.close()


async def test_a_deleted_adapter_answers_no_more_even_if_another_process_deleted_it(loader: Loader) -> None:
    shelf = Shelf("a")
    host = ModelHost([BASE], load=loader, catalog=shelf)
    await host.load_all()
    await host.acquire("a")
    del shelf.specs["a"]
    with pytest.raises(UnknownNameError, match="known: nano"):
        await host.acquire("a")
    assert host.names == ("nano",)
    host.close()


async def test_an_adapter_that_cannot_be_loaded_is_not_kept_and_tells_no_path(loader: Loader) -> None:
    shelf = Shelf("broken")
    host = ModelHost([BASE], load=loader, catalog=shelf)
    await host.load_all()
    with pytest.raises(ApiError) as caught:
        await host.acquire("broken")
    assert caught.value.code == "model_load_failed"
    assert "/adapters" not in caught.value.message
    with pytest.raises(CheckpointError):
        host.publish(spec_of("broken"))
    assert host.names == ("nano",)
    host.close()


async def test_a_published_adapter_answers_without_being_loaded_again(loader: Loader) -> None:
    shelf = Shelf()
    host = ModelHost([BASE], load=loader, catalog=shelf)
    await host.load_all()
    await asyncio.to_thread(host.publish, spec_of("new"))
    with pytest.raises(UnknownNameError):  # its job has not ended yet
        await host.acquire("other")
    shelf.specs["new"] = spec_of("new")
    await host.acquire("new")
    assert loader.loaded == ["nano", "new"]
    host.close()
