"""Long clips stretch by stretch: what one reading in one piece gives, in memory that does not grow with the clip."""

from __future__ import annotations

import io
import random
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from emollama.demux import Reading
from emollama.errors import (
    CancelledError,
    InputError,
    MediaLimitError,
    UndecodableMediaError,
    UnsupportedMediaError,
)
from emollama.media import MediaLimits, read_clip
from emollama.media_windows import clip_seconds, read_windows
from emollama.sniff import MEDIA_TYPES


def joined(windows):
    """The pictures with their times in the file, and the sound, of all windows."""
    shown = [window for window in windows if window.clip.frames is not None]
    heard = [window.clip.audio.samples for window in windows if window.clip.audio is not None]
    times = [window.clip.frames.times + window.start for window in shown]
    images = np.concatenate([window.clip.frames.images for window in shown]) if shown else None
    return images, np.concatenate(times) if times else None, np.concatenate(heard) if heard else None


@pytest.mark.parametrize("extension", ["mp4", "mkv", "mov"])
def test_together_the_windows_are_the_clip(long_video, tmp_path, extension):
    path = long_video(tmp_path / f"a.{extension}", seconds=33.5, fps=10)
    whole = read_clip(path, fps=2, max_samples=1000)
    windows = list(read_windows(path, seconds=10.0))
    assert [window.index for window in windows] == [0, 1, 2, 3]
    assert [window.start for window in windows] == [0.0, 10.0, 20.0, 30.0]
    assert [window.end for window in windows[:3]] == [10.0, 20.0, 30.0]
    assert windows[-1].end == pytest.approx(whole.seconds)
    assert [window.is_last for window in windows] == [False, False, False, True]
    assert all(np.all(window.clip.frames.times < window.end - window.start) for window in windows)
    assert all(window.clip.name == f"a.{extension}" and window.clip.warnings == () for window in windows)
    images, times, samples = joined(windows)
    np.testing.assert_allclose(times, whole.frames.times)
    np.testing.assert_array_equal(images, whole.frames.images)
    np.testing.assert_array_equal(samples, whole.audio.samples)
    assert windows[-1].clip.sha256 == whole.sha256
    shares = [window.share for window in windows]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_a_stub_at_the_end_belongs_to_the_window_before_it(long_video, tmp_path):
    windows = list(read_windows(long_video(tmp_path / "a.mp4", seconds=20.5, audio_seconds=0), seconds=10.0))
    assert [(window.start, window.end) for window in windows] == [(0.0, 10.0), (10.0, pytest.approx(20.5))]
    assert len(windows[1].clip.frames.times) == 21


@pytest.mark.parametrize(("seconds", "audio_seconds"), [(5.0, 40.0), (40.0, 5.0), (40.0, 0.0)])
def test_tracks_of_different_length(long_video, tmp_path, seconds, audio_seconds):
    path = long_video(tmp_path / "a.mkv", seconds=seconds, audio_seconds=audio_seconds)
    windows = list(read_windows(path, seconds=10.0))
    images, _, samples = joined(windows)
    assert len(windows) == 4
    assert len(images) in (2 * seconds, 2 * seconds - 1)
    assert (0 if samples is None else len(samples) / 16_000) == pytest.approx(audio_seconds, abs=0.2)
    assert [window.clip.frames is not None for window in windows] == [10 * i < seconds for i in range(4)]
    assert not any(window.clip.warnings for window in windows)


def test_sound_alone(media, tmp_path):
    path = media.wav(tmp_path / "a.mp3", seconds=25.0)
    whole, windows = read_clip(path), list(read_windows(path, seconds=10.0))
    assert [window.clip.frames for window in windows] == [None] * 3
    np.testing.assert_array_equal(joined(windows)[2], whole.audio.samples)


def test_a_picture_is_one_window(media, tmp_path):
    (window,) = read_windows(media.image(tmp_path / "a.png"))
    assert window.clip.frames.is_still
    assert (window.start, window.end, window.share, window.is_last) == (0.0, 0.0, 1.0, True)
    assert window.clip.sha256 == read_clip(tmp_path / "a.png").sha256


