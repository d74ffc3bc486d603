"""A fusion classifier on composed clips that are whole, that lack a modality, and that are spoiled in one.

The clips are those that `emollama.fusion.composed` draws for validation with ``seed``: give the seed of the training
clips, whose other side they are. Spoiled pictures, sound and words (`eval.corruptions`) are read by nano's encoders
anew, so a figure is that of encoders and classifier together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emollama import metrics
from emollama.datasets import emodb, ferplus, goemotions
from emollama.errors import InputError
from emollama.fusion.classifier import FusionClassifier
from emollama.fusion.composed import compose
from emollama.fusion.nano_vectors import NanoVectors
from emollama.fusion.utterances import Utterances
from emollama.types import Box, Clip, FaceTrack, Frames, Transcript
from eval.robustness import Condition, corrupt_clip, draw, parse_conditions

DEFAULT = ("noise=10,0", "cut_middle=0.5", "blur=2,4", "dark=4", "words=0.3")


def evaluate(
    data: Path,
    *,
    model: str | Path,
    seed: int = 0,
    per_class: int = 100,
    cache: str | Path = "runs/fusion-items",
    corrupt: Sequence[str] = DEFAULT,
    corrupt_seed: int = 0,
    progress: Callable[[int, int], object] | None = None,
) -> dict[str, Any]:
    """Return macro-F1 of the folder ``model`` on ``per_class`` clips a class: whole, without each modality, spoiled.

    Raises `InputError` for a classifier of other modalities or labels than the composed clips have.
    """
    classifier, vectors = FusionClassifier.load(Path(model)), NanoVectors()
    conditions = parse_conditions(tuple(corrupt))
    sets = compose(data, Path(cache), seed=seed, valid_per_class=per_class, vectors=vectors)
    clips = sets.valid
    if set(classifier.config.modalities) != set(clips.modalities):
        raise InputError(
            f"the classifier reads {', '.join(classifier.config.modalities)}; allowed: {', '.join(clips.modalities)}",
            field="model",
        )
    whole = _macro_f1(classifier, clips)
    without = {name: _macro_f1(classifier, clips.without(name)) for name in clips.modalities}
    decoded = _Decoded(data)
    spoiled, done = {}, 0
    for condition in conditions:
        rows = []
        for name in clips.names:
            rows.append(_spoilt_row(decoded.clip(name), condition, vectors, seed=corrupt_seed))
            done += 1
            if progress is not None:
                progress(done, len(clips) * len(conditions))
        spoiled[str(condition)] = _macro_f1(classifier, _replaced(clips, rows))
    return {
        "clips": len(clips),
        "seed": seed,
        "held_out_speakers": list(sets.held_out),
        "members": len(classifier.members),
        "macro_f1": whole,
        "macro_f1_without": without,
        "macro_f1_spoiled": spoiled,
        "fall_without": {name: whole - value for name, value in without.items()},
        "fall_spoiled": {name: whole - value for name, value in spoiled.items()},
    }


class _Decoded:
    """The raw items of the validation side by name, each set read once."""

    def __init__(self, data: Path) -> None:
        faces = ferplus.load(data, "valid")
        self.pictures = dict(zip(faces.names, faces.images, strict=True))
        self.sounds = {utterance.name: utterance.audio for utterance in emodb.iterate(data)}
        self.texts = {comment.id: comment.text for comment in goemotions.read(data, split="dev")}

    def clip(self, name: str) -> Clip:
        """Return the composed clip of this name: a still picture, the recording and the words."""
        face, voice, words = name.partition(":")[2].split("+")
        picture = np.repeat(self.pictures[face][None, :, :, None], 3, axis=3)
        return Clip(
            name=name,
            seconds=self.sounds[voice].seconds,
            frames=Frames(images=picture, times=np.zeros(1), source_fps=None, is_still=True),
            audio=self.sounds[voice],
            transcript=Transcript(text=self.texts[words]),
        )


def _spoilt_row(clip: Clip, condition: Condition, vectors: NanoVectors, *, seed: int) -> dict[str, np.ndarray | None]:
    """Return the vector of what the condition touched, or ``None`` where nothing can be read there any more."""
    spoilt = corrupt_clip(clip, draw(clip.name, condition, seed=seed))
    read = vectors.read(_with_face(spoilt))
    before = {"face": clip.frames, "voice": clip.audio, "words": clip.transcript}
    after = {"face": spoilt.frames, "voice": spoilt.audio, "words": spoilt.transcript}
    return {name: read.get(name) for name in before if after[name] is not before[name]}


def _with_face(clip: Clip) -> Clip:
    """Return the clip with its picture as the face: FER+'s pictures are faces already."""
    assert clip.frames is not None
    height, width = clip.frames.images.shape[1:3]
    box = Box(x=0.0, y=0.0, width=float(width), height=float(height))
    track = FaceTrack(
        track_id=0, times=clip.frames.times, boxes=(box,) * len(clip.frames.times), crops=clip.frames.images, share=1.0,
        is_main=True,
    )  # fmt: skip
    return dataclasses.replace(clip, tracks=(track,))


def _replaced(clips: Utterances, rows: Sequence[dict[str, np.ndarray | None]]) -> Utterances:
    features = {name: values.copy() for name, values in clips.features.items()}
    for row, found in enumerate(rows):
        for name, vector in found.items():
            features[name][row] = np.nan if vector is None else vector
    return Utterances(names=clips.names, features=features, labels=clips.labels, groups=clips.groups)


def _macro_f1(classifier: FusionClassifier, clips: Utterances) -> float:
    labels = list(classifier.labels)
    if unknown := sorted({str(label) for label in clips.labels} - set(labels)):
        raise InputError(f"the classifier does not know {unknown[0]!r}; allowed: {', '.join(labels)}", field="model")
    truth = np.array([labels.index(str(label)) for label in clips.labels])
    return metrics.macro_f1(truth, classifier.probabilities(clips).argmax(1), num_classes=len(labels))
