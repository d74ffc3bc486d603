"""A job's files, checked before anything is trained: unpacked into the run directory, then every line and clip read.

How a bundle is unpacked and what may be wrong with a manifest is `train.data`'s to say; here its findings become the
refusal of a request, or the end of a job.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emollama.errors import EmoLlamaError
from server.jobs.run_folder import TRAINING, VALIDATION, RunFolder
from server.records.jobs import EventRecord

if TYPE_CHECKING:
    from emollama.media import MediaLimits
    from train.data.clip_checks import ClipFacts, Probe
    from train.data.limits import BundleLimits
    from train.data.report import Problem, Report

_NUM_IN_MESSAGE = 3
_MAX_WARNINGS = 20

Stop = Callable[[], bool]


class StoppedError(Exception):
    """The check was asked to stop before it was done."""


class BadDataError(EmoLlamaError):
    """A job's file cannot be trained on; ``problems`` has all of them, the message the first ones."""

    def __init__(self, param: str, problems: Sequence[Problem], *, num_errors: int) -> None:
        self.param = param
        self.code = f"invalid_{param}"
        self._problems = tuple(problems)
        grave = [problem for problem in problems if problem.severity == "error"]
        shown = "; ".join(_in_words(problem) for problem in grave[:_NUM_IN_MESSAGE])
        more = num_errors - min(len(grave), _NUM_IN_MESSAGE)
        self.message = shown + (f"; and {more} more" if more > 0 else "")
        super().__init__(self.message, field=param)

    def problems_as_json(self) -> list[dict[str, Any]]:
        return [problem.to_json_dict() for problem in self._problems]


@dataclass(frozen=True, kw_only=True)
class DataLimits:
    """What a bundle may hold once it is unpacked, and what one clip may cost."""

    max_unpacked_bytes: int
    media: MediaLimits


@dataclass(frozen=True, kw_only=True)
class CheckedData:
    """Files that may be trained on; ``events`` tell what the job's owner should know of them."""

    events: tuple[EventRecord, ...] = ()


def check_data(
    folder: RunFolder, *, training: Path, validation: Path | None, limits: DataLimits, stop: Stop
) -> CheckedData:
    """Unpack and check a job's files into its run directory; blocks, and reads every clip.

    Raises `BadDataError`, `StoppedError` when ``stop`` says so before it is done, and OSError when the disk fails.
    After any of them no file of the bundles is left. What is unpacked gets its name when all of it is sound, so that
    two processes that check the same job (one of which slept) do not touch each other's files.
    """
    private = folder.new_unpacking()
    try:
        ignored = frozenset() if validation is None else frozenset({"no_valid_rows"})
        report = _check(training, private / TRAINING, "training_file", limits=limits, ignored=ignored, stop=stop)
        events = _events(report, "Training")
        if validation is not None:
            labels = sorted({label for counts in _labels(report) for label in counts}) or None
            report = _check(
                validation, private / VALIDATION, "validation_file", limits=limits, labels=labels, validates=report,
                stop=stop,
            )  # fmt: skip
            events += _events(report, "Validation")
        folder.keep_unpacked(private)
    finally:
        shutil.rmtree(private, ignore_errors=True)
    return CheckedData(events=events)


def _check(
    upload: Path,
    target: Path,
    param: str,
    *,
    limits: DataLimits,
    stop: Stop,
    labels: Sequence[str] | None = None,
    ignored: frozenset[str] = frozenset(),
    validates: Report | None = None,
) -> Report:
    from train.data.bundle import BundleError, unpack
    from train.data.limits import DataLimits as Rules
    from train.data.report import Findings
    from train.data.validate import validate

    if stop():
        raise StoppedError
    unused: list[str] = []
    try:
        manifest = unpack(upload, target, _bundle_limits(limits), on_unused=unused.append)
    except BundleError as exc:
        findings = Findings(file="the file")
        findings.add(exc.code, str(exc), value=exc.member, allowed=exc.allowed)
        raise BadDataError(param, findings.report().problems, num_errors=1) from exc
    report = validate(
        manifest, limits=Rules(media=limits.media), labels=labels, probe=_stoppable(stop), validates=validates
    )
    problems = [problem for problem in report.problems if problem.code not in ignored]
    if any(problem.severity == "error" for problem in problems):
        unlisted = report.num_errors - len(report.errors)
        num_errors = unlisted + sum(problem.severity == "error" for problem in problems)
        raise BadDataError(param, problems, num_errors=num_errors)
    return _with_problems(report, problems, unused)


def _stoppable(stop: Stop) -> Probe:
    from train.data.clip_checks import probe_clip

    def probe(path: Path, media: MediaLimits) -> ClipFacts:
        if stop():
            raise StoppedError
        return probe_clip(path, media)

    return probe


def _bundle_limits(limits: DataLimits) -> BundleLimits:
    from train.data.limits import BundleLimits

    usual = BundleLimits()
    return BundleLimits(
        max_total_bytes=limits.max_unpacked_bytes,
        max_member_bytes=min(limits.media.max_bytes, limits.max_unpacked_bytes),
        max_manifest_bytes=min(usual.max_manifest_bytes, limits.max_unpacked_bytes),
    )


def _with_problems(report: Report, problems: Sequence[Problem], unused: Sequence[str]) -> Report:
    from train.data.report import Findings, Report

    findings = Findings(file="the file", max_listed=_MAX_WARNINGS)
    for member in unused:
        findings.add("unused_member", f"{member!r} is not named by the manifest", value=member)
    return Report(
        file=report.file,
        problems=(*problems, *findings.report().problems),
        counts=report.counts,
        summary=report.summary,
        cost=report.cost,
        seen=report.seen,
    )


def _events(report: Report, which: str) -> tuple[EventRecord, ...]:
    """Return what a job's owner is told of a file that is good enough: its warnings, and what is in it."""
    warnings = [problem for problem in report.problems if problem.severity == "warning"]
    told = [EventRecord(message=_in_words(each), level="warn", data=each.to_json_dict()) for each in warnings]
    if len(told) > _MAX_WARNINGS:
        told[_MAX_WARNINGS:] = [EventRecord(message=f"And {len(told) - _MAX_WARNINGS} more warnings", level="warn")]
    if report.summary is not None:
        summary = report.summary
        text = f"{which} file: {summary.num_samples} samples, {summary.num_clips} clips, {summary.clip_seconds:.1f} s"
        told.append(EventRecord(message=text, data=summary.to_json_dict()))
    return tuple(told)


def _labels(report: Report) -> list[Any]:
    return [] if report.summary is None else list(report.summary.labels.values())


def _in_words(problem: Problem) -> str:
    where = problem.file if problem.line is None else f"{problem.file}, line {problem.line}"
    where += f", {problem.field}" if problem.field else ""
    allowed = f"; allowed: {problem.allowed}" if problem.allowed else ""
    return f"{where}: {problem.message}{allowed} ({problem.remedy})"
