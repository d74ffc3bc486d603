"""What a person decided on the review sheet -> the run and its manifests.

The sheet's export is read strictly and applied as a whole or not at all. Every entry repeats the hash of the texts
that were read, so that a correction never lands on a text which has changed meanwhile.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from emollama.errors import DatasetError
from emollama.manifest import Manifest, describe
from train.builders.merr.checks import description_problems, explanation_problems
from train.builders.merr.rules import RulesFile
from train.builders.merr.state import Record, RunFolder

CORRECTIONS_FORMAT = 1
Text = Annotated[str, Field(min_length=1, max_length=20_000)]


class Correction(BaseModel):
    """One sample's decision; a text that was not edited is left out."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    id: Annotated[str, Field(min_length=1, max_length=200)]
    texts_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    decision: Literal["accept", "reject"]
    coarse: Text | None = None
    fine: Text | None = None
    note: Annotated[str, Field(max_length=2000)] | None = None

    @model_validator(mode="after")
    def _blank(self) -> Correction:
        for name in ("coarse", "fine"):
            value = getattr(self, name)
            if value is not None and not value.strip():
                raise ValueError(f"{name} is blank; reject the sample instead")
        return self


class Corrections(BaseModel):
    """The file that the sheet exports."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    corrections_format: Literal[1]
    corrections: Annotated[tuple[Correction, ...], Field(strict=False)]


@dataclass(frozen=True, kw_only=True)
class Applied:
    """How many were accepted, edited and rejected; ``warnings`` are what the checks say of the edited texts."""

    accepted: int
    edited: int
    rejected: int
    warnings: tuple[str, ...]


def texts_sha256(record: Record) -> str:
    """Return the hash of the two texts that a person reads."""
    return hashlib.sha256(f"{record.fields['coarse']}\0{record.fields.get('fine', '')}".encode()).hexdigest()


def apply_corrections(
    path: Path,
    manifest: Manifest,
    run: RunFolder,
    *,
    rules: RulesFile,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Applied:
    """Apply a file of corrections to the run; raises `DatasetError` naming the entry, before anything is changed.

    A person's text is kept even where the checks complain; then there is a warning.
    """
    try:
        document = Corrections.model_validate_json(Path(path).read_bytes())
    except OSError as error:
        raise DatasetError(f"{path} cannot be read ({error.strerror})", field="corrections") from error
    except ValidationError as error:
        field, message = describe(error)[0]
        raise DatasetError(f"{path}: {field}: {message}", field=field) from error
    samples = {sample.id: sample for sample in manifest.samples}
    records: list[tuple[Correction, Record]] = []
    for entry in document.corrections:
        sample = samples.get(entry.id)
        record = None if sample is None else run.load(sample)
        if record is None or record.stage != "done":
            raise DatasetError(f"{path}: {entry.id!r} has no texts in {run.path}", field="id")
        if any(entry.id == other.id for other, _ in records):
            raise DatasetError(f"{path}: {entry.id!r} stands twice", field="id")
        if entry.texts_sha256 != texts_sha256(record) and not _is_applied(entry, record):
            raise DatasetError(
                f"{path}: the texts of {entry.id!r} have changed since the sheet was made; make a new sheet",
                field="texts_sha256",
            )
        records.append((entry, record))
    warnings: list[str] = []
    accepted, edited, rejected = 0, 0, 0
    for entry, record in records:
        time = now().isoformat(timespec="seconds")
        record.review = {"decision": entry.decision, "time": time, **({"note": entry.note} if entry.note else {})}
        accepted += entry.decision == "accept"
        rejected += entry.decision == "reject"
        edits = {} if _is_applied(entry, record) else _edits(entry)
        if entry.decision == "accept" and edits:
            edited += 1
            assert record.observation is not None
            for name, text in edits.items():
                check = explanation_problems if name == "fine" else description_problems
                warnings.extend(f"{entry.id}, {name}: {problem}" for problem in check(text, record.observation, rules))
                record.provenance[name] = {
                    "by": "review",
                    "time": time,
                    "before": {**record.provenance.get(name, {}), "text": record.fields.get(name)},
                }
                record.fields[name] = text
        run.save(record)
    return Applied(accepted=accepted, edited=edited, rejected=rejected, warnings=tuple(warnings))


def _edits(entry: Correction) -> dict[str, str]:
    return {name: " ".join(text.split()) for name in ("coarse", "fine") if (text := getattr(entry, name)) is not None}


def _is_applied(entry: Correction, record: Record) -> bool:
    """Say whether a file that is applied a second time has nothing left to do here."""
    edits = _edits(entry)
    return (
        bool(edits)
        and record.review is not None
        and all(record.fields.get(name) == text for name, text in edits.items())
    )
