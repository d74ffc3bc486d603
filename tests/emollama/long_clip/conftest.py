"""An analyzer that reads painted faces, for clips whose windows are painted, too: what it should say is known."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import emollama
from emollama.analyze import Analyzer
from emollama.calibration import Calibration
from emollama.labels import EMODB_6, NANO_LABELS
from emollama.media_windows import ClipWindow
from emollama.parts import Parts, PromptRow, Query
from emollama.prompt import Renderer
from emollama.types import (
    Audio,
    Box,
    Clip,
    FaceReadings,
    FaceTrack,
    Features,
    Frames,
    Transcript,
    TranscriptSegment,
    VoiceReadings,
    VoiceSegment,
)

RENDERER = Renderer.load(Path(emollama.__file__).parent / "assets" / "nano" / "tokenizer.json")
FPS = 2.0
WORDS = {"hate": "anger", "wonderful": "happiness", "lost": "sadness"}


class PaintedEngine:
    """Likelihoods from what a row holds: tokens are logits of the labels, words are looked up; says what it may."""

    def prefill(self, rows: Sequence[PromptRow]) -> list[PromptRow]:
        return list(rows)

    def score(self, prefix: list[PromptRow], queries: Sequence[Query]) -> list[np.ndarray]:
        return [np.array([[self._likelihood(row, o) for o in query.options] for row in prefix]) for query in queries]

    def _likelihood(self, row: PromptRow, option: Sequence[int]) -> float:
        text = RENDERER.tokenizer.decode(row.ids, skip_special_tokens=True)
        total = 0.0
        for index, label in enumerate(NANO_LABELS):
            if list(option) == RENDERER.label_ids([label])[0]:
                total += sum(float(tokens.mean(0)[index]) for tokens in row.features.values())
                total += sum(3.0 for word, meant in WORDS.items() if word in text and meant == label)
        return total

    def generate(self, prefix: Any, ids: Any, *, choices: Any = None, **options: Any) -> Iterator[int]:
        yield from choices[0]


def paint(faces: Sequence[tuple[int, str, int]]) -> np.ndarray:
    """[48, 96, 3]: for each (person, expression, x) a square whose colour says who and what."""
    image = np.zeros((48, 96, 3), np.uint8)
    for person, expression, x in faces:
        image[10:34, x : x + 24, 0] = 200 + person
        image[10:34, x : x + 24, 1] = NANO_LABELS.index(expression)
        image[10:22, x : x + 24, 2] = 60 * person
    return image


def track_painted(frames: Frames, *, audio: Audio | None = None, check: Any = None) -> tuple[FaceTrack, ...]:
    """Follow painted squares; the ids begin at 0 in every call, as the tracker's do."""
    found: dict[int, tuple[list[float], list[Box], list[np.ndarray]]] = {}
    for image, time in zip(frames.images, frames.times, strict=True):
        for person in range(1, 9):
            columns = np.flatnonzero((image[..., 0] == 200 + person).any(axis=0))
            if len(columns):
                x = int(columns[0])
                times, boxes, crops = found.setdefault(person, ([], [], []))
                times.append(float(time))
                boxes.append(Box(x=x, y=10, width=24, height=24))
                crops.append(image[10:34, x : x + 24])
    most = max((len(times) for times, _, _ in found.values()), default=0)
    return tuple(
        FaceTrack(
            track_id=number, times=np.array(times), boxes=tuple(boxes), crops=np.stack(crops),
            share=len(times) / len(frames.times), is_main=number == 0,
            chosen_because="it is the only face" if most else "",
        )
        for number, (times, boxes, crops) in enumerate(sorted(found.values(), key=lambda one: -len(one[0])))
    )  # fmt: skip


class PaintedFace:
    def read(
        self, crops: np.ndarray, times: np.ndarray, track_id: int, *, check: Any = None
    ) -> tuple[FaceReadings, Features]:
        table = np.full((len(crops), 8), 0.02)
        table[np.arange(len(crops)), crops[:, 12, 12, 1]] = 0.86
        readings = FaceReadings(
            track_id=track_id, times=np.asarray(times), labels=NANO_LABELS, probabilities=table,
            valence=np.where(crops[:, 12, 12, 1] == 1, 0.8, -0.5), arousal=np.full(len(crops), 0.1),
        )  # fmt: skip
        parts = np.array_split(np.log(table), min(8, len(table)))
        return readings, Features(encoder="painted", tokens=np.stack([p.mean(0) for p in parts]).astype(np.float32))


