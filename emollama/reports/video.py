"""A clip written anew: boxes and what faces appear to express over the pictures; faces blurred, voices changed.

Faces are looked for in every picture before one is blurred, and what was found is kept over the pictures around it, so
that a face which the detector loses for a moment stays covered. What no detector sees is not covered: look at the video
before you pass it on. The file is made from nothing but pictures and sound: what the container said of place, device
and time is not in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, Literal

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from emollama import pixels, sniff
from emollama.demux import choose_audio, choose_video, open_container, open_source
from emollama.errors import DependencyError, InputError, UndecodableMediaError
from emollama.face_detectors import FaceDetector, default_detector, eager_detector
from emollama.media import MediaLimits, sniff_source
from emollama.reports.covering import Covering
from emollama.reports.marking import Marks, blur
from emollama.types import Box
from emollama.watch import Check, unwatched

Voice = Literal["keep", "change", "mute"]
VOICES: tuple[Voice, ...] = ("keep", "change", "mute")
_MAX_LONG_SIDE = 1280  # what boxes are measured in (`emollama.media.read_clip`)
_PITCH = 0.78  # a voice is lowered by this factor, formants with it: about four semitones


@dataclass(frozen=True, kw_only=True)
class VideoOptions:
    """How a clip is written: with boxes and captions (``marks``), with every found face blurred, with which sound."""

    marks: bool = True
    blur: bool = False
    voice: Voice = "keep"

    def __post_init__(self) -> None:
        if self.voice not in VOICES:
            raise InputError(f"voice is {self.voice!r}; allowed: {', '.join(VOICES)}", field="voice")


def write_video(
    source: Path,
    document: Mapping[str, Any],
    target: Path,
    options: VideoOptions | None = None,
    *,
    detector: FaceDetector | None = None,
    limits: MediaLimits | None = None,
    progress: Callable[[float], None] | None = None,
    check: Check = unwatched,
) -> None:
    """Write the clip of an analysis (in its wire form) as ``target``, H.264 and AAC in MP4.

    ``progress`` is told the share that is done, 0 to 1. ``target`` appears when it is whole. Raises `InputError` where
    the clip has no video, `MediaError` as `read_clip` does, and what ``check``, called for every picture,
    raises.
    """
    partial = target.with_name(f".{target.name}.partial")
    try:
        encode_video(
            source, document, partial, options, detector=detector, limits=limits, progress=progress, check=check
        )
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def encode_video(
    source: Path,
    document: Mapping[str, Any],
    out: Path | BinaryIO,
    options: VideoOptions | None = None,
    *,
    name: str | None = None,
    detector: FaceDetector | None = None,
    limits: MediaLimits | None = None,
    progress: Callable[[float], None] | None = None,
    check: Check = unwatched,
) -> None:
    """Write what `write_video` writes, on its way: into a path, or a file that is open and can be sought in.

    In a path the index comes first, so that a browser plays what it has not loaded to its end. ``name`` is what errors
    call the clip.
    """
    options, limits = options or VideoOptions(), limits or MediaLimits()
    called = name or source.name
    tell = progress or (lambda share: None)
    marks = Marks(document)
    covers, start = None, 0.0
    if options.blur:
        covering = Covering(
            detector or default_detector(),
            eager=eager_detector() if detector is None else None,
            followed=lambda time: [box for _, box in marks.boxes(time)],
        )
        for picture in _pictures(source, called, limits):
            check()
            covering.look(picture.image, picture.time)
            tell(0.5 * picture.share)
        covers, start = covering.covers(), 0.5
    file, flags = (str(out), {"movflags": "+faststart"}) if isinstance(out, Path) else (out, {})
    with av.open(file, "w", format="mp4", options=flags) as container:
        _write(
            container, _Source(source, called, limits), marks if options.marks else None, covers, options.voice,
            lambda share: tell(start + (1 - start) * share), check,
        )  # fmt: skip


# ---- reading ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Picture:
    time: float
    image: np.ndarray
    share: float


class _Source:
    """A clip's container, opened under the limits; pictures come upright and in the size that boxes are measured in."""

    def __init__(self, path: Path, name: str, limits: MediaLimits) -> None:
        self.name, self._limits, self._num_frames = name, limits, 0
        with ExitStack() as opened:
            file = opened.enter_context(open_source(path))
            limits.check("max_bytes", path.stat().st_size, unit="bytes")
            media_type, head = sniff_source(file, limits=limits)
            if media_type.family == "image":
                raise InputError(f"{name} is a still picture; a video is written of videos only", field="source")
            self._exif = sniff.exif_orientation(head)
            self.container = opened.enter_context(open_container(sniff.mended(file, media_type), media_type, limits))
            self.video, self.audio = choose_video(self.container), choose_audio(self.container)
            if self.video is None:
                raise InputError(f"{name} has no video to write", field="source")
            used = [stream for stream in (self.video, self.audio) if stream is not None]
            starts = [s.start_time * s.time_base for s in used if s.start_time is not None and s.time_base is not None]
            self.origin = float(min(starts, default=0))
            self.seconds = max(0.04, (self.container.duration or 0) / av.time_base)
            self._opened = opened.pop_all()

    def close(self) -> None:
        self._opened.close()

    def cut_short(self, error: av.FFmpegError) -> UndecodableMediaError:
        return UndecodableMediaError(f"{self.name} cannot be read to its end: {error.strerror}", field="source")

    def picture(self, frame: VideoFrame, last: float) -> _Picture | None:
        """Return a decoded frame as a picture; ``None`` when it does not come after ``last`` seconds."""
        self._num_frames += 1
        self._limits.check("max_frames", self._num_frames, unit="frames")
        time = last + 0.04 if frame.time is None else frame.time - self.origin
        self._limits.check("max_seconds", time, unit="seconds")
        if time <= last:
            return None
        assert self.video is not None
        aspect = self.video.sample_aspect_ratio
        image = pixels.upright_rgb(
            frame, pixel_aspect=float(aspect) if aspect else 1.0, max_long_side=_MAX_LONG_SIDE,
            exif_orientation=self._exif,
        )  # fmt: skip
        return _Picture(time=time, image=image, share=min(1.0, time / self.seconds))


