"""Recipe ``nano_face``: nano's face model on FER+.

Targets are the vote shares (soft labels) and, for valence and arousal, their expectation over ``labels.CIRCUMPLEX``:
derived from the classes, not measured. Pictures are augmented in batches, not one by one; the first part of the run
sees them at a lower resolution, which costs less and changes little because the network pools over space.
Loss as HSEmotion's multi-task models: cross-entropy + (1 - CCC) / 2 for valence and for arousal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emollama import metrics
from emollama.datasets import ferplus
from emollama.encoders.face import FACE_MODELS, FaceEncoder, FaceModel, standardise
from train.config import TrainConfig, data_dir
from train.recipes.shuffled import Shuffled


@dataclass(frozen=True, kw_only=True)
class FaceOptions:
    """``early_size`` pixels serve the first ``early_share`` of the epochs; ``mixup`` and ``cutout`` are probabilities.

    ``debug`` trains the model at its debug size, for tests.
    """

    data: str = ""
    model: str = "nano-face"
    early_size: int = 40
    early_share: float = 0.5
    mixup: float = 0.3
    cutout: float = 0.5
    debug: bool = False

    def build(self, config: TrainConfig) -> FaceTask:
        return FaceTask(config, self)


class Pictures(NamedTuple):
    """A batch: ``inputs`` [B, 1, S, S] standardised, ``targets`` [B, 8] vote shares, ``affect`` [B, 2]."""

    inputs: Tensor
    targets: Tensor
    affect: Tensor


class FaceTask:
    """FER+ in memory (about 60 MB), augmented batch by batch."""

    def __init__(self, config: TrainConfig, options: FaceOptions) -> None:
        self.config, self.options = config, options
        shape = FACE_MODELS[options.model]
        self.model_config = shape.at_debug_size() if options.debug else shape
        data = data_dir(options.data)
        train, self.valid = ferplus.load(data, "train"), ferplus.load(data, "valid")
        self.images = torch.from_numpy(train.images)  # [N, 48, 48] uint8
        self.targets = torch.from_numpy(train.targets)
        self.affect = torch.from_numpy(train.affect)

    def build_model(self) -> nn.Module:
        return FaceModel(self.model_config).to(memory_format=torch.channels_last)

    def batches(self, *, epoch: int, seed: int) -> _Epoch:
        return _Epoch(self, epoch=epoch, seed=seed)

    def loss(self, model: nn.Module, batch: Pictures) -> tuple[Tensor, dict[str, float]]:
        device = next(model.parameters()).device
        output = model(batch.inputs.to(device))
        entropy = F.cross_entropy(output.logits.float(), batch.targets.to(device))
        concordance = batch_concordance(output.affect.float(), batch.affect.to(device))  # [2]
        return entropy + ((1.0 - concordance) / 2).sum(), {"cross_entropy": entropy.item()}

    def validate(self, model: nn.Module) -> dict[str, float]:
        assert isinstance(model, FaceModel)
        read = FaceEncoder(model, name=self.options.model).embed(self.valid.images[..., None].repeat(3, axis=3))
        return figures_of(self.valid, read.log_probabilities, read.va)

    def export(self, model: nn.Module, folder: Path) -> None:
        assert isinstance(model, FaceModel)
        FaceEncoder(model.float(), name=self.options.model).save(folder / "face.safetensors")


class _Epoch(Shuffled[Pictures]):
    def __init__(self, task: FaceTask, *, epoch: int, seed: int) -> None:
        super().__init__(len(task.images), batch_size=task.config.batch_size, epoch=epoch, seed=seed)
        self.task = task

    def batch(self, rows: Tensor, *, number: int) -> Pictures:
        task, options = self.task, self.task.options
        generator = torch.Generator().manual_seed(number)
        is_early = self.epoch < options.early_share * task.config.epochs
        size = options.early_size if is_early else task.model_config.size
        inputs = augment(task.images[rows], size=size, generator=generator, cutout=options.cutout)
        targets, affect = task.targets[rows], task.affect[rows]
        if torch.rand((), generator=generator) < options.mixup:
            inputs, targets, affect = mix(inputs, targets, affect, generator=generator)
            inputs = standardise(inputs)
        return Pictures(inputs.contiguous(memory_format=torch.channels_last), targets, affect)


def figures_of(truth: ferplus.FerPlus, log_probabilities: np.ndarray, va: np.ndarray) -> dict[str, float]:
    """Score answers to FER+ pictures: log-probabilities [N, 8] in the order of `NANO_LABELS`, and affect [N, 2]."""
    majority, predicted = truth.majority, log_probabilities.argmax(1)
    kept = majority >= 0
    return {
        "accuracy": metrics.accuracy(majority[kept], predicted[kept]),
        "macro_f1": metrics.macro_f1(majority[kept], predicted[kept], num_classes=log_probabilities.shape[1]),
        "cross_entropy": -torch.from_numpy(truth.targets * log_probabilities).sum(1).mean().item(),
        "valence_ccc": metrics.concordance(truth.affect[:, 0], va[:, 0]),
        "arousal_ccc": metrics.concordance(truth.affect[:, 1], va[:, 1]),
    }


def mix(
    pictures: Tensor, targets: Tensor, affect: Tensor, *, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Blend every picture, and what it teaches, with another of the batch (mixup; Zhang et al., ICLR 2018)."""
    share = 0.5 + 0.5 * torch.rand((len(pictures), 1), generator=generator)  # the larger part, 0.5 to 1
    other = torch.randperm(len(pictures), generator=generator)
    mixed = share[:, :, None, None]
    return (
        mixed * pictures + (1 - mixed) * pictures[other],
        share * targets + (1 - share) * targets[other],
        share * affect + (1 - share) * affect[other],
    )


