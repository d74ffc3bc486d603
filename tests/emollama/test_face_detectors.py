"""The cascades on the drawn face that the project ships, and YuNet's interface with a stand-in network."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

import emollama
from emollama.errors import CheckpointError, InputError
from emollama.face_detectors import CascadeDetector, YuNetDetector, default_detector, overlap, yunet_path
from emollama.faces import track_faces
from emollama.media import read_clip
from emollama.types import Box, Frames

SAMPLE = Path(emollama.__file__).parent / "assets" / "sample" / "sample.mp4"


@pytest.fixture(scope="module")
def sample():
    return read_clip(SAMPLE, fps=2)


@pytest.fixture(scope="module")
def cascade():
    return CascadeDetector()


def test_the_sample_clip_is_small_and_its_face_is_always_found(sample, cascade):
    assert SAMPLE.stat().st_size <= 400_000
    assert sample.frames.images.shape[1:] == (360, 480, 3)
    assert 5.9 <= sample.seconds <= 6.2
    assert np.abs(sample.audio.samples).max() > 0.1
    (track,) = track_faces(sample.frames, detector=cascade, audio=sample.audio)
    assert track.share == 1.0
    assert all(overlap(box, Box(x=146, y=82, width=190, height=190)) > 0.7 for box in track.boxes)


def test_searching_near_a_face_agrees_with_searching_everywhere(sample, cascade):
    image = sample.frames.images[2]
    (everywhere,) = cascade.detect(image)
    (near,) = cascade.detect(image, near=Box(x=150, y=90, width=170, height=170))
    assert overlap(everywhere.box, near.box) > 0.7
    assert min(everywhere.confidence, near.confidence) > 0.5
    assert cascade.detect(image, near=Box(x=10, y=10, width=60, height=60)) == ()
    assert cascade.detect(image, near=Box(x=470, y=350, width=20, height=20)) == ()


def test_a_known_face_is_not_looked_for_and_another_one_is(sample, cascade):
    face = sample.frames.images[2][70:290, 130:350]
    both = np.full((360, 640, 3), 150, np.uint8)
    both[20:240, 20:240] = face
    both[100:320, 380:600] = face
    first, second = sorted((hit.box for hit in cascade.detect(both)), key=lambda box: box.x)
    before = both.copy()
    (hit,) = cascade.detect(both, known=(first,))
    assert overlap(hit.box, second) > 0.7
    assert cascade.detect(both, known=(first, second)) == ()
    assert np.array_equal(both, before)


def test_a_small_face_in_a_large_picture_needs_a_thorough_search(sample, cascade):
    image = np.full((720, 1280, 3), 150, np.uint8)
    image[300:420, 600:760] = cv2.resize(sample.frames.images[0], (160, 120), interpolation=cv2.INTER_AREA)
    assert cascade.detect(image) == ()
    (hit,) = cascade.detect(image, thorough=True)
    assert overlap(hit.box, Box(x=648, y=327, width=64, height=64)) > 0.5


def test_nothing_is_found_where_nothing_is(cascade):
    gradient = np.tile(np.linspace(0, 255, 320, dtype=np.uint8)[None, :, None], (240, 1, 3))
    assert cascade.detect(gradient, thorough=True) == ()
    assert cascade.detect(np.zeros((10, 10, 3), np.uint8), thorough=True) == ()


def test_a_grey_48_pixel_still_is_used(sample, cascade):
    (track,) = track_faces(sample.frames, detector=cascade)
    grey = cv2.resize(track.crops[0], (48, 48), interpolation=cv2.INTER_AREA).mean(axis=2, keepdims=True)
    still = Frames(
        images=grey.repeat(3, axis=2).astype(np.uint8)[None], times=np.zeros(1), source_fps=None, is_still=True
    )
    (face,) = track_faces(still, detector=cascade)
    assert face.boxes[0].width > 28
    assert face.is_main


def test_the_searched_size_is_checked():
    with pytest.raises(InputError, match="long_side"):
        CascadeDetector(long_side=10)


class Network:
    """YuNet's interface: one face of 30 x 40 at (100, 50) of whatever it is given."""

    size = (0, 0)

    def setInputSize(self, size):
        self.size = size

    def detect(self, image):
        assert image.shape[:2] == self.size[::-1]
        row = np.zeros((1, 15), np.float32)
        row[0, :4], row[0, -1] = (100, 50, 30, 40), 0.9
        return 1, row if self.size[0] > 100 else None


def test_yunet_boxes_become_squares_in_the_frames_own_pixels(tmp_path):
    detector = YuNetDetector(tmp_path / "none.onnx", network=Network(), long_side=320)
    (hit,) = detector.detect(np.zeros((360, 640, 3), np.uint8))
    assert hit.box.width == hit.box.height == pytest.approx(2 * (30 * 40) ** 0.5 * 1.05)
    assert hit.box.x + hit.box.width / 2 == pytest.approx(2 * 115)
    assert hit.confidence == pytest.approx(0.9)
    assert detector.detect(np.zeros((360, 640, 3), np.uint8), near=Box(x=0, y=300, width=40, height=40)) == ()
    assert detector.detect(np.zeros((60, 80, 3), np.uint8)) == ()


def test_yunet_is_the_default_only_where_its_file_is(tmp_path, monkeypatch):
    monkeypatch.setenv("EMOLLAMA_CACHE", str(tmp_path))
    assert yunet_path().parent == tmp_path
    assert isinstance(default_detector(), CascadeDetector)
    with pytest.raises(CheckpointError, match="not a file"):
        default_detector(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    with pytest.raises(CheckpointError, match="not a YuNet"):
        default_detector(tmp_path / "bad.onnx")