class LoudVoice:
    def read(
        self, audio: Audio, readings: VoiceReadings, *, check: Any = None
    ) -> tuple[VoiceReadings, Features | None]:
        table = np.full(6, 0.05)
        table[EMODB_6.index("anger")] = 0.75
        token = np.zeros((1, 8), np.float32)
        token[0, NANO_LABELS.index("anger")] = 0.5
        return dataclasses.replace(readings, labels=EMODB_6, probabilities=table), Features(encoder="v", tokens=token)


def hear_loud(audio: Audio, *, check: Any = None) -> VoiceReadings:
    """A voice wherever the sound is not silent."""
    if not np.any(audio.samples):
        return VoiceReadings(voiced_seconds=0.0, segments=())
    segment = VoiceSegment(
        start=audio.start, end=audio.start + audio.seconds, pitch_hz=220.0, pitch_range_semitones=4.0, pitch_slope=0.0,
        loudness_dbfs=-20.0, syllables_per_second=4.0, level={"pitch": "high", "loudness": "high", "rate": "medium"},
    )  # fmt: skip
    return VoiceReadings(voiced_seconds=audio.seconds, segments=(segment,))


class CountedEars:
    """A recogniser that hears the second in which a window begins; ``loaded`` are the names it was loaded by."""

    def __init__(self) -> None:
        self.loaded: list[str] = []

    def __call__(self, name: str) -> Callable[..., Transcript | None]:
        self.loaded.append(name)

        def hear(audio: Audio, *, language: str | None = None, check: Any = None) -> Transcript | None:
            text = f"a wonderful second {audio.start:.0f}"
            said = TranscriptSegment(start=audio.start, end=audio.start + 1, text=text)
            return Transcript(text=text, segments=(said,), source="asr")

        return hear


@pytest.fixture
def painted() -> Callable[..., Analyzer]:
    """``painted(**parts)``: an analyzer of painted faces and loud voices."""

    def make(**parts: Any) -> Analyzer:
        given = {
            "name": "painted", "renderer": RENDERER, "engine": PaintedEngine(), "face": PaintedFace(),
            "voice": LoudVoice(), "measure_voice": hear_loud, "track_faces": track_painted,
            "calibration": Calibration(abstain_below=0.3),
        }  # fmt: skip
        return Analyzer(Parts(**{**given, **parts}))

    return make


Scene = Callable[[float], Sequence[tuple[int, str, int]]]


def shot(scene: Scene, first: float, last: float) -> Frames:
    times = np.arange(round(first * FPS), round(last * FPS)) / FPS
    return Frames(images=np.stack([paint(scene(t)) for t in times]), times=times - first, source_fps=FPS)


@pytest.fixture
def film() -> Callable[..., Any]:
    """``film(scene, seconds, windows=10.0)``: windows of a clip; ``scene(t)`` lists the faces at that time.

    ``windows=None`` gives the clip in one piece; ``sound(start)`` says whether a window is loud, silent or None.
    """

    def shoot(
        scene: Scene | None, seconds: float, *, windows: float | None = 10.0,
        sound: Callable[[float], float | None] = lambda start: None,
    ) -> Any:  # fmt: skip
        length = windows or seconds
        found = []
        for index in range(round(seconds / length)):
            start = index * length
            level = sound(start)
            audio = None if level is None else Audio(samples=np.full(round(16_000 * length), level, np.float32))
            frames = None if scene is None else shot(scene, start, start + length)
            clip = Clip(name="film.mp4", seconds=length, frames=frames, audio=audio)
            is_last = start + length >= seconds
            clip = dataclasses.replace(clip, sha256="ab" if is_last else None)
            found.append(
                ClipWindow(
                    index=index,
                    start=start,
                    end=start + length,
                    clip=clip,
                    share=(start + length) / seconds,
                    is_last=is_last,
                )
            )
        return found[0].clip if windows is None else found

    return shoot


@pytest.fixture
def ears() -> CountedEars:
    return CountedEars()
