"""Recipe ``emovclip``: prompts for a frozen CLIP, learned from whole videos.

The videos are a manifest's clips (``--manifest``), or short clips made of FER+ stills (`face_clips`) where there is
none. Only prompts, weights over time and the temperature are trained, against the labels' names as CLIP's text tower
reads them, so what comes out can be asked for other labels too. The loss is cross-entropy with label smoothing, as in
ViFi-CLIP's few-shot training; what EmoVCLIP used is not published.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emollama import metrics
from emollama.datasets import ferplus
from emollama.encoders.clip_backbone import ClipBackbone
from emollama.encoders.clip_prompts import PromptedClip, PromptSettings
from emollama.encoders.emovclip import EmoVclipEncoder, to_pixels
from emollama.errors import InputError
from emollama.manifest import read_manifest
from train.clip_task import set_apart
from train.config import TrainConfig, data_dir
from train.recipes.face_clips import LABELS, make_clips, rows_of
from train.recipes.labelled_videos import LabelledVideos, read_clips
from train.recipes.shuffled import Shuffled

# All blocks of `emovclip_clip`'s model; the text's context begins as words, four tokens of them, so as zero-shot.
PROMPTS = PromptSettings(vision_depths=(0, 1, 2, 3), text_depths=(0, 1), text_tokens=4, text_words="a face that shows")


@dataclass(frozen=True, kw_only=True)
class EmoVclipOptions:
    """``backbone`` is a folder of open_clip's, ``architecture`` its name where the folder does not say it.

    ``manifest`` and ``validation`` name labelled clips; without a manifest, ``clips_per_class`` clips of ``num_stills``
    FER+ pictures each are made (``clips_seed`` draws them), and with ``moves`` they move in another way in each epoch.
    ``balance`` weighs labels by their frequency to the power of ``-balance``: 0 as they come, 1 all alike.
    """

    backbone: str = "runs/emovclip-clip/export"
    architecture: str = ""
    data: str = ""
    manifest: str = ""
    validation: str = ""
    cache: str = "runs/features/faces"
    prompts: PromptSettings = PROMPTS
    num_frames: int = 4
    num_stills: int = 2
    clips_per_class: int = 100
    clips_seed: int = 0
    moves: bool = True
    label_smoothing: float = 0.1
    balance: float = 0.0

    def __post_init__(self) -> None:
        for name in ("num_frames", "clips_per_class"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; allowed: 1 or more", field=name)
        for name in ("label_smoothing", "balance"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise InputError(f"{name} is {getattr(self, name)}; allowed: 0 to 1", field=name)

    def build(self, config: TrainConfig) -> EmoVclipTask:
        return EmoVclipTask(config, self)


class VideoBatch(NamedTuple):
    """``pixels`` [B, T, 3, S, S], ``present`` [B, T] bool, ``labels`` [B]."""

    pixels: Tensor
    present: Tensor
    labels: Tensor


class EmoVclipTask:
    """A frozen backbone, videos for training and validation, and the names that they are told apart by."""

    def __init__(self, config: TrainConfig, options: EmoVclipOptions) -> None:
        self.config, self.options = config, options
        self.backbone = ClipBackbone.load(Path(options.backbone), architecture=options.architecture)
        self.labels: tuple[str, ...] = LABELS
        self.train: LabelledVideos
        self.valid: LabelledVideos
        self.clips_of_epoch: Callable[..., LabelledVideos] | None = None
        if options.manifest:
            self._from_manifest()
        else:
            self._from_stills()
        counts = torch.bincount(self.train.labels, minlength=len(self.labels)).float()
        weights = counts.clamp_min(1.0).pow(-options.balance)
        self.weights = weights / (weights * counts).sum() * counts.sum()  # a mean of 1 over the training videos

    def _from_stills(self) -> None:
        options = self.options
        data = ferplus.load(data_dir(options.data), "train")
        sizes = {"num_stills": options.num_stills, "num_frames": options.num_frames, "seed": options.clips_seed}
        rows = rows_of(data, "tune")
        self.clips_of_epoch = partial(make_clips, data, rows, per_class=options.clips_per_class, **sizes)
        self.train = self.clips_of_epoch()
        self.valid = make_clips(data, rows_of(data, "tune-valid"), per_class=None, **sizes)

    def _from_manifest(self) -> None:
        options = self.options
        manifest = read_manifest(Path(options.manifest))
        train, valid, held_in = manifest.of_split("train"), manifest.of_split("valid"), manifest
        if options.validation:
            held_in = read_manifest(Path(options.validation))
            valid = held_in.samples
        elif not valid:
            train, valid = set_apart(manifest, share=0.15, seed=self.config.seed)
        self.labels = manifest.labels
        place, size = Path(options.cache), self.backbone.image_size
        sizes = {"size": size, "num_frames": options.num_frames}
        self.train = read_clips(manifest, train, labels=self.labels, cache=place, **sizes)
        self.valid = read_clips(held_in, valid, labels=self.labels, cache=place, **sizes)

    def build_model(self) -> nn.Module:
        return PromptedClip(self.backbone, self.options.prompts)

    def batches(self, *, epoch: int, seed: int) -> _Epoch:
        return _Epoch(self, epoch=epoch, seed=seed)

    def read(self, videos: LabelledVideos, rows: list[int]) -> VideoBatch:
        """Read some videos as the backbone wants them."""
        frames, present = videos.read(rows)
        pixels = to_pixels(frames.reshape(-1, *frames.shape[2:]), self.backbone.image_size)
        return VideoBatch(pixels.unflatten(0, frames.shape[:2]), present, videos.labels[rows])

    def loss(self, model: nn.Module, batch: VideoBatch) -> tuple[Tensor, dict[str, float]]:
        assert isinstance(model, PromptedClip)
        logits = model(batch.pixels.to(model.device), self.labels, present=batch.present.to(model.device))
        labels = batch.labels.to(model.device)
        entropy = F.cross_entropy(
            logits.float(), labels, reduction="none", label_smoothing=self.options.label_smoothing
        )
        right = (logits.argmax(1) == labels).float().mean().item()
        return (entropy * self.weights.to(model.device)[labels]).mean(), {"accuracy": right}

    def validate(self, model: nn.Module) -> dict[str, float]:
        assert isinstance(model, PromptedClip)
        return scores(self.valid.labels.numpy(), self.predict(model, self.valid), num_classes=len(self.labels))

    @torch.no_grad()
    def predict(self, model: PromptedClip, videos: LabelledVideos) -> np.ndarray:
        """Return the number of the likeliest label of each video [N]."""
        words = model.encode_labels(self.labels)
        found = [model.compare(vectors, words).argmax(1) for vectors in self.embed(model, videos)]
        return torch.cat(found).cpu().numpy()

    @torch.no_grad()
    def embed(self, model: PromptedClip, videos: LabelledVideos) -> Iterator[Tensor]:
        """Give the videos' unit vectors [b, E], some at a time."""
        for rows in torch.arange(len(videos.labels)).split(64):
            batch = self.read(videos, rows.tolist())
            yield model.encode_videos(batch.pixels.to(model.device), present=batch.present.to(model.device))

    def export(self, model: nn.Module, folder: Path) -> None:
        assert isinstance(model, PromptedClip)
        EmoVclipEncoder(model, labels=self.labels, max_frames=self.options.num_frames).save(folder)


