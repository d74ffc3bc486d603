"""nano's voice branch: a few small Whisper-shaped encoders beside the prosody functionals, six emotions.

A member hears the log-mel spectrum of the voiced stretches through a `WhisperShapedEncoder` with attention and
statistics pooling (Okabe et al., Interspeech 2018) and reads the functionals through a small MLP; its logits are a
weighted sum of the two. The model is the mean of the members' log-probabilities, softened by a temperature fitted on
out-of-fold data. Input levels are taken relative to the clip's own, so the microphone's gain does not matter.

It was trained on acted German (EmoDB, without boredom); it knows nothing of words or of who speaks.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from emollama.encoders.whisper import HOP, NUM_FFT, WhisperShape, WhisperShapedEncoder, mel_filters
from emollama.errors import CheckpointError, InputError
from emollama.labels import EMODB_6
from emollama.prosody import FUNCTIONAL_NAMES, SAMPLE_RATE, mono_16k
from emollama.types import Audio, Features, VoiceReadings
from emollama.watch import Check, unwatched

WINDOW_FRAMES = 1000  # 10 s
MAX_WINDOWS = 18  # of longer speech, windows spread evenly over it are heard
CLIP_FUNCTIONALS = 4.0  # standard deviations

# Formants are read off a linear-prediction envelope, which follows the harmonics of a high voice: their means are
# usable, their spread and levels mostly say how high the voice is.
_UNSURE = {f"f{i}_hz_std" for i in (1, 2, 3)} | {f"a{i}_db_{kind}" for i in (1, 2, 3) for kind in ("mean", "std")}


# The functionals enter the token small: a few hundred recordings are known by heart from them before the projector has
# learned to trust the log-probabilities, which generalise. An adapter with more voices can still make use of them.
TOKEN_SCALE = 0.1


@dataclass(frozen=True, kw_only=True)
class VoiceConfig:
    """Sizes of the model.

    The head reads ``prosody_inputs``, some of ``functionals`` (all of which go into the token). ``spectral_weight``
    scales the logits of the encoder against those of the functionals, and ``temperature`` divides the
    log-probabilities before they are normalised again.
    """

    labels: tuple[str, ...] = EMODB_6
    functionals: tuple[str, ...] = FUNCTIONAL_NAMES
    prosody_inputs: tuple[str, ...] = tuple(name for name in FUNCTIONAL_NAMES if name not in _UNSURE)
    encoder: WhisperShape = field(
        default_factory=lambda: WhisperShape(num_positions=WINDOW_FRAMES // 2, width=96, num_heads=4, num_layers=2)
    )
    num_members: int = 3
    hidden: int = 64
    spectral_weight: float = 0.2
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if len(self.labels) < 2:
            raise InputError(f"labels has {len(self.labels)} names; allowed: 2 or more", field="labels")
        for name in ("num_members", "hidden"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; allowed: 1 or more", field=name)
        unknown = sorted(set(self.prosody_inputs) - set(self.functionals))
        if unknown or not self.prosody_inputs:
            raise InputError(
                f"prosody_inputs has {unknown}; allowed: names of functionals, one or more", field="prosody_inputs"
            )
        if self.temperature <= 0:
            raise InputError(f"temperature is {self.temperature}; allowed: more than 0", field="temperature")

    def to_json_dict(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return document

    @classmethod
    def from_json_dict(cls, document: Mapping[str, Any]) -> VoiceConfig:
        values = dict(document)
        for name in ("labels", "functionals", "prosody_inputs"):
            values[name] = tuple(values[name])
        return cls(**{**values, "encoder": WhisperShape(**values["encoder"])})


class MemberOutput:
    """``logits`` [B, C], those of the spectrum and of the functionals alone, and the encoder's frames [B, T', D]."""

    def __init__(self, *, spectral: Tensor, prosodic: Tensor, frames: Tensor, spectral_weight: float) -> None:
        self.spectral, self.prosodic, self.frames = spectral, prosodic, frames
        self.logits = prosodic + spectral_weight * spectral


class VoiceMember(nn.Module):
    """One network. ``mean`` and ``std`` [F] standardise the functionals as they were on its training data."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: VoiceConfig, *, dropout: float = 0.0, prosody_dropout: float = 0.0) -> None:
        super().__init__()
        width, num_labels, num_functionals = config.encoder.width, len(config.labels), len(config.functionals)
        self.register_buffer("mean", torch.zeros(num_functionals))
        self.register_buffer("std", torch.ones(num_functionals))
        self.encoder = WhisperShapedEncoder(config.encoder, dropout=dropout / 2)
        # Where in the clip a sound is matters little here, and at full size positions drown an untrained stem.
        self.encoder.positional_embedding.mul_(0.1)
        self.attention = nn.Sequential(nn.Linear(width, width // 2), nn.Tanh(), nn.Linear(width // 2, 1))
        self.pooled = nn.Sequential(nn.LayerNorm(2 * width), nn.Dropout(dropout), nn.Linear(2 * width, num_labels))
        self.columns = [config.functionals.index(name) for name in config.prosody_inputs]
        self.spectral_weight = config.spectral_weight
        self.prosody = nn.Sequential(
            nn.Dropout(0.3 * prosody_dropout),
            nn.Linear(len(self.columns), config.hidden),
            nn.GELU(),
            nn.Dropout(prosody_dropout),
            nn.Linear(config.hidden, num_labels),
        )

    def standardise(self, functionals: Tensor) -> Tensor:
        return ((functionals - self.mean) / self.std).clamp(-CLIP_FUNCTIONALS, CLIP_FUNCTIONALS)

    def forward(self, mel: Tensor, functionals: Tensor, mask: Tensor | None = None) -> MemberOutput:
        """``mel`` [B, 80, T], standardised ``functionals`` [B, F], ``mask`` [B, ceil(T / 2)] true on sound."""
        frames = self.encoder(mel, mask)
        score = self.attention(frames)[..., 0]  # [B, T']
        if mask is not None:
            score = score.masked_fill(~mask, -1e4)
        weight = score.softmax(1)[..., None]
        mean = (weight * frames).sum(1)
        variance = (weight * (frames - mean[:, None]) ** 2).sum(1)
        spectral = self.pooled(torch.cat([mean, (variance + 1e-5).sqrt()], dim=1))
        prosodic = self.prosody(functionals[:, self.columns])
        return MemberOutput(spectral=spectral, prosodic=prosodic, frames=frames, spectral_weight=self.spectral_weight)


def spans_of(audio: Audio, readings: VoiceReadings) -> tuple[tuple[int, int], ...]:
    """The segments as (first, last + 1) frames of 10 ms from the start of the sound."""
    step = HOP / SAMPLE_RATE
    return tuple(
        (max(0, round((s.start - audio.start) / step)), max(1, round((s.end - audio.start) / step)))
        for s in readings.segments
    )


def voiced_windows(samples: np.ndarray, spans: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Return the log-mel windows [80, T] (T at most 1000) of the stretches in ``spans``, joined, at one level.

    Speech of more than three minutes is sampled evenly, so that time and memory stay bounded.
    """
    frames = np.concatenate([np.arange(start, end) for start, end in spans])
    count = -(-len(frames) // WINDOW_FRAMES)
    windows = np.array_split(frames, count)
    if count > MAX_WINDOWS:
        windows = [windows[i] for i in np.linspace(0, count - 1, MAX_WINDOWS).round().astype(int)]
    powers = [_mel_power(samples, window) for window in windows]
    energies = torch.cat([power.sum(0) for power in powers])
    level = torch.quantile(energies, 0.95).clamp(min=1e-12)
    return [torch.log10(power / level + 1e-7) / 2 + 1.5 for power in powers]


def _mel_power(samples: np.ndarray, frames: np.ndarray) -> Tensor:
    """Mel power of the named frames, [80, len(frames)]; frame t is centred at sample 160 t."""
    window = torch.hann_window(NUM_FFT)
    parts = []
    for piece in np.split(frames, np.flatnonzero(np.diff(frames) != 1) + 1):
        start, end = int(piece[0]) * HOP - NUM_FFT // 2, int(piece[-1]) * HOP + NUM_FFT // 2
        inside = samples[max(0, start) : max(0, end)]
        padded = np.pad(inside, (max(0, -start), end - start - len(inside) - max(0, -start)))
        spectrum = torch.stft(
            torch.from_numpy(padded), NUM_FFT, HOP, window=window, center=False, return_complex=True
        )  # [201, len(piece)]
        parts.append(mel_filters(80) @ (spectrum.abs() ** 2))
    return torch.cat(parts, dim=1)


class VoiceEncoder:
    """nano's voice model: fills labels and probabilities of `VoiceReadings` and makes the token for the backbone."""

    name = "voice"

    def __init__(self, members: nn.ModuleList, config: VoiceConfig) -> None:
        self.members = members.eval().requires_grad_(False)
        self.config = config

    @property
    def token_width(self) -> int:
        return len(self.config.labels) + len(self.config.functionals)

    @classmethod
    def build(cls, config: VoiceConfig | None = None) -> VoiceEncoder:
        """A model of random weights."""
        config = config or VoiceConfig()
        return cls(nn.ModuleList(VoiceMember(config) for _ in range(config.num_members)), config)

    @classmethod
    def load(cls, path: str | Path) -> VoiceEncoder:
        """Load ``X.safetensors`` and the ``X.json`` beside it; a missing or left-over key raises `CheckpointError`."""
        path = Path(path)
        try:
            document = json.loads(path.with_suffix(".json").read_text())
            config = VoiceConfig.from_json_dict(document["model"])
            state = load_file(path)
        except FileNotFoundError as error:
            raise CheckpointError(
                f"the voice model needs {path} and {path.with_suffix('.json').name} beside it"
            ) from error
        except (ValueError, KeyError, TypeError, SafetensorError) as error:
            raise CheckpointError(f"{path} or its config is damaged: {error}") from error
        if config.functionals != FUNCTIONAL_NAMES:
            raise CheckpointError(f"{path} was trained on other functionals than prosody.FUNCTIONAL_NAMES; retrain it")
        with torch.device("meta"):
            members = nn.ModuleList(VoiceMember(config) for _ in range(config.num_members))
        try:
            members.load_state_dict({k: v.float() for k, v in state.items()}, strict=True, assign=True)
        except RuntimeError as error:
            raise CheckpointError(f"{path} does not fit its config: {error}") from error
        return cls(members, config)

    def save(self, path: str | Path, *, figures: Mapping[str, Any] | None = None) -> None:
        """Write the weights in half precision (statistics of the functionals as they are) and the config as JSON."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        exact = (".mean", ".std")
        state = {
            k: (v if k.endswith(exact) else v.half()).contiguous().cpu() for k, v in self.members.state_dict().items()
        }
        partial = path.with_name(path.name + ".part")
        partial.write_bytes(save(state))
        os.replace(partial, path)
        document = {
            "name": self.name,
            "model": self.config.to_json_dict(),
            "parameters": sum(p.numel() for p in self.members.parameters()),
        }
        document |= {"figures": dict(figures)} if figures else {}
        path.with_suffix(".json").write_text(json.dumps(document, indent=2) + "\n")

    def read(
        self, audio: Audio, readings: VoiceReadings, *, check: Check = unwatched
    ) -> tuple[VoiceReadings, Features | None]:
        """Judge a sound that `prosody.measure` has measured; no voice gives the readings back and no features.

        The token [1, C + F] is the log-probabilities and the standardised functionals times `TOKEN_SCALE`. ``check`` is
        asked before every window of ten seconds.
        """
        if not readings.segments or readings.functionals is None:
            return readings, None
        windows = voiced_windows(mono_16k(audio), spans_of(audio, readings))
        log_probabilities = self.log_probabilities(windows, readings.functionals, check=check)
        member = self.members[0]
        assert isinstance(member, VoiceMember)
        standardised = member.standardise(torch.from_numpy(readings.functionals)).numpy()
        token = np.concatenate([log_probabilities, TOKEN_SCALE * standardised])[None].astype(np.float32)
        judged = dataclasses.replace(readings, labels=self.config.labels, probabilities=np.exp(log_probabilities))
        return judged, Features(encoder=self.name, tokens=token)

    @torch.inference_mode()
    def log_probabilities(
        self, windows: Sequence[Tensor], functionals: np.ndarray, *, check: Check = unwatched
    ) -> np.ndarray:
        """Log-probabilities [C] of windows [80, T]; windows count by their length."""
        total = sum(w.shape[1] for w in windows)
        mean = torch.zeros(len(self.config.labels))
        raw = torch.from_numpy(np.asarray(functionals, np.float32))[None]
        for window in windows:
            check()
            for member in self.members:
                assert isinstance(member, VoiceMember)
                logits = member(window[None], member.standardise(raw)).logits[0]
                mean += F.log_softmax(logits, dim=0) * (window.shape[1] / total / len(self.members))
        calibrated: np.ndarray = F.log_softmax(mean / self.config.temperature, dim=0).numpy().astype(np.float32)
        return calibrated
