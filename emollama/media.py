"""Any clip -> `Clip`: upright RGB frames at a chosen rate and mono 16 kHz sound, through PyAV (FFmpeg).

The container is told from its bytes (`emollama.sniff`) and opened from memory or an open file with exactly that
demuxer; nothing that the file names is ever opened. Limits hold before decoding, from what the file declares, and again
while decoding, from what it really holds. Frames that are not wanted are not converted, those that nothing refers to
are not decoded, and when samples lie far apart only key frames are. A damaged file gives what could be read and a
warning. What it does not do: subtitles, chapters, more than one video and one sound track, encryption.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn

import av
import av.error
import numpy as np
from av import AudioFrame, AudioResampler, Packet, VideoFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.video.stream import VideoStream

from emollama import pixels, sniff
from emollama.errors import InputError, MediaLimitError, UndecodableMediaError
from emollama.types import Audio, Clip, Frames, Transcript

SAMPLE_RATE = 16_000
DEFAULT_FPS = 5.0
_MEMORY_FOR_FRAMES = 384 * 2**20  # bytes of kept RGB; longer clips at the sampling cap are kept smaller, not shorter
_SEEK_FROM_SECONDS = 2.0  # a stretch that begins later is sought, one that begins earlier is decoded up to
_REORDERED_SECONDS = 1.0  # pictures may lie this far from their place in the file
_BURST_FRAMES = 900  # so many pictures say nothing yet about a file's rate
_KEYFRAMES_ONLY_FROM_SECONDS = 1.0  # samples at least this far apart may be taken from key frames alone

# What PyAV raises for damaged input, besides FFmpeg's own errors: zero time bases, impossible sizes, bad text, a
# stream whose parameters change under the resampler, our refusal to open anything else.
_DAMAGE = (
    av.error.FFmpegError,
    ValueError,
    ArithmeticError,
    AttributeError,
    RuntimeError,
    MemoryError,
    PermissionError,
)


@dataclass(frozen=True, kw_only=True)
class MediaLimits:
    """What one clip may cost. ``max_frames`` counts all pictures in the video track, wanted or not.

    ``max_fps`` is above what any camera writes and holds from some hundred pictures on: a file that packs more of them
    into its seconds was made to be dear.
    """

    max_bytes: int = 200 * 10**6
    max_seconds: float = 600.0
    max_pixels_per_frame: int = 4096 * 2304
    max_frames: int = 72_000
    max_fps: float = 300.0
    max_streams: int = 16

    def __post_init__(self) -> None:
        for field in ("max_bytes", "max_seconds", "max_pixels_per_frame", "max_frames", "max_fps", "max_streams"):
            value = getattr(self, field)
            if not value > 0:
                raise InputError(f"{field} is {value!r}; it must be above 0", field=field)

    def check(self, limit: str, value: float, *, unit: str) -> None:
        """Raise `MediaLimitError` when ``value`` is over the limit called ``limit``."""
        allowed = getattr(self, limit)
        if value > allowed:
            raise MediaLimitError(f"the file has {value:,.10g} {unit}; {limit} is {allowed:,.10g}", field="file")


def read_clip(
    source: Path | str | bytes | BinaryIO,
    *,
    name: str | None = None,
    fps: float = DEFAULT_FPS,
    max_samples: int = 240,
    max_long_side: int = 1280,
    limits: MediaLimits = MediaLimits(),
    transcript: str | Transcript | None = None,
    threads: int | None = None,
    start: float | None = None,
    end: float | None = None,
) -> Clip:
    """Decode a clip from a path, its bytes, or an open binary file (read from its start, left open).

    ``fps`` is the rate at which frames are kept; over ``max_samples`` of them, the clip is sampled more thinly instead
    of cut. With ``start`` and ``end`` (seconds) only that stretch is decoded, its times count from ``start``, and
    ``max_seconds`` holds for the stretch.
    Raises `UnsupportedMediaError` (not media), `UndecodableMediaError` (nothing to read), `MediaLimitError`
    (names the limit and the value), `InputError` (arguments, no such file).
    """
    if not 0.1 <= fps <= 60:
        raise InputError(f"fps is {fps}; allowed: 0.1 to 60", field="fps")
    if max_samples < 1 or max_long_side < 16:
        raise InputError(
            f"max_samples is {max_samples} and max_long_side {max_long_side}; allowed: from 1 and from 16",
            field="max_samples" if max_samples < 1 else "max_long_side",
        )
    window = None
    if start is not None or end is not None:
        window = (start or 0.0, math.inf if end is None else end)
        if not (0.0 <= window[0] < window[1]):
            raise InputError(f"start is {start} and end {end}; allowed: 0 or more, and an end after it", field="end")
    if isinstance(source, (str, Path)):
        path = Path(source)
        if not path.is_file():
            raise InputError(f"{path} is not a file", field="source")
        with path.open("rb") as opened:
            return read_clip(
                opened, name=name or path.name, fps=fps, max_samples=max_samples, max_long_side=max_long_side,
                limits=limits, transcript=transcript, threads=threads, start=start, end=end,
            )  # fmt: skip
    file = _seekable(source, limits=limits)
    head = file.read(sniff.HEAD_BYTES)
    media_type = sniff.sniff(head)
    declared = sniff.image_size(head)
    if declared is not None:
        limits.check("max_pixels_per_frame", declared[0] * declared[1], unit=f"pixels ({declared[0]}x{declared[1]})")
    file.seek(0)
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    file.seek(0)
    plan = _Plan(
        interval=1.0 / fps, max_samples=max_samples, max_long_side=max_long_side, limits=limits,
        threads=threads or min(4, os.cpu_count() or 1), exif_orientation=sniff.exif_orientation(head),
        window=None if media_type.family == "image" else window,
    )  # fmt: skip
    reader = _Reader(file, media_type, plan)
    reader.read()
    if isinstance(transcript, str):
        transcript = Transcript(text=transcript.strip(), source="given") if transcript.strip() else None
    return Clip(
        name=name or "clip",
        seconds=reader.seconds,
        frames=reader.frames,
        audio=reader.audio,
        transcript=transcript,
        sha256=digest.hexdigest(),
        warnings=tuple(reader.warnings),
    )


def _seekable(source: bytes | BinaryIO, *, limits: MediaLimits) -> BinaryIO:
    """Return ``source`` as a seekable file of an allowed size, without ever reading more than the limit allows."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        limits.check("max_bytes", len(source), unit="bytes")
        return io.BytesIO(source)
    if not source.seekable():
        content = source.read(limits.max_bytes + 1)
        limits.check("max_bytes", len(content), unit="bytes")
        return io.BytesIO(content)
    limits.check("max_bytes", source.seek(0, io.SEEK_END), unit="bytes")
    source.seek(0)
    return source


