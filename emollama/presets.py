"""A preset made whole: encoders, projectors, backbone, and what turns a clip into the backbone's feature tokens.

`build` makes any preset with random weights, at full size or tiny (``debug=True``); that is how all of them are tested
without a download. `load` reads real weights: each part from a folder of the user's, or from the Hugging Face cache
(fetched only when asked); `emollama.checkpoint` says what is missing. Both give encoders of one shape: a clip and its
main face in, feature tokens by stream out, an absent modality as an absent key.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from emollama.chat_prompt import TEMPLATE_OF, chat_template
from emollama.config import EncoderConfig, LlamaShape, LoraSettings, ModelConfig, preset
from emollama.errors import InputError
from emollama.model import EmoLlama, ModelBatch
from emollama.projectors import build_projector, count_tokens
from emollama.runtime import Row, Runtime
from emollama.types import Clip, FaceTrack

StreamArrays = dict[str, np.ndarray]
Half = Literal["both", "backbone", "encoders"]


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What encoders may look at: a clip and the track of its main face, if it has one."""

    clip: Clip
    track: FaceTrack | None = None
    num_frames: int = 8
    at: float | None = None

    def pictures(self) -> np.ndarray | None:
        """Return ``num_frames`` whole frames spread evenly over the clip, [N, H, W, 3].

        One means that nearest to ``at`` seconds, and without it the first.
        """
        if self.clip.frames is None or not len(self.clip.frames.images):
            return None
        images = self.clip.frames.images
        if self.num_frames == 1 and self.at is not None:
            nearest = int(np.abs(self.clip.frames.times - self.at).argmin())
            return images[nearest : nearest + 1]
        count = min(self.num_frames, len(images))
        return images[np.linspace(0, len(images) - 1, count).round().astype(int)]


@dataclass(frozen=True, kw_only=True)
class Part:
    """One encoder at work: its configuration, the object, and the call that gives its streams."""

    config: EncoderConfig
    encoder: Any
    widths: Mapping[str, int]
    encode: Callable[[Seen], StreamArrays]


class ByteTokenizer:
    """The tokenizer of debug builds: bytes, after ``<pad> <s> </s>``, the placeholders and a template's specials."""

    pad_id, bos_id, eos_id = 0, 1, 2
    adds_space = False

    def __init__(self, placeholders: Sequence[str], *, specials: Sequence[str] = ()) -> None:
        named = dict.fromkeys(("<pad>", "<s>", "</s>", *placeholders, *specials))
        self._named = {token: index for index, token in enumerate(named)}
        self.placeholders = {name: self._named[name] for name in placeholders}
        self._first = len(named)

    @property
    def vocab_size(self) -> int:
        return self._first + 256

    def encode(self, text: str) -> list[int]:
        return [self._first + byte for byte in text.encode("utf-8")]

    def decode(self, token_ids: Sequence[int]) -> str:
        return bytes(token - self._first for token in token_ids if token >= self._first).decode("utf-8", "replace")

    def find(self, token: str) -> int | None:
        return self._named.get(token)

    def special_ids(self) -> frozenset[int]:
        return frozenset(range(self._first))


