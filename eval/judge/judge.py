"""One judge: asks an endpoint, reads the reply strictly, asks again in other words, and says when it got no verdict.

What an endpoint may do wrong is met in two places: silence, 429 and 5xx are waited for and tried again in
`emollama.endpoint`; a reply that is none, or out of range, gets the next phrasing here, and what is left is unjudged,
with the reason. A judge that cannot be reached at all, or fails on too many items, is not asked on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from emollama.endpoint import ChatEndpoint, EndpointError, EndpointUnusableError
from emollama.errors import EmoLlamaError, InputError
from eval.judge.prompts import PromptFile
from eval.judge.replies import UnreadableError, read_object

T = TypeVar("T")
S = TypeVar("S")
_JSON_MODE = {"response_format": {"type": "json_object"}}
_REFUSED = frozenset({400, 415, 422})  # how endpoints say that they do not know a field
MOST_FAILURES_IN_A_ROW = 8


class UnjudgedError(EmoLlamaError):
    """This item got no verdict; the message says what every attempt came to."""


@dataclass(frozen=True, kw_only=True)
class JudgeOptions:
    """``max_unjudged_share`` of the items may stay without a verdict; with more there is no figure.

    ``json_mode`` asks the endpoint for JSON output; one that refuses the field is asked without it from then on.
    ``repeats`` asks everything so many times with seeds of their own (wants a temperature above 0 to tell anything).
    """

    max_unjudged_share: float = 0.05
    json_mode: bool = True
    repeats: int = 1
    workers: int = 4

    def __post_init__(self) -> None:
        if not 0 <= self.max_unjudged_share < 1:
            raise InputError(
                f"max_unjudged_share is {self.max_unjudged_share}; allowed: 0 to below 1", field="max_unjudged_share"
            )
        for name, most in (("repeats", 100), ("workers", 64)):
            if not 1 <= getattr(self, name) <= most:
                raise InputError(f"{name} is {getattr(self, name)}; allowed: 1 to {most}", field=name)


@dataclass(frozen=True, kw_only=True)
class Judgement(Generic[T]):
    """A verdict and how it came: the phrasing that worked, the request, and the model that the endpoint says it is."""

    value: T
    phrasing: int
    request_sha256: str
    model: str


@dataclass
class _Tally:
    """What a judge met while it worked; shared by its threads."""

    rephrased: int = 0
    failures_in_a_row: int = 0
    models: set[str] = field(default_factory=set)
    prompts: dict[str, PromptFile] = field(default_factory=dict)


class Judge:
    """Asks one endpoint; may be used from several threads."""

    def __init__(self, endpoint: ChatEndpoint, options: JudgeOptions = JudgeOptions()) -> None:
        self.endpoint, self.options = endpoint, options
        self._json_mode = options.json_mode
        self._lock = threading.Lock()
        self._tally = _Tally()

    def ask(
        self, prompt: PromptFile, fields: Mapping[str, Any], read: Callable[[Mapping[str, Any]], T], *, seed: int = 0
    ) -> Judgement[T]:
        """Ask until a phrasing gets a reply that ``read`` takes; raises `UnjudgedError` when none does.

        Raises `EndpointUnusableError` when the endpoint cannot be used at all, and when it did not answer
        `MOST_FAILURES_IN_A_ROW` items in a row.
        """
        with self._lock:
            self._tally.prompts[prompt.name] = prompt
        said = []
        for phrasing in range(len(prompt.phrasings)):
            rendered = prompt.render(fields, phrasing=phrasing)
            try:
                done = self._complete(rendered, seed=seed)
            except EndpointUnusableError:
                raise
            except EndpointError as error:
                self._count_failure(error)
                raise UnjudgedError(str(error)) from error
            with self._lock:
                self._tally.failures_in_a_row = 0
                self._tally.models.add(done.model or self.endpoint.options.model)
                self._tally.rephrased += phrasing > 0
            try:
                if done.finish_reason == "length":
                    raise UnreadableError(f"the reply was cut off after {self.endpoint.options.max_tokens} tokens")
                value = read(read_object(done.text))
            except UnreadableError as error:
                said.append(str(error))
                continue
            return Judgement(
                value=value, phrasing=phrasing, request_sha256=done.request_sha256,
                model=done.model or self.endpoint.options.model,
            )  # fmt: skip
        raise UnjudgedError("; then ".join(said))

    def _complete(self, rendered: Any, *, seed: int) -> Any:
        if not self._json_mode:
            return self.endpoint.complete(rendered, seed=seed)
        try:
            return self.endpoint.complete(rendered, seed=seed, body=_JSON_MODE)
        except EndpointUnusableError:
            raise
        except EndpointError as error:
            if error.status not in _REFUSED:
                raise
            done = self.endpoint.complete(rendered, seed=seed)  # when this fails too, JSON mode was not to blame
            self._json_mode = False
            return done

    def _count_failure(self, error: EndpointError) -> None:
        with self._lock:
            # a request that was refused says something of this item; one without an answer, of the endpoint
            self._tally.failures_in_a_row += error.status is None
            failures = self._tally.failures_in_a_row
        if failures >= MOST_FAILURES_IN_A_ROW:
            raise EndpointUnusableError(
                f"the judge did not answer {failures} times in a row, so the run stops; last: {error}", field="base_url"
            ) from error

    def judge_all(self, items: Sequence[S], one: Callable[[S], T]) -> tuple[tuple[T | UnjudgedError, ...], str | None]:
        """Judge every item; returns the verdicts in the items' order, and why there can be no figure, or ``None``.

        Once more items than allowed have no verdict, the rest are not asked: they count as unjudged too.
        """
        allowed = int(self.options.max_unjudged_share * len(items) + 1e-9)
        lock, failed, is_over = threading.Lock(), 0, False

        def work(item: S) -> T | UnjudgedError:
            nonlocal failed, is_over
            with lock:
                if is_over or failed > allowed:
                    return UnjudgedError("not asked any more: too many items before it got no verdict")
            try:
                return one(item)
            except UnjudgedError as error:
                with lock:
                    failed += 1
                return error
            except BaseException:
                with lock:
                    is_over = True  # what waits in the queue is not begun
                raise

        with ThreadPoolExecutor(self.options.workers) as pool:
            waiting = [pool.submit(work, item) for item in items]
            try:
                found = tuple(future.result() for future in waiting)
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        if not items:
            return found, "there is nothing to judge"
        if failed <= allowed:
            return found, None
        first = next(verdict for verdict in found if isinstance(verdict, UnjudgedError))
        return found, (
            f"{failed} items got no verdict, and {allowed} of {len(items)} may have none "
            f"({self.options.max_unjudged_share:.0%}), so there is no figure; first: {first}"
        )

    def to_json_dict(self) -> dict[str, Any]:
        """Return what a result must say of its judge: where, which model, which wording, how often it was asked."""
        options, usage = self.endpoint.options, self.endpoint.usage
        return {
            "url": options.url,
            "model": options.model,
            "answered_as": sorted(self._tally.models),
            "temperature": options.temperature,
            "seed": options.seed,
            "repeats": self.options.repeats,
            "max_tokens": options.max_tokens,
            "body": dict(options.body),
            "json_mode": self._json_mode,
            "json_mode_refused": self.options.json_mode and not self._json_mode,
            "prompts": [self._tally.prompts[name].to_json_dict() for name in sorted(self._tally.prompts)],
            "asked": {
                "requests": usage.requests,
                "from_cache": usage.cached,
                "retries": usage.retries,
                "rephrased": self._tally.rephrased,
                "prompt_tokens": usage.prompt_tokens,
                "completion_tokens": usage.completion_tokens,
            },
        }