def _pictures(path: Path, name: str, limits: MediaLimits) -> Iterator[_Picture]:
    source = _Source(path, name, limits)
    try:
        assert source.video is not None
        last = -1.0
        for frame in source.container.decode(source.video):
            if (picture := source.picture(frame, last)) is not None:
                last = picture.time
                yield picture
    except av.FFmpegError as error:
        raise source.cut_short(error) from error
    finally:
        source.close()


# ---- writing ------------------------------------------------------------------------------------------------------


def _write(
    out: OutputContainer, source: _Source, marks: Marks | None, covers: list[list[Box]] | None, voice: Voice,
    tell: Callable[[float], None], check: Check,
) -> None:  # fmt: skip
    """Write a clip's pictures and sound; closes ``source``."""
    try:
        assert source.video is not None
        pictures = _PictureWriter(out, source.video)
        sound = None if voice == "mute" or source.audio is None else _SoundWriter(out, source.audio, voice)
        last, number = -1.0, 0
        streams: list[VideoStream | AudioStream] = [source.video]
        if sound is not None and source.audio is not None:
            streams.append(source.audio)
        for frame in source.container.decode(*streams):
            check()
            if not isinstance(frame, VideoFrame):
                if sound is not None and isinstance(frame, av.AudioFrame):
                    sound.write(frame, source.origin)
                continue
            if (picture := source.picture(frame, last)) is None:
                continue
            last = picture.time
            if covers is not None:
                # The same file is decoded the same way twice; were it not, the last known places stay covered.
                blur(picture.image, covers[min(number, len(covers) - 1)] if covers else ())
            if marks is not None:
                marks.draw(picture.image, picture.time)
            pictures.write(picture)
            number += 1
            tell(picture.share)
        pictures.end()
        if sound is not None:
            sound.end()
    except av.FFmpegError as error:
        raise source.cut_short(error) from error
    finally:
        source.close()
    if number == 0:
        raise UndecodableMediaError(f"{source.name} holds no picture that can be decoded", field="source")
    tell(1.0)


