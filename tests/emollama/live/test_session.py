"""A session with nano before the bundled clip: what it reads, how often, what it forgets, and what it claims."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import emollama
from emollama.encoders.face import pool_over_time
from emollama.errors import InputError, UndecodableMediaError
from emollama.live import LiveOptions, LiveReading, LiveSession, reads_live
from emollama.media import read_clip
from emollama.stages import Labelled, RationalePiece
from emollama.types import Clip

SAMPLE = Path(emollama.__file__).parent / "assets" / "sample" / "sample.mp4"


@pytest.fixture(scope="module")
def nano() -> emollama.Analyzer:
    return emollama.load("nano")


@pytest.fixture(scope="module")
def clip() -> Clip:
    return read_clip(SAMPLE)


@pytest.fixture(scope="module")
def pictures(clip: Clip) -> list[bytes]:
    assert clip.frames is not None
    return [bytes(cv2.imencode(".jpg", image[..., ::-1])[1].tobytes()) for image in clip.frames.images]


class CountedFace:
    """Reads faces as nano does, and counts the crops."""

    def __init__(self, face: Any) -> None:
        self._face, self.num_crops = face, 0

    def read(self, crops: np.ndarray, *arguments: Any, **options: Any) -> Any:
        self.num_crops += len(crops)
        return self._face.read(crops, *arguments, **options)


def play(session: LiveSession, clip: Clip, pictures: list[bytes], *, sound: bool = True) -> Iterator[LiveReading]:
    """Show a clip as a camera would, five pictures a second, and read twice a second."""
    assert clip.frames is not None
    assert clip.audio is not None
    for index, (time, picture) in enumerate(zip(clip.frames.times, pictures, strict=True)):
        session.see(picture, time=float(time))
        if sound:
            first = round(float(time) * 16_000)
            session.hear(clip.audio.samples[first : first + 3200], time=float(time))
        if index % 2:
            yield session.read()


def test_the_sample_turns_from_neutral_to_happy_before_the_camera(
    nano: emollama.Analyzer, clip: Clip, pictures: list[bytes]
) -> None:
    readings = list(play(LiveSession(nano), clip, pictures))
    shown = [reading.faces[0].label for reading in readings[1:]]
    assert shown[0] == "neutral"
    assert shown[-1] == "happiness"
    assert [reading.number for reading in readings] == list(range(1, len(readings) + 1))
    assert {face.track for reading in readings for face in reading.faces} == {0}
    last = readings[-1]
    assert last.used == ("face", "voice")
    assert last.size == (480, 360)
    assert sum(last.emotion.scores.values()) == pytest.approx(1.0)
    assert last.faces[0].is_main
    assert last.affect.source == "face"
    assert last.window_start == pytest.approx(last.time - 4.0, abs=0.01)
    assert last.voice is not None
    assert last.voice.voiced_seconds > 0
    document = last.to_json_dict()
    assert document["picture"] == {"width": 480, "height": 360}
    assert document["valence"] == last.affect.valence


def test_every_picture_is_read_once(nano: emollama.Analyzer, clip: Clip, pictures: list[bytes]) -> None:
    import dataclasses

    counted = CountedFace(nano.parts.face)
    session = LiveSession(emollama.Analyzer(dataclasses.replace(nano.parts, face=counted)))
    last = list(play(session, clip, pictures, sound=False))[-1]
    assert counted.num_crops == len(pictures) == last.pictures.read


def test_the_window_is_judged_as_a_clip_of_its_seconds_is(
    nano: emollama.Analyzer, clip: Clip, pictures: list[bytes]
) -> None:
    session = LiveSession(nano, LiveOptions(window_seconds=60.0))
    last = list(play(session, clip, pictures, sound=False))[-1]
    rows = session._follower.present(last.time)[0].rows  # what the tokens are made of
    tokens = pool_over_time(np.stack([row.token for row in rows]), np.array([row.time for row in rows]))
    assert len(rows) == len(pictures)
    judged = nano.judge({"face": tokens}, nano.labels)
    assert last.emotion == judged.emotion
    whole = nano.analyze(Clip(name="silent", seconds=clip.seconds, frames=clip.frames))
    assert last.emotion.label == whole.emotion.label


def test_what_left_the_window_counts_no_more(nano: emollama.Analyzer, clip: Clip, pictures: list[bytes]) -> None:
    session = LiveSession(nano)
    list(play(session, clip, pictures))
    session.see(pictures[0], time=7.0)
    session.see(pictures[0], time=7.2)
    later = session.read(30.0)
    assert (later.faces, later.voice, later.used) == ((), None, ())
    assert later.emotion.label is None
    assert later.emotion.abstained
    assert later.appears == "nobody is seen or heard"
    assert later.affect.valence is None
    assert len(session._listener._stretches) == 0


def test_a_picture_without_a_face_claims_nothing(nano: emollama.Analyzer) -> None:
    session = LiveSession(nano)
    grey = bytes(cv2.imencode(".jpg", np.full((240, 320, 3), 90, np.uint8))[1].tobytes())
    for index in range(4):
        session.see(grey, time=index / 10)
    session.hear(np.zeros(32_000, np.int16), time=0.0)
    reading = session.read()
    assert reading.emotion.label is None
    assert reading.pictures.read == 4
    assert "".join(piece.text for piece in session.explain(session.understand()) if isinstance(piece, RationalePiece))


def test_the_wording_claims_an_appearance_and_no_more(
    nano: emollama.Analyzer, clip: Clip, pictures: list[bytes]
) -> None:
    for reading in play(LiveSession(nano), clip, pictures):
        if reading.emotion.label is None:
            assert reading.appears == "nobody is seen or heard"
        elif reading.emotion.abstained:
            assert reading.appears.startswith("may appear ")
        else:
            assert reading.appears.startswith("appears ")
        assert all(face.appears.startswith("appears ") for face in reading.faces)


def test_reasons_come_in_the_pieces_of_an_analysis_and_fit_the_reading(
    nano: emollama.Analyzer, clip: Clip, pictures: list[bytes]
) -> None:
    session = LiveSession(nano)
    last = list(play(session, clip, pictures))[-1]
    seen = session.understand()
    session.see(pictures[0], time=7.0)  # the snapshot does not change any more
    explaining = session.explain(seen)
    events = []
    while True:
        try:
            events.append(next(explaining))
        except StopIteration as end:
            told = end.value
            break
    label, *pieces = events
    assert isinstance(label, Labelled)
    assert label.emotion == last.emotion
    assert label.evidence["visual"]
    assert label.evidence["audio"]
    assert len(pieces) > 1
    assert "".join(piece.text for piece in pieces) == told.text
    assert "appear" in told.text or "looks" in told.text


def test_labels_of_ones_own(nano: emollama.Analyzer, clip: Clip, pictures: list[bytes]) -> None:
    session = LiveSession(nano, LiveOptions(labels="joy, sadness, anger"))
    last = list(play(session, clip, pictures, sound=False))[-1]
    assert set(last.emotion.scores) == {"joy", "sadness", "anger"}
    assert last.faces[0].label == "joy"
    assert session.labels == ("joy", "sadness", "anger")


def test_a_damaged_picture_is_counted_and_the_session_goes_on(
    nano: emollama.Analyzer, clip: Clip, pictures: list[bytes]
) -> None:
    session = LiveSession(nano)
    session.see(pictures[0], time=0.0)
    with pytest.raises(UndecodableMediaError):
        session.see(pictures[1][:300], time=0.2)
    session.see(pictures[2], time=0.4)
    reading = session.read(dropped=3)
    assert (reading.pictures.received, reading.pictures.read) == (6, 2)
    assert (reading.pictures.dropped, reading.pictures.refused) == (3, 1)
    assert len(reading.faces) == 1


def test_time_does_not_go_back(nano: emollama.Analyzer, pictures: list[bytes]) -> None:
    session = LiveSession(nano)
    session.see(pictures[0], time=2.0)
    with pytest.raises(InputError, match=r"time is 1; allowed: from 2\.000 on"):
        session.see(pictures[0], time=1.0)
    with pytest.raises(InputError, match="time is nan"):
        session.see(pictures[0], time=float("nan"))
    with pytest.raises(InputError, match="time is -1"):
        session.hear(np.zeros(10, np.int16), time=-1.0)


@pytest.mark.parametrize(("field", "value"), [("window_seconds", 0.1), ("stretch_seconds", 100.0), ("max_faces", 0)])
def test_options_are_checked(field: str, value: float) -> None:
    with pytest.raises(InputError, match=f"{field} is {value}; allowed"):
        LiveOptions(**{field: value})  # type: ignore[arg-type]


def test_a_model_that_reads_whole_clips_is_not_read_live(nano: emollama.Analyzer) -> None:
    import dataclasses

    assert reads_live(nano)
    whole = emollama.Analyzer(dataclasses.replace(nano.parts, senses=object()))  # type: ignore[arg-type]
    assert not reads_live(whole)
    assert not reads_live(object())
    with pytest.raises(InputError, match="cannot be read live"):
        LiveSession(whole)