@dataclass(frozen=True, kw_only=True)
class Built:
    """A preset with random weights; ``config`` tells its real sizes."""

    config: ModelConfig
    parts: tuple[Part, ...]
    model: EmoLlama
    tokenizer: ByteTokenizer

    def encode(self, clip: Clip, track: FaceTrack | None = None) -> StreamArrays:
        """Return the feature tokens [T, D_in] of every stream the clip has something for."""
        return encode(self.parts, Seen(clip=clip, track=track, num_frames=self.config.num_frames))

    def row(self, features: Mapping[str, np.ndarray], text: str = "") -> Row:
        """Return a plain prompt: the beginning, the streams' placeholders in the preset's order, then the text."""
        ids = [self.tokenizer.bos_id]
        for stream in self.config.streams:
            if stream.name in features:
                count = count_tokens(self.model.projectors[stream.name], len(features[stream.name]))
                ids += [self.model.placeholder_ids[stream.name]] * count
        return Row(ids + self.tokenizer.encode(text), dict(features))

    def batch(self, row: Row) -> ModelBatch:
        """Return a row as a batch of one for `EmoLlama`."""
        features = {name: [torch.from_numpy(np.ascontiguousarray(tokens))] for name, tokens in row.features.items()}
        return ModelBatch(input_ids=torch.tensor([list(row.input_ids)]), features=features)

    def runtime(self) -> Runtime:
        """Return the same weights, LoRA merged, ready to answer."""
        import copy

        from emollama.backbones.lean import LeanLlama
        from emollama.backbones.lora import merge_lora

        merged = merge_lora(copy.deepcopy(self.model.backbone))
        lean = LeanLlama.from_tensors(self.config.backbone, merged.state_dict())
        return Runtime(lean, dict(self.model.projectors.items()), self.model.placeholder_ids)


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A preset with its real weights, ready to answer."""

    config: ModelConfig
    parts: tuple[Part, ...]
    runtime: Runtime
    tokenizer: Path

    def encode(self, clip: Clip, track: FaceTrack | None = None) -> StreamArrays:
        return encode(self.parts, Seen(clip=clip, track=track, num_frames=self.config.num_frames))


def encode(parts: Sequence[Part], seen: Seen) -> StreamArrays:
    """Run every encoder; a stream without input is absent."""
    streams: StreamArrays = {}
    for part in parts:
        streams |= part.encode(seen)
    return streams


# ---- building ----------------------------------------------------------------------------------------------------


def debug_shape(shape: LlamaShape, *, vocab_size: int, end_id: int = ByteTokenizer.eos_id) -> LlamaShape:
    """Return a tiny backbone with the family's own traits: grouped keys, rotary scaling, tied or free head."""
    return dataclasses.replace(
        shape,
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=48,
        num_layers=2,
        num_heads=4,
        num_kv_heads=4 if shape.num_heads == shape.num_kv_heads else 2,
        head_dim=None,
        max_positions=640,
        bos_token_id=ByteTokenizer.bos_id,
        eos_token_ids=(end_id,),
        pad_token_id=ByteTokenizer.pad_id,
    )


def build(name: str, *, debug: bool = True, seed: int = 0) -> Built:
    """Build a preset with random weights. ``debug=False`` needs the memory of the full model."""
    from emollama.backbones.llama import build_llama

    config, parts, tokenizer = build_encoders(name, debug=debug, seed=seed)
    placeholders = {stream.name: tokenizer.placeholders[stream.placeholder] for stream in config.streams}
    backbone = build_debug_backbone(config, seed=seed) if debug else build_llama(config.backbone, seed=seed)
    model = assemble_model(config, backbone, placeholder_ids=placeholders, lora=config.lora, seed=seed)
    return Built(config=config, parts=parts, model=model.eval(), tokenizer=tokenizer)


