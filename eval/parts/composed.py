"""Composed clips over every subset of face, voice and words: labels, calibration, and rationales that keep to the cues.

A picture of FER+ (validation), an EmoDB recording and a GoEmotions comment (dev) of the same emotion are joined, and
each of the seven subsets of the three is analysed whole, from pixels, samples and text. Nothing pairs these sets in
the world: this measures fusion and honesty, not life. The voice is from a speaker that the instruct stage never heard;
with ``out_of_fold`` the voice head's opinion is that of the fold model that had not heard the speaker either.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from emollama import metrics
from emollama.analyze import Analyzer, VoiceReader
from emollama.datasets import emodb, ferplus, goemotions
from emollama.errors import DatasetError
from emollama.evidence import check_rationale
from emollama.labels import EKMAN_7, EMODB_6, NANO_LABELS, canonical
from emollama.parse import parse_reply
from emollama.prompt import SOURCES
from emollama.types import Audio, Clip, Features, Frames, Transcript, VoiceReadings
from emollama.watch import Check, unwatched

SUBSETS = tuple(subset for size in (1, 2, 3) for subset in combinations(SOURCES, size))
CLASSES = tuple(name for name in NANO_LABELS if name in EKMAN_7 and name in EMODB_6)
SPEAKER = "16"


def evaluate(
    data: Path,
    *,
    model: str | Path | Analyzer | None = None,
    samples: int = 500,
    seed: int = 0,
    out_of_fold: str | Path | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> dict[str, Any]:
    """Analyse ``samples`` composed clips; ``data`` is the raw data folder, ``model`` a preset, a folder or an analyzer.

    ``accuracy_by_subset`` is over the same drawn triples for every subset; ``falls`` lists the pairs in which adding a
    modality lowered it. ``parsed``, ``label_kept`` and ``absent_claimed`` are shares of all rationales.
    """
    analyzer = model if isinstance(model, Analyzer) else Analyzer.load(model or "nano")
    triples = _draw(Path(data), count=-(-samples // len(SUBSETS)), seed=seed)
    if out_of_fold is not None:
        voice = _OutOfFold(Path(out_of_fold), analyzer.parts.voice)
        analyzer = Analyzer(dataclasses.replace(analyzer.parts, voice=voice))
    jobs = [(triple, subset) for triple in triples for subset in SUBSETS][:samples]
    probabilities, truth, problems = [], [], []
    parsed = kept = claimed = abstained = 0
    for number, (triple, subset) in enumerate(jobs):
        if out_of_fold is not None:
            voice.name = triple.voice_name
        seen = analyzer.understand(triple.clip(subset))
        if seen.cues is None:
            raise DatasetError(f"{triple.voice_name}: nothing was read from the composed clip {'+'.join(subset)}")
        text = analyzer.answer(seen, "What does the person appear to feel, and why?")
        probabilities.append([seen.emotion.scores[name] for name in NANO_LABELS])
        truth.append(NANO_LABELS.index(triple.emotion))
        said = parse_reply(text, labels=NANO_LABELS).label
        parsed += said is not None
        kept += said is not None and canonical(said) == canonical(seen.emotion.label or "")
        abstained += seen.emotion.abstained
        found = check_rationale(text, seen.cues)
        claimed += any("which the clip does not have" in problem for problem in found)
        problems += [{"subset": "+".join(subset), "text": text, "problem": problem} for problem in found]
        if progress is not None:
            progress(number + 1, len(jobs))
    table, index = np.array(probabilities), np.array(truth)
    right = table.argmax(1) == index
    subsets = np.array(["+".join(subset) for _, subset in jobs])
    names = ["+".join(subset) for subset in SUBSETS]
    accuracy = {name: float(right[subsets == name].mean()) for name in names if any(subsets == name)}
    return {
        "model": analyzer.parts.name,
        "samples": len(jobs),
        "classes": list(CLASSES),
        "voice_out_of_fold": out_of_fold is not None,
        "parsed": parsed / len(jobs),
        "label_kept": kept / len(jobs),
        "absent_claimed": claimed / len(jobs),
        "abstained": abstained / len(jobs),
        "accuracy": float(right.mean()),
        "accuracy_unless_abstained": _accuracy_above(table, right, analyzer),
        "ece": metrics.expected_calibration_error(table, index),
        "brier": metrics.brier(table, index),
        "accuracy_by_subset": accuracy,
        "falls": _falls(accuracy),
        "problems": problems[:20],
        "num_problems": len(problems),
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Triple:
    """A picture [48, 48] grey, a recording and a comment of one emotion."""

    emotion: str
    picture: np.ndarray
    audio: Audio
    text: str
    voice_name: str

    def clip(self, subset: tuple[str, ...]) -> Clip:
        frames = None
        if "face" in subset:
            image = np.repeat(self.picture[None, :, :, None], 3, axis=3)
            frames = Frames(images=image, times=np.zeros(1), source_fps=None, is_still=True)
        return Clip(
            name=f"{self.emotion}-{'+'.join(subset)}",
            seconds=self.audio.seconds if "voice" in subset else 0.0,
            frames=frames,
            audio=self.audio if "voice" in subset else None,
            transcript=Transcript(text=self.text) if "words" in subset else None,
        )


def _draw(data: Path, *, count: int, seed: int) -> list[Triple]:
    """Draw triples from the odd rows of each validation set; the even ones belong to the calibration."""
    rng = Random(seed)
    faces, voices = ferplus.load(data, "valid"), [u for u in emodb.read(data) if u.speaker == SPEAKER]
    comments = [c for c in goemotions.read(data, split="dev")[1::2] if len(c.ekman) == 1]
    odd = np.arange(len(faces)) % 2 == 1
    triples = []
    for number in range(count):
        emotion = CLASSES[number % len(CLASSES)]
        rows = np.flatnonzero(odd & (faces.majority == NANO_LABELS.index(emotion)))
        voice = rng.choice([u for u in voices if u.emotion == emotion])
        triples.append(
            Triple(
                emotion=emotion,
                picture=faces.images[rng.choice(rows.tolist())],
                audio=voice.audio,
                text=rng.choice([c.text for c in comments if c.ekman == (emotion,)]),
                voice_name=voice.name,
            )
        )
    return triples


class _OutOfFold:
    """A voice reader that gives the opinion of the fold model that never heard the recording called ``name``."""

    name = ""

    def __init__(self, path: Path, reader: VoiceReader) -> None:
        if not path.is_file():
            raise DatasetError(f"{path} is not there; it is made by: emollama train nano_voice", field="out_of_fold")
        self.log_probabilities: Mapping[str, list[float]] = json.loads(path.read_text())["log_probabilities"]
        self.reader = reader

    def read(
        self, audio: Audio, readings: VoiceReadings, *, check: Check = unwatched
    ) -> tuple[VoiceReadings, Features | None]:
        read, features = self.reader.read(audio, readings, check=check)
        if features is None:
            return read, None
        opinion = np.array(self.log_probabilities[self.name], np.float32)
        tokens = features.tokens.copy()
        tokens[:, : len(opinion)] = opinion
        return dataclasses.replace(read, probabilities=np.exp(opinion)), dataclasses.replace(features, tokens=tokens)


def _falls(accuracy: Mapping[str, float]) -> list[str]:
    """Name every step from a subset to one with a modality more at which accuracy fell."""
    falls = []
    for small in SUBSETS:
        for large in SUBSETS:
            if len(large) == len(small) + 1 and set(small) < set(large):
                before, after = accuracy.get("+".join(small)), accuracy.get("+".join(large))
                if before is not None and after is not None and after < before:
                    falls.append(f"{'+'.join(small)} {before:.3f} -> {'+'.join(large)} {after:.3f}")
    return falls


def _accuracy_above(table: np.ndarray, right: np.ndarray, analyzer: Analyzer) -> float | None:
    answered = np.array(
        [not analyzer.parts.calibration.abstains(float(row.max()), num_labels=len(NANO_LABELS)) for row in table]
    )
    return float(right[answered].mean()) if answered.any() else None
