"""Faces followed across the borders of windows: a track's id goes on where the face does.

A face at the beginning of a window is the one at the end of the window before when it stands in the same place, soon
after, and looks alike. That is all it means: a face that was gone for a while, or stands elsewhere, is a new track, as
it is within a window. Nobody is recognised.
"""

from __future__ import annotations

from collections.abc import Sequence
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


@dataclass(frozen=True, kw_only=True)
class Ending:
    """Where a face was last seen; ``look`` [16, 16] float32 is grey, mean 0, norm 1, or ``None`` without contrast."""

    track_id: int
    time: float
    box: Box
    look: np.ndarray | None


@dataclass(frozen=True, kw_only=True)
class Looks:
    """How a track's face looks at its beginning and at its end, as `Ending.look`."""

    first: np.ndarray | None
    last: np.ndarray | None

    @classmethod
    def of(cls, track: FaceTrack) -> Looks:
        return cls(first=_look(track.crops[0]), last=_look(track.crops[-1]))


class TrackIds:
    """The ids of the faces of one long clip, given window after window, in order; times must be those of the clip.

    ``endings`` and ``num_tracks`` are all that it knows of the windows before.
    """

    def __init__(self, *, endings: Sequence[Ending] = (), num_tracks: int = 0) -> None:
        self.endings, self.num_tracks = tuple(endings), num_tracks

    def given(self, found: Sequence[FaceTrack], looks: Sequence[Looks], *, last: float) -> tuple[FaceTrack, ...]:
        """Return a window's tracks with ids that are the clip's; ``last`` is the time of the window's last picture."""
        known = self._continued(found, looks)
        tracks = []
        for index, track in enumerate(found):
            track_id = known.get(index)
            if track_id is None:
                track_id, self.num_tracks = self.num_tracks, self.num_tracks + 1
            tracks.append(replace(track, track_id=track_id))
        newest = [
            Ending(track_id=track.track_id, time=float(track.times[-1]), box=track.boxes[-1], look=look.last)
            for track, look in zip(tracks, looks, strict=True)
        ]
        ids = {ending.track_id for ending in newest}
        old = [e for e in self.endings if e.track_id not in ids and last - e.time <= _WITHIN_SECONDS]
        self.endings = (*old, *newest)
        return tuple(tracks)

    def _continued(self, found: Sequence[FaceTrack], looks: Sequence[Looks]) -> dict[int, int]:
        """Return, for the tracks that go on, their place in ``found`` and the id that they had; the nearest first."""
        pairs = []
        for ending in self.endings:
            for index, (track, look) in enumerate(zip(found, looks, strict=True)):
                shared = overlap(ending.box, track.boxes[0])
                gap = float(track.times[0]) - ending.time
                if 0 <= gap <= _WITHIN_SECONDS and shared >= _SAME_PLACE and _are_alike(ending.look, look.first):
                    pairs.append((shared, index, ending.track_id))
        continued: dict[int, int] = {}
        for _, index, track_id in sorted(pairs, key=lambda pair: -pair[0]):
            if index not in continued and track_id not in continued.values():
                continued[index] = track_id
        return continued


class FollowedFaces:
    """A tracker around an analyzer's own that takes its ids from the clip's."""

    def __init__(self, tracker: Tracker, ids: TrackIds) -> None:
        self._tracker, self._ids = tracker, ids

    def __call__(
        self, frames: Frames, *, audio: Audio | None = None, check: Check = unwatched
    ) -> tuple[FaceTrack, ...]:
        """Return the window's tracks with ids that are the clip's."""
        found = self._tracker(frames, audio=audio, check=check)
        return self._ids.given(found, [Looks.of(track) for track in found], last=float(frames.times[-1]))


def _are_alike(before: np.ndarray | None, now: np.ndarray | None) -> bool:
    return before is None or now is None or float((before * now).sum()) >= _ALIKE


def _look(crop: np.ndarray) -> np.ndarray | None:
    """[16, 16] float32 of a crop [S, S, 3]: grey, mean 0, norm 1; ``None`` for one without contrast."""
    small = cv2.resize(crop, (16, 16), interpolation=cv2.INTER_AREA).astype(np.float32).mean(axis=2)
    if small.std() < _FLAT:
        return None
    small -= small.mean()
    return np.asarray(small / np.linalg.norm(small))
