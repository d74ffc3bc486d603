"""Face expression models of the HSEmotion family: a backbone, expression logits, valence and arousal.

``nano-face`` is a small residual network on 48x48 grey crops, trained here on FER+ (``train/recipes/face.py``), written
plainly in torch so that reading a face imports nothing heavier. The others have the layout of the published HSEmotion
models (EmotiEffLib), on timm backbones or those written here (`emollama.encoders.face_models`), and take weights from a
file; nothing is downloaded.

What it does not know: the valence and arousal of ``nano-face`` are learned from the expectation of the votes over
``labels.CIRCUMPLEX``; they are derived from expression classes, not from measured affect.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from emollama.encoders.face_models import DDAMFN, FACE_MODELS, MOBILE_FACE_NET, RESIDUAL, FaceModelConfig
from emollama.encoders.frame_head import FrameHead
from emollama.errors import CheckpointError, InputError, UnknownNameError
from emollama.labels import ABAW_UNITS, HSEMOTION_8
from emollama.types import FaceReadings, Features
from emollama.watch import Check, unwatched

MAX_TOKENS = 8
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as PIL's convert("L")


class FaceOutput(NamedTuple):
    """What a model says of B crops: ``embedding`` [B, D_e], ``logits`` [B, len(labels)], ``affect`` [B, 2] or None, and
    logits ``units`` [B, len(action_units)] or None."""

    embedding: Tensor
    logits: Tensor
    affect: Tensor | None
    units: Tensor | None = None


class FaceRead(NamedTuple):
    """The same for T crops in numpy: ``embedding`` [T, D_e], ``log_probabilities`` [T, len(labels)], ``va`` [T, 2] (not
    numbers where the model has none) and probabilities ``units`` [T, K] of the reader's action units, K maybe 0."""

    embedding: np.ndarray
    log_probabilities: np.ndarray
    va: np.ndarray
    units: np.ndarray


class Straight(NamedTuple):
    """What a model says of T crops as they are, without their mirror images: ``scores`` [T, 8 or 10], its logits in the
    order of `HSEMOTION_8`, then valence and arousal unbounded where it has them, and ``embedding`` [T, D_e]."""

    scores: np.ndarray
    embedding: np.ndarray


