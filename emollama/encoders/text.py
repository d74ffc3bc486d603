"""The transcript as feature tokens: its token ids, and their embeddings where a projector or a pooler wants vectors.

The backbone reads the transcript as ordinary tokens of the prompt; this is for models that want it as a stream.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from emollama.errors import InputError
from emollama.types import Features, Transcript


class TextEncoder:
    """Token ids of a transcript, cut to ``max_tokens``, and their rows of an embedding table [V, W]."""

    reads = "text"

    def __init__(
        self, tokenize: Callable[[str], Sequence[int]], embedding: Tensor | None = None, *, max_tokens: int = 256
    ) -> None:
        if max_tokens < 1:
            raise InputError(f"max_tokens is {max_tokens}; allowed: 1 or more", field="max_tokens")
        self.tokenize, self.embedding, self.max_tokens = tokenize, embedding, max_tokens

    def token_ids(self, transcript: Transcript | None) -> list[int]:
        """Return the ids of the words; no transcript, or an empty one, has none."""
        text = "" if transcript is None else transcript.text.strip()
        return [int(token) for token in self.tokenize(text)][: self.max_tokens] if text else []

    @torch.inference_mode()
    def encode(self, transcript: Transcript | None) -> Features | None:
        """Return the embeddings [T, W] of the words, or ``None`` when there are none."""
        ids = self.token_ids(transcript)
        if not ids:
            return None
        if self.embedding is None:
            raise InputError("this encoder was built without an embedding table", field="embedding")
        vectors = self.embedding[torch.tensor(ids)].float().cpu().numpy()
        return Features(encoder="text", tokens=np.ascontiguousarray(vectors))
