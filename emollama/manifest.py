"""The manifest: one JSONL file that names the clips people bring, and what is known about each.

A line is a `Sample`. An optional first line, the header, says which version of the format it is, and may name the
label set, the licence and the data set. Paths are relative to the manifest's folder. Reading is strict: the first line
that is wrong raises `DatasetError` with file, line and field; a validator goes on with `iter_rows` and finds them all.
The format is documented in ``docs/data.md`` and, for machines, in ``docs/manifest.schema.json``.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from emollama.errors import DatasetError
from emollama.labels import canonical

MANIFEST_VERSION = 1
MAX_LINE_BYTES = 1 << 20
SPLITS = ("train", "valid", "test")

Split = Literal["train", "valid", "test"]
Role = Literal["system", "user", "assistant"]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Label = Annotated[str, Field(min_length=1, max_length=40)]
Unit = Annotated[float, Field(ge=-1.0, le=1.0, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


class ManifestMessage(BaseModel):
    """One turn of a dialogue about the clip."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Role
    content: Annotated[str, Field(max_length=20_000)]


class Sample(BaseModel):
    """One clip, or one stretch of a clip, and what is known of it; all but ``id`` and ``clip`` may be left out.

    ``clip`` may be null when there is a ``transcript``: then the words are all there is. ``distribution`` gives each
    label's share of the votes, in place of one ``label``. ``messages`` is a dialogue whose assistant turns are learned.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    id: Name = Field(description="Name of the sample, unique in the manifest.")
    clip: Name | None = Field(None, description="Path of the clip, relative to the manifest; null for words alone.")
    start: Seconds | None = Field(None, description="Where the stretch begins, in seconds from the clip's start.")
    end: Seconds | None = Field(None, description="Where the stretch ends, in seconds from the clip's start.")
    transcript: Annotated[str, Field(max_length=20_000)] | None = Field(None, description="What is said.")
    language: Annotated[str, Field(max_length=20)] | None = Field(None, description="Language of the words, as in en.")
    label: Label | None = Field(None, description="The emotion, in your own word.")
    distribution: dict[Label, Annotated[float, Field(ge=0.0, le=1.0)]] | None = Field(
        None, description="Share of each label, summing to 1, in place of one label."
    )
    open_vocabulary: Annotated[tuple[Label, ...], Field(strict=False)] | None = Field(
        None, description="Free words for what is seen."
    )
    valence: Unit | None = Field(None, description="From -1 (unpleasant) to 1 (pleasant).")
    arousal: Unit | None = Field(None, description="From -1 (calm) to 1 (excited).")
    messages: Annotated[tuple[ManifestMessage, ...], Field(strict=False)] | None = Field(
        None, description="A dialogue about the clip; the assistant's turns are learned."
    )
    split: Split | None = Field(None, description="train, valid or test; without one, a sample is for training.")
    speaker: Name | None = Field(None, description="Who speaks or is seen; keeps one person out of two splits.")
    meta: dict[str, str | int | float | bool | None] | None = Field(None, description="Anything else; not read.")

    @field_validator("clip")
    @classmethod
    def _stays_inside(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = PurePosixPath(value.replace("\\", "/")).parts
        if PurePosixPath(value).is_absolute() or ".." in parts or "\\" in value or (parts and parts[0].endswith(":")):
            raise ValueError("must be a relative path with / between folders that stays beside the manifest")
        if not value.isprintable():
            raise ValueError("must not hold control characters")
        return value

    @field_validator("distribution")
    @classmethod
    def _sums_to_one(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        if value is not None and abs(math.fsum(value.values()) - 1.0) > 0.01:
            raise ValueError(f"sums to {math.fsum(value.values()):.4g}; allowed: 1 (within 0.01)")
        return value

    @field_validator("messages")
    @classmethod
    def _ends_with_an_answer(cls, value: tuple[ManifestMessage, ...] | None) -> tuple[ManifestMessage, ...] | None:
        if value is None:
            return None
        roles = [message.role for message in value]
        turns = roles[1:] if roles[:1] == ["system"] else roles
        if not turns or turns != ["user", "assistant"] * (len(turns) // 2):
            raise ValueError(f"roles are {roles}; allowed: an optional system turn, then user and assistant in turn")
        empty = [index for index, message in enumerate(value) if not message.content.strip()]
        if empty:
            raise ValueError(f"turn {empty[0] + 1} ({roles[empty[0]]}) is empty")
        return value

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Sample:
        if self.clip is None and not (self.transcript or "").strip():
            raise ValueError("clip is null and there is no transcript; allowed: a clip, or words alone")
        if self.start is not None and self.end is not None and self.end <= self.start:
            raise ValueError(f"end is {self.end:g} and start {self.start:g}; allowed: an end after the start")
        if self.label is not None and self.distribution is not None:
            top = max(self.distribution, key=lambda name: self.distribution[name] if self.distribution else 0.0)
            if canonical(top) != canonical(self.label):
                raise ValueError(f"label is {self.label!r}, but distribution gives {top!r} the most; keep one of them")
        return self

    @property
    def shares(self) -> Mapping[str, float]:
        """Return the target as label -> share: the distribution, or 1 for the label; empty when neither is known."""
        if self.distribution is not None:
            return self.distribution
        return {} if self.label is None else {self.label: 1.0}

    @property
    def top_label(self) -> str | None:
        """Return the label, or the one with the largest share."""
        shares = self.shares
        return max(shares, key=shares.__getitem__) if shares else None

    def to_json_dict(self) -> dict[str, Any]:
        """Return the row without what is not known."""
        return self.model_dump(mode="json", exclude_none=True) | ({"clip": None} if self.clip is None else {})


class ManifestHeader(BaseModel):
    """The optional first line. ``labels`` fixes the label set; without it, it is what the rows hold."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    manifest_version: Literal[1] = Field(description="Version of this format: 1.")
    name: Name | None = Field(None, description="Name of the data set.")
    license: Name | None = Field(None, description="Licence of the clips; it travels into the adapter's card.")
    labels: Annotated[tuple[Label, ...], Field(strict=False, min_length=2, max_length=64)] | None = Field(
        None, description="The label set, in order."
    )


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A manifest that was read: ``path`` of the file, its rows, and its header when it has one."""

    path: Path
    samples: tuple[Sample, ...]
    header: ManifestHeader | None = None

    @property
    def folder(self) -> Path:
        return self.path.parent

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the label set: the header's, or what the rows hold in order of first appearance."""
        if self.header is not None and self.header.labels is not None:
            return self.header.labels
        return tuple(dict.fromkeys(name for sample in self.samples for name in sample.shares))

    def of_split(self, split: Split) -> tuple[Sample, ...]:
        """Return the samples of a split; those without one are for training."""
        return tuple(sample for sample in self.samples if (sample.split or "train") == split)

    def clip_path(self, sample: Sample) -> Path | None:
        """Return where a sample's clip lies; `DatasetError` when a link leads out of the manifest's folder."""
        if sample.clip is None:
            return None
        path = self.folder / sample.clip
        if not path.resolve().is_relative_to(self.folder.resolve()):
            raise DatasetError(
                f"{self.path}: clip {sample.clip!r} of {sample.id!r} lies outside its folder", field="clip"
            )
        return path


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line as it stands: its number from 1, and its JSON object or what is wrong with its text.

    ``code`` is that in one word: line_too_long, not_utf8, bad_json, not_an_object, not_finite, field_twice.
    """

    line: int
    document: dict[str, Any] | None = None
    problem: str | None = None
    code: str | None = None


def iter_rows(path: Path) -> Iterator[Row]:
    """Yield every line that is not blank, whatever is in it; raises `DatasetError` only when there is no such file."""
    if not path.is_file():
        raise DatasetError(f"{path} is not there; give the path of a manifest (JSONL)", field="manifest")
    with path.open("rb") as stream:
        number = 0
        while raw := stream.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(raw) > MAX_LINE_BYTES:
                while not raw.endswith(b"\n") and (raw := stream.readline(MAX_LINE_BYTES + 1)):
                    pass
                yield Row(line=number, problem=f"the line is longer than {MAX_LINE_BYTES} bytes", code="line_too_long")
                continue
            if number == 1:
                raw = raw.removeprefix(b"\xef\xbb\xbf")
            if raw.strip():
                yield _row(number, raw)


def _row(number: int, raw: bytes) -> Row:
    try:
        document = json.loads(raw.decode("utf-8"), parse_constant=_refuse_constant, object_pairs_hook=_once)
    except UnicodeDecodeError as error:
        return Row(line=number, problem=f"not UTF-8 text (byte {error.start + 1} of the line)", code="not_utf8")
    except json.JSONDecodeError as error:
        return Row(line=number, problem=f"not JSON: {error.msg} at column {error.colno}", code="bad_json")
    except _RefusedError as error:
        return Row(line=number, problem=f"not JSON: {error}", code=error.code)
    except (ValueError, RecursionError) as error:
        problem = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        return Row(line=number, problem=f"not JSON: {problem}", code="bad_json")
    if not isinstance(document, dict):
        problem = f"not a JSON object but {type(document).__name__}"
        return Row(line=number, problem=problem, code="not_an_object")
    return Row(line=number, document=document)


class _RefusedError(ValueError):
    """Something that Python's parser lets through and JSON does not."""

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code