def build_encoders(
    name: str, *, debug: bool = True, seed: int = 0
) -> tuple[ModelConfig, tuple[Part, ...], ByteTokenizer]:
    """Build a preset's encoders with random weights; the configuration tells their real widths.

    With ``debug`` they are tiny, and so are the backbone and the adapter that the configuration describes.
    """
    config = preset(name)
    template = chat_template(TEMPLATE_OF[name]) if name in TEMPLATE_OF else None
    tokenizer = ByteTokenizer(
        [stream.placeholder for stream in config.streams], specials=() if template is None else template.specials
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts = tuple(_part(encoder, _make(encoder, debug=debug)) for encoder in config.encoders)
    widths = {stream: width for part in parts for stream, width in part.widths.items()}
    streams = tuple(dataclasses.replace(stream, width=widths[stream.name]) for stream in config.streams)
    if not debug:
        return dataclasses.replace(config, streams=streams), parts, tokenizer
    end_id = ByteTokenizer.eos_id if template is None else tokenizer.find(template.end)
    tiny = dataclasses.replace(
        config,
        backbone=debug_shape(config.backbone, vocab_size=tokenizer.vocab_size, end_id=end_id or ByteTokenizer.eos_id),
        lora=dataclasses.replace(config.lora, rank=2, alpha=4.0),
        streams=tuple(
            dataclasses.replace(stream, projector=dataclasses.replace(stream.projector, num_heads=2, depth=1))
            for stream in streams
        ),
    )
    return tiny, parts, tokenizer


def debug_digest(config: ModelConfig) -> str:
    """Return the sha256 that tells debug builds apart, as that of its files tells a real base."""
    return hashlib.sha256(json.dumps(config.to_json_dict(), sort_keys=True).encode()).hexdigest()


def build_debug_backbone(config: ModelConfig, *, seed: int = 0) -> nn.Module:
    """Build the tiny backbone of a debug configuration.

    Its head is eight times as large as the initialisation makes it: with 32 numbers a token, adapters could otherwise
    not move the likelihoods, and nothing that learns could be told from something that does not.
    """
    from emollama.backbones.llama import build_llama

    backbone = build_llama(config.backbone, seed=seed)
    with torch.no_grad():
        backbone.lm_head.weight *= 8.0
    return backbone


def assemble_model(
    config: ModelConfig,
    backbone: nn.Module,
    *,
    placeholder_ids: Mapping[str, int],
    lora: LoraSettings | None = None,
    seed: int = 0,
) -> EmoLlama:
    """Join a backbone (its adapter on it, or fresh ``lora``) and fresh projectors of the preset's streams.

    With a backbone on the meta device all of it is without memory, which is how full sizes are counted.
    """
    from emollama.backbones.lora import attach_lora

    device = next(backbone.parameters()).device
    if lora is not None:
        backbone = attach_lora(backbone, lora, seed=seed)
    with torch.random.fork_rng(devices=[]), torch.device("meta" if device.type == "meta" else "cpu"):
        torch.manual_seed(seed)
        projectors = {
            stream.name: build_projector(stream.width, config.backbone.hidden_size, stream.projector)
            for stream in config.streams
        }
    return EmoLlama(backbone, projectors, placeholder_ids)


def build_random(
    name: str,
    *,
    bits: int = 0,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> EmoLlama:
    """Build what is trained of a preset at full size, with random weights and without its encoders.

    For measuring memory and speed of a 7 or 8 billion LLaMA where its weights are not at hand; ``device="meta"`` needs
    no memory. ``bits`` 4 packs the backbone once it lies on the device.
    """
    from emollama.backbones.frozen import freeze
    from emollama.backbones.llama import build_llama
    from emollama.backbones.quantize import quantize_llama

    if bits not in (0, 4):
        raise InputError(f"bits is {bits!r}; allowed: 0 (not quantised), 4", field="bits")
    config = preset(name)
    backbone: nn.Module = build_llama(config.backbone, seed=seed, dtype=dtype, device=str(device))
    backbone = quantize_llama(backbone, compute_dtype=dtype, device=device) if bits else freeze(backbone)
    placeholders = {stream.name: index for index, stream in enumerate(config.streams)}
    return assemble_model(config, backbone, placeholder_ids=placeholders, lora=config.lora, seed=seed)


def load(
    name: str,
    *,
    projectors: Path,
    adapter: Path | None = None,
    placeholder_ids: Mapping[str, int],
    folders: Mapping[str, Path] | None = None,
    download: bool = False,
    device: str = "cpu",
) -> Loaded:
    """Load a preset's real weights. ``folders`` maps names of `checkpoint.MODELS` to the user's copies.

    Raises `DependencyError` that names the first weights which are not here and how to get them.
    """
    config, places = preset(name), find_weights(name, folders=folders, download=download)
    parts = load_encoders(config, places)
    backbone = places[config.backbone_weights or ""]
    runtime = Runtime.load(
        backbone,
        projectors=projectors,
        widths={stream: width for part in parts for stream, width in part.widths.items()},
        placeholder_ids=placeholder_ids,
        adapter=adapter,
        projector_configs={stream.name: stream.projector for stream in config.streams},
        dtype=getattr(torch, config.dtype) if device != "cpu" else torch.float32,
        device=device,
    )
    return Loaded(config=config, parts=parts, runtime=runtime, tokenizer=backbone / "tokenizer.json")


def find_weights(
    name: str, *, folders: Mapping[str, Path] | None = None, download: bool = False, of: Half = "both"
) -> dict[str, Path]:
    """Return where each part of a preset lies, by its name in `checkpoint.MODELS`; ``of`` a half of it, those alone.

    Raises `DependencyError` that names the first weights which are not here, `InputError` for folders of no part.
    """
    from emollama.checkpoint import resolve_weights

    config, own = preset(name), dict(folders or {})
    halves: dict[str, list[str | None]] = {
        "backbone": [config.backbone_weights],
        "encoders": [encoder.weights for encoder in config.encoders],
    }
    known = dict.fromkeys(weights for half in halves.values() for weights in half if weights is not None)
    strange = sorted(set(own) - set(known))
    if strange:
        raise InputError(f"folders name weights that {name} does not use: {', '.join(strange)}", field="folders")
    return {
        weights: resolve_weights(weights, folder=own.get(weights), download=download)
        for weights in known
        if of == "both" or weights in halves[of]
    }


def load_encoders(
    config: ModelConfig, places: Mapping[str, Path], *, device: torch.device | str = "cpu"
) -> tuple[Part, ...]:
    """Read the weights of a preset's encoders from ``places`` (`find_weights`) onto a device."""
    parts = []
    for encoder in config.encoders:
        made = _read(encoder, places[encoder.weights or ""])
        for module in [made] if isinstance(made, nn.Module) else vars(made).values():
            if isinstance(module, nn.Module):
                module.to(device)
        parts.append(_part(encoder, made))
    return tuple(parts)


# ---- encoders of one shape ---------------------------------------------------------------------------------------


def _make(config: EncoderConfig, *, debug: bool) -> Any:
    """Build an encoder with random weights."""
    options = dict(config.options)
    match config.kind:
        case "face":
            from emollama.encoders.face import FaceEncoder

            return FaceEncoder.build(options["model"], debug=debug)
        case "voice":
            from emollama.encoders.voice import VoiceConfig, VoiceEncoder

            return VoiceEncoder.build(VoiceConfig(num_members=1) if debug else None)
        case "whisper":
            from emollama.encoders.whisper import WhisperShape, WhisperShapedEncoder

            if debug:
                return WhisperShapedEncoder(WhisperShape(width=32, num_heads=2, num_layers=2)).eval()
            options.pop("model")
            return WhisperShapedEncoder(WhisperShape(**options)).eval()
        case "clip":
            from emollama.encoders.clip import ClipEncoder

            return ClipEncoder.build(**options, debug=debug)
        case "emovclip":
            from emollama.encoders.emovclip import EmoVclipEncoder

            return EmoVclipEncoder.build(max_frames=options.get("max_frames", 16), debug=debug)
        case "eva":
            from emollama.encoders.eva import EvaEncoder

            return EvaEncoder.build(debug=debug)
        case "face_mae":
            from emollama.encoders.face_mae import FaceMaeEncoder

            return FaceMaeEncoder.build(debug=debug)
        case "video_mae":
            from emollama.encoders.video_mae import VideoMaeEncoder

            return VideoMaeEncoder.build(debug=debug)
        case "hubert":
            from emollama.encoders.hubert import HubertEncoder

            return HubertEncoder.build(debug=debug)
        case _:
            raise AssertionError(f"no builder for encoder {config.kind}")


def _read(config: EncoderConfig, place: Path) -> Any:
    """Read an encoder's weights from a file or folder."""
    options = dict(config.options)
    match config.kind:
        case "face":
            from emollama.abaw.beside import with_heads
            from emollama.encoders.onnx_face import load_face

            graph = place / "face.onnx"
            file = graph if graph.is_file() else _file(place, "face.safetensors")
            return with_heads(load_face(file), file)
        case "voice":
            from emollama.encoders.voice import VoiceEncoder

            return VoiceEncoder.load(_file(place, "voice.safetensors"))
        case "whisper":
            from emollama.encoders.whisper import WhisperShape, WhisperShapedEncoder
            from emollama.tensors import load_into, read_tensors

            options.pop("model")
            encoder = WhisperShapedEncoder(WhisperShape(**options))
            load_into(encoder, read_tensors(_file(place, "encoder.safetensors")), what=str(place))
            return encoder.eval()
        case "clip":
            from emollama.encoders.clip import ClipEncoder

            return ClipEncoder.load(place, **options)
        case "emovclip":
            from emollama.encoders.emovclip import EmoVclipEncoder

            return EmoVclipEncoder.load(place, **options)
        case "eva":
            from emollama.encoders.eva import EvaEncoder

            return EvaEncoder.load(place)
        case "face_mae":
            from emollama.encoders.face_mae import FaceMaeEncoder

            return FaceMaeEncoder.load(place)
        case "video_mae":
            from emollama.encoders.video_mae import VideoMaeEncoder

            return VideoMaeEncoder.load(place)
        case "hubert":
            from emollama.encoders.hubert import HubertEncoder

            return HubertEncoder.load(place)
        case _:
            raise AssertionError(f"no reader for encoder {config.kind}")


def _file(place: Path, name: str) -> Path:
    return place / name if place.is_dir() else place


def _part(config: EncoderConfig, encoder: Any) -> Part:
    widths, call = _ADAPTERS.get(config.kind, _plain)(config, encoder)
    return Part(config=config, encoder=encoder, widths=widths, encode=call)


_Adapter = tuple[Mapping[str, int], Callable[[Seen], StreamArrays]]


def _plain(config: EncoderConfig, encoder: Any) -> _Adapter:
    """Encoders that already give their streams from frames, crops or sound."""

    def call(seen: Seen) -> StreamArrays:
        if config.reads == "frames":
            given: Any = seen.pictures()
        elif config.reads == "face":
            given = None if seen.track is None else seen.track.crops
        else:
            given = seen.clip.audio
        streams: StreamArrays = {} if given is None else encoder.encode(given)
        return streams

    return encoder.widths, call


def _face(config: EncoderConfig, encoder: Any) -> _Adapter:
    """The expression model: pooled embeddings and log-probabilities of the main track."""

    def call(seen: Seen) -> StreamArrays:
        if seen.track is None or not len(seen.track.crops):
            return {}
        _, features = encoder.read(seen.track.crops, seen.track.times, seen.track.track_id)
        return {config.streams[0]: features.tokens}

    return {config.streams[0]: encoder.token_width}, call


def _voice(config: EncoderConfig, encoder: Any) -> _Adapter:
    """nano's voice model: one token, only when a voice was heard."""
    from emollama.prosody import measure

    def call(seen: Seen) -> StreamArrays:
        if seen.clip.audio is None:
            return {}
        _, features = encoder.read(seen.clip.audio, measure(seen.clip.audio))
        return {} if features is None else {config.streams[0]: features.tokens}

    return {config.streams[0]: encoder.token_width}, call


def _whisper(config: EncoderConfig, encoder: Any) -> _Adapter:
    """A Whisper-shaped encoder over the sound that is there (not its 30 s padding), window by window."""
    from emollama.encoders.whisper import HOP, log_mel
    from emollama.prosody import mono_16k

    window = 2 * HOP * encoder.shape.num_positions

    @torch.inference_mode()
    def call(seen: Seen) -> StreamArrays:
        if seen.clip.audio is None or not len(seen.clip.audio.samples):
            return {}
        samples = torch.from_numpy(mono_16k(seen.clip.audio))
        parts = []
        for start in range(0, len(samples), window):
            piece = samples[start : start + window]
            mel = log_mel(torch.nn.functional.pad(piece, (0, -len(piece) % (2 * HOP))), num_mels=encoder.shape.num_mels)
            parts.append(encoder(mel[None].to(next(encoder.parameters()).device))[0].float().cpu().numpy())
        return {config.streams[0]: np.concatenate(parts)}

    return {config.streams[0]: encoder.shape.width}, call


_ADAPTERS: Mapping[str, Callable[[EncoderConfig, Any], _Adapter]] = {
    "face": _face,
    "voice": _voice,
    "whisper": _whisper,
}
