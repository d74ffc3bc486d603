"""Runs one job under its lease: checks its data if that is still to do, keeps its trainer alive, and ends it.

The trainer is asked for nothing but its files (`server.jobs.run_folder`) and its exit. One that dies without a verdict
is started again and goes on from its last checkpoint; when it has died several times without getting further, the job
has failed. When the service stops, the trainer is left running and the lease is given back: the next process that
takes the job finds the trainer, or what it left.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from sqlalchemy.exc import SQLAlchemyError

from server.jobs import process, queue, results
from server.jobs.data_check import BadDataError, StoppedError, check_data
from server.jobs.process import ForeignTrainerError, Trainer
from server.jobs.progress import News, Progress, read_news
from server.jobs.queue import Ending, Lease, job_ended
from server.jobs.run_folder import RunFolder, write_json
from server.jobs.spec import job_document
from server.jobs.surroundings import Surroundings
from server.leases import LeaseLostError
from server.models import LOAD_ERRORS
from server.records import files, jobs
from server.records.adapters import AdapterRecord
from server.records.deliveries import DeliveryRecord
from server.records.jobs import EventRecord

logger = logging.getLogger("server.jobs")

# How a trainer says that its input was bad, and that it failed at what it does; anything else is a crash.
_VERDICTS = (2, 3)
_INTERRUPTED = 130
_LONGEST_DELAY_SECONDS = 60.0


class Supervisor:
    """Runs the job of one lease in the calling thread; ``is_stopping`` says that the service stops."""

    def __init__(self, lease: Lease, around: Surroundings, *, is_stopping: Callable[[], bool]) -> None:
        self.lease = lease
        self._job = lease.job
        self._around = around
        self._is_stopping = is_stopping
        self._folder = RunFolder(around.data.job(lease.job.id))
        self._progress = Progress.from_json(lease.job.progress)
        self._trainer: Trainer | None = None
        self._asked_at: float | None = None

    @property
    def id(self) -> str:
        return self._job.id

    def run(self) -> None:
        """Run the job until it has ended, waits, or belongs to another process."""
        try:
            self._run()
        except LeaseLostError:
            logger.warning("a job was taken over by another process", extra={"fields": {"job": self._job.id}})
            self._let_go()
        except ForeignTrainerError as exc:
            logger.warning("a job runs on another machine", extra={"fields": {"job": self._job.id, "reason": str(exc)}})
            with contextlib.suppress(SQLAlchemyError, OSError):
                self._give_back(after_seconds=self._around.lease_seconds)
        except SQLAlchemyError as exc:
            # The lease runs out by itself; the trainer goes on meanwhile.
            logger.error("the database failed a job's supervisor", extra={"fields": self._fields()}, exc_info=exc)
            self._let_go()
        except Exception as exc:  # the thread's edge: one job's fault must not end the runner
            logger.error("a job's supervisor failed", extra={"fields": self._fields()}, exc_info=exc)
            self._give_up(exc)

    def _give_up(self, exc: Exception) -> None:
        full = isinstance(exc, OSError) and exc.errno in (errno.ENOSPC, errno.EDQUOT)
        if full and self._trainer is not None:
            # There may be room again when the lease has run out; if not, the trainer itself will fail.
            self._let_go()
            return
        if self._trainer is not None:
            self._trainer.kill()
        code = "storage_full" if full else "internal_error"
        with contextlib.suppress(LeaseLostError, SQLAlchemyError, OSError):
            self._fail(code, "the service has no room for the job" if full else "a fault of the service")

    def _run(self) -> None:
        if self._job.status == "validating_files" and not self._check_data():
            return
        while True:
            if self._is_stopping():
                self._give_back()
                return
            trainer = self._trainer = process.find(self._folder)
            if trainer is None:
                if self._end_or_wait(exit_code=None):
                    return
                trainer = self._trainer = self._start()
                if trainer is None:
                    self._sleep(self._around.poll_seconds)
                    continue
            exit_code = self._watch(trainer)
            if self._trainer is None or self._end_or_wait(exit_code=exit_code):
                return
            delay = self._around.poll_seconds * 2**self._progress.crashes
            self._sleep(min(delay, _LONGEST_DELAY_SECONDS))

    # ---- before the training ------------------------------------------------------------------------------------

    def _check_data(self) -> bool:
        """Check the job's files; return whether it may be trained."""
        around, job = self._around, self._job
        now = time.time()
        sources = {"training_file": job.training_file, "validation_file": job.validation_file}
        for param, file_id in sources.items():
            if file_id is not None and files.find(around.store, file_id, now=now) is None:
                self._fail(f"invalid_{param}", f"file {file_id} was deleted before it was checked", param=param)
                return False
        try:
            checked = check_data(
                self._folder,
                training=around.data.file(job.training_file),
                validation=None if job.validation_file is None else around.data.file(job.validation_file),
                limits=around.limits,
                stop=lambda: self._is_stopping() or queue.wanted(around.store, self.lease) == "cancel",
            )
        except StoppedError:
            if self._is_stopping():
                self._give_back()
            else:
                self._end("cancelled", "The job was cancelled")
            return False
        except BadDataError as exc:
            self._fail(exc.code, exc.message, param=exc.param, problems=exc.problems_as_json())
            return False
        state = "paused" if queue.wanted(around.store, self.lease) == "pause" else "queued"
        events = (*checked.events, EventRecord(message="The files are valid; the job is queued"))
        queue.move(around.store, self.lease, state, progress=self._progress, events=events, release=state == "paused")
        return state == "queued"

    # ---- the trainer --------------------------------------------------------------------------------------------

    def _start(self) -> Trainer | None:
        around = self._around
        base = around.bases.get(self._job.base, self._job.base)
        write_json(
            self._folder.path / "job.json", job_document(self._job, self._folder, base=base, recipe=around.recipe)
        )
        trainer = process.start(self._folder, around.trainer, niceness=around.niceness)
        if trainer is not None:
            self._trainer = trainer
            again = bool(self._folder.mark()) or self._progress.step > 0
            message = "The job goes on" if again else "The job started"
            events = (EventRecord(message=message),)
            try:
                queue.move(around.store, self.lease, "running", progress=self._progress, events=events, release=False)
            except LeaseLostError:
                # The job went to another process while this one slept; it may even have ended.
                trainer.kill()
                raise
            logger.info("trainer started", extra={"fields": {**self._fields(), "pid": trainer.pid}})
        return trainer

    def _watch(self, trainer: Trainer) -> int | None:
        """Follow a trainer until it has ended and return its exit code; forget it when the service stops before."""
        self._asked_at = None
        while trainer.is_alive():
            if self._is_stopping():
                self._tell()
                self._give_back()
                return None
            self._tell()
            self._pass_on_wish(trainer, queue.wanted(self._around.store, self.lease))
            time.sleep(self._around.poll_seconds)
        while self._tell():
            pass
        return trainer.exit_code()

    def _pass_on_wish(self, trainer: Trainer, wanted: str) -> None:
        if wanted == "run":
            return
        if self._asked_at is None:
            self._asked_at = time.monotonic()
            trainer.terminate()
        elif time.monotonic() - self._asked_at > self._around.grace_seconds:
            trainer.kill()

    def _tell(self) -> bool:
        """Write what the trainer's metrics say since the last time; return whether there was anything."""
        news = read_news(self._folder.path, self._progress, model=self._job.model_name, now=time.time())
        if news == News(progress=self._progress):
            return False
        queue.record(self._around.store, self.lease, news)
        self._progress = news.progress
        if news.checkpoints:
            self._drop_replaced()
        return True

    def _drop_replaced(self) -> None:
        """Forget the checkpoints whose adapters the trainer has removed to make room."""
        listed = jobs.checkpoints_page(self._around.store, self._job.id, after=None, limit=10_000).items
        gone = [each.step for each in listed if not self._folder.checkpoint_export(each.step).is_dir()]
        if gone:
            queue.drop_checkpoints(self._around.store, self.lease, gone)

    # ---- after it -----------------------------------------------------------------------------------------------

    def _end_or_wait(self, *, exit_code: int | None) -> bool:
        """Settle a job whose trainer does not run; return False when it is to be (re)started."""
        while self._tell():
            pass
        around = self._around
        error = self._folder.error()
        if error is None and self._folder.has_export and exit_code in (None, 0) and self._succeed(exit_code):
            return True
        wanted = queue.wanted(around.store, self.lease)
        if wanted == "cancel":
            self._end("cancelled", "The job was cancelled")
            return True
        if error is not None or exit_code in _VERDICTS:
            error = error or {"code": "training_failed", "message": "the training failed", "param": None}
            self._fail(str(error["code"]), str(error["message"]), param=error["param"])
            return True
        if wanted == "pause":
            events = (EventRecord(message="The job was paused", data={"step": self._progress.step}),)
            self._progress = replace(self._progress, crashes=0)
            queue.move(around.store, self.lease, "paused", progress=self._progress, events=events, release=True)
            return True
        if self._trainer is None or self._asked_at is not None or exit_code == _INTERRUPTED:
            return False
        return self._count_crash(exit_code)

    def _count_crash(self, exit_code: int | None) -> bool:
        """Note that a trainer died without a verdict; return True when that was once too often."""
        mark = f"{self._folder.mark()}/{self._progress.features_done}"
        is_new = mark != self._progress.crash_mark
        self._progress = replace(self._progress, crash_mark=mark, crashes=1 if is_new else self._progress.crashes + 1)
        how = "ended" if exit_code is None else f"ended with {_exit_words(exit_code)}"
        logger.warning("a trainer crashed", extra={"fields": {**self._fields(), "exit_code": exit_code}})
        if self._progress.crashes > self._around.max_restarts:
            times = self._progress.crashes
            self._fail("trainer_crashed", f"the trainer {how}, {times} times without getting further")
            return True
        message = f"The trainer {how}; it is started again from its last checkpoint"
        events = (EventRecord(message=message, level="warn"),)
        queue.move(self._around.store, self.lease, "running", progress=self._progress, events=events, release=False)
        return False

    def _succeed(self, exit_code: int | None) -> bool:
        """End the job with its adapter; False when that is half a file of a trainer that was killed."""
        around, job = self._around, self._job
        try:
            around.publish(job.model_name, job.base, self._folder.export)
        except LOAD_ERRORS as exc:
            if exit_code is None:
                around.data.remove_tree(self._folder.export)
                return False
            logger.error("a finished adapter cannot be loaded", extra={"fields": self._fields()}, exc_info=exc)
            self._fail("invalid_adapter", "the finished adapter cannot be loaded; the service's log says why")
            return True
        expires_at = None if around.file_expire_seconds is None else time.time() + around.file_expire_seconds
        kept = results.keep_results(self._folder, around.data, job, expires_at=expires_at)
        adapter = AdapterRecord(
            name=job.model_name,
            base=job.base,
            folder=around.data.relative(self._folder.export),
            job_id=job.id,
            is_checkpoint=False,
            created_at=time.time(),
            owner=job.owner,
        )
        events = (
            EventRecord(message=f"New fine-tuned model: {job.model_name}", data={"model": job.model_name}),
            EventRecord(message="The job has succeeded"),
        )
        ending = Ending(
            status="succeeded", events=events, files=kept, adapter=adapter, deliveries=self._webhook("succeeded")
        )
        try:
            queue.end(around.store, self.lease, ending)
        except BaseException:
            for file in kept:
                around.data.file(file.id).unlink(missing_ok=True)
            raise
        self._ended("succeeded")
        return True

    def _fail(
        self, code: str, message: str, *, param: str | None = None, problems: Sequence[dict[str, object]] = ()
    ) -> None:
        error = {"code": code, "message": message, "param": param}
        if problems:
            error["problems"] = list(problems)  # type: ignore[assignment]
        event = EventRecord(message=f"The job has failed: {message}", level="error", data={"code": code})
        ending = Ending(status="failed", events=(event,), error=error, deliveries=self._webhook("failed"))
        queue.end(self._around.store, self.lease, ending)
        self._ended("failed", code=code)

    def _end(self, status: str, message: str) -> None:
        ending = Ending(status=status, events=(EventRecord(message=message),), deliveries=self._webhook(status))
        queue.end(self._around.store, self.lease, ending)
        self._ended(status)

    def _ended(self, status: str, **fields: object) -> None:
        self._trainer = None
        logger.info("job ended", extra={"fields": {**self._fields(), "status": status, **fields}})
        self._folder.prune()

    def _webhook(self, status: str) -> tuple[DeliveryRecord, ...]:
        return (job_ended(self._job, status, at=time.time()),) if self._around.notify else ()

    # ---- leaving it to others -----------------------------------------------------------------------------------

    def _give_back(self, *, after_seconds: float = 0.0) -> None:
        self._let_go()
        queue.release(self._around.store, self.lease, free_at=time.time() + after_seconds if after_seconds else 0.0)

    def _let_go(self) -> None:
        if self._trainer is not None:
            self._trainer.let_go()
            self._trainer = None

    def _sleep(self, seconds: float) -> None:
        """Wait, but not beyond the end of the service."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self._is_stopping():
            time.sleep(min(self._around.poll_seconds, max(0.0, end - time.monotonic())))

    def _fields(self) -> dict[str, object]:
        return {"job": self._job.id, "step": self._progress.step}


def _exit_words(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
