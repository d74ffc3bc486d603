"""Faces from picture to picture: believed, followed, lost, forgotten, and which of them is the main one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from emollama.glance import Glance, Sighting
from emollama.labels import NANO_LABELS
from emollama.live.following import FaceRow, Follower
from emollama.types import Box, FaceReadings

STEP = 0.1


def face(x: float, *, side: float = 60.0, confidence: float = 0.95, person: int = 1) -> Sighting:
    look = np.random.default_rng(person).normal(size=(16, 16)).astype(np.float32)
    return Sighting(
        box=Box(x=x, y=40, width=side, height=side), confidence=confidence, follows=None,
        look=look / np.linalg.norm(look), crop=np.zeros((96, 96, 3), np.uint8),
    )  # fmt: skip


class Scene:
    """Shows pictures to a follower, and reads what it gives to be read."""

    def __init__(self, **options: float) -> None:
        self.follower = Follower(**{"window_seconds": 4.0, "max_faces": 4, **options})  # type: ignore[arg-type]
        self.time = 0.0
        self.num_read = 0

    def show(self, *faces: Sighting, pictures: int = 1, step: float = STEP) -> None:
        for _ in range(pictures):
            look = self.follower.look(self.time)
            told = [replace(each, follows=_place(each, look.follow)) for each in faces]
            glance = Glance(width=640, height=480, faces=tuple(told), was_searched=look.search)
            for followed in self.follower.take(glance, self.time):
                for time, sighting in followed.waiting:
                    followed.rows.append(FaceRow(time=time, readings=READ, token=np.zeros(4), width=sighting.box.width))
                    self.num_read += 1
                followed.waiting = []
            self.time += step

    @property
    def now(self) -> float:
        return self.time - STEP

    def tracks(self) -> list[int]:
        return [each.track_id for each in self.follower.present(self.now)]

    def main(self) -> int | None:
        main = self.follower.main(self.now)
        return None if main is None else main.track_id


READ = FaceReadings(
    track_id=0, times=np.zeros(1), labels=NANO_LABELS, probabilities=np.full((1, 8), 0.125), valence=np.zeros(1),
    arousal=np.zeros(1),
)  # fmt: skip


def _place(sighting: Sighting, follow: Sequence[Box]) -> int | None:
    near = [index for index, box in enumerate(follow) if abs(box.x - sighting.box.x) < 20]
    return near[0] if near else None


def test_a_face_is_believed_at_its_second_picture_and_its_first_is_read_too() -> None:
    scene = Scene()
    scene.show(face(100))
    assert scene.tracks() == []
    scene.show(face(102))
    assert scene.tracks() == [0]
    assert scene.num_read == 2


def test_a_hit_that_comes_once_or_is_never_sure_is_no_face() -> None:
    scene = Scene()
    scene.show(face(100))
    scene.show(pictures=5)
    scene.show(face(300, confidence=0.45), pictures=6)
    assert scene.tracks() == []
    assert scene.num_read == 0


def test_a_face_that_moves_keeps_its_id() -> None:
    scene = Scene()
    for x in range(100, 400, 10):
        scene.show(face(x))
    assert scene.tracks() == [0]


def test_a_face_that_looks_away_for_a_moment_keeps_its_id_and_one_that_left_does_not() -> None:
    scene = Scene()
    scene.show(face(100), pictures=3)
    scene.show(pictures=15)  # longer than it is looked for where it was, shorter than it is forgotten
    assert scene.tracks() == []
    scene.show(face(110), pictures=2)
    assert scene.tracks() == [0]
    scene.show(pictures=40)
    scene.show(face(110), pictures=2)
    assert scene.tracks() == [1]


def test_another_face_at_another_place_is_another() -> None:
    scene = Scene()
    scene.show(face(100), pictures=3)
    scene.show(face(100), face(400, person=2), pictures=3)
    assert scene.tracks() == [0, 1]


def test_rows_leave_with_the_window() -> None:
    scene = Scene(window_seconds=2.0)
    scene.show(face(100), pictures=100)
    (followed,) = scene.follower.present(scene.now)
    assert len(followed.rows) <= 2.0 / STEP + 2
    assert followed.rows[0].time >= scene.now - 2.0 - STEP


def test_the_whole_picture_is_searched_once_a_second_and_small_faces_only_where_there_is_none() -> None:
    scene = Scene()
    looks = []
    for _ in range(31):
        looks.append(scene.follower.look(scene.time))
        scene.show(face(100))
    assert sum(look.search for look in looks) == pytest.approx(4, abs=1)
    assert not any(look.thorough for look in looks[1:])
    assert Scene().follower.look(0.0).thorough


def test_the_main_face_is_the_large_one_and_does_not_flicker() -> None:
    scene = Scene()
    scene.show(face(290, side=80), face(60, side=60, person=2), pictures=10)
    assert scene.main() == 0
    scene.show(face(290, side=80), face(60, side=92, person=2), pictures=10)
    assert scene.main() == 0  # no clear lead
    scene.show(face(290, side=50), face(60, side=160, person=2), pictures=10)
    assert scene.main() == 1
    scene.show(face(290, side=50), pictures=15)
    assert scene.main() == 0  # the other one left
    scene.show(pictures=20)
    assert scene.main() is None


def test_no_more_faces_are_read_than_asked_for() -> None:
    scene = Scene(max_faces=1)
    scene.show(face(300, side=90), face(60, person=2), pictures=10)
    assert scene.tracks() == [0]
    assert scene.num_read == 10


def test_a_camera_whose_time_stands_still_fills_no_memory() -> None:
    crowd = Scene(max_faces=8)
    for picture in range(100):
        strangers = [face(70.0 * place, person=100 * picture + place) for place in range(8)]
        crowd.show(
            *(replace(each, box=replace(each.box, width=20.0 + 9 * (picture % 9))) for each in strangers), step=0
        )
    assert len(crowd.follower.look(0.0).follow) <= 16
    alone = Scene(window_seconds=1.0)
    alone.show(face(100), pictures=300, step=0)
    (followed,) = alone.follower.present(0.0)
    assert len(followed.rows) == 60