def test_turned_and_uneven_pictures(media, tmp_path):
    times = [0.0, 0.5, 1.0, 4.0, 9.0, 9.4, 15.0, 16.0]
    path = media.video(tmp_path / "a.mkv", times=times, rotate=90)
    windows = list(read_windows(path, seconds=5.0))
    assert all(window.clip.frames.images.shape[1:3] == (96, 72) for window in windows if window.clip.frames is not None)
    np.testing.assert_allclose(joined(windows)[1], [t for t in times if t != 9.4])  # nearer to 9.0 than half a second
    assert [window.clip.frames is None for window in windows] == [False, False, True, False]


def test_a_hole_in_the_sound_is_silence_of_its_length(media, tmp_path):
    """The stamps of a part of the packets are shifted by 40 s: what lies between is silent, and costs nothing."""
    import av

    path = media.wav(tmp_path / "a.flac", seconds=10.0)
    shifted = tmp_path / "b.mkv"
    with av.open(str(path)) as source, av.open(str(shifted), "w", format="matroska") as target:
        stream = target.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(source.streams.audio[0]):
            if packet.dts is None:
                continue
            if packet.dts * packet.time_base > 5:
                packet.pts = packet.dts = packet.dts + round(40 / packet.time_base)
            packet.stream = stream
            target.mux(packet)
    windows = list(read_windows(shifted, seconds=10.0))
    assert len(windows) == 5
    assert [bool(np.any(window.clip.audio.samples)) for window in windows] == [True, False, False, False, True]
    assert sum(window.clip.audio.seconds for window in windows) == pytest.approx(50.0, abs=0.2)


