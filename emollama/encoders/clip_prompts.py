"""Deep prompting of a frozen open_clip model, for single frames and for videos of them.

Before each chosen block of the image tower, some learned tokens stand behind the patches; before each chosen block of
the text tower, some stand between the start and the words (in the first block they are a learned context in the place
of words). A block that is not chosen hands on what the one before it made of them. Every frame goes through the image
tower alone; a video is the weighted mean of its frames' projected embeddings, all alike unless weights are learned.

The arrangement follows the public code of ViFi-CLIP (Rasheed et al., CVPR 2023): deep prompts in both towers, frames
apart, their mean, one text context for all labels. Its prompts of the first image block stand before ``ln_pre``, here
behind it, like those of all other blocks. What EmoVCLIP (Qi et al., MRAC 2024) did beyond "prompts in both towers" is
not published; depths, numbers and the learned weights over time are this project's choices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emollama.encoders.clip_backbone import ClipBackbone, tokenize
from emollama.errors import CheckpointError, InputError

Pooling = Literal["mean", "attention"]


@dataclass(frozen=True, kw_only=True)
class PromptSettings:
    """Where prompts stand. Depths are numbers of blocks, from 0; no depth, or no token, means no prompt in a tower.

    ``text_words`` come before a label's name: as what the learned context begins with (then it has as many tokens), or,
    without a learned context in block 0, as plain words. ``pooling`` "attention" learns how much each frame counts.
    """

    vision_tokens: int = 8
    vision_depths: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
    text_tokens: int = 8
    text_depths: tuple[int, ...] = (0, 1, 2)
    text_words: str = ""
    pooling: Pooling = "mean"

    def __post_init__(self) -> None:
        for name in ("vision_tokens", "text_tokens"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} is {getattr(self, name)}; allowed: 0 or more", field=name)
        for name in ("vision_depths", "text_depths"):
            depths = getattr(self, name)
            if list(depths) != sorted(set(depths)) or (depths and depths[0] < 0):
                raise InputError(f"{name} are {depths}; allowed: rising numbers of blocks, from 0", field=name)
        if self.pooling not in get_args(Pooling):
            raise InputError(f"pooling is {self.pooling!r}; allowed: mean, attention", field="pooling")

    @property
    def has_text_context(self) -> bool:
        return bool(self.text_tokens) and 0 in self.text_depths

    @classmethod
    def none(cls, *, text_words: str = "") -> PromptSettings:
        """Return settings that leave the backbone as it is: plain zero-shot CLIP, frames averaged."""
        return cls(vision_tokens=0, vision_depths=(), text_tokens=0, text_depths=(), text_words=text_words)

    @classmethod
    def from_json_dict(cls, document: Mapping[str, Any]) -> PromptSettings:
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in document.items()}
        try:
            return cls(**fields)
        except TypeError as error:
            raise CheckpointError(f"the settings of the prompts do not fit: {error}", field="settings") from error


class PromptedClip(nn.Module):
    """A frozen backbone with trainable prompts; its ``state_dict`` is what is trained, without the backbone."""

    def __init__(self, backbone: ClipBackbone, settings: PromptSettings) -> None:
        super().__init__()
        self.settings = settings
        self._backbone = (backbone,)  # in a tuple, so that the frozen weights are no part of this module's state
        model: Any = backbone.model
        self._check("vision", len(model.visual.transformer.resblocks))
        self._check("text", len(model.transformer.resblocks))
        vision_width, text_width = model.visual.conv1.out_channels, model.token_embedding.embedding_dim
        self.vision_prompts = _prompts(settings.vision_depths, settings.vision_tokens, vision_width)
        self.text_prompts = _prompts(settings.text_depths, settings.text_tokens, text_width)
        self.logit_scale = nn.Parameter(model.logit_scale.detach().float().clone().reshape(()))
        if settings.pooling == "attention":
            self.frame_score = nn.Linear(backbone.embed_dim, 1, bias=False)
            nn.init.zeros_(self.frame_score.weight)  # begins as the mean
        if settings.text_words and settings.has_text_context:
            self._begin_with_words()

    @property
    def backbone(self) -> ClipBackbone:
        return self._backbone[0]

    @property
    def device(self) -> torch.device:
        return self.logit_scale.device

    def _apply(self, fn: Any, recurse: bool = True) -> PromptedClip:
        # The backbone is kept out of the state, not out of the way: it moves to the device with the prompts.
        self.backbone.model._apply(fn, recurse)
        return super()._apply(fn, recurse)

    # ---- pictures ----------------------------------------------------------------------------------------------------

    def encode_frames(self, pixels: Tensor) -> Tensor:
        """Encode pictures [N, 3, S, S], standardised as CLIP's -> projected embeddings [N, E], not normalised."""
        visual: Any = self.backbone.model.visual
        x = visual._embeds(pixels.to(visual.conv1.weight.dtype))  # [N, 1 + P, W]
        length = x.shape[1]
        for depth, block in enumerate(visual.transformer.resblocks):
            prompt = self.vision_prompts.get(str(depth))
            if prompt is not None:
                x = torch.cat((x[:, :length], prompt.to(x.dtype).expand(len(x), -1, -1)), dim=1)
            x = block(x)
        pooled, _ = visual._pool(x[:, :length])
        return pooled if visual.proj is None else pooled @ visual.proj

    def encode_videos(self, pixels: Tensor, *, present: Tensor | None = None) -> Tensor:
        """Encode videos [B, T, 3, S, S] -> unit vectors [B, E]; ``present`` [B, T] bool says which frames there are."""
        frames = self.encode_frames(pixels.flatten(0, 1)).unflatten(0, pixels.shape[:2])
        return self.pool(frames, present=present)

    def pool(self, frames: Tensor, *, present: Tensor | None = None) -> Tensor:
        """Pool embeddings [B, T, E] over time -> unit vectors [B, E]."""
        score = torch.zeros(frames.shape[:2], device=frames.device)
        if self.settings.pooling == "attention":
            score = self.frame_score(F.normalize(frames.float(), dim=-1)).squeeze(-1)
        if present is not None:
            if not bool(present.any(1).all()):
                raise InputError("a video has no frame; allowed: 1 or more", field="present")
            score = score.masked_fill(~present, float("-inf"))
        weights = score.softmax(1)  # [B, T]
        return F.normalize((weights[..., None] * frames.float()).sum(1), dim=-1)

    # ---- words -------------------------------------------------------------------------------------------------------

    def encode_labels(self, labels: Sequence[str]) -> Tensor:
        """Encode names of labels, any words at all -> unit vectors [L, E]."""
        if not labels or not all(label.strip() for label in labels):
            raise InputError(f"labels are {list(labels)}; allowed: one or more names, none empty", field="labels")
        model: Any = self.backbone.model
        learned = self.settings.text_tokens if self.settings.has_text_context else 0
        words = "" if learned else self.settings.text_words
        texts = [f"{words} {label}".strip() for label in labels]
        ids = tokenize(texts, context_length=model.context_length - learned).to(self.device)
        end = ids.argmax(dim=1)  # the end mark has the highest id; what follows it is seen by nothing
        ids = ids[:, : int(end.max()) + 1]
        x = model.token_embedding(ids)  # [L, C, W]
        if learned:
            x = _behind_start(x, self.text_prompts["0"])
            end = end + learned
        x = x + model.positional_embedding[: x.shape[1]]
        inserted = learned
        for depth, block in enumerate(model.transformer.resblocks):
            prompt = self.text_prompts.get(str(depth))
            if prompt is not None and depth:
                x = _behind_start(x, prompt, replaced=inserted)
                end = end + len(prompt) - inserted
                inserted = len(prompt)
            x = block(x, attn_mask=_causal(x.shape[1], x))
        x = model.ln_final(x)[torch.arange(len(x), device=x.device), end]
        projection = model.text_projection
        x = projection(x) if isinstance(projection, nn.Module) else x if projection is None else x @ projection
        return F.normalize(x.float(), dim=-1)

    def forward(self, pixels: Tensor, labels: Sequence[str], *, present: Tensor | None = None) -> Tensor:
        """Return the logits [B, L] of labels for videos [B, T, 3, S, S]."""
        return self.compare(self.encode_videos(pixels, present=present), self.encode_labels(labels))

    def compare(self, videos: Tensor, labels: Tensor) -> Tensor:
        """Return logits [B, L] from unit vectors [B, E] and [L, E]."""
        return self.logit_scale.clamp(max=4.6052).exp() * videos @ labels.T  # at most 100, as CLIP was trained

    # ---- beginnings --------------------------------------------------------------------------------------------------

    def _check(self, tower: str, blocks: int) -> None:
        name = f"{tower}_depths"
        depths: tuple[int, ...] = getattr(self.settings, name)
        if depths and depths[-1] >= blocks:
            raise InputError(f"{name} are {depths}; allowed: 0 to {blocks - 1}, the backbone's blocks", field=name)

    @torch.no_grad()
    def _begin_with_words(self) -> None:
        model: Any = self.backbone.model
        ids = tokenize([self.settings.text_words], context_length=model.context_length)[0]
        ids = ids[1 : int(ids.argmax())]
        if len(ids) != self.settings.text_tokens:
            raise InputError(
                f"text_tokens is {self.settings.text_tokens}; allowed: {len(ids)}, as many as "
                f"{self.settings.text_words!r} has",
                field="text_tokens",
            )
        self.text_prompts["0"].copy_(model.token_embedding(ids.to(model.token_embedding.weight.device)))


def _prompts(depths: Sequence[int], tokens: int, width: int) -> nn.ParameterDict:
    made = nn.ParameterDict()
    for depth in depths if tokens else ():
        made[str(depth)] = nn.Parameter(0.02 * torch.randn(tokens, width))
    return made


def _behind_start(x: Tensor, prompt: Tensor, *, replaced: int = 0) -> Tensor:
    """Put a prompt [P, W] behind the first token of x [L, C, W], in the place of ``replaced`` tokens."""
    return torch.cat((x[:, :1], prompt.to(x.dtype).expand(len(x), -1, -1), x[:, 1 + replaced :]), dim=1)


def _causal(length: int, like: Tensor) -> Tensor:
    return torch.full((length, length), float("-inf"), device=like.device, dtype=like.dtype).triu_(1)
