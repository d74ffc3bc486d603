"""Finds everything that is wrong with a data set in one pass; what the command line shows and the service runs.

Nothing that a file holds makes it raise: what cannot be read is a problem of the report.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from emollama.errors import DatasetError
from emollama.labels import canonical
from emollama.manifest import MANIFEST_VERSION, ManifestHeader, Row, describe, is_header, iter_rows
from train.auto import passes_of
from train.data.bundle import BundleError, unpack
from train.data.clip_checks import Probe, Progress, check_clips, probe_clip, probe_clips
from train.data.codes import CODES
from train.data.cost import Cost, CountTokens, Size, Speed, size_of
from train.data.limits import BundleLimits, DataLimits
from train.data.report import Findings, Report
from train.data.row_checks import Facts, RowChecker, did_you_mean
from train.data.set_checks import check_classes, check_labels, check_leaks, check_unused, summarize, trained_on


def validate(
    manifest: Path,
    *,
    limits: DataLimits | None = None,
    labels: Sequence[str] | None = None,
    validates: Report | None = None,
    probe: Probe = probe_clip,
    workers: int = 2,
    progress: Progress | None = None,
    count_tokens: CountTokens | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    speed: Speed | None = None,
    name: str | None = None,
) -> Report:
    """Check a manifest and its clips and return everything that was found.

    ``labels`` is the label set (it goes before the header's). ``validates`` is the report of the file that is trained
    on, when this one only validates it: then nothing is asked of its classes, its rows of split valid (without any:
    all) count, and they may not hold a speaker or a clip of the other. ``progress`` hears (done, total) while clips are
    read. ``count_tokens``, ``epochs``, ``batch_size`` (default: what a job would choose) and ``speed`` say how the
    cost is told. ``name`` is what the report calls the file (default: its name). Raises only for arguments, and what
    ``probe`` raises.
    """
    limits = limits or DataLimits()
    manifest = Path(manifest)
    findings = Findings(file=name or manifest.name, max_listed=limits.max_listed)
    rows, header = _read(manifest, limits, findings)
    if labels is None and header is not None:
        labels = header.labels
    clips = probe_clips(
        (row.clip for row in rows if row.clip is not None), manifest.parent,
        limits=limits.media, probe=probe, workers=workers, progress=progress,
    )  # fmt: skip
    check_clips(rows, clips, findings)
    check_labels(rows, labels, findings)
    if validates is None:
        check_classes(rows, labels, limits, findings)
        if header is not None and header.labels is not None and labels is header.labels:
            check_unused(rows, header.labels, findings)
    else:
        _take_for_validation(rows)
    check_leaks(rows, clips, findings, training=validates.seen if validates is not None else None)
    samples = [row.sample for row in rows if row.sample is not None]
    seconds = {clip: facts.seconds for clip, facts in clips.items()}
    size = size_of(samples, seconds=seconds, count_tokens=count_tokens)
    return findings.report(
        summary=summarize(rows, clips),
        cost=_cost(size, epochs, batch_size, speed) if samples else None,
        seen=trained_on(findings.file, rows, clips),
    )


def _cost(size: Size, epochs: int | None, batch_size: int | None, speed: Speed | None) -> Cost:
    own_epochs, own_size = passes_of(size.train_samples)
    return Cost(size=size, epochs=epochs or own_epochs, batch_size=batch_size or own_size, speed=speed)


def validate_upload(
    upload: Path, folder: Path, *, bundle_limits: BundleLimits | None = None, name: str | None = None, **options: Any
) -> Report:
    """Unpack a bundle, or a bare manifest, into ``folder`` and check what is in it; ``options`` are `validate`'s.

    When there is an error, nothing of it is left in ``folder``. On success the manifest is ``folder/manifest.jsonl``.
    """
    unused: list[str] = []
    name = name or upload.name
    try:
        manifest = unpack(upload, folder, bundle_limits or BundleLimits(), on_unused=unused.append)
    except BundleError as error:
        findings = Findings(file=name)
        findings.add(error.code, str(error), value=error.member, allowed=error.allowed)
        return findings.report()
    keep = False
    try:
        report = validate(manifest, name=manifest.name, **options)
        keep = report.ok
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
    return _with_unused(report, name, unused)


def _take_for_validation(rows: list[Facts]) -> None:
    """Keep what training will validate on: the rows of split valid, or all of them when there are none."""
    chosen = [row for row in rows if row.split == "valid"] or list(rows)
    for row in chosen:
        row.split = "valid"
    rows[:] = chosen


def _with_unused(report: Report, name: str, unused: Sequence[str]) -> Report:
    """Add a warning for the members that were left in the archive."""
    if not unused:
        return report
    findings = Findings(file=name, max_listed=20)
    for member in unused:
        findings.add("unused_member", f"{member!r} is not named by the manifest", value=member)
    extra = findings.report()
    return Report(
        file=report.file,
        problems=(*report.problems, *extra.problems),
        counts={**report.counts, **extra.counts},
        summary=report.summary,
        cost=report.cost,
        seen=report.seen,
    )


# ---- reading ------------------------------------------------------------------------------------------------------


def _read(manifest: Path, limits: DataLimits, findings: Findings) -> tuple[list[Facts], ManifestHeader | None]:
    """Read and check line after line; a line that cannot be used gives no facts."""
    rows: list[Facts] = []
    header: ManifestHeader | None = None
    checker = RowChecker(findings)
    num_lines = 0
    try:
        _check_mark(manifest, findings)
        for row in iter_rows(manifest):
            num_lines += 1
            if num_lines > limits.max_rows + 1:
                findings.add(
                    "too_many_rows", f"there are more than {limits.max_rows} lines; the rest was not read",
                    line=row.line, allowed=f"at most {limits.max_rows}",
                )  # fmt: skip
                break
            if row.document is None:
                findings.add(row.code or "bad_json", row.problem or "the line cannot be read", line=row.line)
            elif is_header(row):
                header = _header(row, is_first=num_lines == 1, findings=findings) or header
            else:
                rows.append(checker.check(row.document, row.line))
    except DatasetError as error:
        findings.add("manifest_missing", str(error))
        return [], None
    except OSError as error:
        findings.add("manifest_missing", f"the file cannot be read: {error.strerror}")
        return [], None
    if not rows and all(CODES[code].severity == "warning" for code in findings.counts):
        findings.add("no_rows", "there is no line with a sample")
    return rows, header


def _check_mark(manifest: Path, findings: Findings) -> None:
    if manifest.is_file():
        with manifest.open("rb") as stream:
            if stream.read(3) == b"\xef\xbb\xbf":
                findings.add("byte_order_mark", "the first three bytes are EF BB BF", line=1)


def _header(row: Row, *, is_first: bool, findings: Findings) -> ManifestHeader | None:
    assert row.document is not None
    if not is_first:
        findings.add(
            "header_misplaced", "a header stands below the first line", line=row.line, field="manifest_version"
        )
        return None
    version = row.document["manifest_version"]
    if version != MANIFEST_VERSION or isinstance(version, bool):
        findings.add(
            "bad_header", "the format has another version", line=row.line, field="manifest_version", value=version,
            allowed=str(MANIFEST_VERSION), remedy="write the manifest anew in this version",
        )  # fmt: skip
        return None
    try:
        header = ManifestHeader.model_validate(row.document)
    except ValidationError as error:
        for name, message in describe(error):
            near = did_you_mean(name, ManifestHeader.model_fields) if name not in ManifestHeader.model_fields else None
            findings.add(
                "bad_header", message, line=row.line, field=name, allowed=", ".join(ManifestHeader.model_fields),
                remedy=near and f"write {near!r}",
            )  # fmt: skip
        return None
    spelled: dict[str, str] = {}
    for name in header.labels or ():
        other = spelled.setdefault(canonical(name), name)
        if other is not name or not name.strip() or not name.isprintable():
            message = f"{name!r} means the same as {other!r}" if other is not name else f"{name!r} is no label"
            findings.add(
                "label_spelling", message, line=row.line, field="labels", value=name, remedy="keep one of them"
            )
    return header
