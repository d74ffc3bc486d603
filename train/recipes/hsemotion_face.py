"""Recipe ``hsemotion_face``: an EfficientNet-B0 of the HSEmotion layout, from scratch on FER+.

HSEmotion's networks begin at a face recogniser and are tuned on AffectNet (Savchenko, 2022), neither of which everybody
can have. This run begins at random weights and has FER+ alone, so it differs where that calls for it: soft vote shares
instead of one label, distorted and mixed pictures, a teacher (the shipped nano face net, whose opinion of the very same
distorted picture is part of the target: Beyer et al., "Knowledge distillation: a good teacher is patient", CVPR
2022), and pictures that grow over the run (Tan and Le, EfficientNetV2, 2021), because a step at 64 pixels costs a
third of one at 112. Inputs, order of outputs and loss are the published ones: RGB by ImageNet's mean and deviation,
eight labels in alphabetical order, valence and arousal, cross-entropy + (1 - CCC) / 2 for each of the two.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emollama.datasets import ferplus
from emollama.encoders.face import FACE_MODELS, FaceEncoder, FaceModel, imagenet_normalise, standardise
from emollama.encoders.face_models import FIXED_SIZES
from emollama.errors import InputError
from emollama.labels import NANO_LABELS
from train.config import TrainConfig, data_dir
from train.face_start import find_start, load_start
from train.recipes.nano_face import Pictures, batch_concordance, cut_out, distort, figures_of, mix
from train.recipes.shuffled import Shuffled

_TEACHER = Path(__file__).parents[2] / "emollama/assets/nano/face.safetensors"


@dataclass(frozen=True, kw_only=True)
class HsemotionFaceOptions:
    """``sizes`` pixels are taken one after another, each for its share of the epochs; the last is the model's own.

    ``teacher`` is a face model's file, or empty for none; ``teacher_share`` is its part of the target. ``start`` is a
    face model's file, or a folder with one, to begin with instead of random weights. ``mixup`` and ``cutout`` are
    probabilities. ``debug`` trains two small batches, for tests.
    """

    data: str = ""
    model: str = "enet_b0_8_va_mtl"
    sizes: tuple[int, ...] = (64, 96, 112)
    shares: tuple[float, ...] = (0.45, 0.35, 0.2)
    start: str = ""
    dropout: float = 0.2
    teacher: str = str(_TEACHER)
    teacher_share: float = 0.5
    mixup: float = 0.3
    cutout: float = 0.5
    debug: bool = False

    def __post_init__(self) -> None:
        if len(self.sizes) != len(self.shares) or not self.sizes:
            raise InputError(f"shares are {self.shares}; allowed: one for each of sizes {self.sizes}", field="shares")
        if min(self.sizes) < 32 or min(self.shares) <= 0:
            raise InputError(f"sizes are {self.sizes}; allowed: 32 or more, each with a share above 0", field="sizes")
        shape = FACE_MODELS.get(self.model)
        if shape is None or shape.colour == "grey" or set(shape.labels) != set(NANO_LABELS):
            allowed = [name for name, known in FACE_MODELS.items()
                       if known.colour != "grey" and set(known.labels) == set(NANO_LABELS)]  # fmt: skip
            raise InputError(f"model is {self.model!r}; allowed: {', '.join(allowed)}", field="model")
        if shape.backbone in FIXED_SIZES and set(self.sizes) != {FIXED_SIZES[shape.backbone]}:
            raise InputError(
                f"sizes are {self.sizes}; allowed with {self.model}: {FIXED_SIZES[shape.backbone]} alone, as in "
                f"task.sizes=[{FIXED_SIZES[shape.backbone]}] task.shares=[1]",
                field="sizes",
            )
        if not 0.0 <= self.teacher_share <= 1.0:
            raise InputError(f"teacher_share is {self.teacher_share}; allowed: 0 to 1", field="teacher_share")

    def build(self, config: TrainConfig) -> HsemotionFaceTask:
        return HsemotionFaceTask(config, self)

    def size_at(self, done: float) -> int:
        """Return the pixels of a moment of the run, from its share that is done (0 to 1)."""
        reached = 0.0
        for size, share in zip(self.sizes, self.shares, strict=True):
            reached += share / sum(self.shares)
            if done < reached - 1e-9:
                return size
        return self.sizes[-1]


class HsemotionFaceTask:
    """FER+ in memory (about 60 MB); a teacher stands by."""

    def __init__(self, config: TrainConfig, options: HsemotionFaceOptions) -> None:
        self.config, self.options = config, options
        shape = FACE_MODELS[options.model]
        size = shape.at_debug_size().size if options.debug else options.sizes[-1]
        self.model_config = dataclasses.replace(shape, size=size, dropout=options.dropout)
        self.from_nano = [NANO_LABELS.index(label) for label in shape.labels]  # FER+ order -> the model's
        data = data_dir(options.data)
        train, self.valid = ferplus.load(data, "train"), ferplus.load(data, "valid")
        self.images = torch.from_numpy(train.images)  # [N, 48, 48] uint8
        self.targets = torch.from_numpy(train.targets[:, self.from_nano])
        self.affect = torch.from_numpy(train.affect)
        self.teacher = FaceEncoder.load(options.teacher) if options.teacher and options.teacher_share else None
        if self.teacher is not None and set(self.teacher.config.labels) != set(shape.labels):
            raise InputError(
                f"teacher knows {', '.join(self.teacher.config.labels)}; allowed: one that knows "
                f"{', '.join(shape.labels)}",
                field="teacher",
            )
        if self.teacher is not None and self.teacher.config.colour not in ("grey", shape.colour):
            raise InputError(
                f"teacher sees pictures as {self.teacher.config.colour!r}; allowed: grey, or {shape.colour!r} as "
                f"{options.model}",
                field="teacher",
            )

    def build_model(self) -> nn.Module:
        model = FaceModel(self.model_config)
        if self.options.start:
            load_start(model, find_start(Path(self.options.start), model=self.options.model))
        return model.to(memory_format=torch.channels_last)

    def batches(self, *, epoch: int, seed: int) -> _Epoch:
        return _Epoch(self, epoch=epoch, seed=seed)

    def loss(self, model: nn.Module, batch: Pictures) -> tuple[Tensor, dict[str, float]]:
        device = next(model.parameters()).device
        inputs, targets = batch.inputs.to(device), batch.targets.to(device)
        if self.teacher is not None:
            share = self.options.teacher_share
            targets = (1.0 - share) * targets + share * self._opinion(inputs)
        output = model(inputs)
        entropy = F.cross_entropy(output.logits.float(), targets)
        if output.affect is None:
            return entropy, {"cross_entropy": entropy.item()}
        concordance = batch_concordance(output.affect.float(), batch.affect.to(device))  # [2]
        return entropy + ((1.0 - concordance) / 2).sum(), {"cross_entropy": entropy.item()}

    @torch.no_grad()
    def _opinion(self, inputs: Tensor) -> Tensor:
        """Return the teacher's probabilities [B, 8], in the model's order, of pictures as the model gets them."""
        assert self.teacher is not None
        shape = self.teacher.config
        pictures = standardise(inputs[:, :1]) if shape.colour == "grey" else inputs
        if pictures.shape[-1] != shape.size:
            pictures = F.interpolate(
                pictures, size=(shape.size, shape.size), mode="bilinear", antialias=True, align_corners=False
            )
        if shape.colour == "grey":
            pictures = standardise(pictures)
        logits = self.teacher.model.to(inputs.device)(pictures.contiguous(memory_format=torch.channels_last)).logits
        order = [shape.labels.index(label) for label in self.model_config.labels]
        return logits.float().softmax(1)[:, order]

    def validate(self, model: nn.Module) -> dict[str, float]:
        assert isinstance(model, FaceModel)
        read = FaceEncoder(model, name=self.options.model).embed(self.valid.images[..., None].repeat(3, axis=3))
        log_probabilities = read.log_probabilities[:, [self.from_nano.index(n) for n in range(len(self.from_nano))]]
        return figures_of(self.valid, log_probabilities, read.va)

    def export(self, model: nn.Module, folder: Path) -> None:
        assert isinstance(model, FaceModel)
        FaceEncoder(model.float(), name=self.options.model).save(folder / f"{self.options.model}.safetensors")


class _Epoch(Shuffled[Pictures]):
    def __init__(self, task: HsemotionFaceTask, *, epoch: int, seed: int) -> None:
        super().__init__(len(task.images), batch_size=task.config.batch_size, epoch=epoch, seed=seed)
        self.task = task
        done = epoch / task.config.epochs
        self.size = task.model_config.size if task.options.debug else task.options.size_at(done)

    def batch(self, rows: Tensor, *, number: int) -> Pictures:
        task, options = self.task, self.task.options
        generator = torch.Generator().manual_seed(number)
        pictures = distort(task.images[rows], size=self.size, generator=generator).clamp(0.0, 1.0)
        if options.cutout:
            pictures = cut_out(pictures, generator=generator, probability=options.cutout, fill=0.5)
        targets, affect = task.targets[rows], task.affect[rows]
        if torch.rand((), generator=generator) < options.mixup:
            pictures, targets, affect = mix(pictures, targets, affect, generator=generator)
        pictures = pictures.expand(-1, 3, -1, -1)
        inputs = imagenet_normalise(pictures) if task.model_config.colour == "imagenet" else 2.0 * pictures - 1.0
        return Pictures(inputs.contiguous(memory_format=torch.channels_last), targets, affect)


def hsemotion_face() -> TrainConfig:
    """EfficientNet-B0 at up to 112 pixels; in float32, in which depthwise kernels are fastest on a CPU."""
    return TrainConfig(
        recipe="hsemotion_face",
        run_dir="runs/hsemotion-face",
        task=HsemotionFaceOptions(),
        epochs=24,
        batch_size=128,
        learning_rate=2e-3,
        min_learning_rate_ratio=0.005,
        warmup_steps=400,
        weight_decay=0.05,
        clip_norm=5.0,
        ema_decay=0.998,
        log_every_steps=49,
        checkpoint_every_seconds=180.0,
        validate_every_epochs=2,
        monitor="accuracy:max",
        export="last",
    )
