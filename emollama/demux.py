"""One pass over one container: open it safely, hand its packets to the collectors, keep the account of the damage.

The container is opened with exactly the demuxer that its bytes call for, and nothing that the file names is ever
opened. `Reading.steps` goes on packet by packet, so that what was collected can be taken on the way. Where a file is
damaged in its middle, what lies behind is still read.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NoReturn

import av
from av import Packet
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.video.stream import VideoStream

from emollama import sniff
from emollama.collectors import DAMAGE, REORDERED_SECONDS, SEEK_FROM_SECONDS, AudioCollector, Plan, VideoCollector
from emollama.errors import InputError, UndecodableMediaError

if TYPE_CHECKING:
    from emollama.media import MediaLimits

_MAX_RETRIES = 8  # to read on behind damage, without a packet in between
_LEAP_SECONDS = 20.0  # a packet that leaps so far ahead is believed when the next of its stream does not go back


class Reading:
    """The pass over one file; ``video`` and ``audio`` are there from the first step on, where the file has them."""

    def __init__(self, file: BinaryIO, media_type: sniff.MediaType, plan: Plan) -> None:
        self._file, self._type, self._plan = file, media_type, plan
        self.size = max(1, file.seek(0, os.SEEK_END))
        self.warnings: list[str] = []
        self.video: VideoCollector | None = None
        self.audio: AudioCollector | None = None
        self.broken = 0  # packets that could not be read cleanly
        self.share = 0.0  # of the file's bytes, passed so far
        self._declared = 0.0  # seconds that should be there

    @property
    def has_anything(self) -> bool:
        """Whether any picture or sound was decoded."""
        return bool((self.video and self.video.has_picture) or (self.audio and self.audio.num_samples))

    @property
    def num_damaged(self) -> int:
        """Damaged pieces met so far, undecodable or visibly wrong."""
        return self.broken + (self.video.corrupt if self.video else 0)

    def steps(self) -> Iterator[None]:
        """Go through the file, one packet a step. Raises `UndecodableMediaError` where nothing could be decoded."""
        kind = self._type.extension[1:]
        try:
            with open_container(sniff.mended(self._file, self._type), self._type, self._plan.limits) as container:
                yield from self._steps(container)
        except DAMAGE as error:
            if not self.has_anything:
                raise UndecodableMediaError(
                    f"the {kind} file holds nothing that can be decoded ({_reason(error)})", field="file"
                ) from error
            self._tell_damage(error)
        if self.audio is not None:
            self.audio.finish()
        if not self.has_anything:
            raise UndecodableMediaError(
                f"the {kind} file holds no picture and no sound that can be decoded", field="file"
            )

    def _steps(self, container: InputContainer) -> Iterator[None]:
        limits, window = self._plan.limits, self._plan.window
        limits.check("max_streams", len(container.streams), unit="streams")
        declared = declared_seconds(container, self._type)
        if window is not None:
            if declared and declared <= window[0]:
                raise UndecodableMediaError(
                    f"the stretch begins at {window[0]:g} s, but the file ends after {declared:.1f} s", field="start"
                )
            declared = max(0.0, min(declared, window[1]) - window[0])
        limits.check("max_seconds", declared, unit="seconds")
        video_stream, audio_stream = choose_video(container), choose_audio(container)
        used = [stream for stream in (video_stream, audio_stream) if stream is not None]
        if not used:
            return
        starts = [s.start_time * s.time_base for s in used if s.start_time is not None and s.time_base is not None]
        origin = float(min(starts, default=0))
        self._declared = declared - (max(0.0, origin) if window is None else 0.0)
        if window is not None:
            if window[0] > SEEK_FROM_SECONDS and self._type.family == "video":
                container.seek(int((origin + window[0]) * av.time_base), backward=True)
            origin += window[0]
        is_image = self._type.family == "image"
        if video_stream is not None:
            self.video = VideoCollector(
                video_stream, self._plan, origin=origin, declared_seconds=declared, is_image=is_image
            )
        length = math.inf if window is None else window[1] - window[0]
        if audio_stream is not None:
            self.audio = AudioCollector(audio_stream, limits, origin, length=None if window is None else length)
        unfinished = {stream.index for stream in used}
        for packet in self._settled(self._packets(container, used)):
            stamp = _stamp(packet)
            if stamp is not None and stamp - origin > length + REORDERED_SECONDS:
                unfinished.discard(packet.stream.index)
                if not unfinished:
                    break
                continue
            if packet.pos is not None:
                self.share = max(self.share, min(1.0, packet.pos / self.size))
            collector = self.video if packet.stream.type == "video" else self.audio
            if collector is None:
                continue
            try:
                collector.add(packet)
            except DAMAGE:
                self.broken += 1
            if is_image and self.video is not None and self.video.has_picture:
                break  # what follows a picture in its file, such as thousands more, is not read
            yield

    def _packets(self, container: InputContainer, streams: list[VideoStream | AudioStream]) -> Iterator[Packet]:
        packets = container.demux(tuple(streams))
        count = retries = 0
        while True:
            try:
                packet = next(packets, None)
            except DAMAGE as error:
                self._tell_damage(error)
                retries += 1
                if retries > _MAX_RETRIES:
                    return
                packets = container.demux(tuple(streams))
                continue
            if packet is None:
                return
            count, retries = count + 1, 0
            # Sound comes in at most some hundred packets a second, so this many is not a clip but an endless loop.
            self._plan.limits.check("max_frames", count - 600 * int(self._plan.limits.max_seconds), unit="packets")
            yield packet

    def _settled(self, packets: Iterator[Packet]) -> Iterator[Packet]:
        """Leave out packets with a damaged time stamp: those that leap far ahead while the next of the stream does not.

        Believed, one such stamp would make everything behind it look late.
        """
        last: dict[int, float] = {}
        waiting: dict[int, tuple[float, Packet]] = {}
        for packet in packets:
            index, stamp = packet.stream.index, _stamp(packet)
            if index in waiting:
                leapt, leaper = waiting.pop(index)
                if stamp is None or stamp > last[index] + _LEAP_SECONDS:
                    last[index] = leapt
                    yield leaper
                else:
                    self.broken += 1
            if stamp is not None:
                if index in last and stamp > last[index] + _LEAP_SECONDS:
                    waiting[index] = (stamp, packet)
                    continue
                last[index] = stamp
            yield packet
        yield from (packet for _, packet in waiting.values())

    def _tell_damage(self, error: BaseException) -> None:
        told = f"the file is damaged and could be read only in part ({_reason(error)})"
        if told not in self.warnings:
            self.warnings.append(told)

    def finish(self, seconds: float, *, is_still: bool, damage_is_told: bool = False) -> None:
        """Say what was wrong with the file as a whole, of which ``seconds`` could be read."""
        if self.video is not None and not self.video.has_picture:
            self.warnings.append("the file has a video track, but no picture of it could be decoded")
        if self.audio is not None and not self.audio.num_samples:
            self.warnings.append("the file has a sound track, but nothing of it could be decoded")
        if self.num_damaged and not damage_is_told:
            self.warnings.append(damage(self.num_damaged, of="the file"))
        if not is_still and self._declared - seconds > max(0.5, 0.05 * self._declared):
            self.warnings.append(
                f"the file declares {self._declared:.1f} s but ends after {seconds:.1f} s; it may be cut off"
            )
        elif not sniff.has_end(self._file, self._type):
            self.warnings.append("the file is cut off; its last part is missing")


def damage(count: int, *, of: str) -> str:
    """Say that so many pieces were damaged."""
    return f"{count} damaged piece{'s' if count > 1 else ''} of {of} could not be read cleanly"


def declared_seconds(container: InputContainer, media_type: sniff.MediaType) -> float:
    """Return the length that a container declares; 0 for a picture, and where it declares none."""
    return (container.duration or 0) / av.time_base if media_type.family != "image" else 0.0


def open_source(source: Path | str) -> BinaryIO:
    """Open a file; one that is not there is an `InputError`."""
    path = Path(source)
    if not path.is_file():
        raise InputError(f"{path} is not a file", field="source")
    return path.open("rb")


def open_container(file: BinaryIO, media_type: sniff.MediaType, limits: MediaLimits) -> InputContainer:
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


def choose_video(container: InputContainer) -> VideoStream | None:
    """The largest real video track; cover pictures of audio files are not video."""
    streams = [
        stream
        for stream in container.streams.video
        if stream.codec_context is not None and not stream.disposition & av.stream.Disposition.attached_pic
    ]
    return max(streams, key=lambda stream: stream.codec_context.width * stream.codec_context.height, default=None)


def choose_audio(container: InputContainer) -> AudioStream | None:
    streams = [stream for stream in container.streams.audio if stream.codec_context is not None]
    preferred = [stream for stream in streams if stream.disposition & av.stream.Disposition.default]
    return next(iter(preferred or streams), None)


def _stamp(packet: Packet) -> float | None:
    return None if packet.time_base is None or packet.dts is None else float(packet.dts * packet.time_base)


def _reason(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error) or type(error).__name__
