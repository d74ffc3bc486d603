"""The Whisper shape, and the real Whisper.

`WhisperShapedEncoder` is the audio encoder of Radford et al., "Robust Speech Recognition via Large-Scale Weak
Supervision" (2022): log-mel (80 bands, 25 ms windows every 10 ms), two convolutions (the second halves the rate),
sinusoidal positions, pre-norm transformer. Its weights have openai-whisper's names, so an ``encoder.*`` state dict of
that project loads strictly; unlike the original it takes sound of any length up to its positions.

`WhisperEncoder` wraps the ``openai-whisper`` package: one encoder pass gives the features and, through the decoder, the
transcript. Nothing is downloaded unless it is asked for.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emollama.errors import CheckpointError, DependencyError, InputError, UnknownNameError
from emollama.prosody import mono_16k
from emollama.types import Audio, Features, Transcript, TranscriptSegment
from emollama.watch import Check, unwatched

SAMPLE_RATE = 16_000
NUM_FFT = 400
HOP = 160
WINDOW_SECONDS = 30


@dataclass(frozen=True, kw_only=True)
class WhisperShape:
    """Sizes of an encoder: ``num_positions`` is the longest input in frames of 20 ms."""

    num_mels: int = 80
    num_positions: int = 1500
    width: int = 512
    num_heads: int = 8
    num_layers: int = 6

    def __post_init__(self) -> None:
        for name in ("num_mels", "num_positions", "width", "num_heads", "num_layers"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; allowed: 1 or more", field=name)
        if self.width % (2 * self.num_heads):
            allowed = f"a multiple of 2 * num_heads ({2 * self.num_heads})"
            raise InputError(f"width is {self.width}; allowed: {allowed}", field="width")


# ---- log-mel ------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=4)
def mel_filters(num_mels: int = 80) -> Tensor:
    """Slaney's area-normalised mel filters from 0 to 8 kHz (Auditory Toolbox, 1998): [num_mels, 201]."""
    top = _hz_to_mel(np.array(SAMPLE_RATE / 2))
    edges = _mel_to_hz(np.linspace(0.0, float(top), num_mels + 2))
    hz = np.linspace(0, SAMPLE_RATE / 2, NUM_FFT // 2 + 1)
    rising = (hz - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - hz) / (edges[2:] - edges[1:-1])[:, None]
    filters = np.maximum(0, np.minimum(rising, falling)) * (2.0 / (edges[2:] - edges[:-2]))[:, None]
    return torch.from_numpy(filters.astype(np.float32))


def _hz_to_mel(hz: np.ndarray) -> np.ndarray:
    """Linear below 1 kHz, logarithmic above."""
    return np.where(hz < 1000, hz * 3 / 200, 15 + 27 * np.log(np.maximum(hz, 1000) / 1000) / np.log(6.4))


def _mel_to_hz(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp(np.log(6.4) * (mel - 15) / 27))


def mel_power(samples: Tensor, *, num_mels: int = 80) -> Tensor:
    """Return the mel power spectrum of samples [..., S] at 16 kHz: [..., num_mels, S // 160], frames every 10 ms."""
    window = torch.hann_window(NUM_FFT, device=samples.device)
    padded = samples if samples.shape[-1] > NUM_FFT // 2 else F.pad(samples, (0, NUM_FFT // 2 + 1 - samples.shape[-1]))
    spectrum = torch.stft(padded, NUM_FFT, HOP, window=window, return_complex=True)
    power = spectrum[..., : samples.shape[-1] // HOP].abs() ** 2
    return mel_filters(num_mels).to(samples.device) @ power


def log_mel(samples: Tensor, *, num_mels: int = 80) -> Tensor:
    """Return Whisper's input of samples [..., S]: [..., num_mels, S // 160], 80 dB deep, scaled to about [-1, 1]."""
    log = mel_power(samples, num_mels=num_mels).clamp(min=1e-10).log10()
    log = torch.maximum(log, log.amax(dim=(-2, -1), keepdim=True) - 8.0)
    return (log + 4.0) / 4.0


# ---- the shape ----------------------------------------------------------------------------------------------------


def sinusoids(length: int, channels: int, *, max_timescale: float = 10_000.0) -> Tensor:
    """Positions [length, channels]: sines, then cosines, of geometrically spaced rates."""
    step = np.log(max_timescale) / max(1, channels // 2 - 1)
    rates = torch.exp(-step * torch.arange(channels // 2))
    angles = torch.arange(length)[:, None] * rates[None]
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class _Attention(nn.Module):
    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        B, T, D = x.shape
        q, k, v = (
            layer(x).view(B, T, self.num_heads, D // self.num_heads).transpose(1, 2)  # [B, H, T, D / H]
            for layer in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(mixed.transpose(1, 2).reshape(B, T, D))


class _Block(nn.Module):
    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.attn = _Attention(width, num_heads)
        self.attn_ln = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.mlp_ln = nn.LayerNorm(width)
        self.dropout = dropout

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = x + F.dropout(self.attn(self.attn_ln(x), mask), self.dropout, self.training)
        return x + F.dropout(self.mlp(self.mlp_ln(x)), self.dropout, self.training)


class WhisperShapedEncoder(nn.Module):
    """Log-mel [B, num_mels, T] to features [B, ceil(T / 2), width]; ``dropout`` on the residual branches is ours."""

    positional_embedding: Tensor

    def __init__(self, shape: WhisperShape, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.shape = shape
        self.conv1 = nn.Conv1d(shape.num_mels, shape.width, 3, padding=1)
        self.conv2 = nn.Conv1d(shape.width, shape.width, 3, stride=2, padding=1)
        self.register_buffer("positional_embedding", sinusoids(shape.num_positions, shape.width))
        self.blocks = nn.ModuleList(_Block(shape.width, shape.num_heads, dropout) for _ in range(shape.num_layers))
        self.ln_post = nn.LayerNorm(shape.width)

    def forward(self, mel: Tensor, mask: Tensor | None = None) -> Tensor:
        """``mask`` [B, ceil(T / 2)] is true where there is sound; frames outside it are not attended to."""
        x = F.gelu(self.conv1(mel))
        x = F.gelu(self.conv2(x)).transpose(1, 2)  # [B, T', D]
        if x.shape[1] > self.shape.num_positions:
            raise InputError(
                f"sound of {mel.shape[-1]} frames; allowed: at most {2 * self.shape.num_positions}", field="audio"
            )
        x = x + self.positional_embedding[: x.shape[1]]
        attended = None if mask is None else mask[:, None, None, :]
        for block in self.blocks:
            x = block(x, attended)
        out: Tensor = self.ln_post(x)
        return out


def encoder_from_whisper(checkpoint: Mapping[str, Any]) -> WhisperShapedEncoder:
    """Build the encoder of an openai-whisper checkpoint (``dims`` and ``model_state_dict``); strict."""
    dims, state = checkpoint["dims"], checkpoint["model_state_dict"]
    shape = WhisperShape(
        num_mels=dims["n_mels"],
        num_positions=dims["n_audio_ctx"],
        width=dims["n_audio_state"],
        num_heads=dims["n_audio_head"],
        num_layers=dims["n_audio_layer"],
    )
    encoder = WhisperShapedEncoder(shape)
    prefix = "encoder."
    try:
        encoder.load_state_dict({k[len(prefix) :]: v.float() for k, v in state.items() if k.startswith(prefix)})
    except RuntimeError as error:
        raise CheckpointError(f"the Whisper checkpoint does not fit its dims: {error}") from error
    return encoder.eval()


# ---- the real one -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Heard:
    """What one encoder pass gave: features [T, D] every 20 ms, and the words (``None``: no speech was recognised)."""

    features: Features
    transcript: Transcript | None


class WhisperEncoder:
    """An openai-whisper model: features and transcript out of one encoder pass per 30 s."""

    def __init__(self, model: Any, *, name: str) -> None:
        self.model = model.eval()
        self.name = name

    @property
    def width(self) -> int:
        return int(self.model.dims.n_audio_state)

    @classmethod
    def load(
        cls, name: str = "base", *, download: bool = False, root: Path | None = None, device: str = "cpu"
    ) -> WhisperEncoder:
        """Load an official model by name, or a ``.pt`` file by path.

        Raises `DependencyError` when the package or the weights are not here and ``download`` was not asked for,
        `UnknownNameError` for a name that is neither, `CheckpointError` for a file that is damaged.
        """
        whisper = _package()
        file = Path(name)
        official = dict(whisper._MODELS)
        heads: bytes | None = None
        if file.suffix == ".pt":
            if not file.is_file():
                raise CheckpointError(f"there is no Whisper checkpoint {file}")
        elif name in official:
            file = (root or _cache()) / os.path.basename(official[name])
            heads = whisper._ALIGNMENT_HEADS[name]
            if download:
                whisper._download(official[name], str(file.parent), in_memory=False)
            elif not file.is_file():
                raise DependencyError(
                    f"the weights of Whisper {name!r} are not at {file}; allow their download (--asr whisper-{name} on "
                    "the command line, download=True in Python), or put the file there, or give the transcript"
                )
            elif hashlib.sha256(file.read_bytes()).hexdigest() != official[name].split("/")[-2]:
                raise CheckpointError(f"{file} is damaged: its sha256 is not that of Whisper {name!r}; delete it")
        else:
            raise UnknownNameError("whisper model", name, official)
        return cls(_build(whisper, read_checkpoint(file), heads).to(device), name=f"whisper-{file.stem}")

    def hear(
        self, audio: Audio, *, language: str | None = None, transcribe: bool = True, check: Check = unwatched
    ) -> Heard:
        """Encode a sound once and, unless told not to, decode its words from the same features.

        ``check`` is asked before every window of thirty seconds and every token.
        """
        whisper = _package()
        samples = torch.from_numpy(mono_16k(audio))
        device = next(self.model.parameters()).device
        window = self.model.dims.n_audio_ctx * 2 * HOP
        tokens, segments = [], []
        for start in range(0, max(1, len(samples)), window):
            check()
            piece = samples[start : start + window]
            mel = log_mel(F.pad(piece, (0, window - len(piece))), num_mels=self.model.dims.n_mels).to(device)
            with torch.inference_mode():
                features = self.model.encoder(mel[None])  # [1, n_audio_ctx, D]
                tokens.append(features[0, : max(1, -(-len(piece) // (2 * HOP)))].float().cpu().numpy())
                if transcribe:
                    options = whisper.DecodingOptions(language=language, fp16=False)
                    with _asked(self.model.decoder, check):
                        result = whisper.decode(self.model, features, options)[0]
                    language = language or result.language
                    if result.no_speech_prob <= 0.6 or result.avg_logprob >= -1.0:
                        offset = audio.start + start / SAMPLE_RATE
                        segments += self._timed(result, offset=offset, seconds=len(piece) / SAMPLE_RATE)
        text = " ".join(segment.text for segment in segments).strip()
        transcript = Transcript(text=text, language=language, segments=tuple(segments), source="asr") if text else None
        return Heard(features=Features(encoder=self.name, tokens=np.concatenate(tokens)), transcript=transcript)

    def _timed(self, result: Any, *, offset: float, seconds: float) -> list[TranscriptSegment]:
        """Cut decoded tokens at their timestamp tokens (20 ms each)."""
        from whisper.tokenizer import get_tokenizer

        tokenizer = get_tokenizer(self.model.is_multilingual, num_languages=self.model.num_languages)
        segments, words, begin = [], [], 0.0
        for token in [*result.tokens, tokenizer.timestamp_begin + round(seconds / 0.02)]:
            if token < tokenizer.timestamp_begin:
                words.append(token)
                continue
            at = min((token - tokenizer.timestamp_begin) * 0.02, seconds)
            text = tokenizer.decode(words).strip()
            if text:
                segments.append(TranscriptSegment(start=offset + begin, end=offset + max(at, begin), text=text))
            words, begin = [], at
        return segments


@contextmanager
def _asked(decoder: nn.Module, check: Check) -> Iterator[None]:
    """Have the decoder ask before it computes a token; the package's own loop asks nobody."""
    hook = decoder.register_forward_pre_hook(lambda module, inputs: check())
    try:
        yield
    finally:
        hook.remove()


def read_checkpoint(file: Path) -> dict[str, Any]:
    """Read an openai-whisper ``.pt`` with ``weights_only=True``; raises `CheckpointError` when it is not one."""
    import pickle
    import struct

    try:
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except (
        pickle.UnpicklingError, struct.error, RuntimeError, EOFError, ValueError, LookupError, AttributeError,
    ) as error:  # fmt: skip
        raise CheckpointError(f"{file} is not a readable Whisper checkpoint: {error}") from error
    if not isinstance(checkpoint, dict) or not {"dims", "model_state_dict"} <= set(checkpoint):
        raise CheckpointError(f"{file} is not a Whisper checkpoint: it lacks dims or model_state_dict")
    return checkpoint


def _package() -> Any:
    try:
        import whisper
    except ImportError as error:
        raise DependencyError("speech recognition needs openai-whisper: pip install openai-whisper") from error
    return whisper


def _build(whisper: Any, checkpoint: Mapping[str, Any], heads: bytes | None) -> Any:
    try:
        model = whisper.model.Whisper(whisper.ModelDimensions(**checkpoint["dims"]))
        model.load_state_dict(checkpoint["model_state_dict"])
    except (RuntimeError, TypeError) as error:
        raise CheckpointError(f"the Whisper checkpoint does not fit: {error}") from error
    if heads is not None:
        model.set_alignment_heads(heads)
    return model


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "whisper"
