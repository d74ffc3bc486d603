"""A whole open_clip model (both towers) as a frozen backbone: a folder, its configuration, its digest.

The folder is open_clip's own (``open_clip_config.json`` and ``open_clip_model.safetensors``), so what is written here
opens there by ``local-dir:`` and the published ones open here. Only the plain layout can hold prompts (`PROMPTABLE`):
a vision transformer of open_clip's and the text transformer that CLIP was published with. Towers of timm, residual
networks, CoCa's poolers and Hugging Face text towers are refused by the name of their field.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from emollama.encoders.clip import CLIP_MEAN, CLIP_STD, WEIGHTS, architecture_config
from emollama.errors import CheckpointError, InputError
from emollama.tensors import check_tensors, read_tensors, write_json, write_tensors

CONFIG = "open_clip_config.json"
# What the layout may not have, by part of its configuration: option -> the values that it may take.
PROMPTABLE: Mapping[str, Mapping[str, tuple[object, ...]]] = {
    "vision_cfg": {
        "timm_model_name": (None,), "attentional_pool": (False, None), "patch_dropout": (0, 0.0, None),
        "pool_type": ("tok", "avg", None), "block_type": (None, "default", "custom"),
    },
    "text_cfg": {
        "hf_model_name": (None,), "embed_cls": (False, None), "no_causal_mask": (False, None),
        "pool_type": ("argmax", "eos", None), "hf_tokenizer_name": (None,), "tokenizer_mode": (None,),
    },
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ClipShape:
    """Sizes of a small model of one's own; ``head_width`` is that of both towers.

    ``vocab_size`` is that of CLIP's byte-pair tokenizer, so that any word can be asked for.
    """

    embed_dim: int = 128
    image_size: int = 48
    patch_size: int = 8
    vision_width: int = 128
    vision_layers: int = 6
    text_width: int = 128
    text_layers: int = 3
    head_width: int = 32
    context_length: int = 32
    vocab_size: int = 49_408

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < 1:
                raise InputError(f"{field.name} is {getattr(self, field.name)}; allowed: 1 or more", field=field.name)
        for name, divisor in (
            ("image_size", "patch_size"),
            ("vision_width", "head_width"),
            ("text_width", "head_width"),
        ):
            if getattr(self, name) % getattr(self, divisor):
                allowed = f"a multiple of {divisor} ({getattr(self, divisor)})"
                raise InputError(f"{name} is {getattr(self, name)}; allowed: {allowed}", field=name)

    def to_open_clip(self) -> dict[str, Any]:
        """Return the ``model_cfg`` that open_clip builds a model of this shape from."""
        return {
            "embed_dim": self.embed_dim,
            "vision_cfg": {
                "image_size": self.image_size, "patch_size": self.patch_size, "width": self.vision_width,
                "layers": self.vision_layers, "head_width": self.head_width,
            },
            "text_cfg": {
                "context_length": self.context_length, "vocab_size": self.vocab_size, "width": self.text_width,
                "heads": self.text_width // self.head_width, "layers": self.text_layers,
            },
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ClipBackbone:
    """An open_clip model, frozen and in eval mode; ``sha256`` tells it from every other one."""

    model: nn.Module
    config: Mapping[str, Any]
    sha256: str

    @property
    def image_size(self) -> int:
        size = self.config["vision_cfg"].get("image_size", 224)
        return int(size[0] if isinstance(size, Sequence) else size)

    @property
    def embed_dim(self) -> int:
        return int(self.config["embed_dim"])

    @classmethod
    def of(cls, model: nn.Module, config: Mapping[str, Any]) -> ClipBackbone:
        """Freeze a model that open_clip built from ``config``."""
        digest = _digest(config, model.state_dict())
        return cls(model=model.eval().requires_grad_(False), config=config, sha256=digest)

    @classmethod
    def load(cls, path: Path, *, architecture: str = "", dtype: torch.dtype = torch.float32) -> ClipBackbone:
        """Read open_clip's folder strictly; ``architecture`` names its layout where the folder does not say it."""
        tensors = read_tensors(path / WEIGHTS)
        config = _config_of(path, architecture)
        with torch.device("meta"):
            model = build_clip(config)
        check_tensors(tensors, model.state_dict(), what=str(path / WEIGHTS))
        # The text tower's mask is no part of the file, so the module is made anew where there is memory for it.
        model = build_clip(config)
        model.load_state_dict(tensors, strict=True)
        digest = _digest(config, tensors)
        return cls(model=model.to(dtype).eval().requires_grad_(False), config=config, sha256=digest)