def scores(truth: np.ndarray, predicted: np.ndarray, *, num_classes: int) -> dict[str, float]:
    """Return the figures of a validation: WAF is what the MER tracks rank by."""
    return {
        "accuracy": metrics.accuracy(truth, predicted),
        "macro_f1": metrics.macro_f1(truth, predicted, num_classes=num_classes),
        "waf": metrics.weighted_f1(truth, predicted, num_classes=num_classes),
    }


class _Epoch(Shuffled[VideoBatch]):
    def __init__(self, task: EmoVclipTask, *, epoch: int, seed: int) -> None:
        super().__init__(len(task.train.labels), batch_size=task.config.batch_size, epoch=epoch, seed=seed)
        self.task, self.videos = task, task.train
        if task.options.moves and task.clips_of_epoch is not None:
            self.videos = task.clips_of_epoch(motion=int(torch.randint(2**31, (), generator=self.generator)))

    def batch(self, rows: Tensor, *, number: int) -> VideoBatch:
        return self.task.read(self.videos, rows.tolist())


def emovclip() -> TrainConfig:
    """ViFi-CLIP's few-shot recipe for the small backbone; the best by WAF, by which MER ranks, is exported."""
    return TrainConfig(
        recipe="emovclip",
        run_dir="runs/emovclip",
        task=EmoVclipOptions(),
        epochs=14,
        batch_size=48,
        learning_rate=4e-3,
        warmup_steps=24,
        weight_decay=1e-3,
        ema_decay=0.95,
        clip_norm=1.0,
        log_every_steps=12,
        validate_every_epochs=2,
        checkpoint_every_seconds=60.0,
        monitor="waf:max",
        export="best",
    )
