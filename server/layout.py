"""The data folder: which file of the service lies where.

    emollama.sqlite3      the database, unless another one is named
    database-id           which database the rest belongs to
    files/file-ID         what was uploaded, and the results of jobs
    incoming/             uploads on their way
    jobs/ftjob-ID/        one run directory a job; `data/` in it is the unpacked bundle
    analyses/analysis-ID  a clip that waits to be analysed, or is being analysed
    analyses/analysis-ID.windows/  of a long one, what is kept of the windows that were read

Paths in the database are relative to the folder, so that it may be moved.
"""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from emollama.errors import InputError


@dataclass(frozen=True)
class DataFolder:
    """Names the places under ``root``; `create` makes them, readable by the service's user alone."""

    root: Path

    def create(self) -> None:
        for folder in (self.root, self.files, self.incoming, self.jobs, self.analyses):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def bind(self, database_id: str) -> None:
        """Note which database the folder belongs to, or raise `InputError` when that is another one.

        What a database does not know of is removed from the folder some time; with the wrong one that were everything.
        """
        marker = self.root / "database-id"
        try:
            handle = os.open(marker, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            known = marker.read_text(encoding="ascii").strip()
        else:
            with os.fdopen(handle, "w", encoding="ascii") as file:
                file.write(database_id + "\n")
            known = database_id
        if known != database_id:
            raise InputError(
                f"the data folder {self.root} belongs to another database than the one that is named; name its own "
                "(EMOLLAMA_DATABASE_URL), restore it, or take another folder (EMOLLAMA_DATA_DIR)",
                field="data_dir",
            )

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

    @property
    def analyses(self) -> Path:
        return self.root / "analyses"

    def analysis(self, analysis_id: str) -> Path:
        return self.analyses / analysis_id

    def windows(self, analysis_id: str) -> Path:
        return self.analyses / f"{analysis_id}.windows"

    def remove_analysis(self, analysis_id: str) -> None:
        """Remove a clip that was to be analysed, and what was kept of it on the way; that it is gone is no error."""
        self.analysis(analysis_id).unlink(missing_ok=True)
        self.remove_tree(self.windows(analysis_id))

    def file(self, file_id: str) -> Path:
        return self.files / file_id

    def job(self, job_id: str) -> Path:
        return self.jobs / job_id

    def relative(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def absolute(self, relative: str) -> Path:
        return self.root / relative

    def remove_tree(self, folder: Path) -> None:
        """Remove a folder under the root with what is in it; that it is gone, or goes meanwhile, is no error."""
        assert folder != self.root
        assert folder.is_relative_to(self.root)
        while folder.exists():
            try:
                shutil.rmtree(folder)
            except OSError as exc:
                # Somebody else, such as the end of a job, removes the same, or writes there for the last time.
                if exc.errno not in (errno.ENOENT, errno.ENOTEMPTY):
                    raise
