"""The task of the ABAW recipes: heads on kept readings, then what is tuned with them, then a report.

Two heads learn side by side and share nothing: one of the face, on annotated frames in which one was found, and one of
the sound on those of them that have it. The part that is reported on is read when all is chosen, for the report alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from emollama.abaw.heads import Plan, TunedHeads
from emollama.datasets import frame_scores, sound_features
from emollama.datasets.aff_wild2 import Challenge
from emollama.datasets.frame_scores import FrameScores
from emollama.datasets.sound_features import SoundFeatures
from emollama.encoders.frame_head import WIDTHS, FrameHead, HeadInput, HeadTask, statistics
from emollama.errors import DatasetError, InputError
from train.abaw import losses, truth
from train.abaw.options import AbawOptions
from train.abaw.scores import score
from train.abaw.split import refuse_shared_scenes, tuning_videos
from train.abaw.truth import Truth
from train.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows to learn from: ``face`` [N, D], ``sound`` [N, E] or ``None``, ``heard`` [N], ``values`` [N] or [N, K]."""

    face: Tensor
    sound: Tensor | None
    heard: Tensor
    values: Tensor


class Branches(nn.Module):
    """The heads that learn side by side."""

    def __init__(self, outputs: int, *, face: int, sound: int | None, hidden: int) -> None:
        super().__init__()
        self.face = _layers(face, hidden, outputs)
        self.sound = None if sound is None else _layers(sound, hidden, outputs)


