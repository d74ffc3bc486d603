"""Divides a data set into train, valid and test: nobody and no clip on two sides, and each label in its share.

Samples of one speaker, or of one content (the clip's bytes, or the words where there is no clip), form a group that
stays together. Groups are placed one by one, the largest first, where they bring the labels nearest to the wanted
shares, and then moved and exchanged while that brings them nearer (the idea of iterative stratification: Sechidis et
al., ECML PKDD 2011, here for groups). The outcome depends on the seed and the samples alone.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from emollama.errors import DatasetError, InputError
from emollama.labels import canonical
from emollama.manifest import SPLITS, Manifest, Sample, Split

_MAX_ROUNDS = 50
_MAX_EXCHANGED = 100  # groups among which pairs are tried
_ALL = "\0all"  # counts every sample, so that the sizes of the splits count beside the labels


@dataclass(frozen=True, kw_only=True)
class Shares:
    """The wanted shares of validation and test; training gets the rest."""

    valid: float = 0.1
    test: float = 0.1

    def __post_init__(self) -> None:
        for name in ("valid", "test"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise InputError(f"{name} is {getattr(self, name)!r}; allowed: 0 to below 1", field=name)
        if not 0.0 < self.valid + self.test < 1.0:
            raise InputError(
                f"valid and test sum to {self.valid + self.test:g}; allowed: above 0, below 1", field="valid"
            )

    @property
    def wanted(self) -> dict[Split, float]:
        """Return the splits that get samples, and their shares."""
        every: dict[Split, float] = {"train": 1.0 - self.valid - self.test, "valid": self.valid, "test": self.test}
        return {split: share for split, share in every.items() if share > 0}


@dataclass(frozen=True, kw_only=True)
class Division:
    """The samples with their new splits, and how near they came to what was wanted."""

    samples: tuple[Sample, ...]
    num_groups: int
    grouped_by: str
    counts: Mapping[str, int]  # split -> samples
    labels: Mapping[str, Mapping[str, int]]  # split -> label -> samples
    speakers: Mapping[str, int]  # split -> different speakers

    def to_json_dict(self) -> dict[str, Any]:
        total = max(1, len(self.samples))
        return {
            "num_groups": self.num_groups,
            "grouped_by": self.grouped_by,
            "splits": {
                split: {
                    "samples": count,
                    "share": round(count / total, 4),
                    "speakers": self.speakers[split],
                    "labels": dict(self.labels[split]),
                }
                for split, count in self.counts.items()
            },
        }


class TooFewGroupsError(DatasetError):
    """There are fewer people, or contents, than splits."""


def divide(manifest: Manifest, shares: Shares, *, seed: int = 0) -> Division:
    """Give every sample a split. Raises `TooFewGroupsError` when there are fewer groups than splits."""
    groups = _groups(manifest)
    wanted = shares.wanted
    grouped_by = "speaker" if any(sample.speaker for sample in manifest.samples) else "content"
    if len(groups) < len(wanted):
        raise TooFewGroupsError(
            f"{manifest.path} has {len(groups)} group(s) by {grouped_by}, and {len(wanted)} splits are wanted; "
            "ask for fewer splits, or add people",
            field="speaker",
        )
    placed = _place(groups, manifest.samples, wanted, Random(seed))
    samples = list(manifest.samples)
    for group, split in zip(groups, placed, strict=True):
        for index in group:
            samples[index] = samples[index].model_copy(update={"split": split})
    return _told(samples, wanted, num_groups=len(groups), grouped_by=grouped_by)


def _told(samples: Sequence[Sample], wanted: Mapping[Split, float], *, num_groups: int, grouped_by: str) -> Division:
    by_split = {split: [sample for sample in samples if sample.split == split] for split in SPLITS if split in wanted}
    return Division(
        samples=tuple(samples),
        num_groups=num_groups,
        grouped_by=grouped_by,
        counts={split: len(inside) for split, inside in by_split.items()},
        labels={
            split: dict(sorted(Counter(sample.top_label for sample in inside if sample.top_label).items()))
            for split, inside in by_split.items()
        },
        speakers={split: len({s.speaker for s in inside if s.speaker}) for split, inside in by_split.items()},
    )


# ---- groups -------------------------------------------------------------------------------------------------------


def _groups(manifest: Manifest) -> list[list[int]]:
    """Return the samples' places, together when they share a speaker or a content; in order of first appearance."""
    parent = list(range(len(manifest.samples)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    first: dict[tuple[str, str], int] = {}
    digests: dict[Path, str] = {}
    for index, sample in enumerate(manifest.samples):
        keys = [("content", _content(manifest, sample, digests))]
        if sample.speaker:
            keys.append(("speaker", sample.speaker))
        for key in keys:
            other = root(first.setdefault(key, index))
            low, high = sorted((root(index), other))
            parent[high] = low
    groups: dict[int, list[int]] = {}
    for index in range(len(parent)):
        groups.setdefault(root(index), []).append(index)
    return list(groups.values())


def _content(manifest: Manifest, sample: Sample, digests: dict[Path, str]) -> str:
    path = manifest.clip_path(sample)
    if path is None:
        return hashlib.sha256(" ".join((sample.transcript or "").lower().split()).encode()).hexdigest()
    if path not in digests:
        try:
            with path.open("rb") as stream:
                digests[path] = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise DatasetError(
                f"{manifest.path}: clip {sample.clip!r} of {sample.id!r} cannot be read ({error.strerror}); "
                "`emollama data validate` finds all of them",
                field="clip",
            ) from error
    return digests[path]


# ---- placing ------------------------------------------------------------------------------------------------------


def _place(
    groups: Sequence[Sequence[int]], samples: Sequence[Sample], wanted: Mapping[Split, float], rng: Random
) -> list[Split]:
    """Return each group's split."""
    contents = [Counter(stratum for index in group for stratum in _strata(samples[index])) for group in groups]
    board = _Board(contents, wanted)
    order = list(range(len(groups)))
    rng.shuffle(order)
    order.sort(key=lambda place: -contents[place][_ALL])
    for number, place in enumerate(order):
        # As many groups as there are empty splits left: each of them gets one.
        empty = [split for split in wanted if not board.num_groups[split]]
        choices = empty if len(empty) >= len(order) - number else list(wanted)
        board.put(
            place, min(choices, key=lambda split: (board.cost_of_adding(place, split), list(wanted).index(split)))
        )
    for _ in range(_MAX_ROUNDS):
        if not (board.move_one(order) or board.exchange_two(order)):
            break
    return [board.split_of[place] for place in range(len(groups))]


def _strata(sample: Sample) -> tuple[str, ...]:
    return (_ALL,) if sample.top_label is None else (_ALL, canonical(sample.top_label))


class _Board:
    """Where the groups stand, and how far each label is from its shares: the sum of squared distances over its size."""

    def __init__(self, contents: Sequence[Counter[str]], wanted: Mapping[Split, float]) -> None:
        self._contents, self._wanted = contents, wanted
        self._totals: Counter[str] = Counter()
        for content in contents:
            self._totals.update(content)
        self._have: dict[Split, Counter[str]] = {split: Counter() for split in wanted}
        self.num_groups: dict[Split, int] = dict.fromkeys(wanted, 0)
        self.split_of: dict[int, Split] = {}

    def put(self, place: int, split: Split) -> None:
        self._have[split].update(self._contents[place])
        self.num_groups[split] += 1
        self.split_of[place] = split

    def take(self, place: int) -> Split:
        split = self.split_of.pop(place)
        self._have[split].subtract(self._contents[place])
        self.num_groups[split] -= 1
        return split

    def cost_of_adding(self, place: int, split: Split) -> float:
        """Return by how much the distance grows (or, below 0, shrinks) when a group comes to a split."""
        change = 0.0
        for label, count in self._contents[place].items():
            away = self._have[split][label] - self._wanted[split] * self._totals[label]
            change += ((away + count) ** 2 - away**2) / self._totals[label]
        return change

    def move_one(self, order: Sequence[int]) -> bool:
        """Move groups to better splits; say whether any was moved. The last group of a split stays."""
        moved = False
        for place in order:
            if self.num_groups[self.split_of[place]] == 1:
                continue
            old = self.take(place)
            new = min(self._wanted, key=lambda split: (self.cost_of_adding(place, split), split != old))
            if self.cost_of_adding(place, new) > self.cost_of_adding(place, old) - 1e-9:
                new = old
            moved |= new != old
            self.put(place, new)
        return moved

    def exchange_two(self, order: Sequence[int]) -> bool:
        """Exchange the first pair of groups that gets both nearer; only among the largest."""
        some = order[:_MAX_EXCHANGED]
        for number, one in enumerate(some):
            for two in some[number + 1 :]:
                if self.split_of[one] == self.split_of[two]:
                    continue
                first, second = self.take(one), self.take(two)
                stay = self._pair_cost(one, first, two, second)
                if self._pair_cost(one, second, two, first) < stay - 1e-9:
                    self.put(one, second)
                    self.put(two, first)
                    return True
                self.put(one, first)
                self.put(two, second)
        return False

    def _pair_cost(self, one: int, first: Split, two: int, second: Split) -> float:
        return self.cost_of_adding(one, first) + self.cost_of_adding(two, second)
