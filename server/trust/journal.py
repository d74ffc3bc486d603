"""Writes the audit log of one process: events of all requests, many in one transaction, in a thread of its own.

A request's row is written before the end of its answer is sent, so an answer that is complete is in the log,
whatever becomes of the process (SQLite's newest rows may go with a machine that loses its power). When the
database cannot be written to for a while, answers wait `PATIENCE_SECONDS` at most, and rows wait in memory until it
can; the process's log says so.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from concurrent.futures import Future

from sqlalchemy.exc import OperationalError, SQLAlchemyError

from server.records import audit
from server.records.audit import Event
from server.store import Store

logger = logging.getLogger("server.audit")

PATIENCE_SECONDS = 2.0
_RETRY_SECONDS = 1.0
_MOST_AT_ONCE = 200
_MOST_WAITING = 20_000
_Waiting = tuple[Event, "Future[None]"]


class Journal:
    """Between `start` and `stop`, writes what it is given."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._is_stopping = False
        self._num_lost = 0
        self._num_single = 0  # of those that wait: written one by one, since one of them is refused
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)

    def start(self) -> None:
        self._thread.start()
        self._tell_head("the audit log begins here")

    def stop(self) -> None:
        """Write what still waits, and end; blocks."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()
        self._thread.join()
        self._tell_head("the audit log ends here")

    def put(self, event: Event) -> Future[None]:
        """Take an event; what is returned is done when it is in the database."""
        done: Future[None] = Future()
        with self._changed:
            if len(self._waiting) >= _MOST_WAITING:
                self._num_lost += 1
                done.set_exception(OSError("the audit log cannot be written"))
                return done
            self._waiting.append((event, done))
            self._changed.notify()
        return done

    async def write(self, event: Event) -> None:
        """Take an event and wait until it is in the database, or until waiting is too long."""
        done = self.put(event)
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await asyncio.shield(asyncio.wrap_future(done))
        except OSError:  # and `TimeoutError`, which is one
            logger.error("an answer was sent before its row was in the audit log")

    def _run(self) -> None:
        while batch := self._next():
            try:
                audit.append(self._store, [event for event, _ in batch])
            except (OperationalError, OSError) as exc:
                if self._hold(batch):
                    logger.error("the audit log cannot be written; rows wait in memory", exc_info=exc)
                else:
                    self._lose(batch, exc)
            except Exception as exc:  # noqa: BLE001  (the thread's edge: no later row would be written without it)
                # What is refused for what it is would be refused again, and is not to take others with it.
                if len(batch) > 1:
                    self._take_singly(batch)
                else:
                    self._lose(batch, exc)
            else:
                for _, done in batch:
                    done.set_result(None)

    def _take_singly(self, batch: list[_Waiting]) -> None:
        with self._changed:
            self._waiting.extendleft(reversed(batch))
            self._num_single = len(batch)

    def _lose(self, batch: list[_Waiting], exc: Exception) -> None:
        logger.error("audit rows were lost", extra={"fields": {"number": len(batch)}}, exc_info=exc)
        for _, done in batch:
            done.set_exception(OSError("the audit log cannot be written"))

    def _next(self) -> list[_Waiting]:
        """Wait for events and take some; none are left when the service stops."""
        with self._changed:
            while not self._waiting and not self._is_stopping:
                self._changed.wait()
            if self._num_lost:
                logger.error("audit rows were lost", extra={"fields": {"number": self._num_lost}})
                self._num_lost = 0
            most = 1 if self._num_single else _MOST_AT_ONCE
            self._num_single = max(0, self._num_single - 1)
            return [self._waiting.popleft() for _ in range(min(len(self._waiting), most))]

    def _hold(self, batch: list[_Waiting]) -> bool:
        """Put events back and wait a moment; False when the service stops, and there is no later."""
        with self._changed:
            if self._is_stopping:
                return False
            self._waiting.extendleft(reversed(batch))
            self._changed.wait_for(lambda: self._is_stopping, timeout=_RETRY_SECONDS)
            return True

    def _tell_head(self, message: str) -> None:
        """Leave the head in the process's log, which is elsewhere than the database."""
        try:
            head = audit.head(self._store)
        except SQLAlchemyError:
            return
        logger.info(message, extra={"fields": {"rows": head.num_rows, "hash": head.hash}})