def build_clip(config: Mapping[str, Any]) -> nn.Module:
    """Build a trainable open_clip model with random weights; `CheckpointError` where prompts have no place in it."""
    import open_clip

    for part, options in PROMPTABLE.items():
        if not isinstance(config.get(part), Mapping):
            raise CheckpointError(f"the model's configuration lacks {part}", field=part)
        for name, allowed in options.items():
            if config[part].get(name) not in allowed:
                raise CheckpointError(
                    f"{part}.{name} is {config[part][name]!r}; allowed: {', '.join(map(repr, allowed))}",
                    field=f"{part}.{name}",
                )
    if not isinstance(config["vision_cfg"].get("layers", 12), int):
        raise CheckpointError(
            f"vision_cfg.layers is {config['vision_cfg']['layers']!r}, a residual network; allowed: the number of "
            "blocks of a vision transformer",
            field="vision_cfg.layers",
        )
    known = {key: config[key] for key in ("embed_dim", "quick_gelu", "init_logit_scale") if key in config}
    if "embed_dim" not in known:
        raise CheckpointError("the model's configuration lacks embed_dim", field="embed_dim")
    model: nn.Module = open_clip.CLIP(**known, vision_cfg=dict(config["vision_cfg"]), text_cfg=dict(config["text_cfg"]))
    return model


def save_clip(model: nn.Module, config: Mapping[str, Any], folder: Path) -> None:
    """Write open_clip's folder: weights, layout, and how pictures are prepared."""
    size = config["vision_cfg"]["image_size"]
    # Faces are squashed to the size, as `vit.pictures_to_pixels` does.
    preprocess = {
        "size": size,
        "mean": CLIP_MEAN,
        "std": CLIP_STD,
        "interpolation": "bicubic",
        "resize_mode": "squash",
    }
    write_json(folder / CONFIG, {"model_cfg": dict(config), "preprocess_cfg": preprocess})
    write_tensors(folder / WEIGHTS, model.state_dict())


def tokenize(texts: Sequence[str], *, context_length: int) -> Tensor:
    """Return ids [N, context_length] by CLIP's tokenizer; a text that does not fit raises `InputError`."""
    # Asked for one more place than there is, so that what the tokenizer would cut off in silence is seen.
    ids: Tensor = _tokenizer()(list(texts), context_length=context_length + 1)
    long = ids[:, context_length].nonzero().flatten().tolist()
    if long:
        raise InputError(
            f"text is {texts[long[0]]!r}; allowed: what fits the model's {context_length} tokens", field="text"
        )
    return ids[:, :context_length]


@functools.cache
def _tokenizer() -> Any:
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()


def _config_of(path: Path, architecture: str) -> Mapping[str, Any]:
    if architecture:
        return architecture_config(architecture)
    file = path / CONFIG
    if not file.is_file():
        raise CheckpointError(
            f"{path} holds no {CONFIG}; name open_clip's architecture, such as ViT-B-16-quickgelu", field="architecture"
        )
    try:
        config: Mapping[str, Any] = json.loads(file.read_text("utf-8"))["model_cfg"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file} is no configuration of open_clip's: {error}", field="backbone") from error
    return config


def _digest(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Return the sha256 over layout and weights (as float32), however their file is written."""
    sha = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().to("cpu", torch.float32).contiguous()
        sha.update(f"{name} {list(tensor.shape)}".encode())
        sha.update(tensor.numpy().tobytes())
    return sha.hexdigest()
