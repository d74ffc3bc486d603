"""Asks an OpenAI-compatible endpoint (``POST {base_url}/chat/completions``), with patience and without waste.

Answers are cached by the content of the request. 408, 409, 429, 5xx, time-outs, broken connections and answers that are
no chat completion are tried again with growing, jittered pauses; ``Retry-After`` (seconds or a date) is honoured and
holds for all threads. What cannot get better by trying again (a wrong key, an unknown model) stops the run. The key is
read from the environment; it is never written anywhere.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from emollama.endpoint.cache import AnswerCache, request_sha256
from emollama.endpoint.limits import RateLimit, Stop
from emollama.errors import EmoLlamaError, InputError

if TYPE_CHECKING:
    import httpx

BASE_URL_VARIABLE, KEY_VARIABLE = "OPENAI_BASE_URL", "OPENAI_API_KEY"
CHARACTERS_PER_TOKEN = 4  # a rule of thumb for English; used to plan, never to bill
_AGAIN = frozenset({408, 409, 425, 429})
_HOPELESS = frozenset({401, 402, 403, 404, 405})


class EndpointError(EmoLlamaError):
    """This request could not be answered; another may be, and this one may be later.

    ``status`` is the HTTP status that ended it, ``None`` where there was no answer.
    """

    def __init__(self, message: str, *, field: str | None = None, status: int | None = None) -> None:
        super().__init__(message, field=field)
        self.status = status


class EndpointUnusableError(EndpointError):
    """No request will be answered before the user changes something: the key, the URL, the model's name."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """Messages in the shape of ``/v1/chat/completions``, and the hash of the wording that made them."""

    messages: tuple[Mapping[str, Any], ...]
    sha256: str

    @property
    def num_characters(self) -> int:
        """Return how many characters of text there are, pictures not counted."""
        total = 0
        for message in self.messages:
            parts = message["content"]
            texts = [parts] if isinstance(parts, str) else [part.get("text", "") for part in parts]
            total += sum(len(text) for text in texts)
        return total


