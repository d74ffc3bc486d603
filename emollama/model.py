"""`EmoLlama`: projected feature tokens overwrite placeholders in the prompt, and a LLaMA reads the result.

This is the training-time model: the backbone is transformers' (with LoRA or bitsandbytes when asked), gradients flow
to LoRA and projectors. `emollama.runtime` answers with the same weights without transformers. The module knows
nothing of clips, prompts or label sets.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emollama.backbones.lora import base_of
from emollama.errors import InputError
from emollama.projectors import idle, project

IGNORED = -100

StreamTokens = Tensor | Sequence[Tensor]


@dataclass(frozen=True, kw_only=True)
class ModelBatch:
    """B rows of one padded batch.

    ``input_ids`` [B, T] with the placeholder ids of the streams; ``attention_mask`` [B, T] 1 for a token, 0 for padding
    (either side), ``None`` when nothing is padded; ``features`` stream -> [total tokens, D_in] flattened in row order,
    or one [T_i, D_in] per clip for a resampler; ``labels`` [B, T] the ids to be learned, -100 elsewhere, not shifted;
    ``weights`` [B, T] a weight per label, or ``None``. An absent stream is an absent key.
    """

    input_ids: Tensor
    attention_mask: Tensor | None = None
    features: Mapping[str, StreamTokens] = field(default_factory=dict)
    labels: Tensor | None = None
    weights: Tensor | None = None

    def to(self, device: torch.device | str, **_: Any) -> ModelBatch:
        """Move every tensor; the loop of `train` calls this."""

        def move(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value.to(device)
            if isinstance(value, Mapping):
                return {name: move(item) for name, item in value.items()}
            return [move(item) for item in value] if isinstance(value, (list, tuple)) else value

        return ModelBatch(**{f.name: move(getattr(self, f.name)) for f in dataclasses.fields(self)})


def splice(
    embeddings: Tensor, input_ids: Tensor, projected: Mapping[str, Tensor], placeholder_ids: Mapping[str, int]
) -> Tensor:
    """Overwrite placeholder positions of ``embeddings`` [B, T, W] with projected tokens [n, W], in row order.

    Raises `InputError` unless every stream has exactly as many tokens as ``input_ids`` holds of its placeholder.
    """
    unknown = sorted(set(projected) - set(placeholder_ids))
    if unknown:
        raise InputError(f"features of unknown stream {', '.join(unknown)}; known: {', '.join(placeholder_ids)}")
    for name, placeholder in placeholder_ids.items():
        mask = input_ids == placeholder
        tokens = projected.get(name)
        wanted, given = int(mask.sum()), 0 if tokens is None else len(tokens)
        if wanted != given:
            raise InputError(
                f"stream {name!r} gives {given} feature tokens for {wanted} placeholders (token id {placeholder})",
                field=name,
            )
        if tokens is not None and wanted:
            embeddings = embeddings.masked_scatter(mask.unsqueeze(-1), tokens.to(embeddings.dtype))
    return embeddings


class EmoLlama(nn.Module):
    """Backbone (a ``LlamaForCausalLM``, with LoRA or without), projectors by stream, and their placeholder ids."""

    def __init__(
        self, backbone: nn.Module, projectors: Mapping[str, nn.Module], placeholder_ids: Mapping[str, int]
    ) -> None:
        super().__init__()
        if set(projectors) != set(placeholder_ids):
            raise InputError(
                f"projectors ({', '.join(projectors)}) and placeholder_ids ({', '.join(placeholder_ids)}) "
                "must name the same streams"
            )
        self.backbone = backbone
        self.projectors = nn.ModuleDict(projectors)
        self.placeholder_ids = dict(placeholder_ids)

    def embed(self, batch: ModelBatch) -> Tensor:
        """Return input embeddings [B, T, W] with the features in place of their placeholders."""
        base = base_of(self.backbone)
        embeddings = base.get_input_embeddings()(batch.input_ids)  # type: ignore[operator]
        unknown = sorted(set(batch.features) - set(self.placeholder_ids))
        if unknown:
            known = ", ".join(self.placeholder_ids) or "(none)"
            raise InputError(f"features of unknown stream {', '.join(unknown)}; known: {known}")
        projected: dict[str, Tensor] = {}
        nothing: list[Tensor] = []
        for name in self.placeholder_ids:  # in one order, whatever the batch holds
            projector = self.projectors[name]
            if len(batch.features.get(name, ())):
                projected[name] = project(projector, batch.features[name])
            elif torch.is_grad_enabled() and any(p.requires_grad for p in projector.parameters()):
                nothing.append(idle(projector))
        embeddings = splice(embeddings, batch.input_ids, projected, self.placeholder_ids)
        return embeddings + torch.stack(nothing).sum().to(embeddings.dtype) if nothing else embeddings

    def enable_gradient_checkpointing(self) -> None:
        """Let every layer of the backbone compute its activations again in the backward pass, to save memory."""
        from emollama.backbones.llama import recompute_activations

        recompute_activations(base_of(self.backbone))

    def hidden(self, batch: ModelBatch) -> Tensor:
        """Return the backbone's last hidden states [B, T, W], after its final norm."""
        positions = None
        if batch.attention_mask is not None:
            positions = (batch.attention_mask.cumsum(-1) - 1).clamp_min(0)
        output = base_of(self.backbone).model(  # type: ignore[operator]
            inputs_embeds=self.embed(batch),
            attention_mask=batch.attention_mask,
            position_ids=positions,
            use_cache=False,
        )
        return output.last_hidden_state

    def hidden_at(self, batch: ModelBatch, wanted: Tensor) -> Tensor:
        """Return the last hidden states [n, W] at the n places where the boolean mask ``wanted`` [B, T] is true.

        The same as ``hidden(batch)[wanted]``, and computed for less where the backbone allows it; for training.
        """
        from emollama.backbones import packed

        mask = batch.attention_mask
        if not self.can_pack or not (mask is None or packed.is_right_padded(mask)):
            return self.hidden(batch)[wanted]
        return packed.hidden_at(base_of(self.backbone), self.embed(batch), mask, wanted)

    @property
    def is_whole(self) -> bool:
        """Whether this process holds every weight: not while FSDP2 or DeepSpeed's ZeRO-3 have them in parts."""
        return not any(hasattr(p, "device_mesh") or hasattr(p, "ds_id") for p in self.parameters())

    @property
    def can_pack(self) -> bool:
        """Whether the backbone is whole in this process and plain; else `hidden_at` runs it as it is."""
        from emollama.backbones import packed

        return packed.supports(base_of(self.backbone))

    def head(self, hidden: Tensor) -> Tensor:
        """Return logits [..., V] of hidden states [..., W]."""
        return base_of(self.backbone).lm_head(hidden)  # type: ignore[operator]

    def forward(self, batch: ModelBatch, *, logits_at: Tensor | None = None) -> Tensor:
        """Return logits [B, T, V], or [N, V] at the N positions where the boolean mask ``logits_at`` [B, T] is true."""
        hidden = self.hidden(batch)
        return self.head(hidden if logits_at is None else hidden[logits_at])

    def answer_loss(self, batch: ModelBatch) -> tuple[Tensor, int]:
        """Return the mean cross-entropy of the labelled tokens and their number; nothing else is computed.

        With ``weights`` it is the weighted mean.
        """
        if batch.labels is None:
            raise InputError("answer_loss needs labels", field="labels")
        targets = batch.labels[:, 1:]
        wanted = targets != IGNORED
        num_tokens = int(wanted.sum())
        if num_tokens == 0:
            raise InputError("no token of the batch is labelled", field="labels")
        logits = self.head(self.hidden_at(batch, F.pad(wanted, (0, 1)))).float()
        losses = F.cross_entropy(logits, targets[wanted], reduction="none")
        if batch.weights is None:
            return losses.mean(), num_tokens
        weights = batch.weights[:, 1:][wanted].to(losses.dtype)
        return (losses * weights).sum() / weights.sum().clamp_min(1e-8), num_tokens

    def save_projectors(self, path: Path, *, dtype: torch.dtype = torch.float32) -> None:
        """Write the projectors' safetensors; keys are ``<stream>.<parameter>``."""
        from emollama.tensors import write_tensors

        write_tensors(path, self.projectors.state_dict(), dtype=dtype)

    def load_projectors(self, path: Path) -> None:
        """Read `save_projectors` strictly."""
        from emollama.tensors import load_into, read_tensors

        load_into(self.projectors, read_tensors(path), what=str(path))
