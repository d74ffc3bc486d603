"""The clip written anew: it plays, its marks are where the faces are, its blur covers every face of every picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from emollama.errors import CancelledError, InputError, UnsupportedMediaError
from emollama.face_detectors import CascadeDetector, Detection, overlap
from emollama.media import read_clip
from emollama.reports.covering import Covering
from emollama.reports.video import VideoOptions, write_video
from emollama.types import Box
from emollama.watch import Watch

NOTHING: dict[str, Any] = {"faces": [], "timeline": [], "emotion": {"scores": {}}}

SHARED = Path(__file__).resolve().parents[4] / "shared"


def marked(box: tuple[float, float, float, float], seconds: float) -> dict[str, Any]:
    x, y, width, height = box
    times = [0.2 * i for i in range(int(seconds / 0.2) + 1)]
    place = {"x": x, "y": y, "width": width, "height": height}
    row = {"start": 0.0, "end": seconds, "label": "happiness", "scores": {"happiness": 0.9}, "track": 0}
    return {
        "faces": [{"track": 0, "times": times, "boxes": [place] * len(times)}],
        "timeline": [row],
        "emotion": {"scores": {"happiness": 0.9}},
    }


class Blinking:
    """A detector that sees its one face in every fourth picture only; it remembers where."""

    name = "blinking"

    def __init__(self, box: Box) -> None:
        self.box, self.calls = box, 0

    def detect(
        self, image: np.ndarray, *, near: Box | None = None, thorough: bool = False, known: Sequence[Box] = ()
    ) -> tuple[Detection, ...]:
        if near is not None:
            return ()
        self.calls += 1
        return (Detection(box=self.box, confidence=0.9),) if self.calls % 4 == 1 else ()


def pictures(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def sound(path: Path) -> np.ndarray:
    audio = read_clip(path).audio
    assert audio is not None
    return audio.samples


def hertz(samples: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.fft.rfftfreq(len(samples), 1 / 16_000)[spectrum.argmax()])


def test_the_video_plays_as_long_as_the_clip_and_says_nothing_of_its_making(media: Any, tmp_path: Path) -> None:
    clip = media.video(tmp_path / "clip.mp4", seconds=2.0, fps=10, audio=2.0)
    shares: list[float] = []
    write_video(clip, NOTHING, tmp_path / "out.mp4", progress=shares.append)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert {stream.codec_context.name for stream in container.streams} == {"h264", "aac"}
        assert container.duration is not None
        assert container.duration / av.time_base == pytest.approx(2.0, abs=0.15)
        assert set(container.metadata) <= {"major_brand", "minor_version", "compatible_brands", "encoder"}
    assert len(pictures(tmp_path / "out.mp4")) == 20
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clip.mp4", "out.mp4"]


def test_a_box_is_drawn_round_the_face_in_the_colour_of_what_it_expresses(media: Any, tmp_path: Path) -> None:
    clip = media.video(tmp_path / "clip.mp4", seconds=1.0, fps=10, width=320, height=240)
    write_video(clip, marked((120, 100, 80, 80), 1.0), tmp_path / "out.mp4")
    before, after = pictures(clip), pictures(tmp_path / "out.mp4")
    for old, new in zip(before, after, strict=True):
        changed = np.abs(new.astype(int) - old.astype(int)).sum(axis=2) > 120
        assert changed[180, 125:195].mean() > 0.8  # the lower edge
        assert changed[200:, :].mean() < 0.05  # nothing is drawn elsewhere
        assert new[180, 160, 0] > new[180, 160, 2] + 60  # orange, as happiness is


def test_a_face_that_is_lost_for_some_pictures_stays_covered(media: Any, tmp_path: Path) -> None:
    clip = media.video(tmp_path / "clip.mp4", seconds=1.6, fps=10, width=320, height=240)
    detector = Blinking(Box(x=120, y=80, width=80, height=80))
    write_video(clip, NOTHING, tmp_path / "out.mp4", VideoOptions(blur=True), detector=detector)
    before, after = pictures(clip), pictures(tmp_path / "out.mp4")
    assert detector.calls == len(before)
    for old, new in zip(before, after, strict=True):
        face = np.s_[80:160, 120:200]
        # Six blocks across a face with its margins: within a block nothing is left.
        assert np.abs(np.diff(new[face].astype(int), axis=1)).mean() < 4
        assert np.abs(new[:, :80].astype(int) - old[:, :80].astype(int)).mean() < 12  # the rest of the picture stays


@pytest.mark.parametrize(("voice", "lowest", "highest"), [("keep", 295, 305), ("change", 225, 245)])
def test_a_voice_is_kept_or_lowered_and_as_long_as_before(
    media: Any, tmp_path: Path, voice: Any, lowest: float, highest: float
) -> None:
    clip = media.video(tmp_path / "clip.mp4", seconds=2.0, fps=10, audio=media.tone(2.0, hz=300.0))
    write_video(clip, NOTHING, tmp_path / "out.mp4", VideoOptions(voice=voice))
    heard = sound(tmp_path / "out.mp4")
    assert len(heard) / 16_000 == pytest.approx(2.0, abs=0.15)
    assert lowest <= hertz(heard[8_000:24_000]) <= highest


def test_sound_can_be_left_out(media: Any, tmp_path: Path) -> None:
    clip = media.video(tmp_path / "clip.mp4", seconds=1.0, fps=10, audio=1.0)
    write_video(clip, NOTHING, tmp_path / "out.mp4", VideoOptions(voice="mute"))
    assert read_clip(tmp_path / "out.mp4").audio is None


def test_what_has_no_video_is_refused_and_nothing_is_left(media: Any, tmp_path: Path) -> None:
    (tmp_path / "no.mp4").write_bytes(b"not a clip at all, not at all")
    cases = [
        (media.image(tmp_path / "still.png"), InputError, "still picture"),
        (media.wav(tmp_path / "talk.wav"), InputError, "has no video"),
        (tmp_path / "no.mp4", UnsupportedMediaError, "."),
    ]
    for source, kind, told in cases:
        with pytest.raises(kind, match=told):
            write_video(source, NOTHING, tmp_path / "out.mp4")
    with pytest.raises(InputError, match="voice is 'robot'; allowed: keep, change, mute"):
        VideoOptions(voice="robot")  # type: ignore[arg-type]
    clip = media.video(tmp_path / "clip.mp4", seconds=1.0, fps=10)
    with pytest.raises(CancelledError):
        write_video(clip, NOTHING, tmp_path / "out.mp4", check=Watch(lambda: True))
    assert not [p.name for p in tmp_path.iterdir() if "out" in p.name]


def test_a_lost_face_is_looked_for_where_it_was_and_a_followed_one_is_believed() -> None:
    here, there = Box(x=10, y=10, width=40, height=40), Box(x=200, y=10, width=40, height=40)

    class Lenient:
        """Finds its face alone once, and then only where it is told to look."""

        name = "lenient"

        def __init__(self) -> None:
            self.is_first = True

        def detect(
            self, image: np.ndarray, *, near: Box | None = None, thorough: bool = False, known: Sequence[Box] = ()
        ) -> tuple[Detection, ...]:
            found = self.is_first or near is not None
            self.is_first = False
            return (Detection(box=near or here, confidence=0.1),) if found else ()

    covering = Covering(Lenient(), followed=lambda time: [there] if time > 6 else [])
    for number in range(40):
        covering.look(np.zeros((100, 300, 3), np.uint8), number * 0.25)
    for number, boxes in enumerate(covering.covers()):
        assert here in boxes
        assert (there in boxes) == (number * 0.25 > 6 - 0.4 + 0.25)


def test_small_and_turned_faces_are_looked_for_beside_others_a_few_times_a_second() -> None:
    small = Box(x=200, y=10, width=12, height=12)
    eager = Blinking(small)
    covering = Covering(Blinking(Box(x=10, y=10, width=40, height=40)), eager=eager)
    for number in range(30):
        covering.look(np.zeros((100, 300, 3), np.uint8), number / 30)
    assert eager.calls == 5
    assert all(small in boxes for boxes in covering.covers()[:12])


def composed(path: Path, *, num: int = 60) -> Path:
    """Make a clip of three faces, one of them small, from the real clips."""
    crying = pictures(SHARED / "clips" / "WolfgangLanger_Pexels.mp4")[-num:]
    smiling = pictures(SHARED / "clips" / "single_face.mp4")[:num]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = 1280, 480, "yuv420p"
        for number in range(num):
            picture = np.full((480, 1280, 3), 90, np.uint8)
            picture[:360, :640] = crying[number]
            picture[100:370, 700:1180] = cv2.resize(smiling[number], (480, 270))
            picture[340:475, 1030:1270] = cv2.resize(crying[-1 - number], (240, 135))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.mark.slow
@pytest.mark.shared_data
@pytest.mark.parametrize(("name", "faces"), [("WolfgangLanger_Pexels.mp4", 1), ("single_face.mp4", 1), ("three", 3)])
def test_the_blur_covers_every_face_of_every_picture_of_a_real_clip(tmp_path: Path, name: str, faces: int) -> None:
    clip = composed(tmp_path / "three.mp4") if name == "three" else SHARED / "clips" / name
    write_video(clip, NOTHING, tmp_path / "out.mp4", VideoOptions(blur=True, voice="mute"))
    # Another look than the one that covered: at twice the size.
    detector = CascadeDetector(long_side=640)
    before, after = pictures(clip), pictures(tmp_path / "out.mp4")
    assert len(before) == len(after)
    found = 0
    for number, (old, new) in enumerate(zip(before, after, strict=True)):
        hits = detector.detect(old, thorough=True)
        seen = detector.detect(new, thorough=True) if number % 4 == 0 else ()  # which takes as long again
        for hit in hits:
            found += 1
            top, left = max(0, int(hit.box.y)), max(0, int(hit.box.x))
            face = np.s_[top : int(hit.box.y + hit.box.height), left : int(hit.box.x + hit.box.width)]
            assert np.abs(np.diff(new[face].astype(int), axis=1)).mean() < 4
            assert all(overlap(hit.box, other.box) < 0.3 for other in seen)
    assert found > 0.9 * faces * len(before)
