"""The run's folder: its settings, one file for each sample, the pictures and the cache. Nothing is ever half written.

    config.json       the settings that decide what is written; a run with others is refused
    samples/ab/….json one `Record` a sample, renamed into place when it is complete
    pictures/….jpg    peak frames
    cache/ab/….json   answers of endpoints, by request

A sample whose row in the manifest has changed is done anew. One process at a time works in a folder.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from emollama.errors import DatasetError, InputError
from emollama.manifest import Sample
from train.builders.merr.matching import MatchOptions
from train.builders.merr.observation import Observation
from train.builders.merr.peaks import PeakOptions

FORMAT = 1
Stage = Literal["observed", "done", "dropped", "failed"]


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """Everything that decides what a run writes. ``attempts`` is how many drafts an explanation may take."""

    writer: str = "nano"
    model: str = "nano"
    describe: bool = False
    endpoint_url: str | None = None
    endpoint_model: str | None = None
    temperature: float = 0.7
    max_tokens: int = 400
    body: dict[str, Any] = field(default_factory=dict)
    attempts: int = 3
    seed: int = 0
    labels: tuple[str, ...] | None = None
    asr: str | None = None
    openface: str | None = None
    rules_sha256: str = ""
    match: MatchOptions = field(default_factory=MatchOptions)
    peaks: PeakOptions = field(default_factory=PeakOptions)

    def __post_init__(self) -> None:
        if not 1 <= self.attempts <= 20:
            raise InputError(f"attempts is {self.attempts}; allowed: 1 to 20", field="attempts")
        if self.asks_endpoint and (self.endpoint_url is None or self.endpoint_model is None):
            raise InputError(
                "an endpoint is asked, but its URL or model is not given; set OPENAI_BASE_URL and name the model",
                field="endpoint_model",
            )

    @property
    def asks_endpoint(self) -> bool:
        return self.writer == "endpoint" or self.describe

    def to_json_dict(self) -> dict[str, Any]:
        return {"format": FORMAT, **json.loads(json.dumps(asdict(self)))}


@dataclass(kw_only=True)
class Record:
    """What is known and written of one sample so far; ``provenance`` says for each field what produced it, and when."""

    id: str
    row_sha256: str
    stage: Stage
    observation: Observation | None = None
    picture: str | None = None
    match: dict[str, Any] | None = None
    fields: dict[str, str] = field(default_factory=dict)
    code: str | None = None
    reason: str | None = None
    rejected: list[dict[str, Any]] = field(default_factory=list)
    provenance: dict[str, dict[str, Any]] = field(default_factory=dict)
    review: dict[str, Any] | None = None

    def to_json_dict(self) -> dict[str, Any]:
        document = {f.name: getattr(self, f.name) for f in fields(self)}
        document["observation"] = None if self.observation is None else self.observation.to_json_dict()
        return {"format": FORMAT, **document}

    @classmethod
    def from_json_dict(cls, document: dict[str, Any]) -> Record:
        data = dict(document)
        if data.pop("format") != FORMAT:
            raise ValueError("another format")
        if data["observation"] is not None:
            data["observation"] = Observation.from_json_dict(data["observation"])
        return cls(**data)


def row_sha256(sample: Sample) -> str:
    """Return the hash of a manifest's row."""
    return hashlib.sha256(json.dumps(sample.to_json_dict(), sort_keys=True).encode()).hexdigest()


class RunFolder:
    """The folder of one run; see the module."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    @property
    def cache(self) -> Path:
        return self.path / "cache"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder; raises `InputError` when another process works in it."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise InputError(f"another process works in {self.path}; wait for it to end", field="run") from error
            yield

    def open(self, config: BuildConfig) -> None:
        """Begin or go on; raises `InputError` naming the settings that differ from the ones the run began with."""
        file = self.path / "config.json"
        document = config.to_json_dict()
        if not file.exists():
            self.write_json(file, document)
            return
        saved = self.config()
        changed = [name for name in document if saved.get(name) != document[name]]
        if changed:
            raise InputError(
                f"{self.path} was begun with other values of {', '.join(changed)} "
                f"({', '.join(f'{name}: {saved.get(name)!r}' for name in changed)}); "
                "use these, or name another folder with --run",
                field=changed[0],
            )

    def config(self) -> dict[str, Any]:
        """Return the settings as they were saved; raises `DatasetError` when there is no run here."""
        try:
            document = json.loads((self.path / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DatasetError(
                f"{self.path} holds no run; make one with: emollama build-instructions run", field="run"
            ) from error
        assert isinstance(document, dict)
        return document

    def load(self, sample: Sample) -> Record | None:
        """Return a sample's record, or ``None`` when there is none, its row has changed, or its file cannot be read."""
        record = self.load_id(sample.id)
        return record if record is not None and record.row_sha256 == row_sha256(sample) else None

    def load_id(self, sample_id: str) -> Record | None:
        try:
            record = Record.from_json_dict(json.loads(self._file(sample_id).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            return None  # of another version, or damaged: done anew
        return record if record.id == sample_id else None

    def save(self, record: Record) -> None:
        self.write_json(self._file(record.id), record.to_json_dict())

    def save_picture(self, sample_id: str, content: bytes) -> str:
        """Store a peak frame and return its path inside the folder."""
        name = f"pictures/{_name(sample_id)}.jpg"
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
        partial.write_bytes(content)
        os.replace(partial, path)
        return name

    def picture(self, record: Record) -> bytes | None:
        """Return the peak frame of a sample, or ``None`` when it has none."""
        path = None if record.picture is None else self.path / record.picture
        return path.read_bytes() if path is not None and path.is_file() else None

    def write_json(self, path: Path, document: Any) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
        partial.write_text(json.dumps(document, ensure_ascii=False, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(partial, path)

    def _file(self, sample_id: str) -> Path:
        name = _name(sample_id)
        return self.path / "samples" / name[:2] / f"{name}.json"


def _name(sample_id: str) -> str:
    # ids may hold slashes and any letters; their hash is always a file name
    return hashlib.sha256(sample_id.encode()).hexdigest()[:32]
