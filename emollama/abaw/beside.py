"""Tuned heads beside a face model: what an analysis says of a face over time is what a submission would.

Beside ``X.safetensors`` or ``X.onnx`` lie folders as ``emollama train abaw_va`` and its siblings write them:

    X.heads/va/     face.safetensors, face.json, plan.json    valence and arousal over time
    X.heads/au/     the same                                  action units, and which of them are there
    X.heads/expr/   the same                                  expressions over time

Each is optional; another name, a head that listens, one for another model, or an adaptive frame rate is refused. A head
of action units may also lie alone, as ``X.au.safetensors`` with its JSON.

Heads read the crops as they are, as they did in training, not their mirror images. Their opinions are mixed with the
model's own by the tuned share, laid on a grid of the frames per second that the plan was tuned at, so that holes are
filled as they were there, smoothed by the tuned window, and read off at the track's times. Expressions lose the column
"other", which nothing here answers with; the rest is made to sum to one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from emollama.abaw.answers import NUM_BASIC, frame_opinions, mix
from emollama.abaw.heads import Plan, TunedHeads
from emollama.datasets.frame_scores import FrameScores
from emollama.errors import CheckpointError
from emollama.labels import ABAW_8, ABAW_UNITS, HSEMOTION_8
from emollama.temporal import interpolate
from emollama.types import FaceReadings, Features
from emollama.watch import Check, unwatched

if TYPE_CHECKING:
    from emollama.encoders.face import FaceEncoder, Straight

BESIDE = ("expr", "va", "au")


class TunedFace:
    """Reads tracks as a `FaceEncoder`, and over time by the heads that lie beside it."""

    def __init__(self, encoder: FaceEncoder, heads: Mapping[str, TunedHeads]) -> None:
        self.encoder, self.heads = encoder, MappingProxyType(dict(heads))
        for task, head in heads.items():
            _check(encoder, task, head)

    @property
    def name(self) -> str:
        return self.encoder.name

    @property
    def token_width(self) -> int:
        return self.encoder.token_width

    def read(
        self, crops: np.ndarray, times: np.ndarray, track_id: int, *, check: Check = unwatched
    ) -> tuple[FaceReadings, Features]:
        """Read a track as `FaceEncoder.read` does; tokens are the same, readings are the heads'."""
        readings, features, straight = self.encoder.read_straight(crops, times, track_id, check=check)
        for task, heads in self.heads.items():
            readings = _told(readings, task, heads, straight)
        return readings, features


def heads_beside(path: Path) -> dict[str, TunedHeads]:
    """Load the heads beside a face model's file, by task; raises `CheckpointError` for what does not belong there."""
    folder = path.with_name(f"{path.stem}.heads")
    if not folder.is_dir():
        return {}
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    unknown = [name for name in names if name not in BESIDE or not (folder / name).is_dir()]
    if unknown or not names:
        raise CheckpointError(
            f"{folder} holds {', '.join(unknown) or 'nothing'}; allowed: a folder each for {', '.join(BESIDE)}",
            field="heads",
        )
    return {name: TunedHeads.load(folder / name) for name in BESIDE if name in names}


def with_heads(encoder: FaceEncoder, path: Path) -> FaceEncoder | TunedFace:
    """Return a face model that was loaded from ``path`` with the heads beside it; without any, as it is."""
    heads = heads_beside(path)
    if encoder.unit_head is not None:
        if "au" in heads:
            raise CheckpointError(
                f"two heads for action units lie beside {path.name}; keep {path.stem}.heads/au or "
                f"{path.stem}.au.safetensors",
                field="heads",
            )
        heads["au"] = TunedHeads.of(encoder.unit_head)
    return TunedFace(encoder, heads) if heads else encoder


def over_time(plan: Plan, times: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return values [T, K] at ``times`` [T] seconds, ascending, smoothed as the plan was tuned.

    Between times the values are interpolated at the plan's frames per second, from the first time on.
    """
    places = 1.0 + (np.asarray(times, np.float64) - times[0]) * plan.fps
    frames = np.arange(1, int(np.ceil(places[-1] - 1e-6)) + 1)
    return interpolate(frames, plan.smooth(interpolate(places, values, frames)), places)


def _told(readings: FaceReadings, task: str, heads: TunedHeads, straight: Straight) -> FaceReadings:
    plan, times = heads.plan, readings.times
    kept = FrameScores(
        video=f"face {readings.track_id}",
        frames=np.arange(1, len(times) + 1),
        scores=straight.scores,
        embeddings=straight.embedding,
    )
    head, own = frame_opinions(heads, kept)
    mixed = mix(head, own, plan.head)
    assert mixed is not None  # there is a face, and a head or the model's own opinion
    values = over_time(plan, times, mixed)
    if task == "va":
        valence, arousal = np.clip(values, -1.0, 1.0).T
        return dataclasses.replace(readings, valence=valence, arousal=arousal)
    if task == "au":
        return dataclasses.replace(
            readings, action_units=ABAW_UNITS, units=values, unit_thresholds=tuple(plan.thresholds)
        )
    shares = values / np.asarray(plan.thresholds) if plan.thresholds else values
    basic = shares[:, :NUM_BASIC]
    if plan.trust is not None and own is not None:  # where the model itself is sure enough it is believed
        sure = over_time(plan, times, own)[:, :NUM_BASIC]
        basic = np.where((sure.max(axis=1) > plan.trust)[:, None], sure, basic)
    basic = np.maximum(basic, 1e-7)
    return dataclasses.replace(
        readings,
        labels=ABAW_8[:NUM_BASIC],
        probabilities=basic / basic.sum(axis=1, keepdims=True),
        is_smooth=True,
    )


def _check(encoder: FaceEncoder, task: str, heads: TunedHeads) -> None:
    """Raise `CheckpointError` for heads that this model cannot be read with."""
    where = f"the heads for {task} beside face model {encoder.name}"
    if heads.task != task:
        raise CheckpointError(f"{where} are heads for {heads.task}; allowed: {task}", field="heads")
    if heads.sound is not None:
        raise CheckpointError(
            f"{where} listen, too; allowed: heads of the face alone (train them without task.sound)", field="heads"
        )
    if heads.plan.rate is not None:
        raise CheckpointError(
            f"{where} have an adaptive frame rate; allowed: none (train them without task.strides)", field="heads"
        )
    config = encoder.config
    if set(config.labels) != set(HSEMOTION_8):
        raise CheckpointError(
            f"{where} want a model of {', '.join(HSEMOTION_8)}; it knows {', '.join(config.labels)}", field="heads"
        )
    if task == "au" and config.action_units:
        raise CheckpointError(f"{where} and outputs of its own read action units; allowed: one of them", field="heads")
    if heads.face is None and task == "va" and not config.has_affect:
        raise CheckpointError(f"{where} have no head, and the model gives no valence and arousal", field="heads")
    if heads.face is not None:
        width = {"scores": len(config.labels) + 2 * config.has_affect, "embeddings": encoder.embedding_width}
        given, wanted = heads.face.weights[0].shape[1], width[heads.face.reads]
        if given != wanted:
            raise CheckpointError(
                f"{where} read {given} numbers; its {heads.face.reads} are {wanted}: train them on this model",
                field="heads",
            )
