"""The two deployments: `Encoders` read clips, `Decoder` judges and speaks.

Every method is a stream, so that a caller sees what is known as it is known and so that all calls are made in one way.
The work blocks and runs in threads; a replica takes as many calls as it has threads, and Ray Serve keeps the rest. A
call that is cancelled asks its thread to stop. Errors on purpose go out as `server.ray.failures.Failure`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from server.gate import Stop
from server.ray.failures import TOLD, Failure, Fault
from server.ray.plan import Plan
from server.ray.wire import Inquiry, Model, Wish

if TYPE_CHECKING:
    from ray.serve import Application

    from emollama.long_clip.kept import KeptWindow, LongQuestion
    from emollama.media import MediaLimits
    from emollama.media_windows import ClipWindow
    from emollama.types import Transcript
    from server.ray.settings import RaySettings

PARTS = ("encoders", "decoder")
# Replicas are added before the existing ones are full: at this share of the calls that they take at once.
_BUSY = 0.75
_END = object()


class _Worker:
    """Threads that work for the calls of one replica."""

    def __init__(self, plan: Plan, digest: str, *, at_once: int) -> None:
        self.plan, self._digest = plan, digest
        self._pool = ThreadPoolExecutor(at_once, thread_name_prefix="call")

    async def digest(self) -> AsyncIterator[str]:
        """Yield what this replica was made from."""
        yield self._digest

    async def pid(self) -> AsyncIterator[int]:
        """Yield the process's id."""
        yield os.getpid()

    async def stream(self, work: Callable[[Stop], Iterator[Any]], *, root: str | None = None) -> AsyncIterator[Any]:
        """Yield what ``work`` does in a thread; ends with a `Failure` or a `Fault` when it raises.

        Paths under ``root`` are not told.
        """
        loop, queue, stop = asyncio.get_running_loop(), asyncio.Queue[Any](), Stop()

        def tell(item: Any) -> None:
            loop.call_soon_threadsafe(queue.put_nowait, item)

        def run() -> None:
            try:
                for item in work(stop):
                    if stop():
                        return
                    tell(item)
            except TOLD as exc:
                tell(Failure.of(exc, root=root))
            except Exception as exc:  # noqa: BLE001  (the process's edge; it is logged at the door)
                tell(Fault.of(exc))
            finally:
                tell(_END)

        future = self._pool.submit(run)
        try:
            while (item := await queue.get()) is not _END:
                yield item
        finally:
            stop.set()
            future.cancel()


class Encoders(_Worker):
    """Decodes clips, in processes of their own as the service does, and reads faces and voices."""

    def __init__(self, plan: Plan, digest: str) -> None:
        from server.media_worker import IS_SUPPORTED, InProcess, MediaPool
        from server.scratch import Scratch

        super().__init__(plan, digest, at_once=plan.encoders_at_once)
        self._scratch = Scratch()
        self._decoding = (
            MediaPool(plan.encoders_at_once, limits=plan.worker_limits)
            if plan.media_workers and IS_SUPPORTED
            else InProcess()
        )
        self._senses = plan.make(plan.senses)

    async def perceive(
        self, source: Any, name: str | None, file_name: str | None, limits: MediaLimits
    ) -> AsyncIterator[Any]:
        """Yield the `Perception` of a file (its bytes as an array) or of a decoded `Clip`."""
        import numpy as np

        def work(stop: Stop) -> Iterator[Any]:
            folder = self._scratch.new_folder()
            try:
                given = source
                if isinstance(source, np.ndarray):
                    given = folder / Path(file_name or "upload").name
                    given.write_bytes(source.data)
                yield from self._senses.perceive(
                    given, name=name, limits=limits, decoding=self._decoding, cancelled=stop
                )
            finally:
                self._scratch.discard(folder)

        async for item in self.stream(work, root=str(self._scratch.root)):
            yield item

    def __del__(self) -> None:
        # Ray Serve calls this before the replica's process ends.
        decoding, scratch = getattr(self, "_decoding", None), getattr(self, "_scratch", None)
        if decoding is not None:
            decoding.close()
        if scratch is not None:
            scratch.close()


class Decoder(_Worker):
    """Holds the language model; its adapters come and go."""

    def __init__(self, plan: Plan, digest: str) -> None:
        super().__init__(plan, digest, at_once=plan.decoder_at_once)
        self._minds = plan.make(plan.minds)

    async def admit(self, model: Model) -> AsyncIterator[Any]:
        """Load a model; yields what a door must know of it."""

        def work(stop: Stop) -> Iterator[Any]:
            yield self._minds.admit(model)

        async for item in self.stream(work):
            yield item

    async def analyze(self, model: Model, perception: Any, wish: Wish) -> AsyncIterator[Any]:
        async for item in self.stream(lambda stop: self._minds.analyze(model, perception, wish, stop)):
            yield item

    async def read(self, model: Model, perception: Any, wish: Wish) -> AsyncIterator[Any]:
        async for item in self.stream(lambda stop: self._minds.read(model, perception, wish, stop)):
            yield item

    async def converse(
        self, model: Model, perception: Any, wish: Wish, state: Any, inquiry: Inquiry
    ) -> AsyncIterator[Any]:
        async for item in self.stream(lambda stop: self._minds.converse(model, perception, wish, state, inquiry, stop)):
            yield item

    async def read_window(
        self, model: Model, window: ClipWindow, perception: Any, question: LongQuestion, said: Transcript | None
    ) -> AsyncIterator[Any]:
        async for item in self.stream(
            lambda stop: self._minds.read_window(model, window, perception, question, said, stop)
        ):
            yield item

    async def judge_windows(
        self, model: Model, windows: Sequence[KeptWindow], question: LongQuestion
    ) -> AsyncIterator[Any]:
        async for item in self.stream(lambda stop: self._minds.judge_windows(model, windows, question, stop)):
            yield item

    async def check_health(self) -> None:
        """Ray Serve asks this now and then and replaces a replica that raises."""
        await asyncio.to_thread(self._minds.check)


def application_of(part: str, settings: RaySettings) -> str:
    """Return the name of a part's application in the cluster."""
    return f"{settings.name}-{part}"


def applications(plan: Plan, settings: RaySettings) -> dict[str, Application]:
    """Return the two deployments by the names of their applications, bound to a plan and to their scale."""
    from ray import serve

    digest = plan.digest(settings)
    bound = {}
    for part, kind, at_once in (
        ("encoders", Encoders, plan.encoders_at_once),
        ("decoder", Decoder, plan.decoder_at_once),
    ):
        deployment = serve.deployment(
            kind,
            name=part,
            max_ongoing_requests=at_once,
            max_replicas_per_node=getattr(settings, f"{part}_per_machine"),
            autoscaling_config={
                "min_replicas": getattr(settings, f"{part}_min"),
                "initial_replicas": getattr(settings, f"{part}_min"),
                "max_replicas": getattr(settings, f"{part}_max"),
                "target_ongoing_requests": max(1.0, _BUSY * at_once),
                "upscale_delay_s": settings.upscale_seconds,
                "downscale_delay_s": settings.downscale_seconds,
            },
            ray_actor_options={
                "num_cpus": getattr(settings, f"{part}_cpus"),
                "num_gpus": getattr(settings, f"{part}_gpus"),
            },
            health_check_period_s=10.0,
            health_check_timeout_s=60.0,
            graceful_shutdown_wait_loop_s=1.0,
            graceful_shutdown_timeout_s=settings.drain_seconds,
        )
        bound[application_of(part, settings)] = deployment.bind(plan, digest)
    return bound
