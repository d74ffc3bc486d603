"""Faces followed across the borders of windows: a tracker around the analyzer's own that lets a track's id go on.

A face at the beginning of a window is the one at the end of the window before when it stands in the same place, soon
after, and looks alike. That is all it means: a face that was gone for a while, or stands elsewhere, is a new track, as
it is within a window. Nobody is recognised.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from emollama.face_detectors import overlap
from emollama.parts import Tracker
from emollama.types import Audio, Box, FaceTrack, Frames
from emollama.watch import Check, unwatched

_WITHIN_SECONDS = 3.0  # as within a window: a face that comes back later is a new one
_SAME_PLACE = 0.3  # intersection over union
_ALIKE = 0.5  # correlation of two 16 x 16 faces; a cut that falls on the border changes who stands there
_FLAT = 1.0  # grey levels; a crop without any contrast looks like nobody


@dataclass(frozen=True)
class _Ending:
    track_id: int
    time: float
    box: Box
    look: np.ndarray | None  # [16, 16] grey, mean 0 and norm 1


class FollowedFaces:
    """A tracker of one long clip, called with its windows in order; times must be those of the clip."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._endings: list[_Ending] = []
        self.num_tracks = 0

    def __call__(
        self, frames: Frames, *, audio: Audio | None = None, check: Check = unwatched
    ) -> tuple[FaceTrack, ...]:
        """Return the window's tracks with ids that are the clip's."""
        found = self._tracker(frames, audio=audio, check=check)
        known = self._continued(found)
        tracks = []
        for index, track in enumerate(found):
            track_id = known.get(index)
            if track_id is None:
                track_id, self.num_tracks = self.num_tracks, self.num_tracks + 1
            tracks.append(replace(track, track_id=track_id))
        newest = [_Ending(t.track_id, float(t.times[-1]), t.boxes[-1], _look(t.crops[-1])) for t in tracks]
        ids = {ending.track_id for ending in newest}
        last = float(frames.times[-1])
        old = [e for e in self._endings if e.track_id not in ids and last - e.time <= _WITHIN_SECONDS]
        self._endings = [*old, *newest]
        return tuple(tracks)

    def _continued(self, found: tuple[FaceTrack, ...]) -> dict[int, int]:
        """Return, for the tracks that go on, their place in ``found`` and the id that they had; the nearest first."""
        pairs = []
        for ending in self._endings:
            for index, track in enumerate(found):
                shared = overlap(ending.box, track.boxes[0])
                gap = float(track.times[0]) - ending.time
                if 0 <= gap <= _WITHIN_SECONDS and shared >= _SAME_PLACE and _are_alike(ending, track):
                    pairs.append((shared, index, ending.track_id))
        continued: dict[int, int] = {}
        for _, index, track_id in sorted(pairs, key=lambda pair: -pair[0]):
            if index not in continued and track_id not in continued.values():
                continued[index] = track_id
        return continued


def _are_alike(ending: _Ending, track: FaceTrack) -> bool:
    look = _look(track.crops[0])
    return ending.look is None or look is None or float((ending.look * look).sum()) >= _ALIKE


def _look(crop: np.ndarray) -> np.ndarray | None:
    """[16, 16] float32 of a crop [S, S, 3]: grey, mean 0, norm 1; ``None`` for one without contrast."""
    small = cv2.resize(crop, (16, 16), interpolation=cv2.INTER_AREA).astype(np.float32).mean(axis=2)
    if small.std() < _FLAT:
        return None
    small -= small.mean()
    return np.asarray(small / np.linalg.norm(small))
