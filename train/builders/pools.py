"""Pools of real, labelled samples of one modality each, with the readings that were measured on them.

Nothing in the public sets pairs a face with a voice or a sentence: a composed sample joins one of each, of the same
emotion or on purpose of another, and is never more than that. Features are computed once per encoder version and
kept as safetensors in a cache folder, named by the hash of the encoder's file.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emollama.datasets import ferplus, goemotions
from emollama.encoders.face import FaceEncoder
from emollama.errors import DatasetError
from emollama.labels import EKMAN_7, EMODB_6, NANO_LABELS

# Speakers whose voices the instruct stage never hears: composed validation samples are made of them.
VALIDATION_SPEAKERS = ("15", "16")


@dataclass(frozen=True, kw_only=True)
class FacePool:
    """N pictures: ``tokens`` [N, D] of the face encoder, ``probabilities`` [N, 8], vote shares ``targets`` [N, 8]."""

    tokens: np.ndarray
    probabilities: np.ndarray
    targets: np.ndarray

    def of_class(self, label: str) -> np.ndarray:
        """Indices of the pictures whose voters mostly saw ``label``."""
        return np.flatnonzero(self.targets.argmax(1) == NANO_LABELS.index(label))


@dataclass(frozen=True, kw_only=True)
class VoicePool:
    """N utterances: ``tokens`` [N, D] (out-of-fold log-probabilities and functionals), ``probabilities`` [N, 6]."""

    names: tuple[str, ...]
    tokens: np.ndarray
    probabilities: np.ndarray
    emotions: tuple[str, ...]
    speakers: tuple[str, ...]
    spans: np.ndarray  # [N, 2] seconds of the voiced part
    levels: tuple[dict[str, str], ...]

    def of_class(self, label: str) -> np.ndarray:
        return np.flatnonzero(np.array(self.emotions) == label)


@dataclass(frozen=True, kw_only=True)
class WordsPool:
    """N comments: fine labels, and the share of each Ekman class among them as ``targets`` [N, 8] over NANO_LABELS."""

    texts: tuple[str, ...]
    fine: tuple[tuple[str, ...], ...]
    targets: np.ndarray

    def of_class(self, label: str) -> np.ndarray:
        """Indices of the comments that carry ``label`` and no other class."""
        return np.flatnonzero(self.targets[:, NANO_LABELS.index(label)] == 1.0)


def face_pool(data: Path, split: str, *, encoder: Path, cache: Path) -> FacePool:
    """Read a FER+ split through the face encoder; the encoder's readings are cached."""
    pictures = ferplus.load(data, split)
    digest = hashlib.sha256(encoder.read_bytes()).hexdigest()[:16]
    path = cache / f"face-{split}-{digest}.npz"
    if path.is_file():
        with np.load(path, allow_pickle=False) as stored:
            tokens = stored["tokens"]
    else:
        net = FaceEncoder.load(encoder)
        rgb = np.repeat(pictures.images[..., None], 3, axis=3)
        read = net.embed(rgb)
        tokens = np.concatenate((read.embedding, read.log_probabilities), axis=1).astype(np.float32)
        _save(path, tokens=tokens)
    return FacePool(tokens=tokens, probabilities=np.exp(tokens[:, -len(NANO_LABELS) :]), targets=pictures.targets)


def voice_pool(
    data: Path, *, run: Path, speakers: tuple[str, ...] | None = None, but: tuple[str, ...] = ()
) -> VoicePool:
    """Read EmoDB (no boredom) with the out-of-fold opinions that the voice recipe left in its run folder ``run``."""
    from emollama import prosody
    from emollama.datasets import emodb
    from emollama.encoders.voice import TOKEN_SCALE

    path, measured = run / "oof.json", run / "functionals.npz"
    for file in (path, measured):
        if not file.is_file():
            raise DatasetError(f"{file} is not there; it is made by: emollama train nano_voice", field="voice_run")
    opinions = json.loads(path.read_text())["log_probabilities"]
    with np.load(measured, allow_pickle=False) as stored:
        functionals = dict(zip(stored["names"].tolist(), stored["standardised"], strict=True))
    kept, tokens, probabilities, spans, levels = [], [], [], [], []
    for clip in emodb.iterate(data):
        if (speakers and clip.speaker not in speakers) or clip.speaker in but:
            continue
        readings = prosody.measure(clip.audio)
        if not readings.segments:
            continue
        opinion = opinions[clip.name]
        kept.append(clip)
        tokens.append([*opinion, *(TOKEN_SCALE * functionals[clip.name])])
        probabilities.append(np.exp(opinion))
        first, last = readings.segments[0], readings.segments[-1]
        spans.append((first.start, last.end))
        longest = max(readings.segments, key=lambda segment: segment.end - segment.start)
        levels.append(dict(longest.level))
    return VoicePool(
        names=tuple(clip.name for clip in kept),
        tokens=np.array(tokens, np.float32),
        probabilities=np.array(probabilities, np.float32),
        emotions=tuple(clip.emotion for clip in kept),
        speakers=tuple(clip.speaker for clip in kept),
        spans=np.array(spans, np.float32),
        levels=tuple(levels),
    )


def words_pool(data: Path, split: goemotions.Split) -> WordsPool:
    comments = goemotions.read(data, split=split)
    targets = np.zeros((len(comments), len(NANO_LABELS)), np.float32)
    for row, comment in enumerate(comments):
        for name in comment.ekman:
            targets[row, NANO_LABELS.index(name)] = 1.0 / len(comment.ekman)
    return WordsPool(
        texts=tuple(comment.text for comment in comments),
        fine=tuple(comment.labels for comment in comments),
        targets=targets,
    )


def classes_of(subset: tuple[str, ...]) -> tuple[str, ...]:
    """The emotions that every modality of a subset has samples of."""
    sets = {"face": NANO_LABELS, "voice": EMODB_6, "words": EKMAN_7}
    return tuple(name for name in NANO_LABELS if all(name in sets[source] for source in subset))


def _save(path: Path, **arrays: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part.npz")
    np.savez(temporary, **arrays)  # type: ignore[arg-type]
    temporary.replace(path)
