"""What a transformers LLaMA thinks comes next: logits of a closed set of tokens, or how likely closed answers are.

For validation and benchmarks of words alone; and how likely each of a closed set of answers is after prompts that hold
features. The engine does both faster, but only for merged weights; this is for a model that is being trained.
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


@torch.no_grad()
def answer_log_likelihoods(
    model: nn.Module, prompts: Sequence[Tensor], answers: Sequence[Sequence[int]], *, rows_at_once: int = 64
) -> Tensor:
    """Return the summed log-likelihood [N, K], float32 on the CPU, of each of K answers after each of N prompts.

    ``prompts`` are input embeddings [T_i, W]; ``answers`` token ids. A prompt is computed once: the answers follow it
    as branches side by side, each of which sees the prompt and itself at the positions it would have alone.
    """
    llama = cast(Any, model)
    device, dtype = prompts[0].device, prompts[0].dtype
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    longest = int(lengths.max())
    inputs = [token for answer in answers for token in answer[:-1]]
    owner = torch.tensor([k for k, answer in enumerate(answers) for _ in answer[:-1]], device=device, dtype=torch.long)
    offset = torch.tensor([i for answer in answers for i in range(len(answer) - 1)], device=device, dtype=torch.long)
    total = longest + len(inputs)
    embedded = torch.zeros(len(prompts), total, prompts[0].shape[-1], device=device, dtype=dtype)
    for row, prompt in enumerate(prompts):
        embedded[row, : len(prompt)] = prompt
    if inputs:
        embedded[:, longest:] = llama.get_input_embeddings()(torch.tensor(inputs, device=device)).to(dtype)
    # [N, 1, total, total]: who may look at whom
    place = torch.arange(total, device=device)
    is_prompt = place < longest
    causal = place[:, None] >= place[None, :]
    same = torch.zeros(total, total, dtype=torch.bool, device=device)
    same[longest:, longest:] = owner[:, None] == owner[None, :]
    seen = causal & (is_prompt[None, :] | same)
    held = is_prompt[None, :] & (place[None, :] < lengths[:, None])  # [N, total]
    mask = seen[None] & (held | ~is_prompt)[:, None, :]
    mask |= torch.eye(total, dtype=torch.bool, device=device)  # padding looks at itself, so that no row is empty
    positions = place.clamp_max(longest).repeat(len(prompts), 1)
    positions[:, longest:] = lengths[:, None] + offset
    hidden = llama.model(
        inputs_embeds=embedded, attention_mask=mask[:, None], position_ids=positions, use_cache=False
    ).last_hidden_state
    # where each token of each answer is predicted: the prompt's last state, then the branch's own
    sources = torch.empty(len(prompts), sum(len(answer) for answer in answers), dtype=torch.long, device=device)
    targets: list[int] = []
    columns: list[int] = []
    branch = longest
    for column, answer in enumerate(answers):
        for index, token in enumerate(answer):
            sources[:, len(targets)] = lengths - 1 if index == 0 else branch + index - 1
            targets.append(token)
            columns.append(column)
        branch += len(answer) - 1
    states = hidden.gather(1, sources[..., None].expand(-1, -1, hidden.shape[-1])).flatten(0, 1)  # [N * tokens, W]
    wanted = torch.tensor(targets, device=device).repeat(len(prompts))
    found = torch.empty(len(states))
    for start in range(0, len(states), rows_at_once):
        part = slice(start, start + rows_at_once)
        logits = llama.lm_head(states[part].to(llama.lm_head.weight.dtype)).float()
        found[part] = logits.log_softmax(-1).gather(-1, wanted[part, None])[:, 0].cpu()
    scores = torch.zeros(len(prompts), len(answers))
    return scores.index_add_(1, torch.tensor(columns), found.view(len(prompts), -1))
