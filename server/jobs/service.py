"""Everything that jobs need in a process, made from the settings and brought up and down together."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from emollama.errors import UnknownNameError
from server.errors import ApiError
from server.jobs import process
from server.jobs.data_check import DataLimits
from server.jobs.runner import job_runner
from server.jobs.submit import Submitter
from server.jobs.supervisor import Supervisor
from server.jobs.surroundings import Surroundings
from server.layout import DataFolder
from server.lease_runner import LeaseRunner
from server.models import ModelHost, ModelSpec
from server.settings import Settings
from server.store import Store

logger = logging.getLogger("server.jobs")

TRAINER = (sys.executable, "-m", "train.job")


class JobService:
    """Takes orders, and (with the setting ``jobs``) runs what is queued, here or by another process."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        data: DataFolder,
        models: ModelHost,
        *,
        bases: Mapping[str, str],
        trainer: Sequence[str] = TRAINER,
    ) -> None:
        self._bases, self._models = bases, models
        limits = DataLimits(max_unpacked_bytes=settings.max_unpacked_bytes, media=settings.media_limits())
        self.submitter = Submitter(store, data, limits=limits, submit_seconds=settings.submit_seconds, org=settings.org)
        self._runner: LeaseRunner[Supervisor] | None = None
        if settings.jobs and not process.IS_SUPPORTED:
            logger.warning("fine-tuning jobs are not run on this system; another process on the same data may")
        elif settings.jobs:
            around = Surroundings(
                store=store,
                data=data,
                publish=self._publish,
                bases=bases,
                recipe=settings.job_recipe,
                trainer=tuple(trainer),
                limits=limits,
                poll_seconds=settings.job_poll_seconds,
                grace_seconds=settings.job_grace_seconds,
                lease_seconds=settings.job_lease_seconds,
                max_restarts=settings.job_max_restarts,
                niceness=settings.job_niceness,
                notify=settings.webhook_url is not None,
                file_expire_seconds=settings.file_expire_seconds,
            )
            self._runner = job_runner(around, concurrency=settings.job_concurrency)

    def start(self) -> None:
        if self._runner is not None:
            self._runner.start()

    def stop(self) -> None:
        """Leave the trainers running and their jobs to the next process; returns when no thread is left. Blocks."""
        self.submitter.close()
        if self._runner is not None:
            self._runner.stop()

    def wake(self) -> None:
        """Look at the queue now."""
        if self._runner is not None:
            self._runner.wake()

    def require_base(self, name: str) -> None:
        """Raise unless a job may start from this model."""
        from train.trainees import TRAINEES, preset_of

        if name in self._bases:
            if preset_of(self._bases[name]) not in TRAINEES:
                message = f"model {name[:100]!r} cannot be fine-tuned; those that can: {', '.join(TRAINEES)}"
                raise ApiError("unsupported_option", message, param="model")
            return
        if name.startswith("ft:"):
            known = ", ".join(self._bases)
            message = f"model is {name[:100]!r}: a job starts from a base model, not from an adapter; known: {known}"
            raise ApiError("unsupported_option", message, param="model")
        raise UnknownNameError("model", name[:100], self._bases)

    def _publish(self, name: str, base: str, folder: Path) -> None:
        self._models.publish(ModelSpec(name=name, base=self._bases.get(base, base), adapter=folder, created=0))
