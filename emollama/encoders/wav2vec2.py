"""wav2vec 2.0 through transformers: HuBERT's architecture with other weights, for ABAW ``wav2vec2-base-960h``.

What differs is the class that reads the file, and that the public file was tuned to recognise speech: its output layer
(``lm_head``) is left, by name. Everything else of `emollama.encoders.hubert` holds.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from transformers import HubertModel, Wav2Vec2Config, Wav2Vec2Model

from emollama.encoders.hubert import HubertEncoder, check_folder, refuse_problems

_BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
_TINY = {
    **_BASE, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48,
    "conv_dim": (16,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip


class Wav2Vec2Encoder(HubertEncoder):
    """Stream ``audio`` [1, 768] of a sound."""

    @classmethod
    def build(cls, *, debug: bool = False) -> Wav2Vec2Encoder:
        """Make one of random weights; ``debug`` makes it tiny."""
        model = Wav2Vec2Model(Wav2Vec2Config(**(_TINY if debug else _BASE)))
        return cls(cast(HubertModel, model))  # called in the same way

    @classmethod
    def load(cls, folder: Path, *, dtype: torch.dtype = torch.float32) -> Wav2Vec2Encoder:
        """Read a folder with ``config.json`` and ``model.safetensors``; a missing or left-over key is an error."""
        check_folder(folder)
        model, info = Wav2Vec2Model.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
        info["unexpected_keys"] = {key for key in info["unexpected_keys"] if not key.startswith("lm_head.")}
        refuse_problems(folder, info)
        return cls(cast(HubertModel, model))
