"""The task of `hsemotion_stage1` and `hsemotion_stage2`: a face model on AffectNet, and what it reaches there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from emollama import metrics
from emollama.datasets import affectnet
from emollama.encoders.face import FaceEncoder, FaceModel
from emollama.encoders.face_models import FACE_MODELS, FaceModelConfig
from emollama.errors import InputError
from train.abaw.losses import class_weights
from train.affectnet.losses import face_loss
from train.affectnet.options import RANDOM, AffectNetOptions
from train.affectnet.pictures import Decoder, Faces
from train.config import TrainConfig
from train.face_start import find_start, load_start

_AFFECT = ("valence", "arousal")
_LEFT_OUT = "contempt"


@dataclass(frozen=True, kw_only=True)
class Batch:
    """``pictures`` [B, C, S, S] as `preprocess` returns them, ``classes`` [B], ``affect`` [B, 2]."""

    pictures: Tensor
    classes: Tensor
    affect: Tensor


class HeadOnly(FaceModel):
    """A face model whose backbone stays as it is: no gradients, no new statistics of its batch norms."""

    def __init__(self, config: FaceModelConfig) -> None:
        super().__init__(config)
        self.backbone.requires_grad_(False)

    def train(self, mode: bool = True) -> HeadOnly:
        super().train(mode)
        self.backbone.eval()
        return self


class AffectNetTask:
    """Holds paths and labels; pictures are decoded batch by batch."""

    def __init__(self, config: TrainConfig, options: AffectNetOptions) -> None:
        self.config, self.options = config, options
        if not options.data:
            raise InputError("task.data is empty; name the folder with AffectNet", field="data")
        if not options.start:
            raise InputError(
                "task.start is empty; name a face model's file, a converted recogniser's, or random", field="start"
            )
        shape = FACE_MODELS[options.model]
        self.model_config = shape.at_debug_size() if options.debug else shape
        labels = self.model_config.labels
        records = affectnet.read(Path(options.data), split="train")
        self.faces, self.held = Faces.of(records, labels=labels).held_back(
            options.held_per_class, seed=options.held_seed
        )
        self.reported = None
        if options.reported:
            self.reported = Faces.of(affectnet.read(Path(options.data), split=options.reported), labels=labels)
        counts = torch.bincount(self.faces.classes, minlength=len(labels))
        self.weights = class_weights(counts) if options.weighted else torch.ones(len(labels))
        self.decode = Decoder(self.model_config, workers=options.workers)

    def build_model(self) -> nn.Module:
        kind = HeadOnly if self.options.trains == "head" else FaceModel
        model = kind(self.model_config)
        if self.options.start != RANDOM:
            load_start(model, find_start(Path(self.options.start), model=self.options.model))
        return model.to(memory_format=torch.channels_last)

    def batches(self, *, epoch: int, seed: int) -> _Epoch:
        return _Epoch(self, epoch=epoch, seed=seed)

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, float | Tensor]]:
        device = next(model.parameters()).device
        output = model(batch.pictures.to(device))
        loss = face_loss(
            output.logits.float(),
            None if output.affect is None else output.affect.float(),
            classes=batch.classes.to(device),
            affect_truth=batch.affect.to(device),
            weights=self.weights.to(device),
        )
        return loss, {}

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Return figures of the pictures that are held back; with none, of the part that is reported on."""
        faces = self.held if len(self.held) else self.reported
        assert faces is not None
        figures = self.figures(model, faces)
        return {name: value for name, value in figures.items() if isinstance(value, float)}

    def figures(self, model: nn.Module, faces: Faces) -> dict[str, Any]:
        """Return the figures that are published, of pictures read once, without their mirror images."""
        assert isinstance(model, FaceModel)
        logits, affect = self._read(model, faces)
        labels, truth = self.model_config.labels, faces.classes.numpy()
        answers = logits.argmax(1)
        recall = metrics.per_class_recall(truth, answers, num_classes=len(labels))
        found: dict[str, Any] = {
            "accuracy": metrics.accuracy(truth, answers),
            "macro_f1": metrics.macro_f1(truth, answers, num_classes=len(labels)),
        }
        if _LEFT_OUT in labels:  # as a model of seven classes: without the column, and without the pictures
            column = labels.index(_LEFT_OUT)
            kept = truth != column
            seven = np.where(np.arange(len(labels)) == column, -np.inf, logits)[kept].argmax(1)
            found["accuracy_7"] = metrics.accuracy(truth[kept], seven)
        if affect is not None:
            known = faces.affect.isfinite().all(1).numpy()
            for index, name in enumerate(_AFFECT):
                expected, answered = faces.affect[known, index].numpy(), affect[known, index]
                if len(expected) >= 2:
                    found[f"{name}_ccc"] = metrics.concordance(expected, answered)
                    found[f"{name}_rmse"] = float(np.sqrt(metrics.mean_squared_error(expected, answered)))
                    found[f"{name}_mae"] = float(np.abs(expected - answered).mean())
        found["recall"] = {
            label: None if np.isnan(value) else float(value) for label, value in zip(labels, recall, strict=True)
        }
        return found

    def _read(self, model: FaceModel, faces: Faces) -> tuple[np.ndarray, np.ndarray | None]:
        """Return logits [N, C] and valence and arousal [N, 2] brought into -1 to 1, or ``None``."""
        device = model.head.weight.device
        logits, affect = [], []
        for start in range(0, len(faces), self.config.batch_size):
            pictures = self.decode(faces.records[start : start + self.config.batch_size]).to(device)
            output = model(pictures)
            logits.append(output.logits.float().cpu())
            if output.affect is not None:
                affect.append(output.affect.float().clamp(-1.0, 1.0).cpu())
        return torch.cat(logits).numpy(), torch.cat(affect).numpy() if affect else None

    def export(self, model: nn.Module, folder: Path) -> None:
        """Write the model, and ``report.json`` with its figures on the held and on the reported part."""
        assert isinstance(model, FaceModel)
        model.eval()
        report: dict[str, Any] = {
            "model": self.options.model,
            "trained": self.options.trains,
            "pictures": {
                "learned": len(self.faces),
                "held": len(self.held),
                "reported": 0 if self.reported is None else len(self.reported),
            },
            "chosen_on": "held" if len(self.held) else "reported",
            "class_weights": dict(zip(self.model_config.labels, self.weights.tolist(), strict=True)),
        }
        with torch.no_grad():
            if len(self.held):
                report["held"] = self.figures(model, self.held)
            if self.reported is not None:
                report["reported"] = self.figures(model, self.reported)
        (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        encoder = FaceEncoder(model.float(), name=self.options.model)
        encoder.save(folder / f"{self.options.model}.safetensors", dtype=torch.float32)


class _Epoch:
    """One epoch's batches in an order drawn from (seed, epoch); a rest of fewer than two pictures is left out."""

    def __init__(self, task: AffectNetTask, *, epoch: int, seed: int) -> None:
        self.task = task
        self.size = min(task.config.batch_size, len(task.faces))
        generator = torch.Generator().manual_seed(seed * 100_003 + epoch)
        self.order = torch.randperm(len(task.faces), generator=generator)
        full, rest = divmod(len(self.order), self.size)
        self.count = full + (rest >= 2)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Batch]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Batch:
        rows = self.order[index * self.size : (index + 1) * self.size]
        faces = self.task.faces
        return Batch(
            pictures=self.task.decode([faces.records[row] for row in rows.tolist()]),
            classes=faces.classes[rows],
            affect=faces.affect[rows],
        )
