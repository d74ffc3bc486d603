"""Stand-ins for any test file: small synthetic media, encoded on the spot by PyAV, and a chat endpoint on localhost."""

from __future__ import annotations

import functools
import io
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

# Container -> (video codec, audio codec) that this build of FFmpeg can write and that people really use there.
CODECS = {
    "mp4": ("libx264", "aac"),
    "mov": ("libx264", "aac"),
    "mkv": ("libx264", "flac"),
    "webm": ("libvpx", "libopus"),
    "avi": ("mpeg4", "mp3"),
    "gif": ("gif", None),
}
AUDIO_CODECS = {"wav": "pcm_s16le", "mp3": "libmp3lame", "m4a": "aac", "flac": "flac", "ogg": "libopus"}


def scene(index: int, *, width: int = 96, height: int = 72) -> np.ndarray:
    """[H, W, 3] uint8: red upper left, green upper right, blue lower left, a brightening grey lower right."""
    image = np.zeros((height, width, 3), np.uint8)
    image[: height // 2, : width // 2] = (220, 30, 30)
    image[: height // 2, width // 2 :] = (30, 220, 30)
    image[height // 2 :, : width // 2] = (30, 30, 220)
    image[height // 2 :, width // 2 :] = min(250, 10 + 8 * index)
    return image


def tone(seconds: float, *, sample_rate: int = 16_000, hz: float = 220.0, level: float = 0.3) -> np.ndarray:
    """[S] float32 sine."""
    return (level * np.sin(2 * np.pi * hz * np.arange(round(seconds * sample_rate)) / sample_rate)).astype(np.float32)


def make_video(
    path: Path | io.BytesIO,
    *,
    format: str | None = None,
    seconds: float = 1.0,
    fps: int = 10,
    width: int = 96,
    height: int = 72,
    images: Sequence[np.ndarray] | Callable[[int], np.ndarray] | None = None,
    times: Sequence[float] | None = None,
    audio: np.ndarray | float | None = None,
    sample_rate: int = 16_000,
    codec: str | None = None,
    pix_fmt: str | None = None,
    gop: int | None = None,
    rotate: int | None = None,
    hflip: bool = False,
    pixel_aspect: Fraction | None = None,
    start: float = 0.0,
    color: tuple[int, int] | None = None,
    faststart: bool = False,
) -> Path | io.BytesIO:
    """Write a video of `scene` pictures (or ``images`` [H, W, 3]), with sound when ``audio`` is samples or seconds.

    ``times`` gives every picture its own time stamp; ``rotate``/``hflip`` set the display matrix; ``color`` is the
    H.273 pair (primaries, transfer); ``start`` shifts all time stamps.
    """
    extension = format or (path.suffix[1:] if isinstance(path, Path) else "mp4")
    video_codec, audio_codec = CODECS[extension]
    muxer = {"mkv": "matroska"}.get(extension, extension)
    options = {"movflags": "faststart"} if faststart else {}
    count = len(times) if times is not None else (len(images) if isinstance(images, Sequence) else round(seconds * fps))
    with av.open(str(path) if isinstance(path, Path) else path, "w", format=muxer, options=options) as container:
        name = codec or video_codec
        settings = {
            "libx264": {"preset": "ultrafast"},
            "libx265": {"preset": "ultrafast", "x265-params": "log-level=none"},
            "libvpx": {"deadline": "realtime", "cpu-used": "8"},
        }
        stream = container.add_stream(name, rate=fps, options=dict(settings.get(name, {})))
        first = _picture(images, 0, width, height)
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = pix_fmt or {"gif": "rgb8", "mjpeg": "yuvj420p"}.get(name, "yuv420p")
        stream.codec_context.time_base = stream.time_base = Fraction(1, 1000) if times is not None else Fraction(1, fps)
        if gop is not None:
            stream.codec_context.gop_size = gop
        if pixel_aspect is not None:
            stream.codec_context.sample_aspect_ratio = pixel_aspect
        if color is not None:
            stream.codec_context.color_primaries, stream.codec_context.color_trc = color
        if rotate is not None or hflip:
            stream.set_display_rotation(rotate or 0, hflip=hflip)
        samples = tone(audio, sample_rate=sample_rate) if isinstance(audio, (int, float)) else audio
        sound = None
        if samples is not None and audio_codec is not None:
            sound = container.add_stream(audio_codec, rate=48_000 if audio_codec == "libopus" else sample_rate)
            sound.layout = "mono"
        for index in range(count):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(_picture(images, index, width, height)), "rgb24")
            time = start + (times[index] if times is not None else index / fps)
            frame.time_base = stream.codec_context.time_base
            frame.pts = round(time / frame.time_base)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if sound is not None and samples is not None:
            _encode_sound(container, sound, samples, sample_rate, start=start)
    return path


def make_wav(
    path: Path | io.BytesIO,
    *,
    samples: np.ndarray | None = None,
    seconds: float = 1.0,
    sample_rate: int = 16_000,
    channels: int = 1,
    format: str | None = None,
    cover: np.ndarray | None = None,
) -> Path | io.BytesIO:
    """Write a sound file; the suffix chooses wav, mp3, m4a, flac or ogg. ``cover`` [H, W, 3] is embedded."""
    extension = format or (path.suffix[1:] if isinstance(path, Path) else "wav")
    muxer = {"m4a": "ipod"}.get(extension, extension)
    codec = AUDIO_CODECS[extension]
    mono = tone(seconds, sample_rate=sample_rate) if samples is None else samples
    with av.open(str(path) if isinstance(path, Path) else path, "w", format=muxer) as container:
        stream = container.add_stream(codec, rate=48_000 if codec == "libopus" else sample_rate)
        stream.layout = "mono" if channels == 1 else "stereo"
        picture = None
        if cover is not None:
            picture = container.add_stream("mjpeg" if extension == "m4a" else "png", rate=1)
            picture.height, picture.width = cover.shape[:2]
            picture.pix_fmt = "yuvj420p" if extension == "m4a" else "rgb24"
            picture.disposition = av.stream.Disposition.attached_pic
            container.mux(picture.encode(av.VideoFrame.from_ndarray(cover, "rgb24")))
            container.mux(picture.encode())
        _encode_sound(container, stream, mono, sample_rate, channels=channels)
    return path


def make_image(
    path: Path | io.BytesIO, *, image: np.ndarray | None = None, format: str | None = None
) -> Path | io.BytesIO:
    """Write one picture, [H, W, 3] or [H, W, 4] uint8 (default: `scene`), as jpg, png or webp."""
    extension = format or (path.suffix[1:] if isinstance(path, Path) else "png")
    picture = scene(0) if image is None else image
    layout = "rgba" if picture.shape[2] == 4 else "rgb24"
    codec, pix_fmt = {"jpg": ("mjpeg", "yuvj444p"), "png": ("png", layout), "webp": ("libwebp", "yuv420p")}[extension]
    context = av.CodecContext.create(codec, "w")
    context.height, context.width, context.pix_fmt, context.time_base = *picture.shape[:2], pix_fmt, Fraction(1, 25)
    if codec == "mjpeg":
        context.options = {"q": "2"}
        context.color_range = 2
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), layout).reformat(format=pix_fmt)
    content = b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])
    if isinstance(path, Path):
        path.write_bytes(content)
    else:
        path.write(content)
        path.seek(0)
    return path