@dataclass(frozen=True, kw_only=True)
class _Plan:
    interval: float
    max_samples: int
    max_long_side: int
    limits: MediaLimits
    threads: int
    exif_orientation: int | None
    window: tuple[float, float] | None = None  # seconds; nothing outside of it is kept


class _Reader:
    """One pass over one container: demultiplex, hand packets to the two collectors, keep the account of the damage."""

    def __init__(self, file: BinaryIO, media_type: sniff.MediaType, plan: _Plan) -> None:
        self._file, self._type, self._plan = file, media_type, plan
        self.warnings: list[str] = []
        self.seconds = 0.0
        self.frames: Frames | None = None
        self.audio: Audio | None = None

    def read(self) -> None:
        try:
            with _open(sniff.mended(self._file, self._type), self._type, self._plan.limits) as container:
                self._read(container)
        except _DAMAGE as error:
            if self.frames is None and self.audio is None:
                raise UndecodableMediaError(
                    f"the {self._type.extension[1:]} file holds nothing that can be decoded ({_reason(error)})",
                    field="file",
                ) from error
            raise
        if self.frames is None and self.audio is None:
            raise UndecodableMediaError(
                f"the {self._type.extension[1:]} file holds no picture and no sound that can be decoded", field="file"
            )

    def _read(self, container: InputContainer) -> None:
        limits = self._plan.limits
        limits.check("max_streams", len(container.streams), unit="streams")
        declared = (container.duration or 0) / av.time_base if self._type.family != "image" else 0.0
        window = self._plan.window
        if window is not None:
            if declared and declared <= window[0]:
                raise UndecodableMediaError(
                    f"the stretch begins at {window[0]:g} s, but the file ends after {declared:.1f} s", field="start"
                )
            declared = max(0.0, min(declared, window[1]) - window[0])
        limits.check("max_seconds", declared, unit="seconds")
        video_stream, audio_stream = _choose_video(container), _choose_audio(container)
        used = [stream for stream in (video_stream, audio_stream) if stream is not None]
        if not used:
            return
        starts = [s.start_time * s.time_base for s in used if s.start_time is not None and s.time_base is not None]
        origin = float(min(starts, default=0))
        if window is not None:
            if window[0] > _SEEK_FROM_SECONDS and self._type.family == "video":
                container.seek(int((origin + window[0]) * av.time_base), backward=True)
            origin += window[0]
        video = None
        if video_stream is not None:
            is_image = self._type.family == "image"
            video = _VideoCollector(
                video_stream, self._plan, origin=origin, declared_seconds=declared, is_image=is_image
            )
        length = math.inf if window is None else window[1] - window[0]
        audio = None
        if audio_stream is not None:
            audio = _AudioCollector(audio_stream, limits, origin, length=None if window is None else length)
        broken = 0
        unfinished = {stream.index for stream in used}
        for packet in self._packets(container, used):
            stamp = None if packet.time_base is None or packet.dts is None else float(packet.dts * packet.time_base)
            if stamp is not None and stamp - origin > length + _REORDERED_SECONDS:
                unfinished.discard(packet.stream.index)
                if not unfinished:
                    break
                continue
            collector = video if packet.stream.type == "video" else audio
            if collector is None:
                continue
            try:
                collector.add(packet)
            except _DAMAGE:
                broken += 1
            if self._type.family == "image" and video is not None and video.has_picture:
                break  # what follows a picture in its file, such as thousands more, is not read
        self._finish(video, audio, declared - (max(0.0, origin) if window is None else 0.0), broken)

    def _packets(self, container: InputContainer, streams: list[VideoStream | AudioStream]) -> Iterator[Packet]:
        packets = container.demux(tuple(streams))
        count = 0
        while True:
            try:
                packet = next(packets, None)
            except _DAMAGE as error:
                self.warnings.append(f"the file is damaged and could be read only in part ({_reason(error)})")
                packets, packet = iter(()), None
            if packet is None:
                return
            count += 1
            # Sound comes in at most some hundred packets a second, so this many is not a clip but an endless loop.
            self._plan.limits.check("max_frames", count - 600 * int(self._plan.limits.max_seconds), unit="packets")
            yield packet

    def _finish(
        self, video: _VideoCollector | None, audio: _AudioCollector | None, declared: float, broken: int
    ) -> None:
        if video is not None:
            self.frames = video.frames(alone=audio is None)
            broken += video.corrupt
            if self.frames is None:
                self.warnings.append("the file has a video track, but no picture of it could be decoded")
        if audio is not None:
            self.audio = audio.audio()
            if self.audio is None:
                self.warnings.append("the file has a sound track, but nothing of it could be decoded")
        is_still = self.frames is not None and self.frames.is_still
        ends = [0.0]
        if self.frames is not None and video is not None and not is_still:
            ends.append(video.end)
        if self.audio is not None:
            ends.append(self.audio.start + self.audio.seconds)
        self.seconds = max(ends)
        if broken:
            self.warnings.append(
                f"{broken} damaged piece{'s' if broken > 1 else ''} of the file could not be read cleanly"
            )
        if not is_still and declared - self.seconds > max(0.5, 0.05 * declared):
            self.warnings.append(
                f"the file declares {declared:.1f} s but ends after {self.seconds:.1f} s; it may be cut off"
            )
        elif not sniff.has_end(self._file, self._type):
            self.warnings.append("the file is cut off; its last part is missing")


