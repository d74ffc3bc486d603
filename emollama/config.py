"""What a model is made of: frozen configurations and the table of presets.

A model is a LLaMA backbone, LoRA on some of its projections, and *streams*: sequences of feature tokens that an
encoder makes of a clip and a projector brings to the backbone's width. A stream overwrites its placeholder token in
the prompt. One encoder may give several streams (EVA-CLIP gives patches and a CLS token).

Sizes of `emotion-llama-7b` follow the public code of Emotion-LLaMA (NeurIPS 2024): EVA-CLIP-g patches joined four to
one, FaceMAE, VideoMAE and HuBERT vectors, LoRA r=64 on q and v. `emollama-8b` is this project's own composition.
Nothing here imports torch or knows where weights are; see `emollama.checkpoint`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from emollama.errors import CheckpointError, InputError, UnknownNameError

ProjectorKind = Literal["linear", "mlp", "resampler"]
PROJECTOR_KINDS: tuple[ProjectorKind, ...] = ("linear", "mlp", "resampler")
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def _require(condition: bool, name: str, value: object, allowed: str) -> None:
    if not condition:
        raise InputError(f"{name} is {value!r}; allowed: {allowed}", field=name)


@dataclass(frozen=True, kw_only=True)
class LlamaShape:
    """Sizes of a LLaMA decoder; the names of `to_hf_dict` are those of a transformers ``config.json``.

    ``rope_scaling`` is the llama3 scaling block of Llama 3.1 (factor, low_freq_factor, high_freq_factor,
    original_max_position_embeddings), or ``None``.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int | None = None
    rope_theta: float = 10_000.0
    rope_scaling: Mapping[str, Any] | None = None
    rms_norm_eps: float = 1e-5
    max_positions: int = 1024
    tie_embeddings: bool = False
    bos_token_id: int = 1
    eos_token_ids: tuple[int, ...] = (2,)
    pad_token_id: int | None = None

    def __post_init__(self) -> None:
        for name in ("vocab_size", "hidden_size", "intermediate_size", "num_layers", "num_heads", "num_kv_heads"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        _require(self.num_heads % self.num_kv_heads == 0, "num_kv_heads", self.num_kv_heads, "a divisor of num_heads")
        if self.head_dim is None:
            _require(self.hidden_size % self.num_heads == 0, "hidden_size", self.hidden_size, "a multiple of num_heads")
        _require(self.size_of_head % 2 == 0, "head_dim", self.size_of_head, "an even number, for rotary positions")
        if self.rope_scaling is not None:
            kind = self.rope_scaling.get("rope_type", self.rope_scaling.get("type"))
            _require(kind == "llama3", "rope_scaling", kind, "llama3 or none")

    @property
    def size_of_head(self) -> int:
        return self.head_dim or self.hidden_size // self.num_heads

    def to_hf_dict(self) -> dict[str, Any]:
        """Return the ``config.json`` of a transformers ``LlamaForCausalLM`` of this shape."""
        rope: dict[str, Any] = {"rope_type": "default", "rope_theta": self.rope_theta}
        if self.rope_scaling is not None:
            rope = {**self.rope_scaling, "rope_type": "llama3", "rope_theta": self.rope_theta}
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.size_of_head,
            "hidden_act": "silu",
            "rms_norm_eps": self.rms_norm_eps,
            "max_position_embeddings": self.max_positions,
            "rope_parameters": rope,
            "tie_word_embeddings": self.tie_embeddings,
            "attention_bias": False,
            "mlp_bias": False,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": self.eos_token_ids[0] if len(self.eos_token_ids) == 1 else list(self.eos_token_ids),
            "pad_token_id": self.pad_token_id,
        }

    @classmethod
    def from_hf_dict(cls, document: Mapping[str, Any]) -> LlamaShape:
        """Read a transformers ``config.json``, of version 4 (``rope_theta``) or 5 (``rope_parameters``).

        Raises `CheckpointError` for another architecture or an option that this project does not compute.
        """
        if document.get("model_type") != "llama":
            raise CheckpointError(f"model_type is {document.get('model_type')!r}; allowed: 'llama'", field="model_type")
        for name in ("attention_bias", "mlp_bias"):
            if document.get(name):
                raise CheckpointError(f"{name} is true; only LLaMA without biases is supported", field=name)
        if document.get("hidden_act", "silu") != "silu":
            raise CheckpointError(f"hidden_act is {document['hidden_act']!r}; allowed: 'silu'", field="hidden_act")
        rope = dict(document.get("rope_parameters") or document.get("rope_scaling") or {})
        theta = float(rope.pop("rope_theta", document.get("rope_theta", 10_000.0)))
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind not in ("default", "llama3"):
            raise CheckpointError(f"rope type is {kind!r}; allowed: 'default', 'llama3'", field="rope_parameters")
        eos = document.get("eos_token_id")
        eos_ids = tuple(eos) if isinstance(eos, (list, tuple)) else (2 if eos is None else int(eos),)
        heads = int(document["num_attention_heads"])
        head_dim = document.get("head_dim")
        return cls(
            vocab_size=int(document["vocab_size"]),
            hidden_size=int(document["hidden_size"]),
            intermediate_size=int(document["intermediate_size"]),
            num_layers=int(document["num_hidden_layers"]),
            num_heads=heads,
            num_kv_heads=int(document.get("num_key_value_heads") or heads),
            head_dim=None if head_dim is None else int(head_dim),
            rope_theta=theta,
            rope_scaling=MappingProxyType(rope) if kind == "llama3" else None,
            rms_norm_eps=float(document.get("rms_norm_eps", 1e-6)),
            max_positions=int(document.get("max_position_embeddings", 2048)),
            tie_embeddings=bool(document.get("tie_word_embeddings", False)),
            bos_token_id=1 if document.get("bos_token_id") is None else int(document["bos_token_id"]),
            eos_token_ids=tuple(int(token) for token in eos_ids),
            pad_token_id=document.get("pad_token_id"),
        )

    @classmethod
    def load(cls, folder: Path) -> LlamaShape:
        """Read ``config.json`` of a backbone folder."""
        path = folder / "config.json"
        if not path.is_file():
            raise CheckpointError(f"{folder} holds no config.json", field="backbone")
        return cls.from_hf_dict(json.loads(path.read_text("utf-8")))


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """Low-rank adaptation: scale is ``alpha / rank``."""

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.05
    targets: tuple[str, ...] = ("q_proj", "v_proj")

    def __post_init__(self) -> None:
        _require(1 <= self.rank <= 512, "rank", self.rank, "1 to 512")
        _require(self.alpha > 0, "alpha", self.alpha, "above 0")
        _require(0 <= self.dropout < 1, "dropout", self.dropout, "0 up to but not including 1")
        _require(
            bool(self.targets) and set(self.targets) <= set(LORA_TARGETS),
            "targets",
            self.targets,
            "some of " + ", ".join(LORA_TARGETS),
        )


