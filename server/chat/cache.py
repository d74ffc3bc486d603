"""Clips that were read, so that a further question needs no decoding and no encoder.

A reading is found by the clip's content or by the `uuid` that its owner gave it, for the same owner, model and loaded
weights alone. The cache is bounded in number and bytes, drops what was used least recently, and forgets a clip some
time after its last use. It is in memory only.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol


class Sized(Protocol):
    @property
    def num_bytes(self) -> int: ...


class ClipKey(NamedTuple):
    """``content`` is the sha256 of the clip's bytes and of the transcript that came with it."""

    owner: str
    model: str
    content: str


@dataclass
class _Entry:
    reading: Sized
    made_by: weakref.ref[Any]
    used_at: float


class ClipCache:
    """Thread-safe. ``made_by`` is the object that read the clip; another one's readings are not found."""

    def __init__(
        self, *, max_bytes: int, max_clips: int, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.max_bytes, self.max_clips, self.seconds = max_bytes, max_clips, seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: OrderedDict[ClipKey, _Entry] = OrderedDict()
        self._names: OrderedDict[tuple[str, str, str], ClipKey] = OrderedDict()

    @property
    def num_clips(self) -> int:
        return len(self._entries)

    @property
    def num_bytes(self) -> int:
        return sum(entry.reading.num_bytes for entry in tuple(self._entries.values()))

    def get(self, key: ClipKey, *, made_by: Any) -> Any | None:
        """Return a reading and count it as used, or None."""
        with self._lock:
            self._expire()
            entry = self._entries.get(key)
            if entry is None or entry.made_by() is not made_by:
                return None
            entry.used_at = self._clock()
            self._entries.move_to_end(key)
            return entry.reading

    def find(self, owner: str, model: str, uuid: str) -> ClipKey | None:
        """Return the key of the clip to which an owner gave a uuid."""
        with self._lock:
            self._expire()
            key = self._names.get((owner, model, uuid))
            return key if key in self._entries else None

    def put(self, key: ClipKey, reading: Sized, *, made_by: Any) -> None:
        """Keep a reading; one that is larger than the whole cache is not kept."""
        with self._lock:
            self._expire()
            self._entries.pop(key, None)
            if reading.num_bytes > self.max_bytes:
                return
            self._entries[key] = _Entry(reading, weakref.ref(made_by), self._clock())
            while len(self._entries) > self.max_clips or self.num_bytes > self.max_bytes:
                self._entries.popitem(last=False)
            self._forget_names()

    def name(self, key: ClipKey, uuid: str) -> None:
        """Give a clip a uuid; one that was another clip's is this one's now."""
        with self._lock:
            if key in self._entries:
                self._names[(key.owner, key.model, uuid)] = key
                self._names.move_to_end((key.owner, key.model, uuid))
                while len(self._names) > 4 * self.max_clips:
                    self._names.popitem(last=False)

    def expire(self) -> None:
        """Forget what is past its time."""
        with self._lock:
            self._expire()

    def forget(self, owner: str) -> int:
        """Forget everything of an owner and return how many clips that were."""
        with self._lock:
            gone = [key for key in self._entries if key.owner == owner]
            for key in gone:
                del self._entries[key]
            self._forget_names()
            return len(gone)

    def drop(self, owner: str, uuid: str) -> bool:
        """Forget the clips to which an owner gave a uuid, under whatever model; False when none was held."""
        with self._lock:
            named = {key for (who, _, name), key in self._names.items() if (who, name) == (owner, uuid)}
            gone = [key for key in named if self._entries.pop(key, None) is not None]
            self._forget_names()
            return bool(gone)

    def _expire(self) -> None:
        oldest = self._clock() - self.seconds
        gone = [key for key, entry in self._entries.items() if entry.used_at < oldest]
        for key in gone:
            del self._entries[key]
        if gone:
            self._forget_names()

    def _forget_names(self) -> None:
        for name in [name for name, key in self._names.items() if key not in self._entries]:
            del self._names[name]
