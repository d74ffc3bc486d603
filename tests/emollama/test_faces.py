"""Following and choosing faces, with a detector that sees painted squares; real clips when they are at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from emollama.errors import InputError
from emollama.face_detectors import Detection, overlap
from emollama.faces import track_faces
from emollama.types import Audio, Box, Frames

CLIPS = Path(__file__).resolve().parents[2] / ".." / "shared" / "clips"


def patch(person, side, *, mouth=0):
    """A painted face: the red channel names the person, the green one their look; ``mouth`` opens it."""
    pattern = np.random.default_rng(person).integers(0, 200, (8, 8)).astype(np.uint8)
    face = np.full((side, side, 3), 10 * person, np.uint8)
    face[..., 0] = 200 + person
    face[..., 1] = np.kron(pattern, np.ones((side // 8 + 1, side // 8 + 1), np.uint8))[:side, :side]
    top, left = side * 6 // 8, side * 3 // 8
    face[top : top + side // 6, left : left + side // 4, 1:] = mouth
    return face


def scene(*people, size=(120, 200), background=60):
    """A picture with ``people`` = (person, x, y, side[, mouth])."""
    image = np.full((*size, 3), background, np.uint8)
    for person, x, y, side, *mouth in people:
        image[y : y + side, x : x + side] = patch(person, side, mouth=mouth[0] if mouth else 0)
    return image


def clip(images, *, fps=5.0, is_still=False):
    return Frames(images=np.stack(images), times=np.arange(len(images)) / fps, source_fps=fps, is_still=is_still)


class Painted:
    """Sees every painted face; ``misses`` are indices of pictures it sees nothing in, ``ghosts`` extra false hits."""

    name = "painted"

    def __init__(self, *, misses=(), ghosts=None, confidence=0.95):
        self.misses, self.ghosts, self.confidence = set(misses), ghosts or {}, confidence
        self.pictures, self.full_searches = [], 0

    def detect(self, image, *, near=None, thorough=False, known=()):
        key = image.tobytes()
        if not self.pictures or self.pictures[-1] != key:
            self.pictures.append(key)
        index = len(self.pictures) - 1
        self.full_searches += near is None
        found = []
        for person in range(1, 50):
            rows, columns = np.where(image[..., 0] == 200 + person)
            if len(rows) and index not in self.misses:
                side = float(columns.max() - columns.min() + 1)
                box = Box(x=float(columns.min()), y=float(rows.min()), width=side, height=side)
                found.append(Detection(box=box, confidence=self.confidence))
        found += [Detection(box=box, confidence=0.9) for box in self.ghosts.get(index, ())]
        return tuple(hit for hit in found if near is None or overlap(hit.box, near) > 0.05)


def test_one_face_is_followed_through_the_whole_clip():
    images = [scene((1, 20 + 4 * t, 30, 48)) for t in range(20)]
    detector = Painted()
    (track,) = track_faces(clip(images), detector=detector)
    assert track.is_main
    assert track.share == 1.0
    assert track.track_id == 0
    assert "only face" in track.chosen_because
    assert "100%" in track.chosen_because
    assert track.times.tolist() == [t / 5 for t in range(20)]
    assert track.crops.shape == (20, 96, 96, 3)
    assert [round(box.x) for box in track.boxes[1:-1]] == [20 + 4 * t for t in range(1, 19)]
    assert detector.full_searches <= 6  # in between, only the neighbourhood is searched


def test_crops_are_the_tight_box_squashed_to_a_square():
    (track,) = track_faces(clip([scene((3, 40, 20, 60))] * 4), detector=Painted(), crop_size=60)
    assert np.array_equal(track.crops[1], patch(3, 60))
    (larger,) = track_faces(clip([scene((3, 40, 20, 60))] * 4), detector=Painted())
    assert larger.crops.shape == (4, 96, 96, 3)


def test_two_people_keep_their_ids_when_they_pass_each_other():
    images = [scene((1, 5 + 6 * t, 10, 40), (2, 150 - 6 * t, 70, 40)) for t in range(20)]
    tracks = track_faces(clip(images), detector=Painted())
    assert len(tracks) == 2
    assert [track.share for track in tracks] == [1.0, 1.0]
    assert sum(track.is_main for track in tracks) == 1
    for track, person in zip(tracks, (1, 2), strict=True):
        assert int(np.median(track.crops[..., 0])) == 200 + person


def test_a_short_gap_is_bridged_and_a_long_one_is_not():
    images = [scene((1, 20 + t, 30, 48)) for t in range(40)]
    (track,) = track_faces(clip(images), detector=Painted(misses=range(8, 12)))
    assert track.share == 1.0
    assert [round(box.x) for box in track.boxes[8:12]] == pytest.approx([28, 29, 30, 31], abs=1)
    (track,) = track_faces(clip(images), detector=Painted(misses=range(8, 18)))
    assert track.share == 0.75
    assert not ((track.times > 1.5) & (track.times < 3.5)).any()


def test_a_face_that_comes_back_is_the_same_only_if_it_looks_the_same():
    def images(second):
        return [scene((1, 20, 30, 48))] * 6 + [scene()] * 8 + [scene((second, 60, 30, 48), background=61)] * 6

    assert len(track_faces(clip(images(1)), detector=Painted())) == 1
    assert len(track_faces(clip(images(2)), detector=Painted())) == 2


def test_a_cut_to_another_person_starts_a_new_track():
    images = [scene((1, 60, 30, 48), background=20)] * 6 + [scene((2, 62, 30, 48), background=160)] * 6
    tracks = track_faces(clip(images), detector=Painted())
    assert [track.share for track in tracks] == [0.5, 0.5]
    same = [scene((1, 60, 30, 48), background=20)] * 6 + [scene((1, 62, 30, 48), background=160)] * 6
    assert len(track_faces(clip(same), detector=Painted())) == 1


def test_false_hits_that_do_not_last_are_dropped():
    ghosts = {index: [Box(x=10.0 + 14 * index, y=70.0, width=30.0, height=30.0)] for index in (0, 5)}
    images = [scene((1, 120, 20, 48), background=60 + t) for t in range(10)]
    assert len(track_faces(clip(images), detector=Painted(ghosts=ghosts))) == 1
    empty = [scene(background=60 + t) for t in range(10)]
    assert track_faces(clip(empty), detector=Painted(ghosts={3: ghosts[0]})) == ()
    assert track_faces(clip(images), detector=Painted(confidence=0.35)) == ()


def test_the_large_lasting_face_is_chosen():
    images = [scene((1, 80, 40, 64), (2, 5, 5, 32)) for _ in range(10)]
    tracks = track_faces(clip(images), detector=Painted())
    (main,) = [track for track in tracks if track.is_main]
    assert main.boxes[0].width == pytest.approx(64)
    assert "2 faces" in main.chosen_because
    assert "largest" in main.chosen_because
    assert [track.chosen_because for track in tracks if not track.is_main] == [""]
    assert len(track_faces(clip(images), detector=Painted(), max_faces=1)) == 1


def test_the_face_whose_mouth_moves_with_the_voice_is_chosen():
    """The right face is smaller, but its mouth opens and closes exactly while there is sound."""
    images = []
    for t in range(30):
        speaking = 10 <= t < 20
        images.append(scene((1, 10, 30, 56), (2, 130, 40, 48, 200 * (t % 2) if speaking else 0)))
    times = np.arange(6 * 16_000) / 16_000
    sound = np.where((times > 2.0) & (times < 4.0), 0.3 * np.sin(2 * np.pi * 150 * times), 0.0).astype(np.float32)
    tracks = track_faces(clip(images), detector=Painted(), audio=Audio(samples=sound))
    (main,) = [track for track in tracks if track.is_main]
    assert main.boxes[0].x == pytest.approx(130)
    assert "mouth moves with the voice" in main.chosen_because
    silent = track_faces(clip(images), detector=Painted(), audio=Audio(samples=np.zeros_like(sound)))
    assert "voice" not in next(track for track in silent if track.is_main).chosen_because


def test_the_wide_picture_is_not_followed_as_one_face():
    assert track_faces(clip([scene()] * 5), detector=Painted()) == ()


def test_stills():
    still = clip([scene((1, 10, 10, 40), (2, 120, 30, 64), size=(240, 400))], is_still=True)
    tracks = track_faces(still, detector=Painted())
    assert [track.is_main for track in tracks] == [False, True]
    assert tracks[1].times.tolist() == [0.0]
    assert "sampled frames" not in tracks[1].chosen_because
    assert track_faces(clip([scene(size=(240, 400))], is_still=True), detector=Painted()) == ()


def test_a_tiny_still_is_taken_as_a_cropped_face():
    grey = np.random.default_rng(0).integers(90, 120, (48, 48, 1)).repeat(3, axis=2).astype(np.uint8)
    (track,) = track_faces(clip([grey], is_still=True), detector=Painted())
    assert track.is_main
    assert track.boxes == (Box(x=0.0, y=0.0, width=48.0, height=48.0),)
    assert track.crops.shape == (1, 96, 96, 3)
    assert "48 x 48" in track.chosen_because
    assert "no face was found" in track.chosen_because
    flat = np.full((48, 48, 3), 120, np.uint8)
    assert track_faces(clip([flat], is_still=True), detector=Painted()) == ()
    strip = np.random.default_rng(0).integers(90, 120, (20, 80, 3)).astype(np.uint8)
    assert track_faces(clip([strip], is_still=True), detector=Painted()) == ()


@pytest.mark.parametrize("options", [{"crop_size": 4}, {"max_faces": 0}])
def test_arguments_are_checked(options):
    with pytest.raises(InputError, match=next(iter(options))):
        track_faces(clip([scene()]), **options)


@pytest.mark.shared_data
@pytest.mark.parametrize(("name", "share"), [("WolfgangLanger_Pexels", 0.9), ("single_face", 0.95), ("no_face", None)])
def test_real_clips(name, share):
    path = CLIPS / f"{name}.mp4"
    if not path.is_file():
        pytest.skip("../shared/clips is not here")
    from emollama.media import read_clip

    decoded = read_clip(path)
    tracks = track_faces(decoded.frames, audio=decoded.audio)
    if share is None:
        assert tracks == ()
    else:
        assert len(tracks) == 1
        assert tracks[0].share >= share
        widths = [box.width for box in tracks[0].boxes]
        assert max(widths) < 1.6 * min(widths)
