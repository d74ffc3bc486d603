"""What a user sees of decoding: every format read, time stamps true, upright colours, limits held, damage survived."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import random
import struct
from fractions import Fraction

import numpy as np
import pytest

from emollama.errors import EmoLlamaError, InputError, MediaLimitError, UndecodableMediaError, UnsupportedMediaError
from emollama.media import MediaLimits, read_clip
from emollama.types import Transcript, TranscriptSegment

RED, GREEN, BLUE = (220, 30, 30), (30, 220, 30), (30, 30, 220)


def corner(image, name):
    """The mean colour near a corner, by name: 'top left' and so on."""
    rows = slice(2, 12) if "top" in name else slice(-12, -2)
    columns = slice(2, 12) if "left" in name else slice(-12, -2)
    return image[rows, columns].reshape(-1, 3).mean(axis=0)


def close(colour, expected):
    return np.abs(np.asarray(colour, float) - expected).max() < 40


@pytest.mark.parametrize("extension", ["mp4", "mov", "mkv", "webm", "avi", "gif"])
def test_video_containers(media, tmp_path, extension):
    clip = read_clip(media.video(tmp_path / f"a.{extension}", seconds=1.0, audio=1.0))
    assert clip.name == f"a.{extension}"
    assert clip.warnings == ()
    assert clip.frames.images.shape[1:] == (72, 96, 3)
    assert clip.frames.images.dtype == np.uint8
    assert np.allclose(clip.frames.times[:5], [0.0, 0.2, 0.4, 0.6, 0.8], atol=0.02)
    assert not clip.frames.is_still
    assert close(corner(clip.frames.images[0], "top left"), RED)
    assert close(corner(clip.frames.images[0], "top right"), GREEN)
    assert 0.95 <= clip.seconds <= 1.15
    if extension != "gif":
        assert clip.audio.sample_rate == 16_000
        assert clip.audio.samples.dtype == np.float32
        assert 0.95 <= clip.audio.seconds <= 1.15


@pytest.mark.parametrize("extension", ["wav", "mp3", "m4a", "flac", "ogg"])
@pytest.mark.parametrize(("sample_rate", "channels"), [(16_000, 1), (48_000, 2)])
def test_sound_files_become_mono_16_khz(media, tmp_path, extension, sample_rate, channels):
    path = media.wav(tmp_path / f"a.{extension}", seconds=1.0, sample_rate=sample_rate, channels=channels)
    clip = read_clip(path)
    assert clip.frames is None
    assert clip.warnings == ()
    assert 0.95 <= clip.audio.seconds <= 1.1
    spectrum = np.abs(np.fft.rfft(clip.audio.samples[4000:12_000]))
    assert abs(np.argmax(spectrum) * 2 - 220) <= 4  # the tone is still the tone
    assert 0.25 < np.abs(clip.audio.samples[4000:12_000]).max() < 0.45


@pytest.mark.parametrize("extension", ["jpg", "png", "webp"])
def test_pictures_are_clips_of_one_frame(media, tmp_path, extension):
    clip = read_clip(media.image(tmp_path / f"a.{extension}"))
    assert clip.frames.is_still
    assert clip.frames.images.shape == (1, 72, 96, 3)
    assert clip.frames.times.tolist() == [0.0]
    assert clip.seconds == 0.0
    assert clip.audio is None
    assert clip.warnings == ()
    assert close(corner(clip.frames.images[0], "bottom left"), BLUE)


def test_the_file_name_is_not_believed(media, tmp_path):
    path = media.wav(tmp_path / "a.wav").rename(tmp_path / "holiday.mp4")
    assert read_clip(path).audio.seconds == pytest.approx(1.0)


@pytest.mark.parametrize("how", ["bytes", "file", "pipe", "text path"])
def test_sources(media, tmp_path, how):
    path = media.video(tmp_path / "a.mp4")
    content = path.read_bytes()

    class Pipe(io.BytesIO):
        def seekable(self):
            return False

    file = io.BytesIO(content)
    source = {"bytes": content, "file": file, "pipe": Pipe(content), "text path": str(path)}[how]
    clip = read_clip(source, name="mine")
    assert clip.name == "mine"
    assert clip.sha256 == hashlib.sha256(content).hexdigest()
    assert len(clip.frames.times) == 5
    assert not file.closed


@pytest.mark.parametrize(
    ("rotate", "where_red_goes", "shape"),
    [(90, "bottom left", (96, 72)), (180, "bottom right", (72, 96)), (-90, "top right", (96, 72))],
)
def test_rotation_is_honoured(media, tmp_path, rotate, where_red_goes, shape):
    image = read_clip(media.video(tmp_path / "a.mp4", seconds=0.4, rotate=rotate)).frames.images[0]
    assert image.shape[:2] == shape
    assert close(corner(image, where_red_goes), RED)


def test_a_mirrored_clip_is_mirrored_back(media, tmp_path):
    image = read_clip(media.video(tmp_path / "a.mp4", seconds=0.4, hflip=True)).frames.images[0]
    assert close(corner(image, "top right"), RED)
    assert close(corner(image, "top left"), GREEN)


@pytest.mark.parametrize(
    ("orientation", "where_red_goes"),
    list(enumerate(2 * ["top left", "top right", "bottom right", "bottom left"], 1)),
)  # fmt: skip
def test_exif_orientation(media, tmp_path, orientation, where_red_goes):
    plain = media.image(tmp_path / "a.jpg").read_bytes()
    entry = struct.pack("<H", 1) + struct.pack("<HHII", 0x0112, 3, 1, orientation) + bytes(4)
    body = b"Exif\0\0II*\0\x08\0\0\0" + entry
    image = read_clip(plain[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + plain[2:]).frames.images[0]
    assert image.shape == ((96, 72, 3) if orientation > 4 else (72, 96, 3))
    assert close(corner(image, where_red_goes), RED)


def test_variable_frame_rate_is_sampled_by_time(media, tmp_path):
    times = [0.0, 0.04, 0.08, 0.12, 0.9, 1.0, 1.02, 1.04, 3.0]
    clip = read_clip(media.video(tmp_path / "a.mkv", times=times), fps=5)
    assert np.allclose(clip.frames.times, [0.0, 0.9, 1.0, 3.0], atol=0.2)
    assert np.all(np.diff(clip.frames.times) > 0)
    grey = [corner(image, "bottom right").mean() for image in clip.frames.images]
    assert grey == sorted(grey)
    assert grey[-1] > grey[0] + 40


@pytest.mark.parametrize("fps", [1, 2, 5, 10])
def test_the_asked_rate_is_kept(media, tmp_path, fps):
    clip = read_clip(media.video(tmp_path / "a.mp4", seconds=3.0, fps=30), fps=fps)
    assert len(clip.frames.times) == 3 * fps
    assert clip.frames.source_fps == 30.0
    assert np.allclose(clip.frames.times, np.arange(3 * fps) / fps, atol=0.02)
    grey = [corner(image, "bottom right").mean() for image in clip.frames.images]
    assert np.allclose(grey, np.minimum(250, 10 + 8 * np.round(clip.frames.times * 30)), atol=20)


@pytest.mark.parametrize(("extension", "gop"), [("mp4", 10), ("mp4", 300), ("mkv", 20), ("gif", None)])
def test_a_long_clip_is_sampled_thinly_not_cut(media, tmp_path, extension, gop):
    clip = read_clip(media.video(tmp_path / f"a.{extension}", seconds=20.0, gop=gop), max_samples=8)
    assert 4 <= len(clip.frames.times) <= 8
    assert clip.frames.times[0] == 0.0
    assert clip.frames.times[-1] >= 16.0
    gaps = np.diff(clip.frames.times)
    assert gaps.max() <= 2 * gaps.min() + 0.2


def test_a_clip_that_declares_no_length_is_thinned_while_decoding(media, tmp_path):
    content = bytearray(media.video(tmp_path / "a.mkv", seconds=12.0).read_bytes())
    at = content.find(b"\x44\x89\x88")  # EBML Duration, 8-byte float
    content[at + 3 : at + 11] = struct.pack(">d", 0.0)
    clip = read_clip(bytes(content), max_samples=10)
    assert 5 <= len(clip.frames.times) <= 10
    assert clip.frames.times[-1] > 9.0


@pytest.mark.parametrize(("width", "height", "codec"), [(97, 71, "ffv1"), (33, 130, "ffv1"), (17, 16, "ffv1")])
def test_odd_sizes(media, tmp_path, width, height, codec):
    clip = read_clip(media.video(tmp_path / "a.mkv", width=width, height=height, codec=codec, seconds=0.4))
    assert clip.frames.images.shape[1:] == (height, width, 3)


def test_pixels_become_square(media, tmp_path):
    clip = read_clip(media.video(tmp_path / "a.mp4", seconds=0.4, pixel_aspect=Fraction(4, 3)))
    assert clip.frames.images.shape[1:] == (72, 128, 3)


def test_large_pictures_are_kept_smaller(media, tmp_path):
    clip = read_clip(media.image(tmp_path / "a.png", image=media.scene(0, width=1600, height=400)))
    assert clip.frames.images.shape == (1, 320, 1280, 3)
    assert close(corner(clip.frames.images[0], "top right"), GREEN)
    assert read_clip(tmp_path / "a.png", max_long_side=160).frames.images.shape == (1, 40, 160, 3)


@pytest.mark.parametrize("transfer", [1, 16, 18], ids=["sdr", "pq", "hlg"])
def test_ten_bit_and_hdr(media, tmp_path, transfer):
    path = media.video(
        tmp_path / "a.mkv",
        seconds=0.4,
        codec="libx265",
        pix_fmt="yuv420p10le",
        color=(9 if transfer > 1 else 1, transfer),
    )
    image = read_clip(path).frames.images[0]
    assert image.dtype == np.uint8
    red, green = corner(image, "top left"), corner(image, "top right")
    assert np.argmax(red) == 0
    assert np.argmax(green) == 1
    assert red[0] > red[1] + 60
    if transfer == 1:
        assert close(red, RED)


def test_transparent_pixels_are_laid_over_white(media, tmp_path):
    picture = np.zeros((20, 30, 4), np.uint8)
    picture[:, 15:] = (200, 0, 0, 255)
    image = read_clip(media.image(tmp_path / "a.png", image=picture)).frames.images[0]
    assert image[5, 5].tolist() == [255, 255, 255]
    assert image[5, 25].tolist() == [200, 0, 0]


def test_sound_longer_than_the_pictures(media, tmp_path):
    clip = read_clip(media.video(tmp_path / "a.mp4", seconds=1.0, audio=3.0))
    assert clip.frames.times[-1] < 1.0
    assert clip.audio.seconds == pytest.approx(3.0, abs=0.1)
    assert clip.seconds == pytest.approx(3.0, abs=0.1)
    assert clip.warnings == ()


def test_pictures_without_sound(media, tmp_path):
    clip = read_clip(media.video(tmp_path / "a.mp4", seconds=1.0))
    assert clip.audio is None
    assert clip.seconds == pytest.approx(1.0, abs=0.05)


def test_a_cover_picture_is_not_a_video(media, tmp_path):
    for extension in ("mp3", "flac"):
        clip = read_clip(media.wav(tmp_path / f"a.{extension}", cover=media.scene(0)))
        assert clip.frames is None
        assert clip.audio.seconds > 0.9
        assert clip.warnings == ()


def test_times_start_at_the_start_of_the_clip(media, tmp_path):
    clip = read_clip(media.video(tmp_path / "a.mkv", seconds=1.0, audio=1.0, start=5.0))
    assert clip.frames.times[0] == 0.0
    assert clip.audio.start == pytest.approx(0.0, abs=0.05)
    assert clip.seconds == pytest.approx(1.0, abs=0.1)
    assert clip.warnings == ()


def test_a_single_picture_gif_is_a_still(media, tmp_path):
    assert read_clip(media.video(tmp_path / "a.gif", seconds=0.1)).frames.is_still


def test_samples_are_finite_and_bounded(media):
    loud = media.tone(0.5, level=1.0)
    loud[100:120] = np.nan
    layout = struct.pack("<IHHIIHH", 16, 3, 1, 16_000, 64_000, 4, 32)
    content = b"RIFF" + struct.pack("<I", 36 + 4 * len(loud)) + b"WAVEfmt " + layout + b"data"
    content += struct.pack("<I", 4 * len(loud)) + (3 * loud).astype("<f4").tobytes()
    samples = read_clip(content).audio.samples
    assert np.isfinite(samples).all()
    assert np.abs(samples).max() <= 1.0


@pytest.mark.parametrize("extension", ["mp4", "mkv", "webm", "avi", "gif"])
def test_a_truncated_video_gives_what_could_be_read(media, tmp_path, extension):
    content = media.video(
        tmp_path / f"a.{extension}",
        seconds=6.0,
        audio=6.0,
        gop=10 if extension != "gif" else None,
        faststart=extension == "mp4",
    ).read_bytes()
    clip = read_clip(content[: len(content) * 6 // 10])
    assert len(clip.frames.times) >= 8
    assert 2.0 < clip.seconds < 5.0
    assert any("cut off" in warning or "damaged" in warning for warning in clip.warnings)


@pytest.mark.parametrize("extension", ["wav", "mp3", "flac", "ogg"])
def test_truncated_sound_gives_what_could_be_read(media, tmp_path, extension):
    content = media.wav(tmp_path / f"a.{extension}", seconds=4.0).read_bytes()
    clip = read_clip(content[: len(content) * 6 // 10])
    assert 1.5 < clip.audio.seconds < 3.0
    assert clip.warnings


@pytest.mark.parametrize("extension", ["jpg", "png"])
def test_a_truncated_picture_gives_its_upper_part(media, tmp_path, extension):
    noise = np.random.default_rng(0).integers(0, 60, (200, 200, 3), np.uint8)
    noise[:40] = RED
    content = media.image(tmp_path / f"a.{extension}", image=noise).read_bytes()
    clip = read_clip(content[: len(content) * 6 // 10])
    assert close(corner(clip.frames.images[0], "top left"), RED)
    assert any("cut off" in warning for warning in clip.warnings)


@pytest.mark.parametrize("extension", ["mp4", "m4a", "mkv", "jpg", "png", "webp", "gif", "flac"])
def test_a_file_with_nothing_to_read_is_a_clear_error(media, tmp_path, extension):
    path = tmp_path / f"a.{extension}"
    maker = (
        media.image
        if extension in ("jpg", "png", "webp")
        else media.wav
        if extension in ("m4a", "flac")
        else media.video
    )
    content = maker(path).read_bytes()[:48]
    with pytest.raises(UndecodableMediaError, match="decoded"):
        read_clip(content)


@pytest.mark.parametrize(
    "content",
    [b"", b"hello, this is a text", b"%PDF-1.7 ...", b"PK\x03\x04rest", b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n",
     b"ffconcat version 1.0\nfile /etc/passwd\n", b"\0\0\0\x18ftypheic\0\0\0\0", bytes(range(200)),
     b"RIFF\0\0\0\0ACON", b"<svg/>"],
)  # fmt: skip
def test_what_is_not_media_is_said_so(content):
    with pytest.raises(UnsupportedMediaError, match="mp4"):
        read_clip(content)


@pytest.mark.parametrize(
    ("limit", "value", "shown"),
    [("max_bytes", 1000, "bytes"), ("max_seconds", 1.0, "3"), ("max_pixels_per_frame", 5000, "96x72"),
     ("max_frames", 10, "30 frames"), ("max_streams", 1, "2 streams")],
)  # fmt: skip
def test_limits_name_themselves_and_the_value(media, tmp_path, limit, value, shown):
    path = media.video(tmp_path / "a.mp4", seconds=3.0, audio=3.0)
    with pytest.raises(MediaLimitError, match=limit) as caught:
        read_clip(path, limits=MediaLimits(**{limit: value}))
    assert shown in str(caught.value)
    assert f"{value:,.10g}" in str(caught.value)


def test_the_seconds_limit_holds_against_a_lying_header(media, tmp_path):
    content = bytearray(media.video(tmp_path / "a.mkv", seconds=4.0, audio=4.0).read_bytes())
    at = content.find(b"\x44\x89\x88")
    content[at + 3 : at + 11] = struct.pack(">d", 100.0)  # milliseconds
    with pytest.raises(MediaLimitError, match="max_seconds"):
        read_clip(bytes(content), limits=MediaLimits(max_seconds=2.0))


@pytest.mark.parametrize("extension", ["mp4", "mkv", "avi"])
def test_ten_thousand_frames_in_ten_seconds_are_no_clip(media, tmp_path, extension):
    grey = np.full((16, 16, 3), 90, np.uint8)
    path = media.video(tmp_path / f"a.{extension}", images=lambda index: grey, seconds=1.6, fps=1000)
    with pytest.raises(MediaLimitError, match="max_fps is 300"):
        read_clip(path)
    assert read_clip(path, limits=MediaLimits(max_fps=2000.0)).frames is not None
    fast = media.video(tmp_path / f"b.{extension}", images=lambda index: grey, seconds=4.0, fps=240)
    assert read_clip(fast).frames.times[-1] == pytest.approx(3.8, abs=0.05)


@pytest.mark.parametrize("extension", ["jpg", "png"])
def test_of_pictures_behind_one_another_the_first_is_read(media, tmp_path, extension):
    first = media.image(tmp_path / f"a.{extension}").read_bytes()
    second = media.image(tmp_path / f"b.{extension}", image=media.scene(3)).read_bytes()
    alone, together = read_clip(first), read_clip(first + b"," + second * 400, limits=MediaLimits(max_seconds=5.0))
    assert together.frames.is_still
    assert np.array_equal(alone.frames.images, together.frames.images)


def test_the_frames_limit_holds_where_none_are_declared(media, tmp_path):
    path = media.video(tmp_path / "a.gif", seconds=5.0)
    with pytest.raises(MediaLimitError, match="max_frames"):
        read_clip(path, limits=MediaLimits(max_frames=20))


@pytest.mark.parametrize("extension", ["jpg", "png", "webp", "gif"])
def test_a_pixel_bomb_is_refused_before_it_is_decoded(media, tmp_path, extension):
    if extension == "gif":
        content = media.video(tmp_path / "a.gif", seconds=0.2, width=320, height=200).read_bytes()
    else:
        content = media.image(tmp_path / f"a.{extension}", image=media.scene(0, width=320, height=200)).read_bytes()
    with pytest.raises(MediaLimitError, match=r"max_pixels_per_frame") as caught:
        read_clip(content, limits=MediaLimits(max_pixels_per_frame=60_000))
    assert "320x200" in str(caught.value)


def test_an_endless_pipe_is_not_read_past_the_limit():
    class Endless(io.RawIOBase):
        given = 0

        def readable(self):
            return True

        def seekable(self):
            return False

        def read(self, size=-1):
            assert 0 <= size <= 2000
            self.given += size
            return b"x" * size

    with pytest.raises(MediaLimitError, match="max_bytes"):
        read_clip(Endless(), limits=MediaLimits(max_bytes=1000))


def test_transcripts_are_carried(media, tmp_path):
    path = media.wav(tmp_path / "a.wav", seconds=0.2)
    assert read_clip(path, transcript=" so happy ").transcript == Transcript(text="so happy", source="given")
    assert read_clip(path, transcript="  ").transcript is None
    assert read_clip(path).transcript is None
    heard = Transcript(text="hi", segments=(TranscriptSegment(start=0.0, end=0.1, text="hi"),), source="asr")
    assert read_clip(path, transcript=heard).transcript is heard


@pytest.mark.parametrize("options", [{"fps": 0}, {"fps": 1000}, {"max_samples": 0}, {"max_long_side": 1}])
def test_arguments_are_checked(options):
    with pytest.raises(InputError, match=next(iter(options))):
        read_clip(b"", **options)


def test_a_missing_file_and_bad_limits_are_said(tmp_path):
    with pytest.raises(InputError, match="not a file"):
        read_clip(tmp_path / "nothing.mp4")
    with pytest.raises(InputError, match="max_seconds"):
        MediaLimits(max_seconds=0)
    assert dataclasses.replace(MediaLimits(), max_bytes=5).max_bytes == 5


def test_random_damage_never_gives_anything_but_our_errors(media, tmp_path, capfd):
    """Forty random mutations of ten formats: a clip or one of our errors, and nothing on stderr."""
    sources = [
        media.video(tmp_path / f"a.{e}", seconds=1.0, audio=1.0).read_bytes()
        for e in ("mp4", "mkv", "webm", "avi", "gif")
    ]
    sources += [media.wav(tmp_path / f"b.{e}").read_bytes() for e in ("mp3", "flac", "ogg")]
    sources += [media.image(tmp_path / f"c.{e}").read_bytes() for e in ("jpg", "png")]
    capfd.readouterr()
    generator = random.Random(7)
    for turn in range(40):
        content = bytearray(sources[turn % len(sources)])
        for _ in range(generator.choice((1, 5, 50))):
            content[generator.randrange(generator.choice((600, len(content))) % len(content) or 1)] = (
                generator.randrange(256)
            )
        if turn % 4 == 0:
            cut = generator.randrange(len(content))
            del content[cut : cut + generator.randrange(1, 2000)]
        try:
            clip = read_clip(bytes(content))
        except EmoLlamaError:
            continue
        assert clip.frames is not None or clip.audio is not None
        assert np.isfinite(clip.seconds)
        assert clip.seconds >= 0
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("extension", ["mp4", "mkv", "webm"])
@pytest.mark.parametrize(("start", "end"), [(0.5, 1.5), (3.0, 4.0), (4.2, None), (None, 0.8)])
def test_a_stretch_is_read_as_if_it_were_the_clip(tmp_path, media, extension, start, end):
    whole = read_clip(media.video(tmp_path / f"a.{extension}", seconds=5.0, audio=5.0, gop=7), fps=10)
    part = read_clip(tmp_path / f"a.{extension}", fps=10, start=start, end=end)
    first, last = start or 0.0, 5.0 if end is None else end
    assert part.seconds == pytest.approx(last - first, abs=0.12)
    assert part.frames is not None
    assert whole.frames is not None
    assert part.frames.times[0] == pytest.approx(0.0, abs=0.06)
    inside = (whole.frames.times >= first - 0.05) & (whole.frames.times < last - 0.001)
    assert len(part.frames.times) == pytest.approx(inside.sum(), abs=1)
    assert part.frames.times.max() < last - first
    shade = [image[-10, -10].mean() for image in part.frames.images]  # the scene's corner brightens with time
    expected = [image[-10, -10].mean() for image in whole.frames.images[inside]]
    assert shade[0] == pytest.approx(expected[0], abs=12)
    assert shade[-1] == pytest.approx(expected[-1], abs=12)
    assert part.audio is not None
    assert part.audio.start + part.audio.seconds == pytest.approx(last - first, abs=0.1)


def test_a_stretch_of_a_sound_file_is_cut_to_the_sample(tmp_path, media):
    samples = np.linspace(-0.5, 0.5, 32_000).astype(np.float32)
    clip = read_clip(media.wav(tmp_path / "a.wav", samples=samples), start=0.5, end=1.25)
    assert clip.seconds == pytest.approx(0.75)
    assert np.allclose(clip.audio.samples, samples[8_000:20_000], atol=1e-3)


def test_a_stretch_has_the_limit_on_seconds_for_itself(tmp_path, media):
    path = media.wav(tmp_path / "a.wav", seconds=6.0)
    limits = MediaLimits(max_seconds=2.0)
    with pytest.raises(MediaLimitError, match="max_seconds"):
        read_clip(path, limits=limits)
    assert read_clip(path, limits=limits, start=3.0, end=4.5).seconds == pytest.approx(1.5)


@pytest.mark.parametrize(("start", "end"), [(1.0, 1.0), (2.0, 1.0), (-1.0, None)])
def test_a_stretch_that_is_none_is_refused(tmp_path, media, start, end):
    with pytest.raises(InputError, match="start is"):
        read_clip(media.wav(tmp_path / "a.wav"), start=start, end=end)


def test_a_stretch_after_the_end_is_refused(tmp_path, media):
    with pytest.raises(UndecodableMediaError, match="begins at 9 s"):
        read_clip(media.video(tmp_path / "a.mp4"), start=9.0)
