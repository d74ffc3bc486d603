"""One picture: its limits before a decoder sees it, the faces that are found again, and those that are new."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import pytest

from emollama.errors import InputError, MediaLimitError, UndecodableMediaError, UnsupportedMediaError
from emollama.face_detectors import Detection
from emollama.glance import MAX_FACES, Look, OwnEye, PictureLimits, likeness, look_around
from emollama.types import Box


def jpeg(image: np.ndarray, extension: str = ".jpg") -> bytes:
    return bytes(cv2.imencode(extension, image[..., ::-1])[1].tobytes())


def box(x: float, y: float, side: float = 40.0) -> Box:
    return Box(x=x, y=y, width=side, height=side)


class Finder:
    """Finds faces at known places: near the ones it is asked about, and anywhere when it searches."""

    name = "finder"

    def __init__(self, *places: Box, confidence: float = 0.9) -> None:
        self.places, self.confidence = places, confidence
        self.searches: list[tuple[bool, int]] = []

    def detect(
        self, image: np.ndarray, *, near: Box | None = None, thorough: bool = False, known: Sequence[Box] = ()
    ) -> tuple[Detection, ...]:
        if near is None:
            self.searches.append((thorough, len(known)))
        close = [place for place in self.places if near is None or abs(place.x - near.x) < near.width]
        return tuple(Detection(box=place, confidence=self.confidence) for place in close)


IMAGE = np.random.default_rng(0).integers(0, 256, (120, 200, 3), np.uint8)


@pytest.mark.parametrize("extension", [".jpg", ".png", ".webp"])
def test_a_picture_is_looked_at_at_its_own_size(extension: str) -> None:
    glance = OwnEye(detector=Finder(box(10, 20))).look(jpeg(IMAGE, extension), Look())
    assert (glance.width, glance.height) == (200, 120)
    (face,) = glance.faces
    assert (face.box, face.follows, face.crop.shape) == (box(10, 20), None, (96, 96, 3))
    assert abs(float(face.look.mean())) < 1e-6
    assert likeness(face.look, face.look) == pytest.approx(1.0)


def test_what_is_too_large_reaches_no_decoder() -> None:
    limits = PictureLimits(max_bytes=100_000, max_pixels=200 * 120)
    assert limits.check(jpeg(IMAGE)) == (200, 120)
    with pytest.raises(MediaLimitError, match=r"200 x 122 pixels; allowed: 24000") as wide:
        limits.check(jpeg(np.zeros((122, 200, 3), np.uint8)))
    assert (wide.value.field, wide.value.limit) == ("picture", "max_pixels")
    with pytest.raises(MediaLimitError, match="allowed: 100000"):
        limits.check(jpeg(IMAGE) + bytes(100_000))
    with pytest.raises(MediaLimitError):  # a header alone that promises much
        limits.check(jpeg(np.zeros((4000, 4000, 3), np.uint8), ".png")[:64])
    with pytest.raises(InputError, match="max_pixels is 0"):
        PictureLimits(max_pixels=0)


@pytest.mark.parametrize("content", [b"words", b"\xff\xd8\xff\xe0", b"GIF89a" + bytes(40), b"RIFF....WAVE" + bytes(40)])
def test_what_is_no_picture_is_refused(content: bytes) -> None:
    with pytest.raises(UnsupportedMediaError):
        PictureLimits().check(content)


def test_a_damaged_picture_is_an_error_of_media() -> None:
    with pytest.raises(UndecodableMediaError):
        OwnEye(detector=Finder()).look(jpeg(IMAGE)[:200], Look())


def test_a_face_that_is_followed_is_found_again_without_a_search() -> None:
    finder = Finder(box(14, 20), box(120, 40))
    glance = look_around(IMAGE, Look(follow=(box(10, 20), box(120, 40)), search=False), detector=finder)
    assert [face.follows for face in glance.faces] == [0, 1]
    assert glance.faces[0].box.x == pytest.approx((10 + 2 * 14) / 3)  # steadied
    assert not glance.was_searched
    assert finder.searches == []


def test_a_face_that_is_lost_has_the_picture_searched() -> None:
    finder = Finder(box(120, 40))
    glance = look_around(IMAGE, Look(follow=(box(10, 20),), search=False, thorough=True), detector=finder)
    assert [face.follows for face in glance.faces] == [None]
    assert glance.was_searched
    assert finder.searches == [(True, 0)]


def test_two_hits_on_one_face_are_one() -> None:
    assert len(look_around(IMAGE, Look(), detector=Finder(box(10, 20), box(14, 22))).faces) == 1
    assert look_around(IMAGE, Look(), detector=Finder(box(10, 20), confidence=0.2)).faces == ()


def test_no_more_faces_are_told_than_anybody_reads() -> None:
    crowd = [box(12 * index, 0, 10) for index in range(16)]
    assert len(look_around(IMAGE, Look(), detector=Finder(*crowd)).faces) == MAX_FACES


def test_a_box_ends_with_the_picture() -> None:
    (face,) = look_around(IMAGE, Look(), detector=Finder(box(180, -10))).faces
    assert face.box == Box(x=180, y=0, width=20, height=30)


@pytest.mark.parametrize("size", [8, 1000])
def test_a_crop_has_a_size_within_reason(size: Any) -> None:
    with pytest.raises(InputError, match="crop_size"):
        Look(crop_size=size)
