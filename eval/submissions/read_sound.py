"""Videos -> kept features of their sound: what heads of sound are trained on.

By an encoder of the registry: ``hubert`` and ``wav2vec2`` give their last hidden states, ten a second; ``voice``, the
small model that is shipped, gives its log-probabilities and the functionals of three seconds around every second in
which there is a voice. A video in which nothing was heard gets no file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from emollama.datasets import aff_wild2, sound_features
from emollama.datasets.sound_features import SoundFeatures
from emollama.encoders.hubert import SAMPLE_RATE, SoundOverTime
from emollama.errors import DatasetError, UnknownNameError
from emollama.sniff import VIDEO_SUFFIXES
from emollama.types import Audio

Listener = Callable[[Audio], SoundOverTime | None]
KINDS = ("hubert", "wav2vec2", "voice")
VOICE_SECONDS, VOICE_STEP_SECONDS = 3.0, 1.0


def find_listener(kind: str, weights: Path | None, *, device: str = "cpu") -> Listener:
    """Return what listens: an encoder of the registry with the weights of a folder (``voice``: a file, or shipped)."""
    if kind not in KINDS:
        raise UnknownNameError("encoder of sound", kind, KINDS)
    if kind == "voice":
        from emollama.checkpoint import ASSETS
        from emollama.encoders.voice import VoiceEncoder

        return voice_listener(VoiceEncoder.load(weights or ASSETS / "nano" / "voice.safetensors"))
    if weights is None:
        raise DatasetError(f"{kind} wants its weights; name the folder with --weights", field="weights")
    from importlib import import_module

    from emollama.encoders import ENCODERS

    module, _, name = ENCODERS[kind].partition(":")
    encoder = getattr(import_module(module), name).load(weights)
    encoder.model.to(device)
    listener: Listener = encoder.over_time
    return listener


def voice_listener(encoder: object) -> Listener:
    """Return what hears a voice, three seconds at a time; stretches without one are left out."""
    from emollama.encoders.voice import VoiceEncoder
    from emollama.prosody import measure

    assert isinstance(encoder, VoiceEncoder)

    def listen(audio: Audio) -> SoundOverTime | None:
        times, tokens = [], []
        seconds = len(audio.samples) / audio.sample_rate
        for middle in np.arange(0.5 * VOICE_STEP_SECONDS, max(seconds, VOICE_STEP_SECONDS), VOICE_STEP_SECONDS):
            low = max(0, round((middle - VOICE_SECONDS / 2) * audio.sample_rate))
            piece = audio.samples[low : round((middle + VOICE_SECONDS / 2) * audio.sample_rate)]
            if not len(piece):
                continue
            heard = Audio(samples=piece, sample_rate=audio.sample_rate)
            _, features = encoder.read(heard, measure(heard))
            if features is not None:
                times.append(audio.start + middle)
                tokens.append(features.tokens[0])
        return SoundOverTime(times=np.array(times), features=np.stack(tokens)) if times else None

    return listen


def read_videos(listen: Listener, source: Path, output: Path) -> Iterator[tuple[str, int]]:
    """Listen to the videos that ``output`` does not have yet; yield each with the number of its rows (0: no sound)."""
    videos = aff_wild2.find_videos(source) if source.is_dir() else {}
    if not videos and source.is_dir():
        videos = {file.stem: file for file in sorted(source.rglob("*")) if file.suffix.lower() in VIDEO_SUFFIXES}
    if not videos:
        raise DatasetError(f"{source} holds no video; expected: batch1, batch2, ..., videos, or files in it")
    for name, file in videos.items():
        if (output / f"{name}.safetensors").is_file():
            continue
        audio = sound_of(file)
        found = None if audio is None else listen(audio)
        if found is not None:
            rate = aff_wild2.frame_rate(file)
            sound_features.write(
                output, SoundFeatures(video=name, times=found.times, features=found.features, fps=rate)
            )
        yield name, 0 if found is None else len(found.times)


def sound_of(file: Path) -> Audio | None:
    """Return the whole sound of a video, mono at 16 kHz; ``None`` where it has none."""
    from emollama.media_windows import read_windows

    pieces: list[Audio] = []
    for window in read_windows(file, fps=0.1, max_long_side=16):
        if window.clip.audio is not None and len(window.clip.audio.samples):
            pieces.append(dataclasses.replace(window.clip.audio, start=window.start + window.clip.audio.start))
    if not pieces:
        return None
    start = pieces[0].start
    ends = [round((piece.start - start) * SAMPLE_RATE) + len(piece.samples) for piece in pieces]
    samples = np.zeros(max(ends), np.float32)
    for piece, end in zip(pieces, ends, strict=True):
        samples[end - len(piece.samples) : end] = piece.samples
    return Audio(samples=samples, sample_rate=SAMPLE_RATE, start=start)