class _PictureWriter:
    def __init__(self, out: OutputContainer, video: VideoStream) -> None:
        if "libx264" not in av.codecs_available:
            raise DependencyError("this build of PyAV cannot write H.264; install the wheel `av` from PyPI")
        self._out, self._rate = out, video.average_rate or Fraction(25)
        self._stream = out.add_stream("libx264", rate=self._rate, options={"crf": "20", "preset": "veryfast"})
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = Fraction(1, 90_000)
        self._size: tuple[int, int] | None = None

    def write(self, picture: _Picture) -> None:
        image = picture.image
        if self._size is None:
            self._size = (image.shape[0] - image.shape[0] % 2, image.shape[1] - image.shape[1] % 2)
            self._stream.height, self._stream.width = self._size
        height, width = self._size
        if image.shape[0] < height or image.shape[1] < width:
            fitted = np.zeros((height, width, 3), np.uint8)
            part = image[:height, :width]
            fitted[: part.shape[0], : part.shape[1]] = part
            image = fitted
        frame = VideoFrame.from_ndarray(np.ascontiguousarray(image[:height, :width]), format="rgb24")
        frame.pts, frame.time_base = round(picture.time * 90_000), Fraction(1, 90_000)
        self._out.mux(self._stream.encode(frame))

    def end(self) -> None:
        if self._size is not None:
            self._out.mux(self._stream.encode(None))


class _SoundWriter:
    """Sound as AAC; a voice is changed by playing it lower and as fast as before, which moves its formants too."""

    def __init__(self, out: OutputContainer, audio: AudioStream, voice: Voice) -> None:
        self._out = out
        self._rate = 48_000
        self._stream = out.add_stream("aac", rate=self._rate, layout="mono" if audio.channels == 1 else "stereo")
        self._resampler = av.AudioResampler(format="fltp", layout=self._stream.layout.name, rate=self._rate)
        self._graph = self._changed() if voice == "change" else None
        self._next: int | None = None  # where the next samples belong, counted from the clip's start

    def _changed(self) -> av.filter.Graph:
        graph = av.filter.Graph()
        layout = self._stream.layout.name
        nodes = [
            graph.add_abuffer(sample_rate=self._rate, format="fltp", layout=layout, time_base=Fraction(1, self._rate)),
            graph.add("asetrate", str(round(self._rate * _PITCH))),
            graph.add("aresample", str(self._rate)),
            graph.add("atempo", f"{1 / _PITCH:.6f}"),
            graph.add("aformat", f"sample_fmts=fltp:sample_rates={self._rate}:channel_layouts={layout}"),
            graph.add("abuffersink"),
        ]
        for first, second in pairwise(nodes):
            first.link_to(second)
        graph.configure()
        return graph

    def write(self, frame: av.AudioFrame, origin: float) -> None:
        if self._next is None:
            self._next = 0 if frame.time is None else max(0, round((frame.time - origin) * self._rate))
        self._take(frame)

    def end(self) -> None:
        self._take(None)
        if self._graph is not None:
            self._graph.push(None)
            self._drain()
        self._out.mux(self._stream.encode(None))

    def _take(self, frame: av.AudioFrame | None) -> None:
        for plain in self._resampler.resample(frame):
            if self._graph is None:
                self._encode(plain)
            else:
                plain.pts = None
                self._graph.push(plain)
                self._drain()

    def _drain(self) -> None:
        assert self._graph is not None
        while True:
            try:
                frame = self._graph.pull()
            except (av.BlockingIOError, av.EOFError):
                return
            assert isinstance(frame, av.AudioFrame)
            self._encode(frame)

    def _encode(self, frame: av.AudioFrame) -> None:
        assert self._next is not None
        frame.pts, frame.time_base = self._next, Fraction(1, self._rate)
        self._next += frame.samples
        self._out.mux(self._stream.encode(frame))
