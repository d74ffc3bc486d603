"""The analyzer's engine over transformers: labels are scored in one plain pass, replies come from the paged engine.

What of a request the paged engine cannot do for it alone is done here where that is sound: a token that is banned ends
the reply (no answer holds a special token), and a seed is left out, so drawn replies differ from time to time. Closed
choices are refused: a model that is held to sentences of its readings decodes with the lean runtime.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from emollama.backbones.paged import PagedBackbone, PagedOptions, twin_of
from emollama.backbones.score import answer_log_likelihoods
from emollama.errors import InputError
from emollama.generate import Request
from emollama.model import EmoLlama, ModelBatch
from emollama.paged_engine import PagedEngine
from emollama.parts import PromptRow, Query
from emollama.runtime import Row, Sampling

_MAX_WAITING = 1024


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """What a prefix is here: the prompts themselves. Pages that were computed for them are found again by content."""

    rows: tuple[PromptRow, ...]

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each prompt."""
        return tuple(len(row.ids) for row in self.rows)

    @property
    def num_bytes(self) -> int:
        """What the prompts hold of memory; their pages belong to the engine."""
        return sum(8 * len(row.ids) + sum(tokens.nbytes for tokens in row.features.values()) for row in self.rows)


class PagedChatEngine:
    """Answers the analyzer's queries (`emollama.parts.Engine`); any thread may ask."""

    def __init__(self, model: EmoLlama, replies: PagedEngine) -> None:
        self._model, self.replies = model, replies

    @classmethod
    def of(
        cls,
        llama: nn.Module,
        projectors: Mapping[str, nn.Module],
        placeholder_ids: Mapping[str, int],
        *,
        eos_ids: frozenset[int],
        options: PagedOptions,
    ) -> PagedChatEngine:
        """Build it over a transformers LLaMA that is on its device; scores and replies share the weights."""
        scorer = EmoLlama(twin_of(llama), projectors, placeholder_ids)
        backbone = PagedBackbone(llama, options)
        scorer.projectors.to(backbone.embedding.slots.device)
        replies = PagedEngine(backbone, projectors, placeholder_ids, eos_ids=eos_ids, max_waiting=_MAX_WAITING)
        return cls(scorer.eval(), replies)

    def prefill(self, rows: Sequence[PromptRow]) -> Prompts:
        """Keep the prompts; they are computed with what is asked of them."""
        return Prompts(rows=tuple(rows))

    @torch.inference_mode()
    def score(self, prefix: Prompts, queries: Sequence[Query]) -> list[np.ndarray]:
        """Score every query's options in one pass a query, all of them branching off the rows side by side."""
        tables = []
        for query in queries:
            if not query.marker or any(not option for option in query.options):
                raise InputError("a query needs a marker and options of 1 or more tokens", field="options")
            embedded = [self._embed(row, query.marker) for row in prefix.rows]
            table = answer_log_likelihoods(self._model.backbone, embedded, query.options)
            tables.append(table.double().numpy())
        return tables

    def generate(
        self,
        prefix: Prompts,
        ids: Sequence[int],
        *,
        stop_id: int,
        max_new_tokens: int,
        temperature: float,
        seed: int,
        banned: frozenset[int] = frozenset(),
        choices: Sequence[Sequence[int]] | None = None,
    ) -> Generator[int, None, None]:
        """Continue the first row by ``ids`` and yield new tokens up to, without, the stop token."""
        if choices is not None:
            raise InputError("choices are given; the paged engine allows: none", field="choices")
        sampling = Sampling(
            max_tokens=max_new_tokens, temperature=temperature, stop_ids=tuple(sorted({stop_id, *banned}))
        )
        row = prefix.rows[0]
        request = Request(row=Row([*row.ids, *ids], row.features), sampling=sampling)
        with closing(self.replies.stream(request)) as events:
            for event in events:
                if event.error is not None:
                    raise event.error
                if event.token_id is not None:
                    yield event.token_id

    def _embed(self, row: PromptRow, marker: Sequence[int]) -> Tensor:
        device = self.replies.backbone.embedding.slots.device
        features = {
            name: [torch.from_numpy(np.ascontiguousarray(tokens)).to(device)] for name, tokens in row.features.items()
        }
        ids = torch.tensor([[*row.ids, *marker]], device=device)
        return self._model.embed(ModelBatch(input_ids=ids, features=features))[0]
