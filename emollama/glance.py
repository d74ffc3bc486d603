"""One picture of a camera, looked at once: where the faces are, and what is cut out of it to be read.

A `Look` says what is known (the faces that are being followed) and a `Glance` what was seen; neither holds anything of
an earlier picture, so the looking may be done anywhere, also in a process that strangers' pictures may end. The crops
are those of `emollama.faces`: the detector's tight square, squashed to a square RGB picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from emollama.errors import InputError, MediaLimitError, UnsupportedMediaError
from emollama.types import Box

if TYPE_CHECKING:
    from emollama.face_detectors import FaceDetector

CROP_SIZE = 96
LOOK_SIZE = 16
MAX_FACES = 8
_LEAST_CONFIDENCE = 0.3
_SAME_PLACE = 0.25  # two hits that share more than this lie on one face
_FOLLOWS = 0.15  # a hit that shares less than this with where a face was is another face
_PICTURES = {".jpg": "JPEG", ".png": "PNG", ".webp": "WebP"}


@dataclass(frozen=True, kw_only=True)
class PictureLimits:
    """What one picture may cost; its size is read off its header before a decoder sees it."""

    max_bytes: int = 512 * 1024
    max_pixels: int = 1280 * 720

    def __post_init__(self) -> None:
        for field in ("max_bytes", "max_pixels"):
            if getattr(self, field) < 1:
                raise InputError(f"{field} is {getattr(self, field)}; allowed: 1 or more", field=field)

    def check(self, picture: bytes) -> tuple[int, int]:
        """Return (width, height) that a picture declares.

        Raises `MediaLimitError` for one that is too large, and `UnsupportedMediaError` for what is no picture or does
        not say its size.
        """
        from emollama.sniff import HEAD_BYTES, image_size, sniff

        if len(picture) > self.max_bytes:
            raise MediaLimitError(
                f"picture has {len(picture)} bytes; allowed: {self.max_bytes}", field="picture", limit="max_bytes"
            )
        head = picture[:HEAD_BYTES]
        kind, size = sniff(head), image_size(head)
        if kind.extension not in _PICTURES or size is None or min(size) < 1:
            raise UnsupportedMediaError(
                f"picture is {kind.extension.lstrip('.')} and {'has' if size else 'tells no'} size; "
                f"allowed: {', '.join(_PICTURES.values())} with its size in the header",
                field="picture",
            )
        if size[0] * size[1] > self.max_pixels:
            raise MediaLimitError(
                f"picture has {size[0]} x {size[1]} pixels; allowed: {self.max_pixels} in all",
                field="picture",
                limit="max_pixels",
            )
        return size


@dataclass(frozen=True, kw_only=True)
class Look:
    """What to look for: ``follow`` are faces at their last places, ``search`` asks for others, too.

    A face that is not found again has the whole picture searched in any case. ``thorough`` also looks for small and
    turned faces where there are no others.
    """

    follow: tuple[Box, ...] = ()
    search: bool = True
    thorough: bool = False
    crop_size: int = CROP_SIZE

    def __post_init__(self) -> None:
        if not 16 <= self.crop_size <= 256:
            raise InputError(f"crop_size is {self.crop_size}; allowed: 16 to 256", field="crop_size")


@dataclass(frozen=True, kw_only=True)
class Sighting:
    """A face in one picture: ``crop`` [S, S, 3] uint8 RGB, ``look`` [16, 16] float32 of mean 0 and norm 1.

    ``follows`` is the place in `Look.follow` of the face that it is, ``None`` for one that was found by searching.
    """

    box: Box
    confidence: float
    follows: int | None
    look: np.ndarray
    crop: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Glance:
    """What one picture shows; boxes are pixels of a picture of ``width`` x ``height``, which is the one that came."""

    width: int
    height: int
    faces: tuple[Sighting, ...]
    was_searched: bool = True


class Eye(Protocol):
    """Decodes a picture and looks at it; raises `MediaError` for one that cannot be read."""

    def look(self, picture: bytes, look: Look) -> Glance: ...


class OwnEye:
    """Decodes and looks in this process; strangers' pictures are better looked at elsewhere."""

    def __init__(self, *, limits: PictureLimits = PictureLimits(), detector: FaceDetector | None = None) -> None:
        self._limits, self._detector = limits, detector

    def look(self, picture: bytes, look: Look) -> Glance:
        if self._detector is None:
            from emollama.face_detectors import default_detector

            self._detector = default_detector()
        return look_at(picture, look, limits=self._limits, detector=self._detector)


