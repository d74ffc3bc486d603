"""A folder that `emollama batch` filled, as one report; it may be one that a run is still filling."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from emollama.batch.folder import ERRORS, RESULTS
from emollama.errors import InputError
from emollama.reports.summary import Failure, Summary, summary_of


def folder_summary(folder: Path) -> Summary:
    """Return what there is to say of a folder; raises `InputError` (field ``path``) when it is none of batch's."""
    if not (folder / RESULTS).is_file():
        raise InputError(f"{folder} holds no {RESULTS}: it is not a folder that `emollama batch` made", field="path")
    failures = [
        Failure(
            id=str(line["id"]), clip=str(line.get("path") or line["id"]), error=line["error"]["type"],
            message=line["error"]["message"],
        )
        for line in _lines(folder / ERRORS)
    ]  # fmt: skip
    return summary_of(_lines(folder / RESULTS), failures, title=folder.resolve().name)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith("\n"):  # a run that was cut is writing it, or was
                return
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(f"{path.name}, line {number}, is not JSON ({error.msg})", field="path") from error
