"""A clip as the parts of a chat message: ``video_url``, ``image_url`` and ``input_audio``, all carried as data.

A file that says exactly what the clip does is sent as it is. A stretch of a file, or a clip with a modality dropped, is
encoded anew from what was decoded (H.264 and AAC in MP4, PNG, WAV), so that the endpoint sees what the analyzer would.
"""

from __future__ import annotations

import base64
import io
import wave
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from emollama.sniff import HEAD_BYTES, sniff
from emollama.types import Audio, Clip, Frames
from eval.ask import Given

# How a media type is written where it is not the file's suffix.
_NAMES = {".jpg": "jpeg", ".mkv": "x-matroska", ".avi": "x-msvideo"}
_VIDEO_CODEC, _AUDIO_CODEC = "libx264", "aac"


def media_parts(given: Given) -> list[dict[str, Any]]:
    """Return the parts of a clip's picture and sound; none for words alone. The transcript is not among them."""
    clip = given.clip
    if clip.frames is None and clip.audio is None:
        return []
    if given.path is not None:
        return [_file_part(given.path, clip)]
    if clip.frames is None:
        assert clip.audio is not None
        return [_sound(wav_bytes(clip.audio), "wav")]
    if clip.frames.is_still or len(clip.frames.times) == 1:
        parts = [_url("image_url", "image/png", png_bytes(clip.frames.images[0]))]
        return parts if clip.audio is None else [*parts, _sound(wav_bytes(clip.audio), "wav")]
    return [_url("video_url", "video/mp4", mp4_bytes(clip))]


def _file_part(path: Path, clip: Clip) -> dict[str, Any]:
    content = path.read_bytes()
    found = sniff(content[:HEAD_BYTES])
    name = _NAMES.get(found.extension, found.extension[1:])
    if clip.frames is None:
        if name in ("wav", "mp3"):
            return _sound(content, name)
        assert clip.audio is not None
        return _sound(wav_bytes(clip.audio), "wav")  # input_audio knows wav and mp3 only
    if found.family == "image":
        return _url("image_url", f"image/{name}", content)
    return _url("video_url", f"video/{name}", content)


def _url(kind: str, media_type: str, content: bytes) -> dict[str, Any]:
    return {"type": kind, kind: {"url": f"data:{media_type};base64,{base64.b64encode(content).decode()}"}}


def _sound(content: bytes, form: str) -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(content).decode(), "format": form}}


def png_bytes(image: np.ndarray) -> bytes:
    """Encode a picture [H, W, 3] uint8 RGB."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, format="PNG")
    return file.getvalue()


def wav_bytes(audio: Audio) -> bytes:
    """Encode mono sound as 16-bit PCM."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(audio.sample_rate)
        out.writeframes((np.clip(audio.samples, -1.0, 1.0) * 32767).astype("<i2").tobytes())
    return file.getvalue()


def mp4_bytes(clip: Clip) -> bytes:
    """Encode the sampled pictures at the rate they were sampled at, with the sound when there is one."""
    import av

    assert clip.frames is not None
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        pictures, step = _even(clip.frames), _step(clip.frames)
        stream = container.add_stream(_VIDEO_CODEC, rate=Fraction(1 / step).limit_denominator(1000))
        stream.height, stream.width, stream.pix_fmt = pictures.shape[1], pictures.shape[2], "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        sound = None
        if clip.audio is not None:
            sound = container.add_stream(_AUDIO_CODEC, rate=clip.audio.sample_rate, layout="mono")
        for image, time in zip(pictures, clip.frames.times, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts, frame.time_base = round(1000 * float(time)), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if sound is not None and clip.audio is not None:
            samples = clip.audio.samples[None, :]
            for start in range(0, samples.shape[1], 1024):
                part = av.AudioFrame.from_ndarray(
                    np.ascontiguousarray(samples[:, start : start + 1024], np.float32), format="fltp", layout="mono"
                )
                part.sample_rate = clip.audio.sample_rate
                part.pts, part.time_base = start, Fraction(1, clip.audio.sample_rate)
                container.mux(sound.encode(part))
            container.mux(sound.encode())
    return file.getvalue()


def _even(frames: Frames) -> np.ndarray:
    """The codec wants even sides: the last row or column is cut where need be."""
    _, height, width, _ = frames.images.shape
    return frames.images[:, : height - height % 2, : width - width % 2]


def _step(frames: Frames) -> float:
    return max(1e-3, float(np.median(np.diff(frames.times)))) if len(frames.times) > 1 else 1.0
