"""Where faces are to be covered in a clip, picture by picture: rather too much than too little.

A face that shows in one picture is there in the next ones, too, whether or not it is found again. So a find counts for
the pictures around it and between two finds of the same face; where a face was just now, it is looked for once more,
with less asked of it; now and then small and turned faces are looked for with more patience than every picture can
have; and a face that an analysis followed counts wherever it was followed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from emollama.face_detectors import FaceDetector, overlap
from emollama.types import Box

_HOLD_SECONDS = 0.4  # a found face covers its place so long before and after
_BRIDGE_SECONDS = 1.5  # and between two finds of the same face
_EAGER_SECONDS = 0.2  # from one patient look to the next; well within what a find covers
_SAME = 0.1  # overlap from which a find is taken for the face that was here before


class Covering:
    """Collects finds picture by picture, in the order of time, and says at the end what to cover in each.

    ``eager`` is asked beside ``detector``, a few times a second. ``followed`` gives the places of faces at a time in
    seconds, as an analysis knows them.
    """

    def __init__(
        self,
        detector: FaceDetector,
        *,
        eager: FaceDetector | None = None,
        followed: Callable[[float], Sequence[Box]] = lambda time: (),
    ) -> None:
        self._detector, self._eager, self._followed = detector, eager, followed
        self._eager_at = -_EAGER_SECONDS
        self._times: list[float] = []
        self._found: list[list[Box]] = []
        self._lately: list[tuple[float, Box]] = []

    def look(self, image: np.ndarray, time: float) -> None:
        """Look for faces in a picture [H, W, 3] uint8 RGB, ``time`` seconds into the clip."""
        boxes = [hit.box for hit in self._detector.detect(image, thorough=True)]
        others = list(self._followed(time))
        if self._eager is not None and time - self._eager_at >= _EAGER_SECONDS:
            self._eager_at = time
            others += [hit.box for hit in self._eager.detect(image, thorough=True)]
        for box in others:
            if all(overlap(box, known) < 0.5 for known in boxes):
                boxes.append(box)
        for _, before in self._lately:
            if all(overlap(before, box) <= _SAME for box in boxes):
                boxes += [hit.box for hit in self._detector.detect(image, near=before)]
        self._lately = [(time, box) for box in boxes] + [
            (seen, before)
            for seen, before in self._lately
            if time - seen <= _BRIDGE_SECONDS and all(overlap(before, box) <= _SAME for box in boxes)
        ]
        self._times.append(time)
        self._found.append(boxes)

    def covers(self) -> list[list[Box]]:
        """Return what to cover in each picture that was looked at."""
        times, covers = self._times, [list(boxes) for boxes in self._found]
        last: list[tuple[int, Box]] = []  # where each face was seen most lately
        for index, boxes in enumerate(self._found):
            for box in boxes:
                _hold(covers, times, index, box)
                earlier = [entry for entry in last if overlap(entry[1], box) > _SAME]
                for before, start in earlier:
                    if times[index] - times[before] <= _BRIDGE_SECONDS:
                        _bridge(covers, times, (before, start), (index, box))
                last = [entry for entry in last if entry not in earlier]
                last.append((index, box))
            last = [entry for entry in last if times[index] - times[entry[0]] <= _BRIDGE_SECONDS]
        return covers


def _hold(covers: list[list[Box]], times: list[float], index: int, box: Box) -> None:
    for step in (-1, 1):
        other = index + step
        while 0 <= other < len(times) and abs(times[other] - times[index]) <= _HOLD_SECONDS:
            if all(overlap(box, known) < 0.7 for known in covers[other]):
                covers[other].append(box)
            other += step


def _bridge(covers: list[list[Box]], times: list[float], first: tuple[int, Box], last: tuple[int, Box]) -> None:
    for index in range(first[0] + 1, last[0]):
        share = (times[index] - times[first[0]]) / (times[last[0]] - times[first[0]])
        ends = [np.array([box.x, box.y, box.width, box.height]) for box in (first[1], last[1])]
        x, y, width, height = (float(value) for value in (1 - share) * ends[0] + share * ends[1])
        covers[index].append(Box(x=x, y=y, width=width, height=height))
