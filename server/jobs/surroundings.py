"""What the jobs of one process share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from server.jobs.data_check import DataLimits
from server.layout import DataFolder
from server.store import Store

# Takes (name, base, folder); loads the adapter strictly, raises what is wrong with it, and keeps it for requests.
Publish = Callable[[str, str, Path], None]


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What all jobs of a process share.

    ``bases`` maps the names of base models to what they are loaded from; ``trainer`` is the command that a run
    directory is appended to.
    """

    store: Store
    data: DataFolder
    publish: Publish
    bases: Mapping[str, str]
    recipe: str
    trainer: Sequence[str]
    limits: DataLimits
    poll_seconds: float
    grace_seconds: float
    lease_seconds: float
    max_restarts: int
    niceness: int
    notify: bool
    file_expire_seconds: int | None = None
