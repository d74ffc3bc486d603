"""What time and crashes leave to clean up: expired files, and what no row of the database knows of."""

from __future__ import annotations

import logging
import time

from server.jobs.run_folder import RunFolder
from server.layout import DataFolder
from server.records import files, jobs
from server.store import Store

logger = logging.getLogger("server.jobs")

# Something this young may belong to a request whose row is not written yet.
ORPHAN_AFTER_SECONDS = 3600.0


class Housekeeper:
    """Cleans one data folder; several processes may do so at the same time."""

    def __init__(self, store: Store, data: DataFolder, *, orphan_after_seconds: float = ORPHAN_AFTER_SECONDS) -> None:
        self._store, self._data = store, data
        self._orphan_after_seconds = orphan_after_seconds

    def clean(self) -> None:
        self.remove_expired()
        self.remove_orphans()
        self.prune_ended()

    def remove_expired(self) -> None:
        """Remove files that are past their time, the bytes first: a row without bytes is tried again."""
        for file_id in files.expired(self._store, now=time.time()):
            self._data.file(file_id).unlink(missing_ok=True)
            files.remove(self._store, file_id)
            logger.info("an expired file was removed", extra={"fields": {"file": file_id}})

    def remove_orphans(self) -> None:
        """Remove files and run directories that a killed process left without a row."""
        oldest = time.time() - self._orphan_after_seconds
        for folder, known in ((self._data.files, files.known), (self._data.jobs, jobs.known)):
            old = [path for path in folder.iterdir() if path.stat().st_mtime < oldest]
            if not old:
                continue
            rows = known(self._store)
            for path in old:
                if path.name not in rows:
                    self._data.remove_tree(path) if path.is_dir() else path.unlink(missing_ok=True)
                    logger.warning("removed what a killed process left", extra={"fields": {"name": path.name}})

    def prune_ended(self) -> None:
        """Remove the clips of jobs that have ended while a process was killed before it could."""
        left = [folder for folder in map(RunFolder, self._data.jobs.iterdir()) if folder.has_perishable]
        if left:
            ended = jobs.ended(self._store)
            for folder in left:
                if folder.path.name in ended:
                    folder.prune()