@dataclass(frozen=True, kw_only=True)
class ProjectorConfig:
    """How one stream reaches the backbone's width.

    ``hidden_width`` (mlp) defaults to the backbone's width; ``num_queries``, ``num_heads`` and ``depth`` belong to
    the resampler, which turns any number of tokens into ``num_queries``.
    """

    kind: ProjectorKind = "mlp"
    hidden_width: int | None = None
    num_queries: int = 64
    num_heads: int = 8
    depth: int = 2

    def __post_init__(self) -> None:
        _require(self.kind in PROJECTOR_KINDS, "kind", self.kind, ", ".join(PROJECTOR_KINDS))
        for name in ("num_queries", "num_heads", "depth"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """One sequence of feature tokens: ``width`` is D_in, ``max_tokens`` the most that a prompt may hold."""

    name: str
    modality: Literal["visual", "audio", "text"]
    width: int
    max_tokens: int
    placeholder: str
    projector: ProjectorConfig = ProjectorConfig()

    def __post_init__(self) -> None:
        _require(self.name.isidentifier(), "name", self.name, "an identifier")
        _require(self.width >= 1, "width", self.width, "1 or more")
        _require(self.max_tokens >= 1, "max_tokens", self.max_tokens, "1 or more")


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """One frozen encoder: ``kind`` is its name in `emollama.encoders.ENCODERS`, ``streams`` what it gives.

    ``reads`` says which part of a clip it sees: whole frames, the main face's crops, the sound, or the transcript.
    ``weights`` is its name in `emollama.checkpoint.MODELS`; ``options`` are the encoder's own sizes.
    """

    kind: str
    reads: Literal["frames", "face", "audio", "text"]
    streams: tuple[str, ...]
    weights: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A whole model. ``num_frames`` pictures are taken of a clip for encoders that read frames."""

    name: str
    description: str
    backbone: LlamaShape
    backbone_weights: str | None
    lora: LoraSettings
    encoders: tuple[EncoderConfig, ...]
    streams: tuple[StreamConfig, ...]
    num_frames: int = 8
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"

    def __post_init__(self) -> None:
        names = [stream.name for stream in self.streams]
        _require(len(set(names)) == len(names), "streams", names, "different names")
        given = sorted(name for encoder in self.encoders for name in encoder.streams)
        _require(given == sorted(names), "streams", names, f"exactly what the encoders give: {', '.join(given)}")
        _require(self.num_frames >= 1, "num_frames", self.num_frames, "1 or more")

    def stream(self, name: str) -> StreamConfig:
        """Return the stream of that name, or raise `UnknownNameError` with the names that are."""
        for stream in self.streams:
            if stream.name == name:
                return stream
        raise UnknownNameError("stream", name, [stream.name for stream in self.streams])

    def to_json_dict(self) -> dict[str, Any]:
        return _plain(self)

    @classmethod
    def from_json_dict(cls, document: Mapping[str, Any]) -> ModelConfig:
        """Read back `to_json_dict`; an unknown key raises `CheckpointError` naming it."""
        document = dict(document)
        backbone = dict(document.pop("backbone"))
        backbone["eos_token_ids"] = tuple(backbone.get("eos_token_ids", (2,)))
        lora = dict(document.pop("lora"))
        lora["targets"] = tuple(lora.get("targets", ()))
        encoders = tuple(
            _build(EncoderConfig, {**encoder, "streams": tuple(encoder["streams"])})
            for encoder in document.pop("encoders")
        )
        streams = tuple(
            _build(StreamConfig, {**stream, "projector": _build(ProjectorConfig, stream.get("projector", {}))})
            for stream in document.pop("streams")
        )
        parts = {"backbone": _build(LlamaShape, backbone), "lora": _build(LoraSettings, lora)}
        return _build(cls, {**document, **parts, "encoders": encoders, "streams": streams})


def _build(cls: type, values: Mapping[str, Any]) -> Any:
    known = {f.name for f in dataclasses.fields(cls)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise CheckpointError(f"{cls.__name__} has no field {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    return cls(**values)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


# nano's own sizes are read from the files of its assets; these are the sizes its recipes start from.
NANO = ModelConfig(
    name="nano",
    description="small model trained by this project and shipped with it; runs on a laptop's processor",
    backbone=LlamaShape(
        vocab_size=8192, hidden_size=256, intermediate_size=704, num_layers=8, num_heads=4, num_kv_heads=2,
        max_positions=1024, tie_embeddings=True,
    ),
    backbone_weights="nano",
    lora=LoraSettings(rank=16, alpha=32.0, dropout=0.05, targets=LORA_TARGETS),
    encoders=(
        EncoderConfig(
            kind="face", reads="face", streams=("face",), weights="nano", options={"model": "nano-face"}
        ),
        EncoderConfig(kind="voice", reads="audio", streams=("voice",), weights="nano"),
    ),
    streams=(
        StreamConfig(name="face", modality="visual", width=264, max_tokens=8, placeholder="<|face_token|>"),
        StreamConfig(name="voice", modality="audio", width=64, max_tokens=1, placeholder="<|voice_token|>"),
    ),
)  # fmt: skip

_LLAMA_3_1_SCALING = MappingProxyType(
    {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
)

EMOLLAMA_8B = ModelConfig(
    name="emollama-8b",
    description="Whisper large-v3, open_clip ViT-L/14 and an HSEmotion face model in front of Llama-3.1-8B-Instruct",
    backbone=LlamaShape(
        vocab_size=128_256, hidden_size=4096, intermediate_size=14_336, num_layers=32, num_heads=32, num_kv_heads=8,
        rope_theta=500_000.0, rope_scaling=_LLAMA_3_1_SCALING, rms_norm_eps=1e-5, max_positions=131_072,
        bos_token_id=128_000, eos_token_ids=(128_001, 128_008, 128_009),
    ),
    backbone_weights="llama-3.1-8b-instruct",
    lora=LoraSettings(rank=64, alpha=128.0, dropout=0.05, targets=LORA_TARGETS),
    encoders=(
        EncoderConfig(
            kind="clip", reads="frames", streams=("scene",), weights="clip-vit-l-14",
            options={"architecture": "ViT-L-14-quickgelu", "grid": 4},
        ),
        EncoderConfig(
            kind="face", reads="face", streams=("face",), weights="hsemotion-b0", options={"model": "enet_b0_8_va_mtl"}
        ),
        EncoderConfig(
            kind="whisper", reads="audio", streams=("voice",), weights="whisper-large-v3",
            options={"model": "large-v3", "num_mels": 128, "width": 1280, "num_heads": 20, "num_layers": 32},
        ),
    ),
    streams=(
        StreamConfig(name="scene", modality="visual", width=1024, max_tokens=136, placeholder="<|scene_token|>"),
        StreamConfig(name="face", modality="visual", width=1288, max_tokens=8, placeholder="<|face_token|>"),
        StreamConfig(
            name="voice", modality="audio", width=1280, max_tokens=64, placeholder="<|voice_token|>",
            projector=ProjectorConfig(kind="resampler", num_queries=64, num_heads=16, depth=2),
        ),
    ),
    dtype="bfloat16",
)  # fmt: skip

_LINEAR = ProjectorConfig(kind="linear")

EMOTION_LLAMA_7B = ModelConfig(
    name="emotion-llama-7b",
    description="the published Emotion-LLaMA: EVA-CLIP-g, FaceMAE, VideoMAE and HuBERT in front of Llama-2-7b-chat",
    backbone=LlamaShape(
        vocab_size=32_000, hidden_size=4096, intermediate_size=11_008, num_layers=32, num_heads=32, num_kv_heads=32,
        rms_norm_eps=1e-5, max_positions=4096,
    ),
    backbone_weights="llama-2-7b-chat",
    lora=LoraSettings(rank=64, alpha=16.0, dropout=0.05, targets=("q_proj", "v_proj")),
    encoders=(
        EncoderConfig(kind="eva", reads="frames", streams=("patches", "cls"), weights="eva-clip-g"),
        EncoderConfig(kind="face_mae", reads="face", streams=("face",), weights="face-mae"),
        EncoderConfig(kind="video_mae", reads="face", streams=("temporal",), weights="video-mae"),
        EncoderConfig(kind="hubert", reads="audio", streams=("audio",), weights="chinese-hubert-large"),
    ),
    streams=(
        StreamConfig(
            name="patches", modality="visual", width=5632, max_tokens=256, placeholder="<|patch_token|>",
            projector=_LINEAR,
        ),
        StreamConfig(
            name="face", modality="visual", width=1024, max_tokens=1, placeholder="<|face_token|>", projector=_LINEAR
        ),
        StreamConfig(
            name="temporal", modality="visual", width=1024, max_tokens=1, placeholder="<|temporal_token|>",
            projector=_LINEAR,
        ),
        StreamConfig(
            name="audio", modality="audio", width=1024, max_tokens=1, placeholder="<|voice_token|>", projector=_LINEAR
        ),
        StreamConfig(
            name="cls", modality="visual", width=1408, max_tokens=1, placeholder="<|cls_token|>", projector=_LINEAR
        ),
    ),
    num_frames=1,
    dtype="float16",
)  # fmt: skip

PRESETS: Mapping[str, ModelConfig] = MappingProxyType(
    {config.name: config for config in (NANO, EMOLLAMA_8B, EMOTION_LLAMA_7B)}
)


def preset(name: str) -> ModelConfig:
    """Return the preset of that name, or raise `UnknownNameError` with the names that are."""
    if name not in PRESETS:
        raise UnknownNameError("model", name, PRESETS)
    return PRESETS[name]
