"""A call that is lost is made again; what was passed on is not passed on twice. No cluster: streams are made here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from emollama.errors import CancelledError, InputError
from emollama.stages import RationalePiece
from emollama.watch import Watch
from server.errors import ApiError
from server.ray.calls import Calls, InterruptedAnswerError
from server.ray.failures import Failure, Fault

pytestmark = pytest.mark.ray


class Response:
    """As Ray Serve's: items, an exception instead of one, or (for ``...``) a wait without an end."""

    def __init__(self, items: list[Any]) -> None:
        self._items = items
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True

    def cancelled(self) -> bool:
        return self.is_cancelled

    async def __aiter__(self) -> AsyncIterator[Any]:
        for item in self._items:
            if item is ...:
                await asyncio.sleep(60)
            if isinstance(item, BaseException):
                raise item
            yield item


def starting(*responses: Response) -> Callable[[], Response]:
    """One response a call, in this order."""
    left = iter(responses)
    return lambda: next(left)


def died() -> Exception:
    from ray.exceptions import ActorDiedError

    return ActorDiedError()


def pieces(*texts: str) -> list[Any]:
    return [RationalePiece(text=text) for text in texts]


@pytest.fixture
def calls() -> Iterator[Calls]:
    made = Calls(seconds=20)
    yield made
    made.close()


def test_a_lost_stream_goes_on_where_it_was(calls: Calls) -> None:
    start = starting(
        Response([*pieces("The ", "person "), died()]),
        Response([died()]),
        Response(pieces("The ", "person ", "smiles.")),
    )
    said = [piece.text for piece in calls.stream(start, what="analyze")]
    assert said == ["The ", "person ", "smiles."]
    assert calls.num_repeated == 2


def test_a_replica_that_cancels_is_a_lost_one(calls: Calls) -> None:
    start = starting(Response([asyncio.CancelledError()]), Response(pieces("yes")))
    assert [piece.text for piece in calls.stream(start, what="analyze")] == ["yes"]


def test_an_answer_that_goes_on_differently_is_not_gone_on_with(calls: Calls) -> None:
    start = starting(Response([*pieces("The "), died()]), Response(pieces("A ", "person")))
    stream = calls.stream(start, what="analyze")
    assert next(stream).text == "The "
    with pytest.raises(InterruptedAnswerError):
        next(stream)


def test_what_is_wrong_with_a_request_is_told_and_not_tried_again(calls: Calls) -> None:
    failure = Failure.of(InputError("labels holds 1 names", field="labels"))
    with pytest.raises(InputError, match="labels holds 1 names") as told:
        list(calls.stream(starting(Response([failure])), what="analyze"))
    assert told.value.field == "labels"
    assert calls.num_repeated == 0


def test_a_fault_has_its_name_and_none_of_its_words(calls: Calls) -> None:
    fault = Fault.of(KeyError("what the person said"))
    with pytest.raises(Exception, match="nobody planned") as told:
        list(calls.stream(starting(Response([fault])), what="analyze"))
    assert type(told.value).__name__ == "KeyError"
    assert "person" not in repr(fault)


def test_nobody_waits_any_more(calls: Calls, wait_until: Callable[..., None]) -> None:
    response, answers = Response([*pieces("The "), ...]), iter([False, True])
    with pytest.raises(CancelledError):
        list(calls.stream(lambda: response, what="analyze", watch=Watch(lambda: next(answers, True))))
    wait_until(response.cancelled)


def test_nobody_takes_the_call(calls: Calls) -> None:
    with pytest.raises(ApiError) as told:
        list(calls.stream(lambda: Response([died()]), what="analyze", seconds=0))
    assert (told.value.code, told.value.headers["Retry-After"]) == ("not_ready", "5")
