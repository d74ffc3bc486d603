"""`Runtime`: rows of token ids and feature tokens in; label likelihoods and decoded tokens out.

The runtime joins the lean backbone and the projectors. A row is computed once (`prefill`); the closed label set is
scored on that prefix, the rationale is decoded from a copy of it, and a later question extends it. Nothing here
imports transformers or peft, and nothing knows what the tokens mean.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from emollama.backbones.kv_cache import KvCache
from emollama.backbones.lean import LeanLlama
from emollama.config import ProjectorConfig
from emollama.errors import InputError
from emollama.model import splice
from emollama.projectors import build_projector
from emollama.tensors import load_into, read_tensors

# Given the ids decoded so far, the ids that may come next, or None for all.
Constraint = Callable[[Sequence[int]], Sequence[int] | None]
_HEAD_ROWS = 64  # positions whose full-vocabulary logits are held at once while labels are scored


class Row(NamedTuple):
    """One prompt: ``input_ids`` with placeholders, and per stream the tokens [T, D_in] that overwrite them."""

    input_ids: Sequence[int]
    features: Mapping[str, np.ndarray | Tensor] = {}


class Cancel(Protocol):
    """A `threading.Event`, or anything with its ``is_set``."""

    def is_set(self) -> bool: ...


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are chosen. ``temperature`` 0 is greedy; ``stop_ids`` end the text beside the model's own end tokens.

    ``banned`` ids are never chosen; ``constraint`` narrows each choice. ``num_logprobs`` asks for the log-probability
    of the chosen token and of that many alternatives (before temperature, after bans), ``None`` for neither.
    ``repetition_penalty`` divides (multiplies, when negative) the logits of tokens already decoded.
    """

    max_tokens: int = 160
    temperature: float = 0.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop_ids: tuple[int, ...] = ()
    banned: frozenset[int] = frozenset()
    constraint: Constraint | None = field(default=None, compare=False)
    num_logprobs: int | None = None

    def __post_init__(self) -> None:
        checks = (
            ("max_tokens", self.max_tokens >= 1, "1 or more"),
            ("temperature", 0.0 <= self.temperature <= 2.0, "0 to 2"),
            ("top_p", 0.0 < self.top_p <= 1.0, "above 0, up to 1"),
            ("repetition_penalty", 0.5 <= self.repetition_penalty <= 2.0, "0.5 to 2"),
            ("num_logprobs", self.num_logprobs is None or 0 <= self.num_logprobs <= 20, "0 to 20, or none"),
        )
        for name, is_allowed, allowed in checks:
            if not is_allowed:
                raise InputError(f"{name} is {getattr(self, name)!r}; allowed: {allowed}", field=name)


