"""Scoring closed sets after text prompts."""

from __future__ import annotations

import torch

from emollama.backbones.llama import build_llama
from emollama.backbones.score import next_token_logits
from emollama.config import LlamaShape


def test_batched_scores_equal_one_by_one_in_the_callers_order() -> None:
    shape = LlamaShape(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=32,
        num_layers=2,
        num_heads=2,
        num_kv_heads=2,
        tie_embeddings=True,
    )
    model = build_llama(shape, seed=0).eval()
    prompts = [[1, 5, 6, 7], [1, 9], [1, 3, 4, 8, 11, 12], [1]]
    tokens = [20, 3, 31]
    together = next_token_logits(model, prompts, tokens, batch_size=3)
    with torch.no_grad():
        alone = torch.stack([model(input_ids=torch.tensor([prompt])).logits[0, -1, tokens] for prompt in prompts])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
