"""What is known of the data that an adapter was taught with, for its card: counted, never guessed."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emollama.manifest import Manifest, Sample

OWN_SPLIT = "the samples of the manifest's own split `valid`"
OWN_FILE = "a validation file of its own"
SET_APART = "samples set apart from the training data: whole speakers where three or more are named, else by label"
NONE = "none"


@dataclass(frozen=True, kw_only=True)
class SplitFacts:
    """One split: samples by the modalities that they really have ("face+voice"), how many people, how long, in which
    languages.

    ``speakers`` counts those that the manifest names, ``unnamed`` the samples without one, ``left_out`` those that hold
    nothing the model learns from.
    """

    modalities: Mapping[str, int]
    speakers: int
    unnamed: int
    seconds: float
    languages: Mapping[str, int]
    left_out: int = 0


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """``sha256`` is that of the manifest's file, by which whoever has it knows it again."""

    name: str | None
    license: str | None
    sha256: str
    validation: str
    validation_license: str | None = None
    shared_speakers: int = 0
    splits: Mapping[str, SplitFacts] = field(default_factory=dict)


def split_facts(
    samples: Sequence[Sample], present: Sequence[Sequence[str]], seconds: Sequence[float], *, left_out: int = 0
) -> SplitFacts:
    """Count a split; ``present`` and ``seconds`` are those of the samples' readings."""
    return SplitFacts(
        modalities=dict(Counter("+".join(names) or "nothing" for names in present).most_common()),
        speakers=len({sample.speaker for sample in samples if sample.speaker is not None}),
        unnamed=sum(sample.speaker is None for sample in samples),
        seconds=float(sum(seconds)),
        languages=dict(Counter(sample.language for sample in samples if sample.language).most_common()),
        left_out=left_out,
    )


def data_facts(
    manifest: Manifest,
    validation: Manifest,
    samples: Mapping[str, Sequence[Sample]],
    splits: Mapping[str, SplitFacts],
    *,
    rule: str,
) -> DataFacts:
    """Put together what is known of a manifest and, where it is another one, of the file that validates."""
    people = [{s.speaker for s in samples.get(split, ()) if s.speaker is not None} for split in ("train", "valid")]
    header, other = manifest.header, validation.header
    return DataFacts(
        name=None if header is None else header.name,
        license=None if header is None else header.license,
        sha256=hashlib.sha256(manifest.path.read_bytes()).hexdigest(),
        validation=rule if samples.get("valid") else NONE,
        validation_license=None if validation is manifest or other is None else other.license,
        shared_speakers=len(people[0] & people[1]),
        splits=dict(splits),
    )