class AbawTask:
    """Reads annotations and readings of the training part, and holds some of its videos back."""

    def __init__(self, config: TrainConfig, options: AbawOptions) -> None:
        self.config, self.options = config, options
        for name in ("data", "scores"):
            if not getattr(options, name):
                raise InputError(f"task.{name} is empty; name the folder", field=name)
        self.head_task = cast(HeadTask, "expr" if options.task == "ce" else options.task)
        self.readings = frame_scores.read(Path(options.scores))
        self.sounds = sound_features.read(Path(options.sound)) if options.sound else {}
        self.truth = self.read_truth("train")
        self.held = tuning_videos(
            {video: len(frames) for video, (frames, _) in self.truth.items()},
            share=options.tuning_share,
            seed=options.tuning_seed,
        )
        self.rows = self.rows_of([video for video in self.truth if video not in self.held])
        self.tuning = self.rows_of(list(self.held))
        if not len(self.rows.values):
            raise DatasetError("no annotated frame of the training videos has a face: there is nothing to learn from")
        self.weights = self._weights()

    def read_truth(self, split: str) -> Truth:
        """Return what is annotated of a split; raises `DatasetError` for a video without readings."""
        data = Path(self.options.data)
        found: Truth
        if self.options.task == "emi":
            found = {clip: (np.ones(1, np.int64), v[None]) for clip, v in truth.clips(data, split=split).items()}
        else:
            found = truth.frames(data, cast(Challenge, self.head_task), split=split)
        missing = [video for video in found if video not in self.readings]
        if missing:
            raise DatasetError(
                f"{len(missing)} annotated videos of {split} have no readings in {self.options.scores}, the first is "
                f"{missing[0]!r}; `emollama eval read-crops` makes them",
                field="scores",
            )
        return found

    def truth_of_reported(self) -> Truth | None:
        """Return what is annotated of the part that is reported on; ``None`` where it is not asked for."""
        if self.options.task == "ce":
            return truth.compounds(Path(self.options.compounds)) if self.options.compounds else None
        if not self.options.reported:
            return None
        found = self.read_truth(self.options.reported)
        refuse_shared_scenes(self.truth, found)
        return found

    def rows_of(self, videos: list[str]) -> Rows:
        """Return the annotated rows of videos in which a face was found."""
        faces, sounds, heard, values = [], [], [], []
        width = next((each.features.shape[1] for each in self.sounds.values()), 0)
        for video in videos:
            reading = self.readings[video]
            found = self._face_rows(reading, *self.truth[video])
            if found is None:
                continue
            frames, features, known = found
            sound = sound_features.find(self.sounds, video)
            faces.append(_compact(features))
            values.append(known)
            heard.append(np.full(len(known), sound is not None))
            if width:
                sounds.append(_compact(self._sound_rows(sound, frames, width)))
        if not values:
            return Rows(face=torch.zeros(0, 1), sound=None, heard=torch.zeros(0), values=torch.zeros(0))
        return Rows(
            face=torch.cat(faces),
            sound=torch.cat(sounds) if width else None,
            heard=torch.from_numpy(np.concatenate(heard)),
            values=torch.from_numpy(np.concatenate(values)),
        )

    def _face_rows(
        self, reading: FrameScores, frames: np.ndarray, known: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """Numbers, features and values of the annotated frames with a face; of a clip its statistics."""
        head_input = self._probe(reading)
        if self.options.task == "emi":
            return (frames, statistics(head_input)[None], known) if len(head_input) else None
        unique, first = np.unique(reading.frames, return_index=True)
        if len(unique) < len(reading.frames):
            raise DatasetError(f"{reading.video} has several faces in a frame; expected: one, to learn from")
        shared, at_face, at_truth = np.intersect1d(unique, frames, return_indices=True)
        return (shared, head_input[first[at_face]], known[at_truth]) if len(shared) else None

    def _probe(self, reading: FrameScores) -> np.ndarray:
        return reading.scores if self.options.reads == "scores" else _embeddings(reading)

    def _sound_rows(self, sound: SoundFeatures | None, frames: np.ndarray, width: int) -> np.ndarray:
        if self.options.task == "emi":
            return np.zeros((1, 4 * width)) if sound is None else statistics(sound.features, stride=1)[None]
        # Rows of a video without sound are masked by `heard`; these numbers are never read.
        return np.zeros((len(frames), width)) if sound is None else sound.at_frames(frames)

    def _weights(self) -> Tensor:
        values, weighted = self.rows.values, self.options.weighted
        if self.head_task == "expr":
            found = losses.class_weights(torch.bincount(values, minlength=WIDTHS["expr"]))
            return found if weighted else torch.ones(WIDTHS["expr"])
        if self.head_task == "au":
            return losses.unit_weights(values) if weighted else torch.ones(2, WIDTHS["au"])
        if self.head_task == "emi" and weighted:
            return torch.tensor(losses.EMI_WEIGHTS)
        return torch.ones(WIDTHS[self.head_task])

    def build_model(self) -> nn.Module:
        sound = None if self.rows.sound is None else self.rows.sound.shape[1]
        return Branches(WIDTHS[self.head_task], face=self.rows.face.shape[1], sound=sound, hidden=self.options.hidden)

    def batches(self, *, epoch: int, seed: int) -> _Epoch:
        return _Epoch(self.rows, size=self.config.batch_size, epoch=epoch, seed=seed)

    def loss(self, model: nn.Module, batch: Rows) -> tuple[Tensor, dict[str, float | Tensor]]:
        assert isinstance(model, Branches)
        device = next(model.parameters()).device
        values = batch.values.to(device)
        loss = self._loss_of(model.face, batch.face.to(device), values)
        figures: dict[str, float | Tensor] = {"face_loss": loss.detach()}
        heard = batch.heard.to(device)
        # A correlation wants two rows, as every loss here wants one.
        if model.sound is not None and batch.sound is not None and int(heard.sum()) >= 2:
            sound = self._loss_of(model.sound, batch.sound.to(device)[heard], values[heard])
            figures["sound_loss"] = sound.detach()
            loss = loss + sound
        return loss, figures

    def _loss_of(self, head: nn.Module, features: Tensor, values: Tensor) -> Tensor:
        assert isinstance(head, nn.Sequential)
        output = head(features.float())
        weights = self.weights.to(output.device)
        if self.head_task == "expr":
            loss = losses.expression_loss(output, values, weights)
        elif self.head_task == "au":
            loss = losses.unit_loss(output, values.float(), weights)
        elif self.head_task == "va":
            loss = losses.affect_loss(output.tanh(), values.float())
        else:
            loss = losses.intensity_loss(output.sigmoid(), values.float(), weights)
        if self.options.kernel_decay:
            kernels = [layer.weight for layer in head if isinstance(layer, nn.Linear)]
            loss = loss + self.options.kernel_decay * torch.stack([k.square().sum() for k in kernels]).sum()
        return loss

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Return the figure of each head alone on the held-back rows, and their mean, ``score``."""
        assert isinstance(model, Branches)
        heads = self.heads_of(model)
        figures = {}
        if len(self.tuning.values):
            figures["face_score"] = self._figure(heads.face, self.tuning.face, self.tuning.values)
        heard = self.tuning.heard.bool()
        if heads.sound is not None and self.tuning.sound is not None and heard.any():
            figures["sound_score"] = self._figure(heads.sound, self.tuning.sound[heard], self.tuning.values[heard])
        if not figures:
            raise DatasetError("the videos that are held back for tuning have no annotated frame with a face")
        return {"score": sum(figures.values()) / len(figures), **figures}

    def _figure(self, head: FrameHead | None, features: Tensor, values: Tensor) -> float:
        assert head is not None
        found = head(features.float().numpy())
        if self.head_task == "expr":
            return score("expr", values.numpy(), found.argmax(axis=1))
        if self.head_task == "au":
            found = (found > 0.5).astype(np.int64)
        return score(self.head_task, values.numpy(), found)

    def heads_of(self, model: nn.Module, *, plan: Plan | None = None, task: str | None = None) -> TunedHeads:
        """Return the heads of a model in numpy; without a plan units are at 0.5."""
        assert isinstance(model, Branches)
        task = task or self.head_task
        plan = plan or Plan(thresholds=(0.5,) * WIDTHS["au"] if task == "au" else ())
        face = self._head(model.face, self.options.reads, plan)
        sound = None if model.sound is None else self._head(model.sound, "sound", plan)
        return TunedHeads(task=task, face=face, sound=sound, plan=plan)

    def _head(self, head: nn.Module, reads: HeadInput, plan: Plan) -> FrameHead:
        assert isinstance(head, nn.Sequential)
        layers = [layer for layer in head if isinstance(layer, nn.Linear)]
        return FrameHead(
            task=self.head_task,
            reads=reads,
            weights=tuple(layer.weight.detach().float().cpu().numpy().copy() for layer in layers),
            biases=tuple(layer.bias.detach().float().cpu().numpy().copy() for layer in layers),
            half_width=int(plan.width) if plan.smoothing == "box" else 0,
            thresholds=plan.thresholds if self.head_task == "au" else (),
        )

    def export(self, model: nn.Module, folder: Path) -> None:
        from train.abaw.report import tune_and_report

        tune_and_report(self, self.heads_of(model), folder)


class _Epoch:
    """One epoch's batches in an order drawn from (seed, epoch); a rest of fewer than two rows is left out."""

    def __init__(self, rows: Rows, *, size: int, epoch: int, seed: int) -> None:
        self.rows = rows
        self.size = min(size, len(rows.values))
        generator = torch.Generator().manual_seed(seed * 100_003 + epoch)
        self.order = torch.randperm(len(rows.values), generator=generator)
        full, rest = divmod(len(self.order), self.size)
        self.count = full + (rest >= 2)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Rows]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Rows:
        chosen = self.order[index * self.size : (index + 1) * self.size]
        rows = self.rows
        return Rows(
            face=rows.face[chosen],
            sound=None if rows.sound is None else rows.sound[chosen],
            heard=rows.heard[chosen],
            values=rows.values[chosen],
        )


def _layers(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    if not hidden:
        return nn.Sequential(nn.Linear(inputs, outputs))
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


def _embeddings(reading: FrameScores) -> np.ndarray:
    if reading.embeddings is None:
        raise DatasetError(f"{reading.video} has no embeddings; keep them, or set task.reads=scores", field="scores")
    return reading.embeddings


def _compact(features: np.ndarray) -> Tensor:
    """Half precision: a million rows of 1,280 numbers are held in memory."""
    return torch.from_numpy(np.ascontiguousarray(features, np.float32)).half()
