"""Where the faces are in one picture: OpenCV's Haar cascades (no download) or YuNet when its file is there.

A detection's box is a square around forehead, chin and cheeks: what the frontal cascade of OpenCV returns, and the
framing of FER2013, whose pictures were cut out by that cascade (on FER+ validation pictures its median box is
47 x 47 of 48 x 48 pixels). YuNet's upright boxes are brought to the same framing. Viola & Jones, CVPR 2001; Lienhart &
Maydt, ICIP 2002; Wu et al., "YuNet", Machine Intelligence Research 2023.
What the cascades do not see: faces turned by more than about 30 degrees in the picture plane, or seen from behind.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from emollama.errors import CheckpointError, DependencyError, InputError
from emollama.types import Box

YUNET_FILE = "face_detection_yunet_2023mar.onnx"  # from opencv_zoo, MIT


@dataclass(frozen=True, kw_only=True)
class Detection:
    """One face in one picture; ``confidence`` in [0, 1] is comparable between detectors, 0.5 is "probably a face"."""

    box: Box
    confidence: float


class FaceDetector(Protocol):
    """Finds faces in one picture. ``near`` limits the search to a face of about that size around that place."""

    name: str

    def detect(
        self, image: np.ndarray, *, near: Box | None = None, thorough: bool = False, known: Sequence[Box] = ()
    ) -> tuple[Detection, ...]:
        """Return the faces in ``image`` [H, W, 3] uint8 RGB.

        ``thorough`` also looks for small and for turned faces; ``known`` faces need not be found again.
        """


def default_detector(model: Path | None = None) -> FaceDetector:
    """YuNet when ``model`` is given or its file lies in the cache folder (`yunet_path`), else the cascades."""
    if model is not None:
        return YuNetDetector(model)
    return YuNetDetector(yunet_path()) if yunet_path().is_file() else _cascades()


def eager_detector() -> FaceDetector | None:
    """What sees more than the default one and takes several times as long; ``None`` where that is YuNet already."""
    return None if yunet_path().is_file() else EagerCascades()


@functools.cache
def _cascades() -> CascadeDetector:
    """The process's one detector of this kind: reading the cascades takes as long as searching some pictures."""
    return CascadeDetector()


def yunet_path() -> Path:
    """Where YuNet's file is looked for: ``$EMOLLAMA_CACHE`` or ``~/.cache/emollama``."""
    return Path(os.environ.get("EMOLLAMA_CACHE", Path.home() / ".cache" / "emollama")) / YUNET_FILE


