"""What one data set may hold."""

from __future__ import annotations

from dataclasses import dataclass, field

from emollama.errors import InputError
from emollama.media import MediaLimits


@dataclass(frozen=True, kw_only=True)
class DataLimits:
    """Limits of a manifest and its clips.

    Of every class ``min_samples_per_class`` samples for training are asked for; below ``few_samples_per_class`` there
    is a warning. ``max_listed`` problems are kept in a report; all are counted.
    """

    max_rows: int = 200_000
    max_listed: int = 1000
    min_samples_per_class: int = 2
    few_samples_per_class: int = 10
    media: MediaLimits = field(default_factory=MediaLimits)

    def __post_init__(self) -> None:
        for name in ("max_rows", "max_listed", "min_samples_per_class", "few_samples_per_class"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)!r}; allowed: from 1", field=name)


@dataclass(frozen=True, kw_only=True)
class BundleLimits:
    """Limits of an archive: its members, what one of them and what all of them hold once unpacked."""

    max_members: int = 200_000
    max_member_bytes: int = 200 * 10**6
    max_manifest_bytes: int = 512 * 10**6
    max_total_bytes: int = 20 * 10**9

    def __post_init__(self) -> None:
        for name in ("max_members", "max_member_bytes", "max_manifest_bytes", "max_total_bytes"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)!r}; allowed: from 1", field=name)
