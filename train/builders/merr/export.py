"""A run's records -> manifests, provenance, and the list of what was dropped and why.

The manifests lie beside the one they were made from, because a clip's path is relative to its manifest:
``NAME.coarse.jsonl``, ``NAME.fine.jsonl`` and ``NAME.instructions.jsonl`` with both. ``provenance.jsonl``,
``dropped.jsonl`` and ``report.json`` lie in the run's folder. Every file is written anew and renamed into place.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from emollama.manifest import Manifest, ManifestHeader, ManifestMessage, Sample, write_manifest
from train.builders.merr.state import Record, RunFolder

Grain = Literal["coarse", "fine"]
GRAINS: tuple[Grain, ...] = ("coarse", "fine")


@dataclass(frozen=True, kw_only=True)
class Exported:
    """Where the manifests are, and the counts of samples; ``explained`` of those ``kept`` have an explanation too.

    ``reasons`` counts by code why a sample, or its explanation, is not there.
    """

    manifests: Mapping[str, Path]
    kept: int
    explained: int
    dropped: int
    failed: int
    not_yet: int
    reasons: Mapping[str, int]
    labels: Mapping[str, int]


def manifest_paths(manifest: Manifest) -> dict[str, Path]:
    """Return where the manifests of a run go: beside the source, named after it."""
    return {name: manifest.folder / f"{manifest.path.stem}.{name}.jsonl" for name in (*GRAINS, "instructions")}


@dataclass(kw_only=True)
class _Sorted:
    """A run's records: those ``kept``, those of them that are ``explained``, and the rows of what is lost."""

    kept: list[tuple[Sample, Record]] = field(default_factory=list)
    explained: list[tuple[Sample, Record]] = field(default_factory=list)
    lost: list[dict[str, Any]] = field(default_factory=list)
    dropped: int = 0
    failed: int = 0
    not_yet: int = 0


def export(manifest: Manifest, run: RunFolder, *, usage: Mapping[str, Any] | None = None) -> Exported:
    """Write all files of a run from its records, in the manifest's order.

    A later explanation that repeats an earlier one word for word is dropped as a duplicate. A sample without an
    explanation keeps its description.
    """
    records = _sort(manifest, run)
    header = manifest.header or ManifestHeader(manifest_version=1)
    paths = manifest_paths(manifest)
    coarse = [_row(sample, record, "coarse") for sample, record in records.kept]
    fine = {sample.id: _row(sample, record, "fine") for sample, record in records.explained}
    both: list[Sample] = []
    for (sample, _), described in zip(records.kept, coarse, strict=True):
        both += [described, *([fine[sample.id]] if sample.id in fine else [])]
    for name, rows in (("coarse", coarse), ("fine", list(fine.values())), ("instructions", both)):
        write_manifest(paths[name], rows, header=header)
    _write_lines(run.path / "provenance.jsonl", ({"id": s.id, "fields": r.provenance} for s, r in records.kept))
    _write_lines(run.path / "dropped.jsonl", records.lost)
    done = Exported(
        manifests=paths,
        kept=len(records.kept),
        explained=len(records.explained),
        dropped=records.dropped,
        failed=records.failed,
        not_yet=records.not_yet,
        reasons=dict(Counter(row["code"] for row in records.lost).most_common()),
        labels=dict(Counter(r.observation.label for _, r in records.kept if r.observation is not None).most_common()),
    )
    counts = {name: value for name, value in asdict(done).items() if name != "manifests"}
    report = {"manifest": manifest.path.name, "samples": len(manifest.samples), **counts}
    run.write_json(run.path / "report.json", {**report, **({"usage": dict(usage)} if usage else {})})
    return done


def _sort(manifest: Manifest, run: RunFolder) -> _Sorted:
    found = _Sorted()
    texts: dict[str, str] = {}
    for sample in manifest.samples:
        record = run.load(sample)
        if record is None or record.stage == "observed":
            found.not_yet += 1
            continue
        code, reason, lost = record.code, record.reason, ["coarse", "fine"]
        if record.stage == "done":
            if record.review is not None and record.review["decision"] == "reject":
                code, reason = "rejected_in_review", record.review.get("note") or "a person rejected it"
            else:
                lost = ["fine"]
                explanation = record.fields.get("fine")
                if explanation is not None:
                    first = texts.setdefault(explanation, sample.id)
                    code, reason = None, None
                    if first != sample.id:
                        code, reason = "duplicate", f"its explanation is word for word that of {first}"
                found.kept.append((sample, record))
        if code is None:
            found.explained.append((sample, record))
            continue
        failed = record.stage == "failed"
        found.failed += failed
        found.dropped += not failed and "coarse" in lost
        row = {"id": sample.id, "lost": lost, "code": code, "reason": reason, "again": failed}
        found.lost.append({**row, **({"rejected": record.rejected} if record.rejected else {})})
    return found


def _row(sample: Sample, record: Record, grain: Grain) -> Sample:
    seen = record.observation
    assert seen is not None
    question, answer = record.fields[f"{grain}_question"], record.fields[grain]
    meta: dict[str, str | int | float | bool | None] = {
        **(sample.meta or {}),
        "source_id": sample.id,
        "grain": grain,
        "label_source": seen.label_source,
        "label_confidence": seen.label_confidence,
    }
    if record.review is not None:
        meta["reviewed"] = True
    return sample.model_copy(
        update={
            "id": f"{sample.id}.{grain}",
            "label": sample.label if sample.distribution is not None else seen.label,
            "transcript": sample.transcript or seen.transcript,
            "messages": (
                ManifestMessage(role="user", content=question),
                ManifestMessage(role="assistant", content=answer),
            ),
            "meta": meta,
        }
    )


def _write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with partial.open("w", encoding="utf-8") as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
    os.replace(partial, path)