class _VideoCollector:
    """Keeps the pictures nearest to a regular grid of times; decides for every packet whether it must be decoded."""

    def __init__(
        self, stream: VideoStream, plan: _Plan, *, origin: float, declared_seconds: float, is_image: bool
    ) -> None:
        self._stream, self._plan, self._origin, self._is_image = stream, plan, origin, is_image
        limits, context = plan.limits, stream.codec_context
        limits.check("max_frames", stream.frames, unit="frames")
        if plan.window is None and declared_seconds > 0 and stream.frames > _BURST_FRAMES:
            limits.check("max_fps", stream.frames / declared_seconds, unit="frames a second")
        self._check_size(context.width, context.height)
        aspect = stream.sample_aspect_ratio
        self._pixel_aspect = float(aspect) if aspect and 0.1 <= aspect <= 10 else 1.0
        rate = stream.average_rate or stream.guessed_rate
        self._source_fps = float(rate) if rate and 0 < rate <= 1000 else None
        self._step = 1.0 / (self._source_fps or 25.0)
        self._interval = max(plan.interval, declared_seconds / plan.max_samples)
        # The declared length may lie: there is room for twice as many, and `_thin_out` when even that is too little.
        expected = (
            1 if is_image else int(declared_seconds / self._interval) + 2 if declared_seconds else plan.max_samples
        )
        self._expected = min(plan.max_samples, expected)
        self._capacity = 1 if is_image else min(plan.max_samples, 2 * self._expected + 8)
        self._only_keyframes = self._keyframes_suffice()
        context.thread_type = "AUTO"
        context.thread_count = plan.threads
        self._images: np.ndarray | None = None  # [capacity, H, W, 3], filled up to len(self._times)
        self._times: list[float] = []
        self._next_time = 0.0
        self._length = math.inf if plan.window is None else plan.window[1] - plan.window[0]
        self._last_time = -1.0 if plan.window is None else -1.0 - plan.window[0]
        self._seen = 0
        self.corrupt = 0
        self.end = 0.0

    @property
    def has_picture(self) -> bool:
        return bool(self._times)

    def add(self, packet: Packet) -> None:
        if packet.size:
            self._seen += 1
            self._plan.limits.check("max_frames", self._seen, unit="frames")
            if not self._is_needed(packet):
                return
        for frame in packet.decode():
            self._keep(frame)

    def _is_needed(self, packet: Packet) -> bool:
        stamp = packet.pts if packet.pts is not None else packet.dts
        if stamp is None or packet.time_base is None:
            self._stream.codec_context.skip_frame = "DEFAULT"
            return True
        time = float(stamp * packet.time_base) - self._origin
        self._plan.limits.check("max_seconds", time, unit="seconds")
        if self._seen > _BURST_FRAMES:
            # A stretch may begin some seconds after the first picture that is read for it.
            so_far = max(0.0, time) + _SEEK_FROM_SECONDS + _REORDERED_SECONDS
            self._plan.limits.check("max_fps", self._seen / so_far, unit="frames a second")
        self.end = min(self._length, max(self.end, time + float((packet.duration or 0) * packet.time_base)))
        if self._only_keyframes:
            return packet.is_keyframe
        wanted = (time + 0.5 * self._step) % self._interval < self._step
        self._stream.codec_context.skip_frame = "DEFAULT" if wanted or self._interval < 3 * self._step else "NONREF"
        return True

    def _keep(self, frame: VideoFrame) -> None:
        time = frame.time - self._origin if frame.time is not None else self._last_time + self._step
        self._plan.limits.check("max_seconds", time, unit="seconds")
        self._check_size(frame.width, frame.height)
        if time <= self._last_time:
            return
        self._last_time = time
        if not -0.5 * self._step <= time < self._length:  # before the stretch that is wanted, or after it
            return
        self.end = min(self._length, max(self.end, time + (0.0 if len(self._times) == 0 else self._step)))
        if time < self._next_time - 0.5 * self._step:
            return
        self.corrupt += frame.is_corrupt
        image = pixels.upright_rgb(
            frame,
            pixel_aspect=self._pixel_aspect,
            max_long_side=self._long_side(frame),
            exif_orientation=self._plan.exif_orientation,
        )
        if self._images is None:
            self._images = np.empty((self._capacity, *image.shape), np.uint8)
        if image.shape != self._images.shape[1:]:
            image = _letterbox(image, self._images.shape[1:3])
        if len(self._times) == self._capacity:
            if self._is_image:
                return
            self._thin_out()
            if time < self._next_time - 0.5 * self._step:
                return
        self._images[len(self._times)] = image
        self._times.append(max(0.0, time))
        self._next_time = (np.floor((time + 0.5 * self._step) / self._interval) + 1) * self._interval

    def frames(self, *, alone: bool) -> Frames | None:
        """What was kept; a file with one picture and no sound is a still."""
        if self._images is None or not self._times:
            return None
        is_still = self._is_image or (alone and len(self._times) == 1 and self._seen <= 1)
        return Frames(
            images=self._images[: len(self._times)],
            times=np.zeros(1) if is_still else np.array(self._times),
            source_fps=None if is_still else self._source_fps,
            is_still=is_still,
        )

    def _thin_out(self) -> None:
        """The clip is longer than it declared: keep every second picture and go on at half the rate."""
        assert self._images is not None
        kept = self._times[::2]
        for index in range(len(kept)):
            self._images[index] = self._images[2 * index]
        self._times = kept
        self._interval *= 2
        self._next_time = (np.floor((kept[-1] + 0.5 * self._step) / self._interval) + 1) * self._interval

    def _long_side(self, frame: VideoFrame) -> int:
        width, height = pixels.fitted_size(
            frame.width, frame.height, pixel_aspect=self._pixel_aspect, max_long_side=self._plan.max_long_side
        )
        share = min(1.0, _MEMORY_FOR_FRAMES / (self._expected * width * height * 3))
        return self._plan.max_long_side if share == 1.0 else max(64, int(max(width, height) * share**0.5))

    def _keyframes_suffice(self) -> bool:
        """Tell whether samples are so far apart, and key frames so near together, that no other need decoding."""
        if self._interval < _KEYFRAMES_ONLY_FROM_SECONDS or self._stream.time_base is None:
            return False
        base = float(self._stream.time_base)
        times = sorted(entry.timestamp * base for entry in self._stream.index_entries if entry.is_keyframe)
        return len(times) > 1 and float(np.diff(times).max()) <= 1.5 * self._interval

    def _check_size(self, width: int, height: int) -> None:
        self._plan.limits.check("max_pixels_per_frame", width * height, unit=f"pixels per frame ({width}x{height})")