def look_at(picture: bytes, look: Look, *, limits: PictureLimits, detector: FaceDetector) -> Glance:
    """Decode a picture under its limits and look at it."""
    from emollama.media import MediaLimits, read_clip

    limits.check(picture)
    clip = read_clip(
        picture, name="picture", max_samples=1, max_long_side=max(16, limits.max_pixels), threads=1,
        limits=MediaLimits(
            max_bytes=limits.max_bytes, max_pixels_per_frame=limits.max_pixels, max_frames=1, max_streams=1
        ),
    )  # fmt: skip
    assert clip.frames is not None  # a picture that gives none was refused
    return look_around(clip.frames.images[0], look, detector=detector)


def look_around(image: np.ndarray, look: Look, *, detector: FaceDetector) -> Glance:
    """Find again the faces that are followed in ``image`` [H, W, 3] uint8 RGB, then search for others."""
    from emollama.face_detectors import overlap

    found: list[Sighting] = []
    taken: list[Box] = []
    for place, before in enumerate(look.follow):
        for hit in detector.detect(image, near=before):
            if any(overlap(hit.box, box) > _SAME_PLACE for box in taken) or overlap(hit.box, before) <= _FOLLOWS:
                continue
            steady = _between(before, hit.box)
            found.append(_sighting(image, steady, hit.confidence, follows=place, size=look.crop_size))
            taken.append(hit.box)
            break
    is_due = look.search or len(found) < max(1, len(look.follow))
    if is_due:
        for hit in detector.detect(image, thorough=look.thorough and not found, known=taken):
            if len(found) >= MAX_FACES or hit.confidence < _LEAST_CONFIDENCE:
                continue
            if any(overlap(hit.box, box) > _SAME_PLACE for box in taken):
                continue
            found.append(_sighting(image, hit.box, hit.confidence, follows=None, size=look.crop_size))
            taken.append(hit.box)
    height, width = image.shape[:2]
    return Glance(width=width, height=height, faces=tuple(found), was_searched=is_due)


def _between(before: Box, after: Box) -> Box:
    """A followed face's box, steadied by where it was; a detector's squares tremble by some pixels."""
    values = ((getattr(before, name) + 2 * getattr(after, name)) / 3 for name in ("x", "y", "width", "height"))
    x, y, width, height = values
    return Box(x=x, y=y, width=width, height=height)


def _sighting(image: np.ndarray, box: Box, confidence: float, *, follows: int | None, size: int) -> Sighting:
    import cv2

    height, width = image.shape[:2]
    left, top = min(max(0.0, box.x), width - 1.0), min(max(0.0, box.y), height - 1.0)
    right, bottom = min(float(width), box.x + box.width), min(float(height), box.y + box.height)
    inside = Box(x=left, y=top, width=max(1.0, right - left), height=max(1.0, bottom - top))
    rows = slice(int(top), max(int(top) + 1, round(top + inside.height)))
    columns = slice(int(left), max(int(left) + 1, round(left + inside.width)))
    face = image[rows, columns]
    interpolation = cv2.INTER_AREA if face.shape[0] > size else cv2.INTER_LINEAR
    crop = np.asarray(cv2.resize(face, (size, size), interpolation=interpolation))
    small = cv2.resize(face, (LOOK_SIZE, LOOK_SIZE), interpolation=cv2.INTER_AREA).astype(np.float32).mean(axis=2)
    small -= small.mean()
    look = np.asarray(small / max(float(np.linalg.norm(small)), 1e-6), np.float32)
    return Sighting(box=inside, confidence=confidence, follows=follows, look=look, crop=crop)


def likeness(first: np.ndarray, second: np.ndarray) -> float:
    """Return the correlation of two faces' `Sighting.look`."""
    return float((first * second).sum())


def check_times(times: Sequence[float]) -> None:
    """Raise `InputError` unless times (seconds) are finite and from 0 on."""
    for time in times:
        if not (np.isfinite(time) and time >= 0):
            raise InputError(f"time is {time}; allowed: seconds from 0 on", field="time")