def _refuse_constant(name: str) -> float:
    raise _RefusedError(f"{name} is not a number that JSON knows", code="not_finite")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for name, value in pairs:
        if name in document:
            raise _RefusedError(f"the field {name!r} stands twice in one object", code="field_twice")
        document[name] = value
    return document


def is_header(row: Row) -> bool:
    """Say whether a row is the header line."""
    return row.document is not None and "manifest_version" in row.document


def read_manifest(path: Path) -> Manifest:
    """Read a manifest strictly; the first wrong line raises `DatasetError` naming file, line, field and value."""
    path = Path(path)
    header: ManifestHeader | None = None
    samples: list[Sample] = []
    lines: dict[str, int] = {}
    for row in iter_rows(path):
        if row.document is None:
            raise DatasetError(f"{path}:{row.line}: {row.problem}", field="manifest")
        try:
            if is_header(row):
                if header is not None or samples:
                    raise DatasetError(
                        f"{path}:{row.line}: a header may only be the first line", field="manifest_version"
                    )
                header = ManifestHeader.model_validate(row.document)
                continue
            sample = Sample.model_validate(row.document)
        except ValidationError as error:
            field, message = describe(error)[0]
            raise DatasetError(f"{path}:{row.line}: {field}: {message}", field=field) from error
        if sample.id in lines:
            raise DatasetError(
                f"{path}:{row.line}: id: {sample.id!r} stands already in line {lines[sample.id]}", field="id"
            )
        lines[sample.id] = row.line
        samples.append(sample)
    if not samples:
        raise DatasetError(f"{path} holds no samples", field="manifest")
    return Manifest(path=path, samples=tuple(samples), header=header)


