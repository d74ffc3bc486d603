"""What is kept of a video and a sound track: pictures on a grid of times, and mono 16 kHz sound without holes.

A collector is given the packets of one track and decides what is decoded, converted and held. What it holds is taken
all at once at the end (`emollama.media.read_clip`) or stretch by stretch on the way (`emollama.media_windows`); taken
pieces are let go of, so what is held at once does not grow with the clip. Neither knows of containers or files.
"""

from __future__ import annotations

import bisect
import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import av.error
import numpy as np
from av import AudioFrame, AudioResampler, Packet, VideoFrame
from av.audio.stream import AudioStream
from av.video.stream import VideoStream

from emollama import pixels
from emollama.types import Audio, Frames

if TYPE_CHECKING:
    from emollama.media import MediaLimits

SAMPLE_RATE = 16_000
SEEK_FROM_SECONDS = 2.0  # a stretch that begins later is sought, one that begins earlier is decoded up to
REORDERED_SECONDS = 1.0  # pictures may lie this far from their place in the file
MEMORY_FOR_FRAMES = 384 * 2**20  # bytes of kept RGB; longer clips at the sampling cap are kept smaller, not shorter
_BURST_FRAMES = 900  # so many pictures say nothing yet about a file's rate
_KEYFRAMES_ONLY_FROM_SECONDS = 1.0  # samples at least this far apart may be taken from key frames alone

