import base64
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from emollama.endpoint import (
    AnswerCache,
    ChatEndpoint,
    EndpointError,
    EndpointOptions,
    EndpointUnusableError,
    Prompt,
    RateLimit,
    Stop,
    StoppedError,
)
from emollama.errors import InputError

PROMPT = Prompt(messages=({"role": "user", "content": "Why?"},), sha256="0" * 64)
Completion = Callable[..., dict[str, Any]]


def ask(tmp_path: Path, url: str, **options: Any) -> ChatEndpoint:
    given: dict[str, Any] = {"base_url": url, "model": "m", "first_pause_seconds": 0.0, **options}
    key = given.pop("key", "secret-key")
    return ChatEndpoint(EndpointOptions(**given), cache=AnswerCache(tmp_path / "cache"), key=key)


def test_a_real_request_and_its_cache(tmp_path: Path, endpoint: Any, completion: Completion) -> None:
    endpoint.reply = lambda body, n: (200, {}, completion(f"answer {n}"))
    first = ask(tmp_path, endpoint.url, seed=5)
    done = first.complete(PROMPT, seed=1)
    assert (done.text, done.model, done.cached, done.finish_reason) == ("answer 1", "fake-1", False, "stop")
    assert endpoint.paths == ["/v1/chat/completions"]
    assert endpoint.headers[0]["Authorization"] == "Bearer secret-key"
    assert endpoint.bodies[0] == {
        "model": "m",
        "messages": [{"role": "user", "content": "Why?"}],
        "temperature": 0.7,
        "max_tokens": 400,
        "seed": 6,
    }
    # another process of the same run finds the answer and asks nothing
    second = ask(tmp_path, endpoint.url, seed=5)
    again = second.complete(PROMPT, seed=1)
    assert (again.text, again.cached, len(endpoint.bodies)) == ("answer 1", True, 1)
    assert (second.usage.requests, second.usage.cached) == (0, 1)
    assert (first.usage.prompt_tokens, first.usage.completion_tokens) == (100, 50)
    # another seed, model or temperature is another request
    second.complete(PROMPT, seed=2)
    ask(tmp_path, endpoint.url, seed=5, model="n").complete(PROMPT, seed=1)
    assert len(endpoint.bodies) == 3


def test_neither_the_key_nor_a_picture_is_stored(tmp_path: Path, endpoint: Any, completion: Completion) -> None:
    endpoint.reply = lambda body, n: (200, {}, completion("a desk"))
    url = f"data:image/jpeg;base64,{base64.b64encode(b'picture').decode()}"
    parts = [{"type": "text", "text": "What is here?"}, {"type": "image_url", "image_url": {"url": url}}]
    prompt = Prompt(messages=({"role": "user", "content": parts},), sha256="0" * 64)
    assert prompt.num_characters == len("What is here?")
    ask(tmp_path, endpoint.url).complete(prompt, seed=0)
    assert endpoint.bodies[0]["messages"][0]["content"][1]["image_url"]["url"] == url
    (entry,) = (tmp_path / "cache").rglob("*.json")
    stored = entry.read_text()
    assert "secret-key" not in stored
    assert "base64" not in stored
    assert json.loads(stored)["answer"]["text"] == "a desk"
    entry.write_text("{")  # a damaged entry is asked anew
    assert not ask(tmp_path, endpoint.url).complete(prompt, seed=0).cached


def test_retry_after_is_honoured_by_all(tmp_path: Path, completion: Completion) -> None:
    now = [0.0]
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    replies = [httpx.Response(429, headers={"Retry-After": "12"}), httpx.Response(200, json=completion("ok"))]
    stop = Stop()
    stop.sleep = sleep  # type: ignore[method-assign]
    limit = RateLimit(clock=lambda: now[0], sleep=sleep)
    chat = ChatEndpoint(
        EndpointOptions(base_url="http://x/v1", model="m"),
        cache=AnswerCache(tmp_path), limit=limit, stop=stop, key="",
        transport=httpx.MockTransport(lambda request: replies.pop(0)),
    )  # fmt: skip
    assert chat.complete(PROMPT, seed=0).text == "ok"
    assert sum(slept) == pytest.approx(12)
    assert (chat.usage.requests, chat.usage.retries) == (2, 1)


def test_retry_after_may_be_a_date(tmp_path: Path, endpoint: Any, completion: Completion) -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=1), usegmt=True)
    endpoint.reply = lambda body, n: (
        (503, {"Retry-After": soon}, "busy") if n == 1 else (200, {}, completion("late"))
    )  # fmt: skip
    started = time.time()
    assert ask(tmp_path, endpoint.url).complete(PROMPT, seed=0).text == "late"
    assert time.time() >= datetime.strptime(soon, "%a, %d %b %Y %H:%M:%S GMT").replace(tzinfo=UTC).timestamp()
    assert time.time() - started < 60


def test_a_wait_that_is_too_long_is_not_waited(tmp_path: Path, endpoint: Any) -> None:
    endpoint.reply = lambda body, n: (429, {"Retry-After": "86400"}, "")
    with pytest.raises(EndpointError, match="asks to wait 86400 s, longer than 600 s"):
        ask(tmp_path, endpoint.url).complete(PROMPT, seed=0)
    assert len(endpoint.bodies) == 1