class Choice(NamedTuple):
    """A chosen token; ``logprob`` and ``top`` (id, log-probability) only when they were asked for."""

    token_id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Chooser:
    """Chooses the tokens of one reply and remembers them; holds its own random generator, so order does not matter."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self.token_ids: list[int] = []
        self._generator = torch.Generator()
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed)
        self._banned = torch.tensor(sorted(sampling.banned), dtype=torch.long)
        self._is_plain = not sampling.banned and sampling.constraint is None and sampling.repetition_penalty == 1.0
        self.takes_likeliest = self._is_plain and sampling.temperature == 0.0 and sampling.num_logprobs is None

    def follow(self) -> Choice | None:
        """Take the next token without any logits where the constraint leaves one only; ``None`` where it does not."""
        sampling = self.sampling
        if sampling.constraint is None or sampling.num_logprobs is not None:
            return None
        allowed = sampling.constraint(self.token_ids)
        if allowed is None or len(allowed) != 1 or allowed[0] in sampling.banned:
            return None
        return self.take(int(allowed[0]))

    def take(self, token_id: int) -> Choice:
        """Remember a token that was chosen elsewhere: where ``takes_likeliest``, the likeliest of all."""
        self.token_ids.append(token_id)
        return Choice(token_id)

    def choose(self, logits: Tensor) -> Choice:
        """Choose from fp32 logits [V] on any device; the choice is appended to ``token_ids``."""
        sampling = self.sampling
        if self.takes_likeliest:
            return self.take(int(logits.argmax()))
        logits = self._masked(logits.detach().float().cpu())
        if sampling.temperature == 0.0:
            token_id = int(logits.argmax())
        else:
            token_id = self._draw(logits / sampling.temperature)
        self.token_ids.append(token_id)
        if sampling.num_logprobs is None:
            return Choice(token_id)
        logprobs = logits.log_softmax(-1)
        best = logprobs.topk(min(sampling.num_logprobs, len(logprobs)))
        top = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
        return Choice(token_id, float(logprobs[token_id]), top)

    def _masked(self, logits: Tensor) -> Tensor:
        if self._is_plain:
            return logits
        logits = logits.clone()
        penalty = self.sampling.repetition_penalty
        if penalty != 1.0 and self.token_ids:
            seen = torch.tensor(sorted(set(self.token_ids)))
            held = logits[seen]
            logits[seen] = torch.where(held > 0, held / penalty, held * penalty)
        if self.sampling.constraint is not None:
            allowed = self.sampling.constraint(self.token_ids)
            if allowed is not None:
                if not allowed:
                    raise InputError("the constraint allows no token", field="constraint")
                keep = torch.tensor(list(allowed))
                narrowed = torch.full_like(logits, -torch.inf)
                narrowed[keep] = logits[keep]
                logits = narrowed
        logits[self._banned] = -torch.inf
        if not torch.isfinite(logits).any():
            raise InputError("every allowed token is banned", field="banned")
        return logits

    def _draw(self, logits: Tensor) -> int:
        probabilities = logits.softmax(-1)
        if self.sampling.top_p < 1.0:
            ordered, index = probabilities.sort(descending=True)
            before = ordered.cumsum(-1) - ordered
            ordered[before >= self.sampling.top_p] = 0.0  # the likeliest always stays
            return int(index[torch.multinomial(ordered, 1, generator=self._generator)])
        return int(torch.multinomial(probabilities, 1, generator=self._generator))


@dataclass(frozen=True)
class Prefix:
    """Computed prompts: their keys and values, and the last hidden state [B, W] of each. Treat it as read-only."""

    cache: KvCache
    hidden: Tensor

    @property
    def num_rows(self) -> int:
        return self.cache.num_rows

    @property
    def lengths(self) -> tuple[int, ...]:
        return tuple(self.cache.lengths)

    @property
    def num_bytes(self) -> int:
        """What it holds of memory, room for tokens to come included."""
        return self.cache.num_bytes + self.hidden.numel() * self.hidden.element_size()


class DecodeBatch:
    """Replies that are decoded together. Rows come and go; a row's index is its place."""

    def __init__(self, backbone: LeanLlama) -> None:
        self.backbone = backbone
        self._cache: KvCache | None = None
        self._logits = torch.empty(0)  # fp32 [B, V] of the next token of every row

    @property
    def num_rows(self) -> int:
        return 0 if self._cache is None else self._cache.num_rows

    def lengths(self) -> list[int]:
        return [] if self._cache is None else list(self._cache.lengths)

    @torch.inference_mode()
    def admit(self, prefix: Prefix, row: int, *, reserve: int) -> None:
        """Add a copy of one row of a prefix as the last row, with ``reserve`` tokens of room when it is the first."""
        if self._cache is None:
            held = prefix.cache.lengths[row]
            capacity = min(held + reserve, self.backbone.shape.max_positions)
            self._cache = prefix.cache.fork([], capacity=capacity) if self.backbone.keeps_cache else None
        fresh = self.backbone.logits(prefix.hidden[row : row + 1])
        if self._cache is None:
            self._cache, self._logits = prefix.cache.fork([row], capacity=capacity), fresh
            return
        self._logits = torch.cat((self._logits, fresh)) if self._cache.num_rows else fresh
        self._cache.append(prefix.cache, row)

    @torch.inference_mode()
    def adopt(self, prefix: Prefix) -> None:
        """Take over all rows of a prefix that nobody else holds, where possible without copying; only when empty."""
        assert self.num_rows == 0
        if self.backbone.keeps_cache:
            for row in range(prefix.num_rows):
                self.admit(prefix, row, reserve=prefix.cache.capacity - prefix.lengths[row])
            return
        self._cache, self._logits = prefix.cache, self.backbone.logits(prefix.hidden)

    @torch.inference_mode()
    def drop(self, row: int) -> None:
        """Remove a row; the last row takes its place."""
        assert self._cache is not None
        last = self.num_rows - 1
        if last == 0:
            if self.backbone.keeps_cache:
                self._cache.drop(row)
            else:
                self._cache = None
            self._logits = torch.empty(0)
            return
        self._cache.drop(row)
        if row != last:
            self._logits[row] = self._logits[last]
        self._logits = self._logits[:last]

    def logits(self) -> Tensor:
        """Return the fp32 logits [B, V] of the next token of every row; they are overwritten by `advance`."""
        return self._logits

    def likeliest(self) -> list[int]:
        """Return the likeliest next token of every row."""
        if self._logits.device.type != "cpu":
            return self._logits.argmax(-1).tolist()
        found: list[int] = self._logits.numpy().argmax(-1).tolist()  # vectorised, as torch's is not
        return found

    @torch.inference_mode()
    def advance(self, runs: Sequence[Sequence[int]]) -> None:
        """Append one token or more to every row, in one pass."""
        assert self._cache is not None
        self._logits = self.backbone.advance(self._cache, runs)