class CascadeDetector:
    """OpenCV's frontal cascade; a doubtful hit is checked by a second cascade, turned faces by the profile cascade.

    ``long_side`` is the size in pixels that a picture is searched at. One detector may be used by many threads.
    """

    name = "opencv-haar"
    _FILES: Mapping[str, str] = {
        "frontal": "haarcascade_frontalface_default.xml",
        "second": "haarcascade_frontalface_alt2.xml",
        "profile": "haarcascade_profileface.xml",
    }
    _CERTAIN = 4.0  # a frontal hit of this weight is not checked again; faces have about 7, false hits about 1
    _SMALLEST = 24  # pixels; the frontal cascade's own window

    def __init__(self, *, long_side: int = 320) -> None:
        if not 64 <= long_side <= 2048:
            raise InputError(f"long_side is {long_side}; allowed: 64 to 2048", field="long_side")
        folder = getattr(getattr(cv2, "data", None), "haarcascades", None)
        if folder is None or not hasattr(cv2, "CascadeClassifier"):
            raise DependencyError(
                f"OpenCV {cv2.__version__} carries no Haar cascades; install opencv-python-headless<5"
            )
        self._folder = Path(folder)
        self._long_side = long_side
        self._loaded = threading.local()

    def detect(
        self, image: np.ndarray, *, near: Box | None = None, thorough: bool = False, known: Sequence[Box] = ()
    ) -> tuple[Detection, ...]:
        if near is not None:
            return self._detect_near(image, near)
        found = self._search(image, self._long_side, known)
        if not found and thorough:
            found = self._search_profile(image, self._long_side)
            if not found and max(image.shape[:2]) > 1.3 * self._long_side:
                found = self._search(image, 2 * self._long_side)
        return _without_overlaps(found)

    def _search(self, image: np.ndarray, long_side: int, known: Sequence[Box] = ()) -> list[Detection]:
        grey, scale = _grey(image, long_side / max(image.shape[:2]))
        for box in known:
            _paint_over(grey, box, scale)
        found = []
        for (x, y, side), weight in self._run("frontal", grey, factor=1.15, smallest=self._SMALLEST):
            confidence = _squash(weight, middle=2.5, width=1.2)
            if weight < self._CERTAIN:
                confidence = max(confidence, 0.65) if self._is_seen_twice(grey, x, y, side) else 0.4 * confidence
            found.append(_detection(x, y, side, scale, confidence))
        return found

    def _detect_near(self, image: np.ndarray, near: Box) -> tuple[Detection, ...]:
        """Search a window of twice the box, for faces of about its size: much faster than the whole picture."""
        height, width = image.shape[:2]
        left, top = int(max(0, near.x - 0.5 * near.width)), int(max(0, near.y - 0.5 * near.height))
        right, bottom = int(min(width, near.x + 1.5 * near.width)), int(min(height, near.y + 1.5 * near.height))
        if right - left < self._SMALLEST or bottom - top < self._SMALLEST:
            return ()
        # The face is searched at about 60 pixels, or as large as the full search would have seen it when that is less.
        wanted = min(1.0, max(self._long_side / max(height, width), 36 / near.width), 60 / near.width)
        grey, scale = _grey(image[top:bottom, left:right], max(wanted, 30 / near.width))
        size = near.width * scale
        found = [
            _detection(x + left * scale, y + top * scale, side, scale, _squash(weight, middle=1.5, width=1.2))
            for (x, y, side), weight in self._run(
                "frontal",
                grey,
                factor=1.08,
                smallest=max(self._SMALLEST, int(0.7 * size)),
                largest=int(1.45 * size) + 1,
            )
        ]
        if not found:
            found = [
                Detection(
                    box=Box(x=hit.box.x + left, y=hit.box.y + top, width=hit.box.width, height=hit.box.height),
                    confidence=hit.confidence,
                )
                for hit in self._search_profile(image[top:bottom, left:right], int(max(grey.shape)))
                if 0.6 <= hit.box.width / near.width <= 1.5
            ]
        return _without_overlaps(found)

    def _search_profile(self, image: np.ndarray, long_side: int) -> list[Detection]:
        """The profile cascade knows faces that look to one side; the mirrored picture gives the other."""
        grey, scale = _grey(image, long_side / max(image.shape[:2]))
        found = []
        for mirrored in (False, True):
            picture = np.ascontiguousarray(grey[:, ::-1]) if mirrored else grey
            for (x, y, side), weight in self._run("profile", picture, factor=1.15, smallest=self._SMALLEST):
                x = grey.shape[1] - x - side if mirrored else x
                found.append(_detection(x, y, side, scale, _squash(weight, middle=2.0, width=0.8)))
        return found

    def _is_seen_twice(self, grey: np.ndarray, x: int, y: int, side: int) -> bool:
        """Tell whether the second cascade finds a face of this size at this place."""
        margin = side // 4
        top, left = max(0, y - margin), max(0, x - margin)
        window = grey[top : y + side + margin, left : x + side + margin]
        hits = self._run("second", window, factor=1.1, smallest=int(0.6 * side), neighbours=2)
        return any(_overlap((x - left, y - top, side), square) > 0.4 for square, _ in hits)

    def _run(
        self, which: str, grey: np.ndarray, *, factor: float, smallest: int, largest: int = 0, neighbours: int = 3
    ) -> list[tuple[tuple[int, int, int], float]]:
        """Return ((x, y, side), weight) of each hit of one cascade in ``grey``."""
        if min(grey.shape) < smallest:
            return []
        boxes, _, weights = self._cascade(which).detectMultiScale3(
            grey,
            scaleFactor=factor,
            minNeighbors=neighbours,
            minSize=(smallest, smallest),
            maxSize=(largest, largest),
            outputRejectLevels=True,
        )
        return [
            ((int(x), int(y), int(width)), float(weight))
            for (x, y, width, _), weight in zip(boxes, np.ravel(weights), strict=True)
        ]

    def _cascade(self, which: str) -> cv2.CascadeClassifier:
        cascade: cv2.CascadeClassifier | None = getattr(self._loaded, which, None)
        if cascade is None:
            cascade = cv2.CascadeClassifier(str(self._folder / self._FILES[which]))
            setattr(self._loaded, which, cascade)
        return cascade