@pytest.mark.parametrize(
    "first",
    [
        (500, {}, {"error": {"message": "boom"}}),
        (429, {}, "slow down"),
        (200, {}, "<html>no json</html>"),
        (200, {}, {"choices": []}),
        (200, {}, {"choices": [{"message": {"content": None}}]}),
        (200, {}, {"choices": [{"message": {"content": "  "}}]}),
        (200, {}, ["not", "an", "object"]),
    ],
)
def test_trouble_is_tried_again(tmp_path: Path, endpoint: Any, completion: Completion, first: Any) -> None:
    endpoint.reply = lambda body, n: first if n < 3 else (200, {}, completion("good"))
    chat = ask(tmp_path, endpoint.url)
    assert chat.complete(PROMPT, seed=0).text == "good"
    assert (chat.usage.requests, chat.usage.retries) == (3, 2)


def test_pauses_grow_and_are_bounded(tmp_path: Path) -> None:
    slept: list[float] = []
    stop = Stop()
    stop.sleep = slept.append  # type: ignore[method-assign]
    chat = ChatEndpoint(
        EndpointOptions(base_url="http://x", model="m", max_tries=6, longest_pause_seconds=5.0),
        cache=AnswerCache(tmp_path), stop=stop, key="", jitter=lambda: 1.0,
        transport=httpx.MockTransport(lambda request: httpx.Response(502)),
    )  # fmt: skip
    with pytest.raises(EndpointError, match="no answer in 6 tries: status 502"):
        chat.complete(PROMPT, seed=0)
    assert slept == [1.0, 2.0, 4.0, 5.0, 5.0]


def test_a_silent_endpoint_times_out(tmp_path: Path, endpoint: Any, completion: Completion) -> None:
    def reply(body: Any, n: int) -> Any:
        if n == 1:
            time.sleep(1.0)
        return 200, {}, completion("second time")

    endpoint.reply = reply
    assert ask(tmp_path, endpoint.url, timeout_seconds=0.2).complete(PROMPT, seed=0).text == "second time"
    assert len(endpoint.bodies) >= 2


def test_nobody_listens(tmp_path: Path, endpoint: Any) -> None:
    with pytest.raises(EndpointError, match=r"no answer in 2 tries: the connection failed \(ConnectError"):
        ask(tmp_path, "http://127.0.0.1:9/v1", max_tries=2).complete(PROMPT, seed=0)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_cannot_get_better_is_not_tried_again(tmp_path: Path, endpoint: Any, status: int) -> None:
    endpoint.reply = lambda body, n: (status, {}, {"error": {"message": "no such model"}})
    with pytest.raises(
        EndpointUnusableError, match=rf"status {status} \(no such model\); check .* OPENAI_API_KEY"
    ) as e:
        ask(tmp_path, endpoint.url).complete(PROMPT, seed=0)
    assert "secret-key" not in str(e.value)
    assert len(endpoint.bodies) == 1


def test_a_refused_request_fails_alone(tmp_path: Path, endpoint: Any) -> None:
    endpoint.reply = lambda body, n: (400, {}, {"error": {"message": "content filter"}})
    with pytest.raises(EndpointError, match="refused the request: status 400") as raised:
        ask(tmp_path, endpoint.url).complete(PROMPT, seed=0)
    assert not isinstance(raised.value, EndpointUnusableError)
    assert raised.value.status == 400


def test_a_stopped_run_does_not_wait(tmp_path: Path, endpoint: Any) -> None:
    stop = Stop()

    def reply(body: Any, n: int) -> Any:
        stop.set()
        return 429, {"Retry-After": "300"}, ""

    endpoint.reply = reply
    chat = ChatEndpoint(
        EndpointOptions(base_url=endpoint.url, model="m"), cache=AnswerCache(tmp_path), stop=stop, key=""
    )
    with pytest.raises(StoppedError):
        chat.complete(PROMPT, seed=0)


def test_options_are_checked_and_the_url_is_completed() -> None:
    assert EndpointOptions(base_url="http://a", model="m").url == "http://a/v1/chat/completions"
    assert EndpointOptions(base_url="http://a/x/v1/", model="m").url == "http://a/x/v1/chat/completions"
    with pytest.raises(InputError, match="base_url is 'ftp://a'"):
        EndpointOptions(base_url="ftp://a", model="m")
    with pytest.raises(InputError, match="temperature is 3"):
        EndpointOptions(base_url="http://a", model="m", temperature=3)


def test_what_an_endpoint_wants_besides(tmp_path: Path, endpoint: Any, completion: Completion) -> None:
    endpoint.reply = lambda body, n: (200, {}, completion("ok"))
    extra = {"max_tokens": None, "max_completion_tokens": 900, "reasoning_effort": "low"}
    ask(tmp_path, endpoint.url, body=extra).complete(PROMPT, seed=0)
    assert {"max_completion_tokens": 900, "reasoning_effort": "low"}.items() <= endpoint.bodies[0].items()
    assert "max_tokens" not in endpoint.bodies[0]
    with pytest.raises(InputError, match="body holds 'messages'"):
        EndpointOptions(base_url="http://a", model="m", body={"messages": []})


def test_what_one_request_wants_besides(tmp_path: Path, endpoint: Any, completion: Completion) -> None:
    endpoint.reply = lambda body, n: (200, {}, completion(f"answer {n}"))
    chat = ask(tmp_path, endpoint.url, body={"top_p": 0.5})
    as_json = {"response_format": {"type": "json_object"}}
    assert chat.complete(PROMPT, seed=0, body=as_json).text == "answer 1"
    assert chat.complete(PROMPT, seed=0).text == "answer 2"  # another request, so another address in the cache
    assert endpoint.bodies[0]["response_format"] == {"type": "json_object"}
    assert "response_format" not in endpoint.bodies[1]
    assert endpoint.bodies[0]["top_p"] == endpoint.bodies[1]["top_p"] == 0.5