@dataclass(frozen=True, kw_only=True)
class EndpointOptions:
    """Where and how to ask. The first six decide what is answered; the others may change between runs.

    ``body`` is merged into every request, for what some endpoint wants besides; a null there takes a field out.
    """

    base_url: str
    model: str
    temperature: float = 0.7
    max_tokens: int = 400
    seed: int = 0
    body: Mapping[str, Any] = field(default_factory=dict)
    timeout_seconds: float = 60.0
    max_tries: int = 6
    first_pause_seconds: float = 1.0
    longest_pause_seconds: float = 60.0
    longest_retry_after_seconds: float = 600.0

    def __post_init__(self) -> None:
        if not self.base_url.startswith(("http://", "https://")):
            raise InputError(f"base_url is {self.base_url!r}; allowed: http:// or https://", field="base_url")
        if fixed := sorted({"messages", "model", "seed", "stream", "n"} & set(self.body)):
            raise InputError(f"body holds {fixed[0]!r}, which is set for every request; leave it out", field="body")
        if not self.model.strip():
            raise InputError("model is empty; name the model that the endpoint serves", field="model")
        for name, low, high in (
            ("temperature", 0.0, 2.0),
            ("max_tokens", 1, 100_000),
            ("timeout_seconds", 0.05, 3600.0),
            ("max_tries", 1, 100),
            ("first_pause_seconds", 0.0, 600.0),
            ("longest_pause_seconds", 0.0, 3600.0),
            ("longest_retry_after_seconds", 0.0, 86_400.0),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise InputError(f"{name} is {value}; allowed: {low:g} to {high:g}", field=name)

    @property
    def url(self) -> str:
        base = self.base_url.rstrip("/")
        return f"{base}/chat/completions" if base.endswith("/v1") else f"{base}/v1/chat/completions"


@dataclass(frozen=True, kw_only=True)
class Completion:
    """An answer and where it came from; token counts are the endpoint's own, or ``None`` when it gave none."""

    text: str
    model: str
    finish_reason: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    created: str
    request_sha256: str
    cached: bool


@dataclass
class Usage:
    """What a run has asked for so far."""

    requests: int = 0
    cached: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class ChatEndpoint:
    """One endpoint and one model; may be asked from several threads. Close it when done."""

    def __init__(
        self,
        options: EndpointOptions,
        *,
        cache: AnswerCache,
        limit: RateLimit | None = None,
        stop: Stop | None = None,
        key: str | None = None,
        transport: httpx.BaseTransport | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        import httpx

        self.options, self.usage = options, Usage()
        self._cache, self._stop = cache, stop or Stop()
        self._limit = limit or RateLimit(sleep=self._stop.sleep)
        self._jitter, self._lock = jitter, threading.Lock()
        key = os.environ.get(KEY_VARIABLE) if key is None else key
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.Client(
            timeout=httpx.Timeout(options.timeout_seconds, connect=min(10.0, options.timeout_seconds)),
            headers=headers,
            transport=transport,
            follow_redirects=False,
        )

    def close(self) -> None:
        self._client.close()

    def complete(self, prompt: Prompt, *, seed: int, body: Mapping[str, Any] = MappingProxyType({})) -> Completion:
        """Return the answer to a prompt, from the cache when it was asked before; ``body`` is of this request alone.

        Raises `EndpointError` when all tries failed, `EndpointUnusableError` when no try can succeed, and
        `StoppedError` when the run is stopped while it waits.
        """
        options = self.options
        fields = {
            "model": options.model,
            "messages": [dict(message) for message in prompt.messages],
            "temperature": options.temperature,
            "max_tokens": options.max_tokens,
            "seed": options.seed + seed,
            **options.body,
            **body,
        }
        sent = {name: value for name, value in fields.items() if value is not None}
        address = request_sha256(options.url, sent)
        stored = self._cache.get(address)
        if stored is not None:
            with self._lock:
                self.usage.cached += 1
            return Completion(**stored, request_sha256=address, cached=True)
        answer = self._ask(sent, tokens=prompt.num_characters // CHARACTERS_PER_TOKEN + options.max_tokens)
        self._cache.put(address, url=options.url, body=sent, answer=answer)
        with self._lock:
            self.usage.prompt_tokens += answer["prompt_tokens"] or 0
            self.usage.completion_tokens += answer["completion_tokens"] or 0
        return Completion(**answer, request_sha256=address, cached=False)

    def _ask(self, body: dict[str, Any], *, tokens: int) -> dict[str, Any]:
        import httpx

        options, said = self.options, ""
        for attempt in range(options.max_tries):
            self._limit.acquire(tokens)
            if self._stop.is_set():
                self._stop.sleep(0.0)
            with self._lock:
                self.usage.requests += 1
                self.usage.retries += attempt > 0
            wait: float | None = None
            try:
                response = self._client.post(options.url, json=body)
            except httpx.TimeoutException:
                said = f"no answer within {options.timeout_seconds:g} s"
            except httpx.TransportError as error:
                said = f"the connection failed ({type(error).__name__}: {error})"
            except httpx.InvalidURL as error:
                raise EndpointUnusableError(f"{options.url} is no URL: {error}", field="base_url") from error
            else:
                if response.status_code == 200:
                    answer, said = _read(response)
                    if answer is not None:
                        return answer
                else:
                    said = f"status {response.status_code}{_message(response)}"
                    if response.status_code in _HOPELESS:
                        raise EndpointUnusableError(
                            f"{options.url} refused model {options.model!r}: {said}; check the URL, the model's "
                            f"name and the key in {KEY_VARIABLE}",
                            field="base_url",
                            status=response.status_code,
                        )
                    if response.status_code not in _AGAIN and response.status_code < 500:
                        raise EndpointError(
                            f"{options.url} refused the request: {said}", field="base_url", status=response.status_code
                        )
                    wait = _retry_after(response.headers.get("Retry-After"))
            if wait is not None and wait > options.longest_retry_after_seconds:
                raise EndpointError(
                    f"{options.url} asks to wait {wait:.0f} s, longer than {options.longest_retry_after_seconds:.0f} s "
                    f"({said}); run again later",
                    field="base_url",
                )
            if attempt + 1 == options.max_tries:
                break
            if wait is not None:
                self._limit.pause(wait)
            pause = min(options.longest_pause_seconds, options.first_pause_seconds * 2**attempt)
            self._stop.sleep(wait if wait is not None else pause * (0.5 + 0.5 * self._jitter()))
        raise EndpointError(f"{options.url} gave no answer in {options.max_tries} tries: {said}", field="base_url")


def _read(response: httpx.Response) -> tuple[dict[str, Any] | None, str]:
    """Return the answer that the body holds, or ``None`` and what is wrong with it."""
    try:
        document = response.json()
        choice = document["choices"][0]
        text = choice["message"]["content"]
    except (ValueError, LookupError, TypeError):
        return None, f"the answer is not a chat completion: {response.text[:80]!r}"
    if not isinstance(text, str) or not text.strip():
        return None, "the answer holds no text"
    usage = document.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    return {
        "text": text,
        "model": str(document.get("model") or ""),
        "finish_reason": choice.get("finish_reason"),
        "prompt_tokens": _count(usage.get("prompt_tokens")),
        "completion_tokens": _count(usage.get("completion_tokens")),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }, ""


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _message(response: httpx.Response) -> str:
    try:
        error = response.json()["error"]
        text = error["message"] if isinstance(error, dict) else str(error)
    except (ValueError, LookupError, TypeError):
        text = response.text
    text = " ".join(str(text).split())[:200]
    return f" ({text})" if text else ""


def _retry_after(value: str | None) -> float | None:
    """Return the seconds that a Retry-After header asks for: a number, or the time until a date."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return None
