"""What a transformers LLaMA thinks comes next: logits of a closed set of tokens after each of many text prompts.

For validation and benchmarks of words alone. The engine answers about clips; this reads prompts without features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@torch.no_grad()
def next_token_logits(
    model: nn.Module, prompts: Sequence[Sequence[int]], tokens: Sequence[int], *, batch_size: int = 64
) -> Tensor:
    """Return the logits [N, K] in float32 on the CPU of ``tokens`` [K] as the next token after each of N prompts.

    Prompts of like length share a batch and are padded on the right, which a causal model cannot see.
    """
    llama = cast(Any, model)
    device = next(model.parameters()).device
    head = llama.lm_head.weight[torch.as_tensor(tokens, device=device)]  # [K, H]
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    out = torch.empty(len(prompts), len(tokens))
    for start in range(0, len(order), batch_size):
        part = order[start : start + batch_size]
        lengths = torch.tensor([len(prompts[index]) for index in part])
        ids = torch.zeros(len(part), int(lengths.max()), dtype=torch.long)
        for row, index in enumerate(part):
            ids[row, : lengths[row]] = torch.tensor(prompts[index])
        hidden = llama.model(input_ids=ids.to(device), use_cache=False).last_hidden_state  # [B, T, H]
        last = hidden[torch.arange(len(part), device=device), lengths.to(device) - 1]
        out[part] = F.linear(last, head.to(last.dtype)).float().cpu()
    return out
