"""transformers' own ``generate`` on a backbone and its adapter: what the lean runtime is compared with.

It is the plain use of that library: float32, SDPA, a dynamic cache, one padded batch. Nothing answers by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from emollama.backbones.llama import load_llama
from emollama.backbones.lora import load_lora, merge_lora


class ReferenceLlama:
    """A ``LlamaForCausalLM`` with its adapter merged, asked through ``generate``."""

    def __init__(self, model: Any) -> None:
        self.model = model.eval()

    @classmethod
    def load(cls, folder: Path, *, adapter: Path | None = None) -> ReferenceLlama:
        """Read a backbone folder and merge a PEFT folder into it; every tensor of both must fit."""
        model: Any = load_llama(folder)
        if adapter is not None:
            model = merge_lora(load_lora(model, adapter))
        return cls(model.requires_grad_(False))

    @torch.inference_mode()
    def generate(self, prompts: Sequence[Sequence[int]], *, num_tokens: int) -> list[list[int]]:
        """Return exactly ``num_tokens`` greedy tokens after each prompt; the batch is padded on the left."""
        from transformers import GenerationConfig

        longest = max(len(prompt) for prompt in prompts)
        ids = torch.zeros(len(prompts), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = torch.tensor(list(prompt))
            mask[row, longest - len(prompt) :] = 1
        self.model.generation_config.eos_token_id = None  # or it would be filled in where the settings have none
        settings = GenerationConfig(max_new_tokens=num_tokens, do_sample=False, eos_token_id=None, pad_token_id=0)
        found = self.model.generate(ids, attention_mask=mask, generation_config=settings)
        tokens: list[list[int]] = found[:, longest:].tolist()
        return tokens
