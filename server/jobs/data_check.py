"""A job's files, checked before anything is trained: unpacked into the run directory, then every line and clip read.

How a bundle is unpacked and what may be wrong with a manifest is `train.data`'s to say; here its findings become the
refusal of a request, or the end of a job.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emollama.errors import EmoLlamaError
from server.jobs.run_folder import RunFolder
from server.jobs.spec import MANIFEST
from server.records.jobs import EventRecord

if TYPE_CHECKING:
    from emollama.media import MediaLimits

_NUM_IN_MESSAGE = 3


class StoppedError(Exception):
    """The check was asked to stop before it was done."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong with a bundle: where, what, and what to do about it."""

    file: str
    line: int | None
    field: str | None
    code: str
    message: str
    remedy: str

    def __str__(self) -> str:
        where = self.file if self.line is None else f"{self.file}, line {self.line}"
        where += f", {self.field}" if self.field else ""
        return f"{where}: {self.message}" + (f" ({self.remedy})" if self.remedy else "")


class BadDataError(EmoLlamaError):
    """A job's file cannot be trained on; ``problems`` has all of them, the message the first ones."""

    def __init__(self, param: str, problems: tuple[Problem, ...]) -> None:
        self.param = param
        self.code = f"invalid_{param}"
        self.problems = problems
        more = len(problems) - _NUM_IN_MESSAGE
        shown = "; ".join(str(problem) for problem in problems[:_NUM_IN_MESSAGE])
        self.message = shown + (f"; and {more} more" if more > 0 else "")
        super().__init__(self.message, field=param)

    def problems_as_json(self) -> list[dict[str, Any]]:
        return [vars(problem) for problem in self.problems]


@dataclass(frozen=True, kw_only=True)
class DataLimits:
    """What a bundle may hold."""

    max_unpacked_bytes: int
    media: MediaLimits


@dataclass(frozen=True, kw_only=True)
class CheckedData:
    """Files that may be trained on; ``events`` tell what the job's owner should know of them."""

    events: tuple[EventRecord, ...] = ()
