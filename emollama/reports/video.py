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
from typing import Any, Literal

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from emollama import pixels, sniff
from emollama.demux import choose_audio, choose_video, open_container, open_source
from emollama.errors import DependencyError, InputError, UndecodableMediaError
from emollama.face_detectors import FaceDetector, default_detector, overlap
from emollama.media import MediaLimits, sniff_source
from emollama.reports.marking import Marks, blur
from emollama.types import Box
from emollama.watch import Check, unwatched

Voice = Literal["keep", "change", "mute"]
VOICES: tuple[Voice, ...] = ("keep", "change", "mute")
_HOLD_SECONDS = 0.4  # a found face covers its place so long before and after
_BRIDGE_SECONDS = 1.5  # and between two finds of the same face
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
    options, limits = options or VideoOptions(), limits or MediaLimits()
    tell = progress or (lambda share: None)
    partial = target.with_name(f".{target.name}.partial")
    try:
        covers = None
        if options.blur:
            found = _faces(source, detector or default_detector(), limits, lambda s: tell(0.5 * s), check)
            covers = _covers(*found)
        start = 0.5 if options.blur else 0.0
        with av.open(str(partial), "w", format="mp4", options={"movflags": "+faststart"}) as out:
            _write(
                out, source, Marks(document) if options.marks else None, covers, options.voice, limits,
                lambda share: tell(start + (1 - start) * share), check,
            )  # fmt: skip
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


# ---- reading ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Picture:
    time: float
    image: np.ndarray
    share: float


class _Source:
    """A clip's container, opened under the limits; pictures come upright and in the size that boxes are measured in."""

    def __init__(self, path: Path, limits: MediaLimits) -> None:
        self._limits = limits
        with ExitStack() as opened:
            file = opened.enter_context(open_source(path))
            limits.check("max_bytes", path.stat().st_size, unit="bytes")
            media_type, head = sniff_source(file, limits=limits)
            if media_type.family == "image":
                raise InputError(f"{path.name} is a still picture; a video is written of videos only", field="source")
            self._exif = sniff.exif_orientation(head)
            self.container = opened.enter_context(open_container(sniff.mended(file, media_type), media_type, limits))
            self.video, self.audio = choose_video(self.container), choose_audio(self.container)
            if self.video is None:
                raise InputError(f"{path.name} has no video to write", field="source")
            used = [stream for stream in (self.video, self.audio) if stream is not None]
            starts = [s.start_time * s.time_base for s in used if s.start_time is not None and s.time_base is not None]
            self.origin = float(min(starts, default=0))
            self.seconds = max(0.04, (self.container.duration or 0) / av.time_base)
            self._opened = opened.pop_all()

    def close(self) -> None:
        self._opened.close()

    def picture(self, frame: VideoFrame, last: float) -> _Picture | None:
        """Return a decoded frame as a picture; ``None`` when it does not come after ``last`` seconds."""
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


def _pictures(path: Path, limits: MediaLimits) -> Iterator[_Picture]:
    source = _Source(path, limits)
    try:
        assert source.video is not None
        last = -1.0
        for number, frame in enumerate(source.container.decode(source.video), start=1):
            limits.check("max_frames", number, unit="frames")
            if (picture := source.picture(frame, last)) is not None:
                last = picture.time
                yield picture
    except av.FFmpegError as error:
        raise UndecodableMediaError(f"{path.name} cannot be read to its end: {error}", field="source") from error
    finally:
        source.close()


# ---- faces to cover -----------------------------------------------------------------------------------------------


def _faces(
    path: Path, detector: FaceDetector, limits: MediaLimits, tell: Callable[[float], None],
    check: Check,
) -> tuple[list[float], list[list[Box]]]:  # fmt: skip
    times: list[float] = []
    boxes: list[list[Box]] = []
    for picture in _pictures(path, limits):
        check()
        times.append(picture.time)
        boxes.append([hit.box for hit in detector.detect(picture.image, thorough=True)])
        tell(picture.share)
    return times, boxes


def _covers(times: list[float], found: list[list[Box]]) -> list[list[Box]]:
    """Return what to blur in each picture: what was found there, around it, and between two finds of one face."""
    covers = [list(boxes) for boxes in found]
    last: list[tuple[int, Box]] = []  # where each face was seen most lately
    for index, boxes in enumerate(found):
        for box in boxes:
            _hold(covers, times, index, box)
            earlier = [entry for entry in last if overlap(entry[1], box) > 0.1]
            for before, start in earlier:
                if times[index] - times[before] <= _BRIDGE_SECONDS:
                    _bridge(covers, times, (before, start), (index, box))
            last = [entry for entry in last if entry not in earlier]
            last.append((index, box))
        last = [entry for entry in last if times[index] - times[entry[0]] <= _BRIDGE_SECONDS]
    return covers


def _hold(covers: list[list[Box]], times: list[float], index: int, box: Box) -> None:
    for step in (-1, 1):
        other = index + step
        while 0 <= other < len(times) and abs(times[other] - times[index]) <= _HOLD_SECONDS:
            if all(overlap(box, known) < 0.7 for known in covers[other]):
                covers[other].append(box)
            other += step


def _bridge(covers: list[list[Box]], times: list[float], first: tuple[int, Box], last: tuple[int, Box]) -> None:
    for index in range(first[0] + 1, last[0]):
        share = (times[index] - times[first[0]]) / (times[last[0]] - times[first[0]])
        ends = [np.array([box.x, box.y, box.width, box.height]) for box in (first[1], last[1])]
        x, y, width, height = (float(value) for value in (1 - share) * ends[0] + share * ends[1])
        covers[index].append(Box(x=x, y=y, width=width, height=height))


# ---- writing ------------------------------------------------------------------------------------------------------


def _write(
    out: OutputContainer, path: Path, marks: Marks | None, covers: list[list[Box]] | None, voice: Voice,
    limits: MediaLimits, tell: Callable[[float], None], check: Check,
) -> None:  # fmt: skip
    source = _Source(path, limits)
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
        raise UndecodableMediaError(f"{path.name} cannot be read to its end: {error}", field="source") from error
    finally:
        source.close()
    if number == 0:
        raise UndecodableMediaError(f"{path.name} holds no picture that can be decoded", field="source")
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