def augment(images: Tensor, *, size: int, generator: torch.Generator, cutout: float) -> Tensor:
    """Distort grey pictures [B, H, W] uint8 -> standardised [B, 1, size, size]: `distort`, noise, and a grey patch."""
    pictures = standardise(distort(images, size=size, generator=generator))
    strength = 0.12 * torch.rand((len(images), 1, 1, 1), generator=generator)
    pictures = pictures + strength * torch.randn(pictures.shape, generator=generator)
    if cutout:
        pictures = cut_out(pictures, generator=generator, probability=cutout, fill=0.0)
    return standardise(pictures)


def distort(images: Tensor, *, size: int, generator: torch.Generator) -> Tensor:
    """Distort grey pictures [B, H, W] uint8 -> [B, 1, size, size] about 0 to 1.

    Mirroring, rotation to 14 degrees, zoom, squash and shift as loose or tight boxes give, gamma and a ramp of light,
    and for a quarter of the batches a coarse camera (down and up again).
    """
    count = len(images)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand((count, *shape), generator=generator)

    pictures = images[:, None].float() / 255.0  # [B, 1, H, W]
    if torch.rand((), generator=generator) < 0.25:
        coarse = int(torch.randint(20, 40, (), generator=generator))
        small = F.interpolate(pictures, size=(coarse, coarse), mode="bilinear", antialias=True, align_corners=False)
        pictures = F.interpolate(small, size=images.shape[-2:], mode="bilinear", align_corners=False)
    angle = uniform(-14.0, 14.0) * math.pi / 180
    zoom, squash = uniform(0.84, 1.14), uniform(0.93, 1.07)
    mirror = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    theta = torch.stack(
        (
            torch.stack((mirror * zoom * squash * angle.cos(), -zoom * angle.sin(), uniform(-0.14, 0.14)), 1),
            torch.stack((mirror * zoom * squash * angle.sin(), zoom * angle.cos(), uniform(-0.14, 0.14)), 1),
        ),
        1,
    )  # [B, 2, 3]
    grid = F.affine_grid(theta, [count, 1, size, size], align_corners=False)
    pictures = F.grid_sample(pictures, grid, mode="bilinear", padding_mode="border", align_corners=False)
    pictures = pictures.clamp(1e-3, 1.0).pow(uniform(0.65, 1.5, 1, 1, 1))
    axis = torch.linspace(-1, 1, size)
    ramp = uniform(-1, 1, 1, 1, 1) * axis[:, None] + uniform(-1, 1, 1, 1, 1) * axis[None, :]
    return pictures * (1 + 0.25 * ramp)


def cut_out(pictures: Tensor, *, generator: torch.Generator, probability: float, fill: float) -> Tensor:
    """Cover a square of pictures [B, C, S, S], each with ``probability``, by ``fill`` (DeVries and Taylor, 2017)."""
    count, size = len(pictures), pictures.shape[-1]

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand((count, 1, 1), generator=generator)

    centre_y, centre_x = uniform(0, size), uniform(0, size)
    half = uniform(size / 10, size / 4.5) * (uniform(0, 1) < probability)
    pixel = torch.arange(size) + 0.5
    inside = ((pixel[None, :, None] - centre_y).abs() < half) & ((pixel[None, None, :] - centre_x).abs() < half)
    return pictures.masked_fill(inside[:, None], fill)


def batch_concordance(predicted: Tensor, truth: Tensor) -> Tensor:
    """Lin's concordance per column of [B, K], biased, differentiable."""
    mean_p, mean_t = predicted.mean(0), truth.mean(0)
    covariance = ((predicted - mean_p) * (truth - mean_t)).mean(0)
    scale = (predicted - mean_p).square().mean(0) + (truth - mean_t).square().mean(0) + (mean_p - mean_t).square()
    return 2 * covariance / scale.clamp_min(1e-8)


def nano_face() -> TrainConfig:
    """The run behind ``assets/nano/face.safetensors``: 16 epochs in bfloat16 on two CPU cores.

    The shipped run was planned for 20 epochs and shortened at step 674, after the warm-up (``docs/logs/face.jsonl``).
    """
    return TrainConfig(
        recipe="nano_face",
        run_dir="runs/face",
        task=FaceOptions(),
        epochs=16,
        batch_size=128,
        learning_rate=2e-3,
        min_learning_rate_ratio=0.005,
        warmup_steps=400,
        weight_decay=0.05,
        clip_norm=5.0,
        ema_decay=0.998,
        precision="bf16",
        threads=2,
        log_every_steps=49,
        monitor="accuracy:max",
        export="last",
        export_dir="emollama/assets/nano",
    )
