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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from emollama.manifest import MANIFEST_VERSION, Manifest, ManifestHeader, ManifestMessage, Sample, write_manifest
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


def export(manifest: Manifest, run: RunFolder, *, usage: Mapping[str, Any] | None = None) -> Exported:
    """Write all files of a run from its records, in the manifest's order.

    A later explanation that repeats an earlier one word for word is dropped as a duplicate. A sample without an
    explanation keeps its description.
    """
    kept: list[tuple[Sample, Record]] = []
    explained: list[tuple[Sample, Record]] = []
    out: list[dict[str, Any]] = []
    failed, dropped, not_yet = 0, 0, 0
    texts: dict[str, str] = {}
    for sample in manifest.samples:
        record = run.load(sample)
        if record is None or record.stage == "observed":
            not_yet += 1
            continue
        lost: tuple[str, ...] = ("coarse", "fine")
        code, reason = record.code, record.reason
        if record.stage == "done":
            lost = ("fine",)
            if record.review is not None and record.review["decision"] == "reject":
                lost = ("coarse", "fine")
                code, reason = "rejected_in_review", record.review.get("note") or "a person rejected it"
            elif (fine := record.fields.get("fine")) is not None:
                first = texts.setdefault(fine, sample.id)
                code, reason = None, None
                if first != sample.id:
                    code, reason = "duplicate", f"its explanation is word for word that of {first}"
        if "coarse" not in lost or code is None:
            kept.append((sample, record))
        if code is None:
            explained.append((sample, record))
            continue
        failed += record.stage == "failed"
        dropped += record.stage != "failed" and "coarse" in lost
        row = {"id": sample.id, "lost": list(lost), "code": code, "reason": reason, "again": record.stage == "failed"}
        out.append({**row, **({"rejected": record.rejected} if record.rejected else {})})
    header = _header(manifest)
    paths = manifest_paths(manifest)
    with_grain = {"coarse": kept, "fine": explained}
    rows = {grain: [_row(sample, record, grain) for sample, record in with_grain[grain]] for grain in GRAINS}
    for grain in GRAINS:
        write_manifest(paths[grain], rows[grain], header=header)
    fine = {sample.id: row for (sample, _), row in zip(explained, rows["fine"], strict=True)}
    both: list[Sample] = []
    for (sample, _), row in zip(kept, rows["coarse"], strict=True):
        both += [row, *([fine[sample.id]] if sample.id in fine else [])]
    write_manifest(paths["instructions"], both, header=header)
    _write_lines(run.path / "provenance.jsonl", ({"id": s.id, "fields": r.provenance} for s, r in kept))
    _write_lines(run.path / "dropped.jsonl", out)
    done = Exported(
        manifests=paths,
        kept=len(kept),
        explained=len(explained),
        dropped=dropped,
        failed=failed,
        not_yet=not_yet,
        reasons=dict(Counter(row["code"] for row in out).most_common()),
        labels=dict(Counter(r.observation.label for _, r in kept if r.observation is not None).most_common()),
    )
    run.write_json(
        run.path / "report.json",
        {
            "manifest": manifest.path.name,
            "samples": len(manifest.samples),
            "kept": done.kept,
            "explained": done.explained,
            "dropped": done.dropped,
            "failed": done.failed,
            "not_yet": done.not_yet,
            "reasons": dict(done.reasons),
            "labels": dict(done.labels),
            **({"usage": dict(usage)} if usage else {}),
        },
    )
    return done


def _header(manifest: Manifest) -> ManifestHeader:
    if manifest.header is not None:
        return manifest.header
    return ManifestHeader(manifest_version=MANIFEST_VERSION)


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
