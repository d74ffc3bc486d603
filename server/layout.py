"""The data folder: which file of the service lies where.

    emollama.sqlite3      the database, unless another one is named
    files/file-ID         what was uploaded, and the results of jobs
    incoming/             uploads on their way
    jobs/ftjob-ID/        one run directory a job; `data/` in it is the unpacked bundle

Paths in the database are relative to the folder, so that it may be moved.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DataFolder:
    """Names the places under ``root``; `create` makes them, readable by the service's user alone."""

    root: Path

    def create(self) -> None:
        for folder in (self.root, self.files, self.incoming, self.jobs):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    @property
    def database(self) -> Path:
        return self.root / "emollama.sqlite3"

    @property
    def files(self) -> Path:
        return self.root / "files"

    @property
    def incoming(self) -> Path:
        return self.root / "incoming"

    @property
    def jobs(self) -> Path:
        return self.root / "jobs"

    def file(self, file_id: str) -> Path:
        return self.files / file_id

    def job(self, job_id: str) -> Path:
        return self.jobs / job_id

    def relative(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def absolute(self, relative: str) -> Path:
        return self.root / relative

    def remove_tree(self, folder: Path) -> None:
        """Remove a folder under the root with what is in it; one that is gone already is no error."""
        assert folder != self.root
        assert folder.is_relative_to(self.root)
        shutil.rmtree(folder, ignore_errors=False) if folder.exists() else None