class _Block(nn.Module):
    """Two 3x3 convolutions with a squeeze-and-excitation gate (Hu et al., 2018) and a residual path."""

    def __init__(self, width_in: int, width: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.squeeze = nn.Conv2d(width, max(8, width // 8), 1)
        self.excite = nn.Conv2d(max(8, width // 8), width, 1)
        self.skip = nn.Sequential()
        if stride != 1 or width_in != width:
            self.skip = nn.Sequential(
                nn.AvgPool2d(stride, ceil_mode=True) if stride != 1 else nn.Identity(),
                nn.Conv2d(width_in, width, 1, bias=False),
                nn.BatchNorm2d(width),
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        return F.relu(y * gate + self.skip(x))


class ResidualNet(nn.Module):
    """A ResNet whose 3x3 stem keeps the resolution: small grey pictures [B, 1, S, S] -> [B, widths[-1]]."""

    def __init__(self, *, widths: tuple[int, ...], depths: tuple[int, ...]) -> None:
        super().__init__()
        self.num_features = widths[-1]
        self.stem = nn.Conv2d(1, widths[0], 3, 1, 1, bias=False)
        self.stem_bn = nn.BatchNorm2d(widths[0])
        blocks: list[nn.Module] = []
        width_in = widths[0]
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            for index in range(depth):
                blocks.append(_Block(width_in, width, stride=2 if stage and not index else 1))
                width_in = width
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem_bn(self.stem(x)))
        return self.blocks(x).mean((2, 3))


class FaceModel(nn.Module):
    """A backbone and one linear head, [expressions | valence, arousal | action units]; inputs are `preprocess`'s."""

    def __init__(self, config: FaceModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = _backbone(config)
        width = cast(int, self.backbone.num_features)
        self.embedding_width = width
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(width, config.num_outputs)

    def forward(self, pictures: Tensor) -> FaceOutput:
        """pictures [B, C, S, S] as `preprocess` returns them."""
        return self.judge(self.backbone(pictures))

    def judge(self, embedding: Tensor) -> FaceOutput:
        """Read the head off embeddings [B, D_e]."""
        return split_outputs(self.config, embedding, self.head(self.dropout(embedding)))


def split_outputs(config: FaceModelConfig, embedding: Tensor, outputs: Tensor) -> FaceOutput:
    """Name the columns of ``outputs`` [B, num_outputs]."""
    n = len(config.labels)
    after = n + 2 * config.has_affect
    return FaceOutput(
        embedding,
        outputs[:, :n],
        outputs[:, n:after] if config.has_affect else None,
        outputs[:, after:] if config.action_units else None,
    )


def hsemotion_scores(output: FaceOutput, labels: tuple[str, ...]) -> Tensor:
    """Return logits in the order of `HSEMOTION_8`, then valence and arousal where there are any, [B, 8 or 10].

    Raises `InputError` for a model of other expressions than those eight.
    """
    if set(labels) != set(HSEMOTION_8):
        raise InputError(f"the face model knows {', '.join(labels)}; allowed: {', '.join(HSEMOTION_8)}", field="face")
    logits = output.logits[:, [labels.index(label) for label in HSEMOTION_8]]
    return logits if output.affect is None else torch.cat((logits, output.affect), dim=1)


def _backbone(config: FaceModelConfig) -> nn.Module:
    if config.backbone == RESIDUAL:
        return ResidualNet(widths=config.widths, depths=config.depths)
    if config.backbone == MOBILE_FACE_NET:
        from emollama.encoders.mobilefacenet import MobileFaceNet

        return MobileFaceNet()
    if config.backbone == DDAMFN:
        from emollama.encoders.ddamfn import Ddamfn

        return Ddamfn()
    import timm  # about 1.5 s, and nano does not need it

    return cast(
        nn.Module, timm.create_model(config.backbone, pretrained=False, num_classes=0, in_chans=config.channels)
    )


def standardise(grey: Tensor) -> Tensor:
    """Give each picture [B, 1, H, W] zero mean and unit deviation, so that lighting does not matter; flat ones: 0."""
    centred = grey - grey.mean((1, 2, 3), keepdim=True)
    return centred / centred.square().mean((1, 2, 3), keepdim=True).sqrt().clamp_min(1e-3)


def imagenet_normalise(pictures: Tensor) -> Tensor:
    """Take ImageNet's mean and deviation off RGB pictures [B, 3, H, W] of 0 to 1."""
    return (pictures - torch.tensor(_IMAGENET_MEAN)[:, None, None]) / torch.tensor(_IMAGENET_STD)[:, None, None]


def preprocess(crops: np.ndarray, config: FaceModelConfig) -> Tensor:
    """Turn RGB uint8 crops [T, S, S, 3] of any size into the model's input [T, C, size, size], antialiased."""
    if crops.ndim != 4 or crops.shape[3] != 3 or crops.dtype != np.uint8:
        raise InputError(
            f"crops has shape {crops.shape} and type {crops.dtype}; allowed: [T, S, S, 3] uint8", field="crops"
        )
    pictures = torch.from_numpy(np.ascontiguousarray(crops)).permute(0, 3, 1, 2).float() / 255.0  # [T, 3, S, S]
    if config.colour == "grey":
        pictures = (pictures * torch.tensor(_LUMA)[:, None, None]).sum(1, keepdim=True)
    if pictures.shape[-2:] != (config.size, config.size):
        pictures = F.interpolate(
            pictures, size=(config.size, config.size), mode="bilinear", antialias=True, align_corners=False
        )
    if config.colour == "grey":
        return standardise(pictures)
    return imagenet_normalise(pictures) if config.colour == "imagenet" else 2.0 * pictures - 1.0


class FaceEncoder:
    """Reads a track's crops: expression, valence and arousal over time, and at most eight tokens for the backbone."""

    def __init__(
        self,
        model: FaceModel,
        *,
        name: str,
        batch_size: int = 16,
        flip: bool = True,
        unit_head: FrameHead | None = None,
    ) -> None:
        self.model = model.eval().to(memory_format=torch.channels_last)  # about a seventh faster on a CPU
        self._backbone: Callable[[Tensor], Tensor] = model.backbone
        self._set_up(model.config, name=name, batch_size=batch_size, flip=flip, unit_head=unit_head)

    def _set_up(
        self, config: FaceModelConfig, *, name: str, batch_size: int, flip: bool, unit_head: FrameHead | None
    ) -> None:
        """``unit_head`` reads action units off the embeddings of a model that has no outputs for them."""
        self.config, self.name, self.batch_size, self.flip = config, name, batch_size, flip
        self.unit_head = check_unit_head(unit_head, config, width=self.embedding_width)
        self.action_units = config.action_units if unit_head is None else ABAW_UNITS

    @property
    def embedding_width(self) -> int:
        return self.model.embedding_width

    @property
    def token_width(self) -> int:
        """Width of a token: the embedding, then the log-probabilities."""
        return self.embedding_width + len(self.config.labels)

    def look(self, pictures: Tensor) -> FaceOutput:
        """Return what the model says of pictures [B, C, S, S] of `preprocess`, wherever they lie."""
        device = self.model.head.weight.device
        return self.model.judge(self._backbone(pictures.to(device).contiguous(memory_format=torch.channels_last)))

    @classmethod
    def build(cls, name: str, *, debug: bool = False, **options: Any) -> FaceEncoder:
        """Make a named model with random weights, for tests and for converters; ``debug`` makes it small."""
        if name not in FACE_MODELS:
            raise UnknownNameError("face model", name, FACE_MODELS)
        config = FACE_MODELS[name].at_debug_size() if debug else FACE_MODELS[name]
        return cls(FaceModel(config), name=name, **options)

    @classmethod
    def load(cls, path: str | Path, *, device: str = "cpu", **options: Any) -> FaceEncoder:
        """Load ``X.safetensors`` and the ``X.json`` beside it; a missing or left-over key raises `CheckpointError`.

        A head for action units (`FrameHead`) is taken along when it lies beside them as ``X.au.safetensors``.
        """
        path = Path(path)
        try:
            document = json.loads(path.with_suffix(".json").read_text())
            state = load_file(path)
        except FileNotFoundError as error:
            raise CheckpointError(
                f"the face model needs {path} and {path.with_suffix('.json').name} beside it"
            ) from error
        except (ValueError, SafetensorError) as error:
            raise CheckpointError(f"{path} or its config is damaged: {error}") from error
        with torch.device("meta"):
            model = FaceModel(FaceModelConfig.from_json_dict(document["model"]))
        state = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
        try:
            model.load_state_dict(state, strict=True, assign=True)
        except RuntimeError as error:
            raise CheckpointError(f"{path} does not fit its config: {error}") from error
        model.requires_grad_(False)
        options.setdefault("unit_head", unit_head_beside(path))
        encoder = cls(model.to(device), name=document["name"], **options)
        if device == "cpu" and isinstance(model.backbone, ResidualNet):
            from emollama.encoders.folded import FoldedNet

            encoder._backbone = FoldedNet(model.backbone)  # the weights do not change from here on
        return encoder

    def save(
        self, path: str | Path, *, figures: Mapping[str, float] | None = None, dtype: torch.dtype = torch.float16
    ) -> None:
        """Write weights in ``dtype``, biases and norms as they are, and the config."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        state = {k: v.to(dtype).contiguous() if v.ndim >= 2 else v for k, v in self.model.state_dict().items()}
        save_file(state, path)
        document = {
            "name": self.name,
            "model": asdict(self.config),
            "parameters": sum(p.numel() for p in self.model.parameters()),
        }
        document |= {"figures": dict(figures)} if figures else {}
        path.with_suffix(".json").write_text(json.dumps(document, indent=2) + "\n")

    @torch.inference_mode()
    def embed(self, crops: np.ndarray, *, check: Check = unwatched) -> FaceRead:
        """Read RGB crops [T, S, S, 3] uint8; with ``flip`` each is read with its mirror image, and the two averaged.

        ``check`` is asked before every batch.
        """
        return self._embed(crops, check=check)

    def _embed(self, crops: np.ndarray, *, check: Check, straight: list[Straight] | None = None) -> FaceRead:
        """Do as `embed`; what is said of the crops as they are is appended to ``straight``, a batch at a time."""
        width, n, k = self.embedding_width, len(self.config.labels), len(self.action_units)
        if not len(crops):
            return FaceRead(*(np.zeros((0, columns), np.float32) for columns in (width, n, 2, k)))
        parts = []
        for start in range(0, len(crops), self.batch_size):
            check()
            pictures = preprocess(crops[start : start + self.batch_size], self.config)
            count = len(pictures)
            if self.flip:
                pictures = torch.cat((pictures, pictures.flip(3)))
            output = self.look(pictures)
            if straight is not None:
                scores = hsemotion_scores(output, self.config.labels)[:count]
                straight.append(Straight(*(part.float().cpu().numpy() for part in (scores, output.embedding[:count]))))
            views = len(pictures) // count
            probabilities = output.logits.float().softmax(1).view(views, count, n).mean(0)
            affect = (
                output.affect if output.affect is not None else output.logits.new_full((len(pictures), 2), torch.nan)
            )
            embedding = output.embedding.float().view(views, count, width).mean(0)
            units = self._units(output).view(-1, count, k).mean(0) if k else embedding.new_zeros((count, 0))
            parts.append(
                (
                    embedding,
                    probabilities.clamp_min(1e-7).log(),
                    affect.float().view(views, count, 2).mean(0).clamp(-1.0, 1.0),
                    units,
                )
            )
        return FaceRead(*(torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True)))

    def _units(self, output: FaceOutput) -> Tensor:
        """Return the probabilities [B, K] of the action units."""
        if self.unit_head is not None:
            return torch.from_numpy(self.unit_head(output.embedding.float().cpu().numpy())).float()
        assert output.units is not None
        return output.units.float().sigmoid()

    def read(
        self, crops: np.ndarray, times: np.ndarray, track_id: int, *, check: Check = unwatched
    ) -> tuple[FaceReadings, Features]:
        """Read a track: crops [T, S, S, 3] uint8 at ``times`` [T] seconds -> readings over time and pooled tokens."""
        return self._read(crops, times, track_id, check=check)

    @torch.inference_mode()
    def read_straight(
        self, crops: np.ndarray, times: np.ndarray, track_id: int, *, check: Check = unwatched
    ) -> tuple[FaceReadings, Features, Straight]:
        """Do as `read`, and return in the same pass what heads read that were trained on kept readings."""
        parts: list[Straight] = []
        readings, features = self._read(crops, times, track_id, check=check, straight=parts)
        return readings, features, Straight(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def _read(
        self,
        crops: np.ndarray,
        times: np.ndarray,
        track_id: int,
        *,
        check: Check,
        straight: list[Straight] | None = None,
    ) -> tuple[FaceReadings, Features]:
        times = np.asarray(times, np.float64)
        if len(crops) != len(times) or not len(crops):
            raise InputError(f"a track of {len(crops)} crops and {len(times)} times cannot be read", field="crops")
        with torch.inference_mode():
            embedding, log_probabilities, va, units = self._embed(crops, check=check, straight=straight)
        readings = FaceReadings(
            track_id=track_id,
            times=times,
            labels=self.config.labels,
            probabilities=np.exp(log_probabilities),
            valence=va[:, 0],
            arousal=va[:, 1],
            action_units=self.action_units,
            units=units if self.action_units else None,
        )
        tokens = pool_over_time(np.concatenate((embedding, log_probabilities), axis=1), times)
        return readings, Features(encoder=self.name, tokens=tokens)


def unit_head_beside(path: Path) -> FrameHead | None:
    """Read the head for action units ``X.au.safetensors`` beside a model ``X.*``, where there is one."""
    place = path.with_name(f"{path.stem}.au.safetensors")
    return FrameHead.load(place) if place.is_file() else None


def check_unit_head(head: FrameHead | None, config: FaceModelConfig, *, width: int) -> FrameHead | None:
    """Return a head that fits a model with embeddings of ``width``; raises `CheckpointError` for one that does not."""
    if head is None:
        return None
    if head.task != "au" or head.reads != "embeddings":
        raise CheckpointError(
            f"a head for {head.task} on {head.reads} lies beside the face model; allowed: au on embeddings",
            field="unit_head",
        )
    if head.weights[0].shape[1] != width:
        raise CheckpointError(
            f"the head for action units reads {head.weights[0].shape[1]} numbers; the model's embeddings have {width}",
            field="unit_head",
        )
    if config.action_units:
        raise CheckpointError("the face model has outputs for action units, and a head for them lies beside it")
    return head


def pool_over_time(values: np.ndarray, times: np.ndarray, *, max_tokens: int = MAX_TOKENS) -> np.ndarray:
    """Average values [T, D] in at most ``max_tokens`` equal bins of time; a bin without a value is left out."""
    count = min(len(values), max_tokens)
    span = float(times[-1] - times[0])
    if count <= 1 or span <= 0:
        return values.mean(0, keepdims=True).astype(np.float32)
    if len(values) <= max_tokens:
        return values.astype(np.float32)
    bins = np.minimum(((times - times[0]) / span * count).astype(int), count - 1)
    return np.stack([values[bins == b].mean(0) for b in np.unique(bins)]).astype(np.float32)
