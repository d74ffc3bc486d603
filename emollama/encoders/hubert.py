"""HuBERT through transformers: 16 kHz sound -> one vector, the mean of the last hidden states over time.

For Emotion-LLaMA this is ``TencentGameMate/chinese-hubert-large``: with an English HuBERT the published checkpoints
fall apart. The sound is standardised as the feature extractor does; under one second it is padded with silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

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

        if not (folder / "model.safetensors").is_file():
            for path in sorted(folder.glob("*")):
                if path.suffix in PICKLE_SUFFIXES:
                    refuse_pickle(path)
            raise CheckpointError(f"{folder} holds no model.safetensors", field="weights")
        model, info = HubertModel.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
        problems = {name: sorted(map(str, found)) for name, found in info.items() if found}
        if problems:
            raise CheckpointError(f"{folder} does not fit the model: {problems}", field="weights")
        return cls(model)

    @torch.inference_mode()
    def encode(self, audio: Audio) -> dict[str, np.ndarray]:
        """Encode mono sound at 16 kHz; no sample gives no stream."""
        if audio.sample_rate != SAMPLE_RATE:
            raise InputError(f"sample_rate is {audio.sample_rate}; allowed: {SAMPLE_RATE}", field="audio")
        if not len(audio.samples):
            return {}
        samples = torch.from_numpy(np.ascontiguousarray(audio.samples, dtype=np.float32))
        samples = (samples - samples.mean()) / (samples.var(unbiased=False) + 1e-7).sqrt()
        if len(samples) < SAMPLE_RATE:
            samples = torch.nn.functional.pad(samples, (0, SAMPLE_RATE - len(samples)))
        parameter = next(self.model.parameters())
        hidden = self.model(samples[None].to(parameter.device, parameter.dtype)).last_hidden_state
        return {"audio": hidden.float().mean(1).cpu().numpy()}