class _AudioCollector:
    """Resamples one sound track to mono 16 kHz; a hole in the time stamps becomes silence, so that times stay true."""

    _LARGEST_SLIP_SECONDS = 0.1

    def __init__(self, stream: AudioStream, limits: MediaLimits, origin: float, *, length: float | None = None) -> None:
        self._stream, self._limits, self._origin = stream, limits, origin
        self._has_window, self._length = length is not None, math.inf if length is None else length
        self._resampler: AudioResampler | None = None
        self._layout: tuple[str, str, int] | None = None
        self._chunks: list[np.ndarray] = []
        self._samples = 0
        self._start: float | None = None
        self._expected = 0.0

    def add(self, packet: Packet) -> None:
        for frame in packet.decode():
            self._add_frame(frame)

    def _add_frame(self, frame: AudioFrame) -> None:
        time = frame.time - self._origin if frame.time is not None else self._expected
        is_before = self._start is None and time + frame.samples / frame.sample_rate <= 0
        if time >= self._length or (is_before and self._has_window):  # outside of the stretch that is wanted
            return
        if self._start is None:
            self._start = self._expected = time
        hole = time - self._expected
        if hole > self._LARGEST_SLIP_SECONDS:
            self._limits.check("max_seconds", time, unit="seconds")
            self._flush()
            self._append(np.zeros(round(hole * SAMPLE_RATE), np.float32))
            self._expected = time
        layout = (frame.format.name, frame.layout.name, frame.sample_rate)
        if layout != self._layout:
            self._flush()
            self._layout = layout
            self._resampler = AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
        assert self._resampler is not None
        self._expected += frame.samples / frame.sample_rate
        frame.pts = None  # the resampler must not fill or trim by itself
        for resampled in self._resampler.resample(frame):
            self._append(resampled.to_ndarray().reshape(-1))

    def _flush(self) -> None:
        if self._resampler is not None:
            for resampled in self._resampler.resample(None):
                self._append(resampled.to_ndarray().reshape(-1))
            self._resampler, self._layout = None, None

    def _append(self, samples: np.ndarray) -> None:
        self._samples += len(samples)
        self._limits.check("max_seconds", self._samples / SAMPLE_RATE - 0.25, unit="seconds of sound")
        self._chunks.append(samples)

    def audio(self) -> Audio | None:
        """The whole track; samples before the clip's start are cut, and the values are finite and in [-1, 1]."""
        try:
            self._flush()
        except _DAMAGE:
            self._resampler = None
        if not self._samples:
            return None
        samples = np.nan_to_num(np.concatenate(self._chunks), posinf=1.0, neginf=-1.0)
        start = self._start or 0.0
        if start < 0:
            samples, start = samples[round(-start * SAMPLE_RATE) :], 0.0
        if self._length < math.inf:
            samples = samples[: max(0, round((self._length - start) * SAMPLE_RATE))]
        return (
            Audio(samples=np.clip(samples, -1.0, 1.0), sample_rate=SAMPLE_RATE, start=start) if len(samples) else None
        )