@pytest.mark.parametrize("extension", ["mp4", "mkv", "mp3", "ogg", "m4a"])
def test_what_lies_behind_a_damaged_middle_is_read(media, long_video, tmp_path, extension):
    if extension in ("mp4", "mkv"):
        content = bytearray(long_video(tmp_path / f"a.{extension}", seconds=60.0, fps=10).read_bytes())
    else:
        content = bytearray(media.wav(tmp_path / f"a.{extension}", seconds=60.0).read_bytes())
    generator = random.Random(5)
    for at in range(len(content) * 45 // 100, len(content) * 52 // 100):
        content[at] = generator.randrange(256)
    windows = list(read_windows(bytes(content), seconds=10.0))
    assert windows[-1].end > 54.0
    assert windows[-1].clip.audio.seconds > 4.0
    assert windows[0].clip.warnings == ()
    told = [warning for window in windows for warning in window.clip.warnings]
    assert any("damaged" in warning or "are missing" in warning for warning in told), told


def test_a_time_stamp_that_lies_far_ahead_is_not_believed():
    """One that leaps ahead is left out when the next does not follow it; a true leap is followed."""
    reading = Reading(io.BytesIO(b"x"), MEDIA_TYPES["mp4"], None)

    def kept(*stamps):
        stream = SimpleNamespace(index=0)
        packets = [SimpleNamespace(stream=stream, dts=stamp, time_base=1) for stamp in stamps]
        return [packet.dts for packet in reading._settled(iter(packets))]

    assert kept(0, 1, 2, 3000, 3, 4, None) == [0, 1, 2, 3, 4, None]
    assert reading.broken == 1
    assert kept(0, 1, 2, 3000, 3001, 3002, None) == [0, 1, 2, 3000, 3001, 3002, None]
    assert kept(0, 30, 60, 90) == [0, 30, 60, 90]
    assert reading.broken == 1


def test_sound_far_behind_the_picture_is_said_to_be_lost(media, tmp_path):
    path = media.video(tmp_path / "a.mkv", seconds=50.0, fps=2, audio=50.0)  # all pictures first, then all sound
    windows = list(read_windows(path, seconds=5.0))
    assert len(joined(windows)[0]) == 100
    assert any("of sound lie too far behind the picture" in warning for warning in windows[-1].clip.warnings)


def test_a_cut_file_says_so_at_its_end(long_video, tmp_path):
    content = long_video(tmp_path / "a.mkv", seconds=40.0).read_bytes()
    windows = list(read_windows(content[: len(content) // 2], seconds=5.0))
    assert 10.0 < windows[-1].end < 30.0
    assert any("cut off" in warning or "damaged" in warning for warning in windows[-1].clip.warnings)


def test_limits_hold_and_earlier_windows_have_been_given(media, tmp_path):
    path = media.video(tmp_path / "a.mp4", seconds=20.0, fps=2)
    with pytest.raises(MediaLimitError, match="max_seconds is 10") as caught:
        list(read_windows(path, limits=MediaLimits(max_seconds=10.0)))
    assert caught.value.limit == "max_seconds"
    content = bytearray(media.wav(tmp_path / "a.mp3", seconds=20.0).read_bytes())
    windows = read_windows(bytes(content), seconds=5.0, limits=MediaLimits(max_seconds=30.0))
    assert next(windows).end == 5.0
    with pytest.raises(UnsupportedMediaError):
        list(read_windows(b"hello, this is a text"))
    with pytest.raises(UndecodableMediaError):
        list(read_windows(path.read_bytes()[:48]))


@pytest.mark.parametrize("options", [{"fps": 0}, {"seconds": 1.0}, {"seconds": 1000.0}, {"max_long_side": 1}])
def test_arguments_are_checked_at_once(options):
    with pytest.raises(InputError, match=next(iter(options))):
        read_windows(b"", **options)


def test_who_gives_up_is_heard_within_a_window(long_video, tmp_path):
    path = long_video(tmp_path / "a.mp4", seconds=60.0)
    asked = []

    def cancelled():
        asked.append(1)
        return len(asked) > 20

    with pytest.raises(CancelledError):
        list(read_windows(path, seconds=30.0, cancelled=cancelled))
    assert len(asked) == 21


def test_an_open_file_is_read_and_left_open(long_video, tmp_path):
    content = long_video(tmp_path / "a.mp4", seconds=12.0).read_bytes()
    file = io.BytesIO(content)
    windows = list(read_windows(file, seconds=5.0))
    assert windows[-1].clip.sha256 == read_clip(content).sha256
    assert not file.closed


def test_the_length_is_told_without_decoding(long_video, media, tmp_path):
    assert clip_seconds(long_video(tmp_path / "a.mp4", seconds=12.0)) == pytest.approx(12.0, abs=0.2)
    assert clip_seconds(media.image(tmp_path / "a.png")) is None
    assert clip_seconds((tmp_path / "a.mp4").read_bytes()[:48]) is None
    with pytest.raises(UnsupportedMediaError):
        clip_seconds(b"hello, this is a text")


PEAK = """
import resource, sys
from emollama.media_windows import read_windows
number = sum(1 for _ in read_windows(sys.argv[1], seconds=10.0, threads=1))
print(number, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_of(path):
    """The windows of a clip, and the MiB that a process of its own needed at most to read them."""
    run = subprocess.run([sys.executable, "-c", PEAK, str(path)], capture_output=True, text=True, check=True)
    number, kilobytes = (int(word) for word in run.stdout.split())
    return number, kilobytes / 1024


def large(index):
    """[H, W, 3]: 1 MB of pictures a second at 2 a second."""
    image = np.zeros((360, 480, 3), np.uint8)
    image[:, :, index % 3] = 40 + index % 200
    return image


@pytest.mark.skipif(sys.platform != "linux", reason="the unit of ru_maxrss is Linux's")
def test_five_minutes_take_the_memory_of_two(long_video, tmp_path):
    short, long = (long_video(tmp_path / f"{n}.mp4", seconds=60.0 * n, images=large) for n in (2, 5))
    two, five = peak_of(short), peak_of(long)
    assert (two[0], five[0]) == (12, 30)
    assert five[1] < two[1] + 24  # decoded, the three minutes more are 187 MB of pictures and 12 MB of sound


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the unit of ru_maxrss is Linux's")
def test_an_hour_takes_the_memory_of_ten_minutes(long_video, tmp_path):
    short, long = (long_video(tmp_path / f"{n}.mkv", seconds=60.0 * n, fps=1) for n in (10, 60))
    ten, hour = peak_of(short), peak_of(long)
    assert (ten[0], hour[0]) == (60, 360)
    assert hour[1] < ten[1] + 24
