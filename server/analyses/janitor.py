"""Takes away what is past its time: results, what told of them, clips that a killed process left, old keys.

A result is gone from the API as soon as its time is over; here its row goes, and its bytes with it: SQLite overwrites
what is deleted, and the write-ahead log, which still has it, is emptied afterwards.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from server.layout import DataFolder
from server.records import analyses, audit, deliveries, idempotency
from server.store import Store

logger = logging.getLogger("server.analyses")

# Something this young may belong to a request whose row is not written yet.
ORPHAN_AFTER_SECONDS = 3600.0
DELIVERIES_SECONDS = 30 * 86_400.0


class Janitor:
    """Cleans one data folder; several processes may do so at the same time."""

    def __init__(
        self, store: Store, data: DataFolder, *, audits: bool = True, clock: Callable[[], float] = time.time
    ) -> None:
        self._store, self._data, self._audits, self._clock = store, data, audits, clock
        self._is_scrubbed = True

    def clean(self) -> None:
        now = self._clock()
        num_gone = self._remove_expired(now)
        num_gone += idempotency.remove_expired(self._store, now=now)
        num_gone += deliveries.remove_settled(self._store, before=now - DELIVERIES_SECONDS)
        self._remove_clips(now)
        if num_gone or not self._is_scrubbed:
            # Somebody may be reading; then it is tried again the next time.
            self._is_scrubbed = self._store.scrub()

    def _remove_expired(self, now: float) -> int:
        num_gone = 0
        while ids := analyses.expired(self._store, now=now):
            with self._store.write() as connection:
                events = analyses.expiries_within(connection, ids) if self._audits else []
                num_gone += analyses.remove_within(connection, list(ids))
                audit.append_within(connection, self._store.database_id, events)
        if num_gone:
            logger.info("expired analyses were removed", extra={"fields": {"number": num_gone}})
        return num_gone

    def _remove_clips(self, now: float) -> None:
        """Remove clips of analyses that have ended or are gone, while a process was killed before it could.

        And what was kept of their windows.
        """
        clips = list(self._data.analyses.iterdir())
        if not clips:
            return
        status = analyses.known(self._store)
        for clip in clips:
            try:
                age = now - clip.stat().st_mtime
            except FileNotFoundError:
                continue  # its analysis has just ended
            found = status.get(clip.name.removesuffix(".windows"))
            if found in analyses.ENDED or (found is None and age > ORPHAN_AFTER_SECONDS):
                self._data.remove_tree(clip) if clip.is_dir() else clip.unlink(missing_ok=True)
                logger.warning("removed a clip that a killed process left", extra={"fields": {"name": clip.name}})
