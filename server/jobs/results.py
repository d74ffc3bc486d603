"""The result files of a job: its curves as CSV, and the card of its adapter."""

from __future__ import annotations

import csv
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from server.jobs.progress import read_lines
from server.jobs.run_folder import RunFolder
from server.layout import DataFolder
from server.records.files import FileRecord
from server.records.ids import new_id
from server.records.jobs import JobRecord

# Column of the CSV -> (event of metrics.jsonl, its field).
COLUMNS = {
    "epoch": ("step", "epoch"),
    "train_loss": ("step", "loss"),
    "learning_rate": ("step", "learning_rate"),
    "tokens_per_second": ("step", "tokens_per_second"),
    "valid_loss": ("validate", "loss"),
    "valid_accuracy": ("validate", "accuracy"),
    "valid_macro_f1": ("validate", "macro_f1"),
}


def keep_results(
    folder: RunFolder, data: DataFolder, job: JobRecord, *, expires_at: float | None
) -> tuple[FileRecord, ...]:
    """Write a job's result files into the data folder and return their records; on an error none is left."""
    kept: list[FileRecord] = []
    try:
        for filename, kind, write in (
            ("metrics.csv", "csv", lambda path: write_curves(folder.metrics, path)),
            ("ADAPTER_CARD.md", "markdown", lambda path: shutil.copyfile(folder.card, path)),
        ):
            if kind == "markdown" and not folder.card.is_file():
                continue
            file_id = new_id("file-")
            path = data.file(file_id)
            record = FileRecord(
                id=file_id, filename=f"{job.id}-{filename}", purpose="fine-tune-results", kind=kind, num_bytes=0,
                created_at=time.time(), expires_at=expires_at, owner=job.owner,
            )  # fmt: skip
            kept.append(record)
            write(path)
            kept[-1] = FileRecord(**{**vars(record), "num_bytes": path.stat().st_size})
    except BaseException:
        for record in kept:
            data.file(record.id).unlink(missing_ok=True)
        raise
    return tuple(kept)


def write_curves(metrics: Path, target: Path) -> None:
    """Write one row a step that was logged or validated; a step that a resumed run repeated counts once."""
    rows: dict[int, dict[str, object]] = {}
    for line in _all_lines(metrics):
        event, step = line.get("event"), line.get("step")
        if isinstance(step, int) and event in ("step", "validate"):
            row = rows.setdefault(step, {"step": step})
            row.update(
                {name: line[field] for name, (kind, field) in COLUMNS.items() if kind == event and field in line}
            )
    with target.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=["step", *COLUMNS], restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows[step] for step in sorted(rows))


def _all_lines(metrics: Path) -> Iterator[dict[str, object]]:
    offset, end = 0, -1
    while offset != end:
        end = offset
        for line, behind in read_lines(metrics, offset=end):
            offset = behind
            yield line