class EagerCascades(CascadeDetector):
    """The cascades where a missed face costs more than a false one: small and turned faces are looked for in every
    picture, also beside others, and doubtful hits count.
    """

    name = "opencv-haar-eager"

    def detect(
        self, image: np.ndarray, *, near: Box | None = None, thorough: bool = False, known: Sequence[Box] = ()
    ) -> tuple[Detection, ...]:
        if near is not None:
            return super().detect(image, near=near)
        found = self._search(image, self._long_side, known)
        if max(image.shape[:2]) > 1.3 * self._long_side:
            found += self._search(image, 2 * self._long_side, [*known, *(hit.box for hit in found)])
        return _without_overlaps(found + self._search_profile(image, self._long_side))


class YuNetDetector:
    """YuNet through OpenCV. ``network`` (an object with YuNet's interface) stands in for the file in tests."""

    name = "yunet"

    def __init__(self, model: Path, *, threshold: float = 0.6, long_side: int = 640, network: Any = None) -> None:
        if network is None and not Path(model).is_file():
            raise CheckpointError(f"{model} is not a file; download {YUNET_FILE} from opencv_zoo", field="model")
        self._threshold, self._long_side = threshold, long_side
        try:
            self._network = network or cv2.FaceDetectorYN.create(str(model), "", (320, 320), threshold, 0.3, 100)
        except cv2.error as error:
            raise CheckpointError(f"{model} is not a YuNet model ({error.err})", field="model") from error
        self._lock = threading.Lock()

    def detect(
        self, image: np.ndarray, *, near: Box | None = None, thorough: bool = False, known: Sequence[Box] = ()
    ) -> tuple[Detection, ...]:
        scale = min(1.0, self._long_side / max(image.shape[:2]))
        small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else image
        with self._lock:
            self._network.setInputSize((small.shape[1], small.shape[0]))
            _, rows = self._network.detect(np.ascontiguousarray(small[..., ::-1]))
        found = []
        for row in [] if rows is None else rows:
            x, y, width, height = (float(value) / scale for value in row[:4])
            side = (width * height) ** 0.5 * 1.05
            box = Box(x=x + (width - side) / 2, y=y + (height - side) / 2, width=side, height=side)
            if near is None or overlap(box, near) > 0.1:
                found.append(Detection(box=box, confidence=float(row[-1])))
        return tuple(found)


def overlap(first: Box, second: Box) -> float:
    """Intersection over union of two boxes."""
    across = min(first.x + first.width, second.x + second.width) - max(first.x, second.x)
    down = min(first.y + first.height, second.y + second.height) - max(first.y, second.y)
    if across <= 0 or down <= 0:
        return 0.0
    shared = across * down
    return shared / (first.width * first.height + second.width * second.height - shared)


def _overlap(first: tuple[int, int, int], second: tuple[int, int, int]) -> float:
    boxes = [Box(x=x, y=y, width=side, height=side) for x, y, side in (first, second)]
    return overlap(boxes[0], boxes[1])


def _without_overlaps(found: list[Detection]) -> tuple[Detection, ...]:
    """Keep the surest of detections that lie on the same face, surest first."""
    kept: list[Detection] = []
    for detection in sorted(found, key=lambda item: -item.confidence):
        if all(overlap(detection.box, other.box) < 0.25 for other in kept):
            kept.append(detection)
    return tuple(kept)


def _grey(image: np.ndarray, scale: float) -> tuple[np.ndarray, float]:
    """[H, W, 3] RGB -> grey picture at ``scale``, and the scale; pictures are made smaller, not larger."""
    scale = min(1.0, scale)
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    if scale < 1.0:
        size = (max(1, round(grey.shape[1] * scale)), max(1, round(grey.shape[0] * scale)))
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    return grey, scale


def _paint_over(grey: np.ndarray, box: Box, scale: float) -> None:
    """Fill a face with its mean: most of a search's time goes to windows that look like one almost to the end."""
    left, top = max(0, round(box.x * scale)), max(0, round(box.y * scale))
    face = grey[top : max(top, round((box.y + box.height) * scale)), left : round((box.x + box.width) * scale)]
    if face.size:
        face[:] = round(float(face.mean()))


def _detection(x: float, y: float, side: float, scale: float, confidence: float) -> Detection:
    return Detection(box=Box(x=x / scale, y=y / scale, width=side / scale, height=side / scale), confidence=confidence)


def _squash(weight: float, *, middle: float, width: float) -> float:
    return float(1.0 / (1.0 + np.exp(-(weight - middle) / width)))
