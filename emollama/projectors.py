"""Projectors bring an encoder's feature tokens to the backbone's width.

`linear` and `mlp` work token by token, so tokens of many clips may be projected in one call. `resampler` (Perceiver,
Jaegle et al. 2021; Flamingo, Alayrac et al. 2022) reads all tokens of one clip with learned queries and always gives
``num_queries`` tokens. A modality that is absent has no tokens at all: nothing here invents one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emollama.config import ProjectorConfig
from emollama.errors import InputError, UnknownNameError


class LinearProjector(nn.Module):
    """One affine map per token: [N, D_in] -> [N, D_out]."""

    per_token = True

    def __init__(self, width_in: int, width_out: int, config: ProjectorConfig) -> None:
        super().__init__()
        self.width_in = width_in
        self.proj = nn.Linear(width_in, width_out)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.proj(tokens)


class MlpProjector(nn.Module):
    """LayerNorm and two layers with a GELU between: [N, D_in] -> [N, D_out]."""

    per_token = True

    def __init__(self, width_in: int, width_out: int, config: ProjectorConfig) -> None:
        super().__init__()
        self.width_in = width_in
        hidden = config.hidden_width or width_out
        self.norm = nn.LayerNorm(width_in)
        self.fc1 = nn.Linear(width_in, hidden)
        self.fc2 = nn.Linear(hidden, width_out)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(self.norm(tokens))))


class ResamplerProjector(nn.Module):
    """Learned queries that read the tokens of one clip: [T, D_in] -> [num_queries, D_out], for any T >= 1."""

    per_token = False

    def __init__(self, width_in: int, width_out: int, config: ProjectorConfig) -> None:
        super().__init__()
        hidden = config.hidden_width or width_in
        if hidden % config.num_heads:
            raise InputError(f"hidden_width is {hidden}; allowed: a multiple of num_heads ({config.num_heads})")
        self.width_in, self.num_queries = width_in, config.num_queries
        self.queries = nn.Parameter(torch.randn(config.num_queries, hidden) * 0.02)
        self.inward = nn.Linear(width_in, hidden)
        self.blocks = nn.ModuleList(_ResamplerBlock(hidden, config.num_heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(hidden)
        self.outward = nn.Linear(hidden, width_out)

    def forward(self, tokens: Tensor) -> Tensor:
        source = self.inward(tokens)
        queries = self.queries
        for block in self.blocks:
            queries = block(queries, source)
        return self.outward(self.norm(queries))


class _ResamplerBlock(nn.Module):
    """Cross attention from the queries to [source; queries], then an MLP, both pre-normed and residual."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm_queries = nn.LayerNorm(width)
        self.norm_source = nn.LayerNorm(width)
        self.q = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, queries: Tensor, source: Tensor) -> Tensor:
        normed = self.norm_queries(queries)
        context = torch.cat((self.norm_source(source), normed))  # [T + Q, W]
        key, value = self.kv(context).chunk(2, dim=-1)
        heads = [
            part.unflatten(-1, (self.num_heads, -1)).transpose(0, 1)[None] for part in (self.q(normed), key, value)
        ]  # each [1, H, *, W / H]
        mixed = F.scaled_dot_product_attention(heads[0], heads[1], heads[2])
        queries = queries + self.out(mixed[0].transpose(0, 1).flatten(1))
        return queries + self.mlp(queries)


PROJECTORS = {"linear": LinearProjector, "mlp": MlpProjector, "resampler": ResamplerProjector}


def build_projector(width_in: int, width_out: int, config: ProjectorConfig | None = None) -> nn.Module:
    """Build one projector from ``width_in`` (D_in of the encoder) to ``width_out`` (the backbone's width)."""
    config = config or ProjectorConfig()
    if config.kind not in PROJECTORS:
        raise UnknownNameError("projector", config.kind, PROJECTORS)
    return PROJECTORS[config.kind](width_in, width_out, config)


def project(projector: nn.Module, tokens: Tensor | Sequence[Tensor]) -> Tensor:
    """Project one stream of a batch to [total tokens, D_out], in row order.

    ``tokens`` is [total, D_in] for a projector that works per token, or one [T_i, D_in] per clip; a resampler needs
    the latter, because it must know where a clip ends.
    """
    if isinstance(tokens, Tensor):
        if not getattr(projector, "per_token", True):
            raise InputError("a resampler reads one clip at a time; give a list of [T, D_in] tensors, one per clip")
        return projector(tokens)
    if getattr(projector, "per_token", True):
        return projector(torch.cat(list(tokens)))
    return torch.cat([projector(clip) for clip in tokens])


def idle(projector: nn.Module) -> Tensor:
    """Return a zero that depends on a projector's parameters as its output does: for batches that lack its stream.

    A batch without a stream then gives its projector a gradient of zero, not none, and in the same order of the
    backward pass. Processes that train together may hold different streams: FSDP2 and DeepSpeed reduce the wrong
    gradients into each other unless every process has all of them in one order, and DDP has to search for the others.
    """
    like = next(projector.parameters())
    token = like.new_zeros(1, int(projector.width_in))  # type: ignore[arg-type]
    return 0.0 * projector(token).sum()


def count_tokens(projector: nn.Module, num_tokens: int) -> int:
    """Return how many placeholders ``num_tokens`` features of one clip fill after the projector."""
    if num_tokens == 0 or getattr(projector, "per_token", True):
        return num_tokens
    return int(projector.num_queries)  # type: ignore[arg-type]


def build_projectors(widths: Mapping[str, int], width_out: int, config: ProjectorConfig | None = None) -> nn.ModuleDict:
    """Build one projector per stream: ``{"face": D_in, ...}`` -> ModuleDict with the same keys."""
    return nn.ModuleDict({name: build_projector(width, width_out, config) for name, width in widths.items()})
