"""Faces of a camera, followed from picture to picture while the pictures come.

What `emollama.faces` does with a whole clip, done without knowing what comes next: a face is believed when it was seen
twice and once surely, followed near where it was, and forgotten some seconds after it was last seen. Ids count the
faces of one session and mean nothing outside it; nobody is recognised again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from emollama.glance import MAX_FACES, Glance, Look, Sighting, likeness
from emollama.types import Box, FaceReadings

BRIDGE_SECONDS = 1.2  # a face that is not seen for this long is still looked for where it was
_FORGET_SECONDS = 3.0
_SEARCH_EVERY_SECONDS = 1.0
_PROBABLE, _CERTAIN = 0.5, 0.8
_MAX_KEPT = 2 * MAX_FACES  # faces that are remembered; times that stand still make none of them old
_ROWS_PER_SECOND = 60  # of a window: no camera gives more pictures
_SWITCH_MARGIN = 0.15  # by which another face must lead before it becomes the main one


@dataclass(frozen=True, kw_only=True)
class FaceRow:
    """What was read of one crop: the readings of one moment, and its token [D]."""

    time: float
    readings: FaceReadings
    token: np.ndarray
    width: float


@dataclass
class Followed:
    """A face while it is followed. ``waiting`` are sightings that were not read yet; ``rows`` those that were."""

    track_id: int
    box: Box
    look: np.ndarray
    first_seen: float
    last_seen: float
    confidences: deque[float] = field(default_factory=lambda: deque(maxlen=16))
    waiting: list[tuple[float, Sighting]] = field(default_factory=list)
    rows: deque[FaceRow] = field(default_factory=deque)

    @property
    def is_believed(self) -> bool:
        """Whether the detector meant it: false hits do not stay where they are, and are never sure."""
        seen = self.confidences
        enough = _CERTAIN if len(seen) < 3 else _PROBABLE
        return bool(self.rows) or (len(seen) >= 2 and max(seen) >= enough and sum(seen) / len(seen) >= 0.4)


class Follower:
    """Follows the faces of one camera; times are seconds and never go back."""

    def __init__(self, *, window_seconds: float, max_faces: int) -> None:
        self._window, self._max_faces = window_seconds, max_faces
        self._faces: list[Followed] = []
        self._asked: list[Followed] = []
        self._searched, self._thorough = -np.inf, -np.inf
        self._next_id = 0
        self._main: int | None = None
        self.size: tuple[int, int] | None = None  # (width, height) of the last picture

    def look(self, time: float) -> Look:
        """Return what to look for in the picture of a time."""
        self._asked = [face for face in self._faces if time - face.last_seen <= BRIDGE_SECONDS]
        self._asked.sort(key=lambda face: -face.last_seen)
        due = time - self._searched >= _SEARCH_EVERY_SECONDS
        thorough = not self._asked and time - self._thorough >= _SEARCH_EVERY_SECONDS
        if thorough:
            self._thorough = time
        return Look(follow=tuple(face.box for face in self._asked), search=due or not self._asked, thorough=thorough)

    def take(self, glance: Glance, time: float) -> list[Followed]:
        """Take what the picture of the last `look` showed; return the faces that have something to be read."""
        self.size = (glance.width, glance.height)
        if glance.was_searched:
            self._searched = time
        seen: set[int] = set()
        for sighting in glance.faces:
            face = self._whose(sighting, seen)
            if face is None:
                face = self._begin(sighting, time)
            seen.add(face.track_id)
            face.box, face.look, face.last_seen = sighting.box, sighting.look, time
            face.confidences.append(sighting.confidence)
            face.waiting = [*face.waiting[-1:], (time, sighting)]
        self._drop_oldest(seen)
        self.forget(time)
        followed = [face for face in self._faces if face.waiting and face.is_believed]
        followed.sort(key=lambda face: (face.track_id != self._main, -face.box.width))
        for face in followed[self._max_faces :]:
            face.waiting.clear()
        return followed[: self._max_faces]

    def forget(self, time: float) -> None:
        """Drop the rows that have left the window, and the faces that are gone."""
        for face in self._faces:
            while face.rows and face.rows[0].time < time - self._window:
                face.rows.popleft()
        self._faces = [face for face in self._faces if time - face.last_seen <= _FORGET_SECONDS]

    def present(self, time: float) -> list[Followed]:
        """Return the faces that are there, by their ids."""
        there = [face for face in self._faces if face.rows and time - face.last_seen <= BRIDGE_SECONDS]
        return sorted(there, key=lambda face: face.track_id)

    def main(self, time: float) -> Followed | None:
        """Return the face that the reading is about: large, central and lasting; it changes only for a clear lead."""
        there = self.present(time)
        if not there:
            self._main = None
            return None
        scores = self._scores(there)
        best = int(np.argmax(scores))
        held = next((index for index, face in enumerate(there) if face.track_id == self._main), None)
        if held is not None and scores[best] <= scores[held] + _SWITCH_MARGIN:
            best = held
        self._main = there[best].track_id
        return there[best]

    def _whose(self, sighting: Sighting, seen: set[int]) -> Followed | None:
        if sighting.follows is not None and sighting.follows < len(self._asked):
            return self._asked[sighting.follows]
        fitting = [face for face in self._faces if face.track_id not in seen and _fits(face, sighting)]
        return max(fitting, key=lambda face: face.last_seen, default=None)

    def _begin(self, sighting: Sighting, time: float) -> Followed:
        rows: deque[FaceRow] = deque(maxlen=round(_ROWS_PER_SECOND * self._window))
        face = Followed(
            track_id=self._next_id, box=sighting.box, look=sighting.look, first_seen=time, last_seen=time, rows=rows
        )
        self._next_id += 1
        self._faces.append(face)
        return face

    def _drop_oldest(self, seen: set[int]) -> None:
        """Keep as many faces as there may be: those of the last picture, then those that were seen most lately."""
        if len(self._faces) > _MAX_KEPT:
            order = sorted(self._faces, key=lambda face: (face.track_id in seen, face.last_seen, face.track_id))
            kept = {face.track_id for face in order[-_MAX_KEPT:]}
            self._faces = [face for face in self._faces if face.track_id in kept]

    def _scores(self, there: Sequence[Followed]) -> np.ndarray:
        assert self.size is not None
        width, height = self.size
        sizes = np.array([face.box.width for face in there])
        lasting = np.array([len(face.rows) for face in there], np.float64)
        away = [
            np.hypot((face.box.x + face.box.width / 2) / width - 0.5, (face.box.y + face.box.height / 2) / height - 0.5)
            for face in there
        ]
        central = 1.0 - np.minimum(1.0, np.array(away) / np.hypot(0.5, 0.5))
        return np.asarray(0.45 * sizes / sizes.max() + 0.15 * central + 0.4 * lasting / lasting.max())


def _fits(face: Followed, sighting: Sighting) -> bool:
    """Tell whether a face that was found by searching is one that was lost: near, of like size, and looking alike."""
    distance = np.hypot(sighting.box.x - face.box.x, sighting.box.y - face.box.y) / face.box.width
    ratio = sighting.box.width / face.box.width
    alike = likeness(face.look, sighting.look)
    return bool(0.6 < ratio < 1.7 and (distance < 0.6 or (distance < 2.0 and alike > 0.5)))