def _open(file: BinaryIO, media_type: sniff.MediaType, limits: MediaLimits) -> InputContainer:
    """Open ``file`` with one demuxer and no way out: no other format, no protocol, no second file."""
    return av.open(
        file,
        mode="r",
        format=media_type.demuxer,
        options={"max_pixels": str(limits.max_pixels_per_frame)},
        container_options={
            "format_whitelist": av.ContainerFormat(media_type.demuxer, "r").name,
            "protocol_whitelist": "none",
        },
        metadata_errors="replace",
        buffer_size=1 << 18,
        io_open=_refuse,
    )


def _refuse(url: str, flags: int, options: dict[str, str]) -> NoReturn:
    raise PermissionError("a clip may not name other files")


def _choose_video(container: InputContainer) -> VideoStream | None:
    """The largest real video track; cover pictures of audio files are not video."""
    streams = [
        stream
        for stream in container.streams.video
        if stream.codec_context is not None and not stream.disposition & av.stream.Disposition.attached_pic
    ]
    return max(streams, key=lambda stream: stream.codec_context.width * stream.codec_context.height, default=None)


def _choose_audio(container: InputContainer) -> AudioStream | None:
    streams = [stream for stream in container.streams.audio if stream.codec_context is not None]
    preferred = [stream for stream in streams if stream.disposition & av.stream.Disposition.default]
    return next(iter(preferred or streams), None)


def _letterbox(image: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Fit a picture into the size of the first one, for a track that changes its size on the way."""
    frame = VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
    scale = min(shape[0] / image.shape[0], shape[1] / image.shape[1])
    height, width = max(1, int(image.shape[0] * scale)), max(1, int(image.shape[1] * scale))
    canvas = np.zeros((*shape, 3), np.uint8)
    top, left = (shape[0] - height) // 2, (shape[1] - width) // 2
    canvas[top : top + height, left : left + width] = frame.reformat(width=width, height=height).to_ndarray()
    return canvas


def _reason(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error) or type(error).__name__