class Runtime:
    """Lean backbone and projectors by stream; ``eos_ids`` end a reply."""

    def __init__(
        self,
        backbone: LeanLlama,
        projectors: Mapping[str, nn.Module],
        placeholder_ids: Mapping[str, int],
        *,
        eos_ids: Sequence[int] | None = None,
    ) -> None:
        if set(projectors) != set(placeholder_ids):
            raise InputError("projectors and placeholder_ids must name the same streams", field="projectors")
        self.backbone = backbone
        self.projectors = {name: module.eval().to(backbone.device) for name, module in projectors.items()}
        self.placeholder_ids = dict(placeholder_ids)
        self.eos_ids = frozenset(backbone.shape.eos_token_ids if eos_ids is None else eos_ids)

    @classmethod
    def load(
        cls,
        backbone: Path,
        *,
        projectors: Path,
        widths: Mapping[str, int],
        placeholder_ids: Mapping[str, int],
        adapter: Path | None = None,
        projector_configs: Mapping[str, ProjectorConfig] | None = None,
        eos_ids: Sequence[int] | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Runtime:
        """Read a backbone folder, an adapter merged into it when given, and projectors of streams with ``widths``."""
        lean = LeanLlama.load(backbone, adapter=adapter, dtype=dtype, device=device)
        configs = projector_configs or {}
        modules = nn.ModuleDict(
            {name: build_projector(width, lean.shape.hidden_size, configs.get(name)) for name, width in widths.items()}
        )
        load_into(modules, read_tensors(projectors, dtype=torch.float32), what=str(projectors))
        return cls(lean, dict(modules.items()), placeholder_ids, eos_ids=eos_ids)

    # ---- prompts --------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def embed(self, rows: Sequence[Row | tuple[Any, Any]]) -> list[Tensor]:
        """Return input embeddings [T_i, W] of each row; the projector runs once per stream for the whole batch.

        Raises `InputError` unless the feature tokens of each row match its placeholders.
        """
        prompts = [Row(*row) for row in rows]
        projected: list[dict[str, Tensor]] = [{} for _ in prompts]
        names = dict.fromkeys(name for prompt in prompts for name in prompt.features)
        unknown = sorted(set(names) - set(self.projectors))
        if unknown:
            known = ", ".join(self.projectors) or "(none)"
            raise InputError(f"features of unknown stream {', '.join(unknown)}; known: {known}", field="features")
        for name in names:
            owners = [index for index, prompt in enumerate(prompts) if len(prompt.features.get(name, ()))]
            tokens = [self._tensor(prompts[index].features[name]) for index in owners]
            if not tokens:
                continue
            projector = self.projectors[name]
            if getattr(projector, "per_token", True):
                parts = list(projector(torch.cat(tokens)).split([len(part) for part in tokens]))
            else:
                parts = [projector(part) for part in tokens]
            for index, part in zip(owners, parts, strict=True):
                projected[index][name] = part
        embedded = []
        for prompt, streams in zip(prompts, projected, strict=True):
            ids = torch.tensor(list(prompt.input_ids), dtype=torch.long, device=self.backbone.device)
            if not len(ids):
                raise InputError("a prompt needs 1 or more tokens", field="input_ids")
            table = self.backbone.embed(ids)
            embedded.append(splice(table[None], ids[None], streams, self.placeholder_ids)[0])
        return embedded

    def _tensor(self, tokens: np.ndarray | Tensor) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(tokens)) if isinstance(tokens, np.ndarray) else tokens
        return tensor.to(self.backbone.device, torch.float32)

    @torch.inference_mode()
    def prefill(self, rows: Sequence[Row | tuple[Any, Any]], *, reserve: int = 0) -> Prefix:
        """Compute B prompts in one padded pass; ``reserve`` leaves room in the cache for tokens to come."""
        embedded = self.embed(rows)
        if not embedded:
            raise InputError("prefill needs 1 or more rows", field="rows")
        longest = max(len(row) for row in embedded)
        capacity = max(longest, min(longest + reserve, self.backbone.shape.max_positions))
        cache = self.backbone.new_cache(rows=len(embedded), capacity=capacity)
        return Prefix(cache, self.backbone.extend(cache, embedded))

    @torch.inference_mode()
    def extend(
        self,
        prefix: Prefix,
        row: int,
        input_ids: Sequence[int],
        features: Mapping[str, np.ndarray | Tensor] | None = None,
        *,
        reserve: int = 0,
    ) -> Prefix:
        """Return a new prefix: one row of ``prefix`` continued by ``input_ids``; ``prefix`` itself stays as it is."""
        embedded = self.embed([Row(input_ids, features or {})])
        length = prefix.cache.lengths[row] + len(embedded[0])
        capacity = max(length, min(length + reserve, self.backbone.shape.max_positions))
        cache = prefix.cache.fork([row], capacity=capacity)
        return Prefix(cache, self.backbone.extend(cache, embedded))

    # ---- labels ---------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def label_scores(self, prefix: Prefix, labels: Sequence[Sequence[int]], *, is_normalised: bool = True) -> Tensor:
        """Return the log-likelihood [B, L] of each label's tokens after each row, in one batched pass.

        Labels of one token need no pass at all; with ``is_normalised=False`` they alone are multiplied out and the
        result is their bare logits (enough for a softmax over the set, when every label is a single token).
        """
        if not labels or any(not label for label in labels):
            raise InputError("labels must hold 1 or more tokens each", field="labels")
        device = self.backbone.device
        first = torch.tensor([label[0] for label in labels], device=device)
        longer = [index for index, label in enumerate(labels) if len(label) > 1]
        if not is_normalised and not longer:
            return self.backbone.logits(prefix.hidden, first)
        logits = self.backbone.logits(prefix.hidden)
        scores = logits[:, first] - logits.logsumexp(-1, keepdim=True)
        if longer:
            hidden = self.backbone.branch(prefix.cache, [labels[index][:-1] for index in longer])  # [B, T, W]
            targets = torch.tensor([token for index in longer for token in labels[index][1:]], device=device)
            owner = torch.tensor([index for index in longer for _ in labels[index][1:]], device=device)
            for begin in range(0, len(targets), _HEAD_ROWS):
                part = slice(begin, begin + _HEAD_ROWS)
                logits = self.backbone.logits(hidden[:, part])  # [B, t, V]
                found = logits.gather(-1, targets[part].expand(len(logits), -1)[..., None])[..., 0]
                scores.index_add_(1, owner[part], found - logits.logsumexp(-1))
        return scores

    @torch.inference_mode()
    def next_logits(self, prefix: Prefix, ids: Sequence[int] | None = None) -> Tensor:
        """Return the fp32 logits [B, V] of the next token, or [B, len(ids)] of some ids only."""
        index = None if ids is None else torch.tensor(list(ids), device=self.backbone.device)
        return self.backbone.logits(prefix.hidden, index)

    # ---- replies --------------------------------------------------------------------------------------------------

    def batch(self) -> DecodeBatch:
        """Return an empty batch of replies."""
        return DecodeBatch(self.backbone)

    def room(self, length: int, sampling: Sampling) -> int:
        """Return how many tokens a reply after ``length`` tokens may have: ``max_tokens``, or what still fits."""
        return max(0, min(sampling.max_tokens, self.backbone.shape.max_positions - length))

    def decode(
        self,
        prefix: Prefix,
        row: int = 0,
        *,
        sampling: Sampling | None = None,
        cancel: Cancel | Callable[[], bool] | None = None,
        deadline: float | None = None,
    ) -> Iterator[int]:
        """Yield the token ids of a reply to one row, without the ending token; ``prefix`` stays as it is.

        It ends at an end or stop token, after ``max_tokens``, when ``cancel`` says so, or at ``deadline`` (a
        `time.monotonic` value). `Engine` tells these apart and decodes several replies at once.
        """
        sampling = sampling or Sampling()
        chooser, batch = Chooser(sampling), self.batch()
        room = self.room(prefix.cache.lengths[row], sampling)
        ends = self.eos_ids | set(sampling.stop_ids)
        if room:
            batch.admit(prefix, row, reserve=room)
        run: list[int] = []  # chosen, and not yet computed: what follows by force needs no logits in between
        for _ in range(room):
            if is_cancelled(cancel) or (deadline is not None and time.monotonic() >= deadline):
                return
            choice = chooser.follow()
            if choice is None:
                if run:
                    batch.advance([run])
                    run = []
                choice = chooser.choose(batch.logits()[0])
            if choice.token_id in ends:
                return
            yield choice.token_id
            run.append(choice.token_id)


def is_cancelled(cancel: Cancel | Callable[[], bool] | None) -> bool:
    """Ask an event or a callable whether to stop."""
    if cancel is None:
        return False
    return bool(cancel.is_set() if hasattr(cancel, "is_set") else cancel())


def one_of(choices: Sequence[Sequence[int]], *, end: Sequence[int]) -> Constraint:
    """Return a constraint that allows exactly one of several token sequences, each followed by a token of ``end``."""
    trie: dict[int, Any] = {}
    for choice in choices:
        node = trie
        for token in choice:
            node = node.setdefault(int(token), {})
        for token in end:
            node.setdefault(int(token), {})

    def allowed(token_ids: Sequence[int]) -> Sequence[int]:
        node = trie
        for token in token_ids:
            node = node.get(token, {})
        return list(node)

    return allowed
