"""What the service tells Prometheus: counts, sizes and times, and nothing of what a request held.

A label has few values, all of them ours: a route's template, a status, a code of `server.errors`, a stage of the
library. What can be read when it is asked for (places, models, jobs) is read then. Each application has its own
registry, so that two in one process, as in tests, do not add up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from emollama import __version__

_METHODS = frozenset({"GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS"})
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_SIZES = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True, kw_only=True)
class Live:
    """What is read at the moment of asking; each may be called from any thread, ``jobs`` reads the database."""

    running: Callable[[], int]
    waiting: Callable[[], int]
    models: Callable[[], int]
    jobs: Callable[[], Mapping[str, int]]
    sessions: Callable[[], int] = lambda: 0


class Metrics:
    """Counts from any thread; `render` is the page."""

    def __init__(self, live: Live) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_LiveCollector(live))

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"emollama_{name}", text, labels, registry=self._registry)

        def histogram(name: str, text: str, *labels: str, buckets: tuple[float, ...] = _SECONDS) -> Histogram:
            return Histogram(f"emollama_{name}", text, labels, registry=self._registry, buckets=buckets)

        self._requests = counter("http_requests", "Requests by outcome.", "route", "method", "status", "code")
        self._request_seconds = histogram("http_request_seconds", "From request to the end of the answer.", "route")
        self._received = counter("received_bytes", "Bytes of uploads, refused ones included.", "route")
        self._wait_seconds = histogram("queue_seconds", "How long a clip waited for its place.")
        self._stage_seconds = histogram("stage_seconds", "What an analysis spends its time on.", "stage")
        self._batch_size = histogram("batch_size", "Requests that share one step.", "stage", buckets=_SIZES)
        self._first_token_seconds = histogram("time_to_first_token_seconds", "From request to its first token.")
        self._tokens = counter("tokens", "Tokens read (prompt) and written (completion).", "kind")
        self._live_readings = counter("live_readings", "Readings told to live sessions.")
        self._live_pictures = counter("live_pictures", "Pictures of live sessions by outcome.", "outcome")
        self._live_seconds = histogram("live_reading_seconds", "From a picture's arrival to the reading that has it.")
        self._live_ends = counter("live_sessions_ended", "Live sessions by the code they were closed with.", "code")
        self._workers = counter("media_workers_ended", "Decoding processes that were ended, and why.", "reason")

    def observe_request(
        self, *, route: str | None, method: str, status: int, code: str | None, seconds: float, num_bytes: int
    ) -> None:
        """Count a request at its end; ``route`` is the template, None for a path that is none or was not let in."""
        name = route or "none"
        verb = method if method in _METHODS else "other"
        self._requests.labels(route=name, method=verb, status=str(status), code=code or "").inc()
        self._request_seconds.labels(route=name).observe(seconds)
        if num_bytes:
            self._received.labels(route=name).inc(num_bytes)

    def observe_wait(self, seconds: float) -> None:
        """Count how long a piece of work waited for its place."""
        self._wait_seconds.observe(seconds)

    def observe_stages(self, timings_ms: Mapping[str, float]) -> None:
        """Count an analysis's ``timings_ms``, whose names are the library's stages."""
        for stage, milliseconds in timings_ms.items():
            self._stage_seconds.labels(stage=stage).observe(milliseconds / 1000)

    def observe_batch(self, stage: str, size: int) -> None:
        """Count a step of a stage (encode, prefill, decode) that so many requests shared."""
        self._batch_size.labels(stage=stage).observe(size)

    def observe_first_token(self, seconds: float) -> None:
        """Count the time from a request's arrival to the first token of its answer."""
        self._first_token_seconds.observe(seconds)

    def observe_tokens(self, *, prompt: int, completion: int) -> None:
        """Count the tokens of an answer, as its ``usage`` has them."""
        self._tokens.labels(kind="prompt").inc(prompt)
        self._tokens.labels(kind="completion").inc(completion)

    def observe_live_reading(self, waited_seconds: float | None) -> None:
        """Count a reading of a live session, and how old the newest picture was that it rests on."""
        self._live_readings.inc()
        if waited_seconds is not None:
            self._live_seconds.observe(waited_seconds)

    def observe_live_end(self, code: int, *, read: int = 0, dropped: int = 0, refused: int = 0) -> None:
        """Count a live session at its end, and the pictures that were read of it, dropped and refused."""
        known = code in (1000, 1001, 1005, 1006, 1009, 1012) or 4400 <= code < 4600
        self._live_ends.labels(code=str(code) if known else "other").inc()
        for outcome, number in (("read", read), ("dropped", dropped), ("refused", refused)):
            if number:
                self._live_pictures.labels(outcome=outcome).inc(number)

    def observe_worker_end(self, reason: str) -> None:
        """Count a decoding process that ended; ``reason`` is timeout, memory, crash or cancelled."""
        self._workers.labels(reason=reason).inc()

    def render(self) -> bytes:
        """Return the page in Prometheus' text format. Blocks: it reads the database."""
        return generate_latest(self._registry)


class _LiveCollector(Collector):
    def __init__(self, live: Live) -> None:
        self._live = live

    def describe(self) -> Iterator[Metric]:
        # Without this, registering would read the database for the names.
        return iter(())

    def collect(self) -> Iterator[Metric]:
        build = GaugeMetricFamily("emollama_build_info", "Version of the service.", labels=["version"])
        build.add_metric([__version__], 1)
        yield build
        yield GaugeMetricFamily("emollama_requests_running", "Clips that are being worked on.", self._live.running())
        yield GaugeMetricFamily("emollama_requests_waiting", "Clips that wait for a place.", self._live.waiting())
        yield GaugeMetricFamily("emollama_live_sessions", "Live sessions that are open.", self._live.sessions())
        yield GaugeMetricFamily("emollama_models_loaded", "Models and adapters in memory.", self._live.models())
        jobs = GaugeMetricFamily("emollama_jobs", "Fine-tuning jobs by status.", labels=["status"])
        for status, number in self._live.jobs().items():
            jobs.add_metric([status], number)
        yield jobs