# What PyAV raises for damaged input, besides FFmpeg's own errors: zero time bases, impossible sizes, bad text, a
# stream whose parameters change under the resampler, our refusal to open anything else.
DAMAGE = (
    av.error.FFmpegError,
    ValueError,
    ArithmeticError,
    AttributeError,
    RuntimeError,
    MemoryError,
    PermissionError,
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is wanted of a clip. Over ``max_samples`` pictures they are taken more thinly.

    With ``window`` (seconds) nothing outside of it is kept. With ``held_seconds`` the clip is taken piece by piece:
    at most so much of it is held at once, pictures are never thinned, and all held ones fit into ``frame_bytes``.
    """

    interval: float
    max_samples: int
    max_long_side: int
    limits: MediaLimits
    threads: int
    exif_orientation: int | None
    window: tuple[float, float] | None = None
    held_seconds: float | None = None
    frame_bytes: int = MEMORY_FOR_FRAMES


class VideoCollector:
    """Keeps the pictures nearest to a regular grid of times; decides for every packet whether it must be decoded."""

    def __init__(
        self, stream: VideoStream, plan: Plan, *, origin: float, declared_seconds: float, is_image: bool
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
        if plan.held_seconds is None:
            self._interval = max(plan.interval, declared_seconds / plan.max_samples)
            # The declared length may lie: there is room for twice as many, and `_thin_out` when that is too little.
            declared = int(declared_seconds / self._interval) + 2 if declared_seconds else plan.max_samples
            self._expected = min(plan.max_samples, 1 if is_image else declared)
            self._capacity = 1 if is_image else min(plan.max_samples, 2 * self._expected + 8)
        else:
            self._interval = plan.interval
            self._expected = self._capacity = int(plan.held_seconds / plan.interval) + 8
        self._only_keyframes = self._keyframes_suffice()
        context.thread_type = "AUTO"
        context.thread_count = plan.threads
        self._images: np.ndarray | None = None  # [capacity, H, W, 3], filled up to len(self._times)
        self._times: list[float] = []
        self._next_time = 0.0
        self._length = math.inf if plan.window is None else plan.window[1] - plan.window[0]
        self._last_time = -1.0 if plan.window is None else -1.0 - plan.window[0]
        self._seen = 0
        self._is_fed = False  # since it was drained
        self.num_kept = 0
        self.num_late = 0
        self.corrupt = 0
        self.end = 0.0

    @property
    def has_picture(self) -> bool:
        return self.num_kept > 0

    @property
    def is_still(self) -> bool:
        """Whether the track is one picture."""
        return self.num_kept == 1 and self._seen <= 1

    @property
    def passed(self) -> float:
        """The time in seconds before which no further picture will come."""
        return self._last_time

    def add(self, packet: Packet) -> None:
        if packet.size:
            self._seen += 1
            self._plan.limits.check("max_frames", self._seen, unit="frames")
            if not self._is_needed(packet):
                return
            self._is_fed = True
        for frame in packet.decode():
            self._keep(frame)

    def drain(self) -> None:
        """Get out the pictures that the decoder holds back; what comes then is decoded from its next key frame on."""
        if not self._is_fed:
            return
        self._is_fed = False
        for frame in self._stream.decode(None):
            self._keep(frame)
        self._stream.codec_context.flush_buffers()

    def frames(self, *, alone: bool) -> Frames | None:
        """All that is held; a file with one picture and no sound is a still."""
        if self._images is None or not self._times:
            return None
        is_still = self._is_image or (alone and self.is_still)
        return Frames(
            images=self._images[: len(self._times)],
            times=np.zeros(1) if is_still else np.array(self._times),
            source_fps=None if is_still else self._source_fps,
            is_still=is_still,
        )

    def take(self, start: float, end: float) -> Frames | None:
        """Hand over, and let go of, the pictures from ``start`` up to ``end`` seconds; times count from ``start``.

        What is older than ``start`` came too late to be handed over with its stretch: it is dropped and counted.
        """
        first, last = bisect.bisect_left(self._times, start), bisect.bisect_left(self._times, end)
        self.num_late += first
        if self._images is None or last == 0:
            return None
        images, times = self._images, self._times
        self._images, self._times = np.empty_like(images), times[last:]
        self._images[: len(self._times)] = images[last : len(times)]
        if first == last:
            return None
        return Frames(images=images[first:last], times=np.array(times[first:last]) - start, source_fps=self._source_fps)

    def _is_needed(self, packet: Packet) -> bool:
        stamp = packet.pts if packet.pts is not None else packet.dts
        if stamp is None or packet.time_base is None:
            self._stream.codec_context.skip_frame = "DEFAULT"
            return True
        time = float(stamp * packet.time_base) - self._origin
        self._plan.limits.check("max_seconds", time, unit="seconds")
        if self._seen > _BURST_FRAMES:
            # A stretch may begin some seconds after the first picture that is read for it.
            so_far = max(0.0, time) + SEEK_FROM_SECONDS + REORDERED_SECONDS
            self._plan.limits.check("max_fps", self._seen / so_far, unit="frames a second")
        self.end = min(self._length, max(self.end, time + float((packet.duration or 0) * packet.time_base)))
        if self._only_keyframes:
            return packet.is_keyframe
        wanted = (time + 0.5 * self._step) % self._interval < self._step
        self._stream.codec_context.skip_frame = "DEFAULT" if wanted or self._interval < 3 * self._step else "NONREF"
        return True

    def _keep(self, frame: VideoFrame) -> None:
        told = frame.time
        is_told = told is not None and math.isfinite(told)
        time = told - self._origin if is_told else self._last_time + self._step
        self._plan.limits.check("max_seconds", time, unit="seconds")
        self._check_size(frame.width, frame.height)
        if time <= self._last_time:
            return
        self._last_time = time
        if not -0.5 * self._step <= time < self._length:  # before the stretch that is wanted, or after it
            return
        self.end = min(self._length, max(self.end, time + (0.0 if self.num_kept == 0 else self._step)))
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
        self.num_kept += 1
        self._next_time = (np.floor((time + 0.5 * self._step) / self._interval) + 1) * self._interval

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
        share = min(1.0, self._plan.frame_bytes / (self._expected * width * height * 3))
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


class AudioCollector:
    """Resamples one sound track to mono 16 kHz; a hole in the time stamps becomes silence, so that times stay true."""

    _LARGEST_SLIP_SECONDS = 0.1

    def __init__(self, stream: AudioStream, limits: MediaLimits, origin: float, *, length: float | None = None) -> None:
        self._stream, self._limits, self._origin = stream, limits, origin
        self._has_window, self._length = length is not None, math.inf if length is None else length
        self._resampler: AudioResampler | None = None
        self._layout: tuple[str, str, int] | None = None
        self._chunks: deque[np.ndarray] = deque()
        self._num_held = 0  # samples in the chunks
        self._first: float | None = None  # the time of the first of them
        self._expected = 0.0
        self.num_samples = 0
        self.num_late = 0
        self.missing_seconds = 0.0  # of holes in the time stamps

    @property
    def passed(self) -> float:
        """The time in seconds before which no further sound will come."""
        return self._expected if self._first is not None else -1.0

    @property
    def end(self) -> float:
        """The time of the end of what is held."""
        return (self._first or 0.0) + self._num_held / SAMPLE_RATE

    def add(self, packet: Packet) -> None:
        for frame in packet.decode():
            self._add_frame(frame)

    def finish(self) -> None:
        """Get out what the resampler still holds; nothing comes any more."""
        try:
            self._flush()
        except DAMAGE:
            self._resampler = None

    def audio(self) -> Audio | None:
        """The whole track; samples before the clip's start are cut, and the values are finite and in [-1, 1]."""
        self.finish()
        return self.take(0.0, self._length)

    def take(self, start: float, end: float) -> Audio | None:
        """Hand over, and let go of, the sound from ``start`` up to ``end`` seconds; times count from ``start``.

        What is older than ``start`` is dropped; after the clip's first stretch it came too late, and is counted.
        """
        if self._first is None or not self._num_held:
            return None
        first = self._first
        wanted = self._num_held if math.isinf(end) else round((end - first) * SAMPLE_RATE)
        taken = self._cut(max(0, min(wanted, self._num_held)))
        early = min(len(taken), max(0, round((start - first) * SAMPLE_RATE)))
        if start > 0:
            self.num_late += early
        samples = np.nan_to_num(taken[early:], posinf=1.0, neginf=-1.0)
        if not len(samples):
            return None
        begin = max(0.0, first - start) if early == 0 else 0.0
        return Audio(samples=np.clip(samples, -1.0, 1.0), sample_rate=SAMPLE_RATE, start=begin)

    def _cut(self, count: int) -> np.ndarray:
        """Take the first ``count`` samples [count] out of the chunks."""
        parts: list[np.ndarray] = []
        missing = count
        while missing:
            chunk = self._chunks.popleft()
            if len(chunk) > missing:
                self._chunks.appendleft(chunk[missing:])
                chunk = chunk[:missing]
            parts.append(chunk)
            missing -= len(chunk)
        self._num_held -= count
        assert self._first is not None
        self._first += count / SAMPLE_RATE
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)

    def _add_frame(self, frame: AudioFrame) -> None:
        time = frame.time - self._origin if frame.time is not None else self._expected
        is_before = self._first is None and time + frame.samples / frame.sample_rate <= 0
        if time >= self._length or (is_before and self._has_window):  # outside of the stretch that is wanted
            return
        if self._first is None:
            self._first = self._expected = time
        hole = time - self._expected
        if hole > self._LARGEST_SLIP_SECONDS:
            self._limits.check("max_seconds", time, unit="seconds")
            self._flush()
            # One zero seen many times: silence of an hour takes no memory until it is handed over.
            self.missing_seconds += hole
            self._append(np.broadcast_to(np.float32(0.0), round(hole * SAMPLE_RATE)))
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
        self.num_samples += len(samples)
        self._num_held += len(samples)
        self._limits.check("max_seconds", self.num_samples / SAMPLE_RATE - 0.25, unit="seconds of sound")
        self._chunks.append(samples)


def _letterbox(image: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Fit a picture into the size of the first one, for a track that changes its size on the way."""
    frame = VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
    scale = min(shape[0] / image.shape[0], shape[1] / image.shape[1])
    height, width = max(1, int(image.shape[0] * scale)), max(1, int(image.shape[1] * scale))
    canvas = np.zeros((*shape, 3), np.uint8)
    top, left = (shape[0] - height) // 2, (shape[1] - width) // 2
    canvas[top : top + height, left : left + width] = frame.reformat(width=width, height=height).to_ndarray()
    return canvas
