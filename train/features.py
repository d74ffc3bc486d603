"""The feature cache: what a trainee's encoders made of each clip, computed once.

An entry is named by the hash of the clip's bytes, the stretch, the words and the trainee's version, so that a moved or
renamed clip is found again and a changed encoder is not believed. It is one safetensors file, whose header holds the
measured facts as JSON, and which appears by a rename: several processes may fill one cache, a killed one leaves
nothing half-written, and what was done is not done again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emollama.errors import DatasetError, EmoLlamaError
from emollama.manifest import Manifest, Sample
from emollama.types import Clip, Transcript
from train.trainees import Reading

if TYPE_CHECKING:
    from emollama.media import MediaLimits
    from train.trainees import Trainee

_FACTS, _SECONDS = "facts", "seconds"


class FeatureCache:
    """A folder of readings for one trainee."""

    def __init__(self, folder: Path, trainee: Trainee, *, limits: MediaLimits | None = None) -> None:
        self.folder = folder / hashlib.sha256(f"{trainee.name}/{trainee.version}".encode()).hexdigest()[:16]
        self.trainee = trainee
        self.limits = limits

    def path_of(self, manifest: Manifest, sample: Sample) -> Path:
        """Return where a sample's reading lies, or would; reads the clip's bytes to name it."""
        path = manifest.clip_path(sample)
        content = "" if path is None else _digest(path, manifest=manifest, sample=sample)
        key = json.dumps([content, sample.start, sample.end, sample.transcript, sample.language], ensure_ascii=False)
        name = hashlib.sha256(key.encode()).hexdigest()
        return self.folder / name[:2] / f"{name}.safetensors"

    def read(self, manifest: Manifest, sample: Sample) -> Reading:
        """Return a sample's reading from the cache, or make and keep it.

        Raises `DatasetError` naming the sample when its clip is missing or cannot be read.
        """
        path = self.path_of(manifest, sample)
        found = _load(path)
        if found is not None:
            return found
        try:
            reading = self.trainee.read(clip_of(manifest, sample, limits=self.limits))
        except EmoLlamaError as error:
            raise DatasetError(
                f"{manifest.path}: clip {sample.clip!r} of {sample.id!r}: {error}", field="clip"
            ) from error
        _save(path, reading)
        return reading

    def read_all(
        self,
        manifest: Manifest,
        samples: Sequence[Sample],
        *,
        workers: int = 2,
        on_progress: Callable[[int, int], None] | None = None,
        stopped: Callable[[], bool] | None = None,
    ) -> list[Reading]:
        """Return the readings of all samples in their order, made by several threads where they are not there yet.

        When ``stopped`` says so, no further clip is begun and `InterruptedError` is raised; what was made is kept.
        """
        readings: list[Reading] = []

        def one(sample: Sample) -> Reading:
            if stopped is not None and stopped():
                raise InterruptedError("stopped while reading clips")
            return self.read(manifest, sample)

        with ThreadPoolExecutor(max(1, workers), thread_name_prefix="features") as pool:
            try:
                for reading in pool.map(one, samples):
                    readings.append(reading)
                    if on_progress is not None:
                        on_progress(len(readings), len(samples))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return readings


def clip_of(manifest: Manifest, sample: Sample, *, limits: MediaLimits | None = None) -> Clip:
    """Decode a sample's stretch of its clip, with the words that the manifest gives for it."""
    from emollama.media import MediaLimits, read_clip

    words = None
    if sample.transcript is not None and sample.transcript.strip():
        words = Transcript(text=" ".join(sample.transcript.split()), language=sample.language, source="given")
    path = manifest.clip_path(sample)
    if path is None:
        return Clip(name=sample.id, seconds=0.0, transcript=words)
    clip = read_clip(path, name=sample.id, limits=limits or MediaLimits(), start=sample.start, end=sample.end)
    return dataclasses.replace(clip, transcript=words)


def _digest(path: Path, *, manifest: Manifest, sample: Sample) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DatasetError(
            f"{manifest.path}: clip {sample.clip!r} of {sample.id!r} cannot be read ({error.strerror})", field="clip"
        ) from error


def _load(path: Path) -> Reading | None:
    """Read an entry; one that is not there or is damaged counts as absent and is made again."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            header: dict[str, str] = file.metadata() or {}
            tokens = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            return Reading(tokens=tokens, facts=json.loads(header[_FACTS]), seconds=float(header[_SECONDS]))
    except (OSError, SafetensorError, KeyError, ValueError):
        return None


def _save(path: Path, reading: Reading) -> None:
    from safetensors.numpy import save

    path.parent.mkdir(parents=True, exist_ok=True)
    tokens: dict[str, Any] = {name: np.ascontiguousarray(part, np.float32) for name, part in reading.tokens.items()}
    header = {_FACTS: json.dumps(reading.facts, ensure_ascii=False), _SECONDS: repr(float(reading.seconds))}
    partial = path.with_name(f".{path.name}.{os.getpid()}.{id(reading)}.partial")
    partial.write_bytes(save(tokens, metadata=header))
    os.replace(partial, path)
