"""Recipe ``emovclip_clip``: a small open_clip model, from scratch on FER+ faces and captions made of their votes.

It stands where a published CLIP would: something for `emovclip` to prompt where there is no download. The captions say
less than the labels (`face_captions`), and it sees only the part of FER+ that nothing is tuned on (`face_clips`).
The loss is CLIP's, both ways; a batch has one caption for each meaning in it, which is right for all its pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emollama import metrics
from emollama.datasets import ferplus
from emollama.encoders.clip_backbone import ClipBackbone, ClipShape, build_clip, save_clip, tokenize
from emollama.encoders.clip_prompts import PromptedClip, PromptSettings
from emollama.errors import InputError
from emollama.labels import NANO_LABELS
from train.config import TrainConfig, data_dir
from train.recipes.face_captions import caption
from train.recipes.face_clips import LABELS, equalised, grey_to_pixels, moved, rows_of
from train.recipes.shuffled import Shuffled

SMALL = ClipShape(
    embed_dim=128, patch_size=24, vision_width=128, vision_layers=4, text_width=128, text_layers=2, head_width=32,
    context_length=20,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class EmoVclipClipOptions:
    """``named_share`` of the pictures have captions that name the expression; ``shape`` is that of the model."""

    data: str = ""
    shape: ClipShape = SMALL
    named_share: float = 0.1

    def __post_init__(self) -> None:
        if not 0.0 <= self.named_share <= 1.0:
            raise InputError(f"named_share is {self.named_share}; allowed: 0 to 1", field="named_share")
        if self.shape.image_size != ferplus.SIZE:
            raise InputError(
                f"shape.image_size is {self.shape.image_size}; allowed: {ferplus.SIZE}, as FER+ is", field="image_size"
            )

    def build(self, config: TrainConfig) -> EmoVclipClipTask:
        return EmoVclipClipTask(config, self)


class Captioned(NamedTuple):
    """A batch: ``pixels`` [B, 3, S, S], ``ids`` [U, C] of its captions, ``right`` [B]: which is each picture's."""

    pixels: Tensor
    ids: Tensor
    right: Tensor


class EmoVclipClipTask:
    """The backbone's part of FER+ in memory."""

    def __init__(self, config: TrainConfig, options: EmoVclipClipOptions) -> None:
        self.config, self.options = config, options
        data = data_dir(options.data)
        train, self.valid = ferplus.load(data, "train"), ferplus.load(data, "valid")
        rows = rows_of(train, "backbone")
        if not len(rows):
            raise InputError(f"{data} has no picture for the backbone", field="data")
        self.images = torch.from_numpy(train.images[rows])
        self.targets, self.affect = train.targets[rows], train.affect[rows]
        # Which pictures have a name is drawn once: the others' expressions are never told.
        self.named = np.random.default_rng(0).random(len(rows)) < options.named_share

    def build_model(self) -> nn.Module:
        return build_clip(self.options.shape.to_open_clip())

    def batches(self, *, epoch: int, seed: int) -> _Epoch:
        return _Epoch(self, epoch=epoch, seed=seed)

    def loss(self, model: nn.Module, batch: Captioned) -> tuple[Tensor, dict[str, float]]:
        clip: Any = model
        device = clip.logit_scale.device
        pictures = F.normalize(clip.encode_image(batch.pixels.to(device)).float(), dim=-1)
        texts = F.normalize(clip.encode_text(batch.ids.to(device)).float(), dim=-1)
        logits = clip.logit_scale.clamp(max=4.6052).exp() * pictures @ texts.T  # [B, U]
        right = batch.right.to(device)
        to_text = F.cross_entropy(logits, right)
        whose = F.one_hot(right, len(texts)).T.float()  # [U, B]
        to_picture = F.cross_entropy(logits.T, whose / whose.sum(1, keepdim=True))
        return (to_text + to_picture) / 2, {"to_text": to_text.item(), "to_picture": to_picture.item()}

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Ask the plain model for expressions by their names, on FER+'s validation pictures with a majority."""
        config = self.options.shape.to_open_clip()
        grad = [parameter.requires_grad for parameter in model.parameters()]
        plain = PromptedClip(ClipBackbone.of(model, config), PromptSettings.none(text_words="a face that shows"))
        asked = [NANO_LABELS.index(label) for label in LABELS]
        kept = np.isin(self.valid.majority, asked)
        truth = np.array([asked.index(label) for label in self.valid.majority[kept]])
        words = plain.encode_labels(LABELS)
        images = equalised(torch.from_numpy(self.valid.images[kept]))
        embeddings = [plain.encode_frames(grey_to_pixels(part.float() / 255.0)) for part in images.split(256)]
        predicted = plain.compare(F.normalize(torch.cat(embeddings).float(), dim=-1), words).argmax(1).numpy()
        for parameter, trained in zip(model.parameters(), grad, strict=True):
            parameter.requires_grad_(trained)
        return {
            "accuracy": metrics.accuracy(truth, predicted),
            "macro_f1": metrics.macro_f1(truth, predicted, num_classes=len(LABELS)),
        }

    def export(self, model: nn.Module, folder: Path) -> None:
        save_clip(model, self.options.shape.to_open_clip(), folder)


class _Epoch(Shuffled[Captioned]):
    def __init__(self, task: EmoVclipClipTask, *, epoch: int, seed: int) -> None:
        super().__init__(len(task.images), batch_size=task.config.batch_size, epoch=epoch, seed=seed)
        self.task = task

    def batch(self, rows: Tensor, *, number: int) -> Captioned:
        task, options = self.task, self.task.options
        generator, rng = torch.Generator().manual_seed(number), np.random.default_rng(number)
        pictures = moved(equalised(task.images[rows])[:, None], seed=number)[:, 0]
        mirrored = torch.rand((len(rows), 1, 1), generator=generator) < 0.5
        pictures = torch.where(mirrored, pictures.flip(-1), pictures)
        own = rows.numpy()
        captions = caption(task.targets[own], task.affect[own], task.named[own], rng=rng)
        ids = tokenize(captions.texts, context_length=options.shape.context_length)
        return Captioned(grey_to_pixels(pictures.float() / 255.0), ids, torch.from_numpy(captions.right))


def emovclip_clip() -> TrainConfig:
    """Return the configuration of the small CLIP that the study of EmoVCLIP stands on."""
    return TrainConfig(
        recipe="emovclip_clip",
        run_dir="runs/emovclip-clip",
        task=EmoVclipClipOptions(),
        epochs=10,
        batch_size=128,
        learning_rate=5e-4,
        min_learning_rate_ratio=0.01,
        warmup_steps=50,
        weight_decay=0.05,
        betas=(0.9, 0.98),
        clip_norm=1.0,
        ema_decay=0.99,
        precision="fp32",
        log_every_steps=29,
        checkpoint_every_seconds=60.0,
        validate_every_epochs=5,
        monitor="macro_f1:max",
        export="last",
    )