def describe(error: ValidationError) -> list[tuple[str, str]]:
    """Return (field, what is wrong with which value) for each problem that pydantic found."""
    found = []
    for problem in error.errors(include_url=False):
        field = ".".join(str(part) for part in problem["loc"]) or "row"
        message = str(problem["msg"]).removeprefix("Value error, ")
        value = problem.get("input")
        shown = "" if isinstance(value, (dict, list, tuple, BaseModel)) else f" (it is {_short(value)})"
        if problem["type"] == "missing":
            shown = ""
        found.append((field, message[:1].lower() + message[1:] + shown))
    return found


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def write_manifest(path: Path, samples: Iterable[Sample], *, header: ManifestHeader | None = None) -> int:
    """Write a manifest to a temporary name, rename it to ``path``, and return how many samples it holds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    count = 0
    try:
        with partial.open("w", encoding="utf-8") as stream:
            if header is not None:
                stream.write(json.dumps(header.model_dump(mode="json", exclude_none=True), ensure_ascii=False) + "\n")
            for sample in samples:
                stream.write(json.dumps(sample.to_json_dict(), ensure_ascii=False, allow_nan=False) + "\n")
                count += 1
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return count


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of one line of a manifest: a header or a sample."""
    from pydantic import TypeAdapter

    schema = TypeAdapter(ManifestHeader | Sample).json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"A line of an EmoLLaMA manifest, version {MANIFEST_VERSION}",
        **schema,
    }
