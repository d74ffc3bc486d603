"""A clip as what a browser takes for a camera and a microphone: raw pictures (Y4M) and a wave file.

Chromium plays both again and again (``--use-file-for-fake-video-capture``, ``--use-file-for-fake-audio-capture``).
"""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np

from emollama.errors import InputError

_FPS, _WIDTH, _HEIGHT = 15, 640, 480


def write_camera(clip: Path, target: Path, *, seconds: float = 12.0) -> None:
    """Write the first seconds of a clip as pictures of 640 x 480, 15 a second; what does not fit is black."""
    import av

    with av.open(str(clip)) as source, target.open("wb") as out:
        if not source.streams.video:
            raise InputError(f"clip {clip.name!r} has no picture; allowed: a video", field="clip")
        out.write(f"YUV4MPEG2 W{_WIDTH} H{_HEIGHT} F{_FPS}:1 Ip A1:1 C420jpeg\n".encode())
        due = 0.0
        for frame in source.decode(source.streams.video[0]):
            if frame.time is None or frame.time > seconds:
                break
            while due <= frame.time:
                out.write(b"FRAME\n" + _picture(frame))
                due += 1 / _FPS


def write_microphone(clip: Path, target: Path, *, seconds: float = 12.0) -> None:
    """Write the first seconds of a clip's sound as 48 kHz mono; silence where it has none."""
    import av

    samples = np.zeros(0, np.int16)
    with av.open(str(clip)) as source:
        if source.streams.audio:
            resampler = av.AudioResampler(format="s16", layout="mono", rate=48_000)
            parts = [
                part.to_ndarray().ravel()
                for frame in source.decode(source.streams.audio[0])
                for part in resampler.resample(frame)
            ]
            samples = np.concatenate(parts)[: round(seconds * 48_000)]
    with wave.open(str(target), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(48_000)
        out.writeframes((samples if len(samples) else np.zeros(48_000, np.int16)).astype("<i2").tobytes())


def _picture(frame: object) -> bytes:
    """One frame as planes Y, U, V, in the middle of a black picture."""
    scale = min(_WIDTH / frame.width, _HEIGHT / frame.height)  # type: ignore[attr-defined]
    width, height = (max(2, round(side * scale) // 2 * 2) for side in (frame.width, frame.height))  # type: ignore[attr-defined]
    small = frame.reformat(width=width, height=height, format="yuvj420p").to_ndarray()  # type: ignore[attr-defined]
    luma, chroma = small[:height], small[height:].reshape(2, height // 2, width // 2)
    top, left = (_HEIGHT - height) // 4 * 2, (_WIDTH - width) // 4 * 2
    planes = [np.full((_HEIGHT, _WIDTH), 16, np.uint8)] + [
        np.full((_HEIGHT // 2, _WIDTH // 2), 128, np.uint8) for _ in range(2)
    ]
    planes[0][top : top + height, left : left + width] = luma
    for plane, colour in zip(planes[1:], chroma, strict=True):
        plane[top // 2 : (top + height) // 2, left // 2 : (left + width) // 2] = colour
    return b"".join(plane.tobytes() for plane in planes)
