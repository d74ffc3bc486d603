"""The face models by name: backbone, input and order of outputs of each; `emollama.encoders.face` reads with them.

Outputs are ``[expressions | valence, arousal | action units]``. The HSEmotion models (EmotiEffLib) have their
expressions in alphabetical order and no action units; models of the public DDAMFN code have AffectNet's own order. All
of them take RGB crops squashed to the square. ``_vgaf``, ``_afew`` and ``_best`` are other weights of the same shapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal, get_args

from emollama.errors import CheckpointError, InputError
from emollama.labels import AFFECTNET_8, HSEMOTION_8, NANO_LABELS

Colour = Literal["grey", "imagenet", "half"]
AFFECT = ("valence", "arousal")
# Backbones written here; any other name is timm's.
RESIDUAL, MOBILE_FACE_NET, DDAMFN = "residual", "mobilefacenet", "ddamfn"
_FIXED_SIZE = 112  # these two end in a 7x7 convolution
FIXED_SIZES: Mapping[str, int] = MappingProxyType({MOBILE_FACE_NET: _FIXED_SIZE, DDAMFN: _FIXED_SIZE})


@dataclass(frozen=True, kw_only=True)
class FaceModelConfig:
    """Shape of a face model, and what its pictures are made into.

    ``colour`` "grey" is standardised per crop; "imagenet" is RGB by the ImageNet mean and deviation, "half" RGB by 0.5
    and 0.5. ``widths`` and ``depths`` are channels and residual blocks of the four stages of backbone "residual";
    others ignore them. ``has_affect`` adds two outputs after the expressions: valence, then arousal, unbounded;
    ``action_units`` names one more output each, a logit.
    """

    backbone: str = RESIDUAL
    labels: tuple[str, ...] = NANO_LABELS
    has_affect: bool = True
    size: int = 48
    colour: Colour = "grey"
    widths: tuple[int, ...] = (32, 64, 128, 256)
    depths: tuple[int, ...] = (1, 2, 2, 2)
    dropout: float = 0.0
    action_units: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.size < 16:
            raise InputError(f"size is {self.size}; allowed: 16 or more", field="size")
        if self.colour not in get_args(Colour):
            raise InputError(f"colour is {self.colour!r}; allowed: {', '.join(get_args(Colour))}", field="colour")
        if len(self.widths) != len(self.depths) or not self.widths:
            raise InputError(f"widths {self.widths} and depths {self.depths} differ in length", field="widths")
        if self.size != FIXED_SIZES.get(self.backbone, self.size):
            raise InputError(f"size is {self.size}; allowed with {self.backbone}: {_FIXED_SIZE}", field="size")
        if len(set(self.action_units)) != len(self.action_units):
            raise InputError(f"action_units are {self.action_units}; allowed: each once", field="action_units")

    @property
    def num_outputs(self) -> int:
        return len(self.labels) + 2 * self.has_affect + len(self.action_units)

    @property
    def channels(self) -> int:
        return 1 if self.colour == "grey" else 3

    def at_debug_size(self) -> FaceModelConfig:
        """Return the same layout, small enough for a test: narrow stages, or a timm backbone on 64 pixels."""
        if self.backbone == RESIDUAL:
            return replace(self, widths=(8, 8, 16, 16), depths=(1, 1, 1, 1))
        return self if self.backbone in FIXED_SIZES else replace(self, size=64)

    @classmethod
    def from_json_dict(cls, document: Mapping[str, Any]) -> FaceModelConfig:
        try:
            fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in document.items()}
            return cls(**fields)
        except TypeError as error:
            raise CheckpointError(f"the face model's config does not fit: {error}") from error


def _published(
    backbone: str, *, size: int = 224, affect: bool = False, colour: Colour = "imagenet", drop: str = ""
) -> FaceModelConfig:
    labels = tuple(label for label in HSEMOTION_8 if label != drop)
    return FaceModelConfig(backbone=backbone, labels=labels, has_affect=affect, size=size, colour=colour)


_B0, _B2 = "tf_efficientnet_b0", "tf_efficientnet_b2"
_NATIVE = replace(_published(DDAMFN, size=_FIXED_SIZE), labels=AFFECTNET_8)

FACE_MODELS: Mapping[str, FaceModelConfig] = MappingProxyType(
    {
        "nano-face": FaceModelConfig(dropout=0.2),
        "enet_b0_8": _published(_B0),
        "enet_b0_8_best_afew": _published(_B0),
        "enet_b0_8_best_vgaf": _published(_B0),
        "enet_b0_8_va_mtl": _published(_B0, affect=True),
        "enet_b0_7": _published(_B0, drop="contempt"),
        "enet_b2_8": _published(_B2, size=260),
        "enet_b2_8_best": _published(_B2, size=260),
        "enet_b2_7": _published(_B2, size=260, drop="contempt"),
        "mobilevit_va_mtl": _published("mobilevitv2_150", affect=True),
        "mbf_va_mtl": _published(MOBILE_FACE_NET, size=_FIXED_SIZE, affect=True, colour="half"),
        "ddamfnet_8": _published(DDAMFN, size=_FIXED_SIZE),
        "ddamfnet_8_mtl": _published(DDAMFN, size=_FIXED_SIZE, affect=True),
        "ddamfn_affectnet_8": _NATIVE,
        "ddamfn_affectnet_7": replace(_NATIVE, labels=AFFECTNET_8[:7]),
    }
)
