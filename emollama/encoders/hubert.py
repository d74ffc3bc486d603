"""HuBERT through transformers: 16 kHz sound -> one vector, the mean of the last hidden states over time.

For Emotion-LLaMA this is ``TencentGameMate/chinese-hubert-large``: with an English HuBERT the published checkpoints
fall apart. The sound is standardised as the feature extractor does; under one second it is padded with silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from emollama.errors import CheckpointError, InputError
from emollama.tensors import PICKLE_SUFFIXES, refuse_pickle
from emollama.types import Audio

if TYPE_CHECKING:
    from transformers import HubertModel

SAMPLE_RATE = 16_000
_LARGE = {
    "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096,
    "feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True,
}  # fmt: skip
_TINY = {
    **_LARGE, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48,
    "conv_dim": (16,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip

_PIECE = 20 * SAMPLE_RATE
_STEP, _FIRST_CENTRE = 320, 200  # samples: a state every 20 ms, the first over the first 25 ms


@dataclass(frozen=True, kw_only=True)
class SoundOverTime:
    """``times`` [N] seconds from the start of the clip, ascending, and ``features`` [N, D] there."""

    times: np.ndarray
    features: np.ndarray


class HubertEncoder:
    """Stream ``audio`` [1, 1024] of a sound."""

    reads = "audio"

    def __init__(self, model: HubertModel) -> None:
        self.model = model.eval().requires_grad_(False)

    @property
    def widths(self) -> Mapping[str, int]:
        return {"audio": int(self.model.config.hidden_size)}

    @classmethod
    def build(cls, *, debug: bool = False) -> HubertEncoder:
        """Make one of random weights; ``debug`` makes it tiny."""
        from transformers import HubertConfig, HubertModel

        return cls(HubertModel(HubertConfig(**(_TINY if debug else _LARGE))))

    @classmethod
    def load(cls, folder: Path, *, dtype: torch.dtype = torch.float32) -> HubertEncoder:
        """Read a folder with ``config.json`` and ``model.safetensors``; a missing or left-over key is an error."""
        from transformers import HubertModel

        check_folder(folder)
        model, info = HubertModel.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
        refuse_problems(folder, info)
        return cls(model)

    @torch.inference_mode()
    def encode(self, audio: Audio) -> dict[str, np.ndarray]:
        """Encode mono sound at 16 kHz; no sample gives no stream."""
        samples = _standardised(audio)
        return {} if samples is None else {"audio": self._hidden(samples).mean(0, keepdim=True).cpu().numpy()}

    @torch.inference_mode()
    def over_time(self, audio: Audio, *, rate: float = 10.0) -> SoundOverTime | None:
        """Return the last hidden states over time, averaged to ``rate`` a second; no sample gives ``None``.

        Sound is heard in pieces of twenty seconds, each with a second before and after it that is not kept, so that
        memory does not grow with the square of the length.
        """
        samples = _standardised(audio)
        if samples is None:
            return None
        if rate <= 0:
            raise InputError(f"rate is {rate}; allowed: above 0", field="rate")
        times: list[np.ndarray] = []
        states: list[np.ndarray] = []
        count = len(audio.samples)  # of `samples` what is after it is padding
        for start in range(0, count, _PIECE):
            first = max(0, start - SAMPLE_RATE)
            hidden = self._hidden(samples[first : start + _PIECE + SAMPLE_RATE]).cpu().numpy()
            centres = first + _FIRST_CENTRE + _STEP * np.arange(len(hidden))
            kept = (centres >= start) & (centres < min(start + _PIECE, count))
            times.append(centres[kept] / SAMPLE_RATE)
            states.append(hidden[kept])
        bins = np.floor(np.concatenate(times) * rate).astype(np.int64)
        if not len(bins):  # shorter than half of the first state's field
            bins, states = np.zeros(1, np.int64), [hidden[:1]]
        present, index = np.unique(bins, return_inverse=True)
        sums = np.zeros((len(present), states[0].shape[1]))
        np.add.at(sums, index, np.concatenate(states))
        features = (sums / np.bincount(index)[:, None]).astype(np.float32)
        return SoundOverTime(times=audio.start + (present + 0.5) / rate, features=features)

    def _hidden(self, samples: torch.Tensor) -> torch.Tensor:
        parameter = next(self.model.parameters())
        hidden: torch.Tensor = self.model(samples[None].to(parameter.device, parameter.dtype)).last_hidden_state
        return hidden[0].float()  # [T, D]


def expected_tensors(document: Mapping[str, Any], *, where: str) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of the tensors of a HuBERT with that ``config.json``; raises `CheckpointError`."""
    from transformers import HubertConfig, HubertModel

    if document.get("model_type") != "hubert":
        raise CheckpointError(f"{where} says model_type {document.get('model_type')!r}; allowed: 'hubert'")
    with torch.device("meta"):
        model = HubertModel(HubertConfig(**document))
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def check_folder(folder: Path) -> None:
    """Raise `CheckpointError` unless a folder holds safe weights."""
    if not (folder / "model.safetensors").is_file():
        for path in sorted(folder.glob("*")):
            if path.suffix in PICKLE_SUFFIXES:
                refuse_pickle(path)
        raise CheckpointError(f"{folder} holds no model.safetensors", field="weights")


def refuse_problems(folder: Path, info: Mapping[str, Any]) -> None:
    """Raise `CheckpointError` when loading (transformers' account of it) left or missed a key."""
    problems = {name: sorted(map(str, found)) for name, found in info.items() if found}
    if problems:
        raise CheckpointError(f"{folder} does not fit the model: {problems}", field="weights")


def _standardised(audio: Audio) -> torch.Tensor | None:
    if audio.sample_rate != SAMPLE_RATE:
        raise InputError(f"sample_rate is {audio.sample_rate}; allowed: {SAMPLE_RATE}", field="audio")
    if not len(audio.samples):
        return None
    samples = torch.from_numpy(np.ascontiguousarray(audio.samples, dtype=np.float32))
    samples = (samples - samples.mean()) / (samples.var(unbiased=False) + 1e-7).sqrt()
    return samples if len(samples) >= SAMPLE_RATE else torch.nn.functional.pad(samples, (0, SAMPLE_RATE - len(samples)))