def make_long_video(
    path: Path,
    *,
    seconds: float,
    fps: int = 2,
    images: Callable[[int], np.ndarray] | None = None,
    samples: np.ndarray | None = None,
    audio_seconds: float | None = None,
    sample_rate: int = 8_000,
) -> Path:
    """Write a video as a camera does, picture and sound side by side in the file, and quickly; ``samples`` are looped.

    Without ``samples`` the sound is a tone, without ``images`` the picture is `scene`. ``audio_seconds`` is for sound
    that is shorter or longer than the picture; 0 is none.
    """
    loop = tone(10.0, sample_rate=sample_rate) if samples is None else np.asarray(samples, np.float32)
    with av.open(str(path), "w", format={".mkv": "matroska"}.get(path.suffix, path.suffix[1:])) as container:
        picture = images(0) if images else scene(0)
        stream = container.add_stream("libx264", rate=fps, options={"preset": "ultrafast"})
        stream.height, stream.width = picture.shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, fps)
        until = round((seconds if audio_seconds is None else audio_seconds) * sample_rate)
        sound = None
        if until:
            sound = container.add_stream("flac" if path.suffix == ".mkv" else "aac", rate=sample_rate)
            sound.layout = "mono"
            name = sound.codec_context.format.name
        done, block, end = 0, 1024, max(round(seconds * fps), -(-until * fps // sample_rate))
        for index in range(end):
            if index < round(seconds * fps):
                image = images(index) if images else scene(index % 30)
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "rgb24")
                frame.time_base, frame.pts = stream.codec_context.time_base, index
                container.mux(stream.encode(frame))
            while sound is not None and done < min(until, (index + 1) * sample_rate // fps):
                piece = np.take(loop, np.arange(done, done + block), mode="wrap")[None]
                if name == "s16":
                    piece = np.round(piece * 32767).astype(np.int16)
                heard = av.AudioFrame.from_ndarray(np.ascontiguousarray(piece), name, "mono")
                heard.sample_rate, heard.time_base, heard.pts = sample_rate, Fraction(1, sample_rate), done
                container.mux(sound.encode(heard))
                done += block
        container.mux(stream.encode())
        if sound is not None:
            container.mux(sound.encode())
    return path


@pytest.fixture(scope="session")
def long_video() -> Callable[..., Path]:
    """``long_video(path, seconds=...)``, see `make_long_video`."""
    return make_long_video


def _picture(
    images: Sequence[np.ndarray] | Callable[[int], np.ndarray] | None, index: int, width: int, height: int
) -> np.ndarray:
    if images is None:
        return scene(index, width=width, height=height)
    return images(index) if callable(images) else images[index]


def _encode_sound(
    container: av.container.OutputContainer, stream: av.AudioStream, samples: np.ndarray, sample_rate: int,
    *, channels: int = 1, start: float = 0.0,
) -> None:  # fmt: skip
    layout = "mono" if channels == 1 else "stereo"
    planar = np.repeat(np.asarray(samples, np.float32)[None], channels, axis=0)
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(planar), "fltp", layout)
    frame.sample_rate, frame.time_base, frame.pts = sample_rate, Fraction(1, sample_rate), round(start * sample_rate)
    context = stream.codec_context
    resampler = av.AudioResampler(context.format, layout, stream.rate, context.frame_size or None)
    for piece in [*resampler.resample(frame), *resampler.resample(None)]:
        container.mux(stream.encode(piece))
    container.mux(stream.encode())


@pytest.fixture
def media() -> type:
    """The factories as one object: ``media.video(path, ...)``, ``media.wav(...)``, ``media.image(...)``."""

    class Media:
        video = staticmethod(make_video)
        wav = staticmethod(make_wav)
        image = staticmethod(make_image)
        scene = staticmethod(scene)
        tone = staticmethod(tone)

    return Media


def answer_of(text: str, **more: Any) -> dict[str, Any]:
    """The body of a chat completion."""
    return {
        "model": "fake-1",
        "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 50},
        **more,
    }


@dataclass
class FakeEndpoint:
    """Answers by ``reply(body, number of the request)`` -> (status, headers, body as dict or raw text)."""

    url: str = ""
    reply: Callable[[dict[str, Any], int], tuple[int, dict[str, str], Any]] = lambda body, n: (200, {}, answer_of("x"))
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)


@pytest.fixture
def endpoint() -> Iterator[FakeEndpoint]:
    fake = FakeEndpoint()
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                fake.bodies.append(body)
                fake.headers.append(dict(self.headers))
                fake.paths.append(self.path)
                number = len(fake.bodies)
            status, headers, content = fake.reply(body, number)
            raw = (content if isinstance(content, str) else json.dumps(content)).encode()
            try:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)
            except OSError:
                pass  # the client has given up, as some tests want

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    fake.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    yield fake
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def completion() -> Callable[..., dict[str, Any]]:
    return answer_of


@pytest.fixture(scope="session")
def tiny_preset(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``tiny_preset("emollama-8b")``: a model folder of that preset at debug size, with random weights."""

    @functools.cache
    def make(name: str) -> Path:
        from emollama.adapter import AdapterInfo
        from emollama.presets import build, debug_digest

        built = build(name, debug=True)
        folder = tmp_path_factory.mktemp("presets") / f"tiny-{name}"
        folder.mkdir()
        built.model.save_projectors(folder / "projectors.safetensors")
        info = AdapterInfo(base=name, base_sha256=debug_digest(built.config), labels=("happy", "sad", "fed up"))
        info.save(folder)
        return folder

    return make
