"""A LLaMA that answers through transformers' continuous batching: paged attention, shared prefixes, CUDA graphs.

transformers schedules: prompts join while others are being answered, keys and values lie in pages, prompts that begin
alike share them, and on a GPU a step may be a replayed graph. It takes token ids and no embeddings, so projected
tokens get ids of their own (`emollama.backbones.slots`). It works wherever transformers does; a processor is better
served by `emollama.backbones.lean`.

`PagedBackbone` is the thin layer over that: start, submit, poll, cancel, forget. What a request is and who waits for it
is `emollama.paged_engine`. transformers 5.17 and later have what is needed; what they call otherwise is looked up.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from torch import nn

from emollama.backbones.slots import SlotEmbedding
from emollama.errors import CheckpointError, DependencyError, InputError

Mode = Literal["greedy", "sample"]
MODES: tuple[Mode, ...] = ("greedy", "sample")
_NEEDED = "5.17"


@dataclass(frozen=True, kw_only=True)
class PagedOptions:
    """Sizes and habits of the engine; what is ``None`` is chosen by transformers from the memory that is free.

    ``mode`` "greedy" takes the likeliest token and tells its log-probability; "sample" draws by each request's
    temperature and top_p and tells none. ``num_slots`` is how many projected tokens lie ready at once, ``page_size``
    tokens a page, ``num_pages`` how many there are, ``step_tokens`` the most tokens of one pass, prompts included.
    """

    mode: Mode = "greedy"
    num_slots: int = 8192
    max_rows: int = 16
    page_size: int | None = None
    num_pages: int | None = None
    step_tokens: int | None = 4096
    shares_prefixes: bool = True
    cuda_graphs: bool | None = None

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise InputError(f"mode is {self.mode!r}; allowed: {', '.join(MODES)}", field="mode")
        for name in ("num_slots", "max_rows"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)!r}; allowed: 1 or more", field=name)
        if self.page_size is not None and self.page_size < 4:
            raise InputError(f"page_size is {self.page_size!r}; allowed: 4 or more", field="page_size")
        for name in ("num_pages", "step_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value!r}; allowed: 1 or more", field=name)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What there is of one reply: all its tokens so far, with the ending token where it ended by one."""

    request_id: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    is_finished: bool
    error: str | None = None


class PagedBackbone:
    """Continuous batching over a transformers LLaMA, whose input embedding it replaces until `close`.

    Any thread may call any method, but for `restart` and `close`: nobody else may use it then.
    """

    def __init__(self, model: nn.Module, options: PagedOptions | None = None) -> None:
        self.options = options or PagedOptions()
        self._api = _find_api(model)
        llama = cast(Any, model)
        table = llama.get_input_embeddings()
        if not isinstance(table, nn.Embedding):
            raise CheckpointError(f"the input embedding is a {type(table).__name__}; allowed: Embedding", field="model")
        self.model = model.eval()
        self.num_words = int(table.num_embeddings)
        self.max_positions = int(llama.config.max_position_embeddings)
        ends = llama.config.eos_token_id
        self.eos_ids = frozenset(ends if isinstance(ends, (list, tuple)) else () if ends is None else (int(ends),))
        self.embedding = SlotEmbedding(table, num_slots=self.options.num_slots)
        llama.set_input_embeddings(self.embedding)
        self._manager: Any = None
        self._finish: weakref.finalize[..., Any] | None = None

    @property
    def is_running(self) -> bool:
        """False before `start` and after an error inside the engine; `restart` then begins anew."""
        return self._manager is not None and bool(self._manager.is_running())

    @property
    def capacity(self) -> int:
        """How many tokens of keys and values there is room for, prompts and replies of all requests together."""
        settings = self._manager.continuous_batching_config
        return int(settings.num_blocks) * int(getattr(settings, self._api.page_field))

    def start(self) -> None:
        """Lay out the cache, capture graphs where they are used, and wait for requests in a thread of its own."""
        if self._manager is not None:
            return
        manager = cast(Any, self.model).init_continuous_batching(
            generation_config=self._generation(), continuous_batching_config=self._settings()
        )
        manager.warmup()
        # A thread that a daemon starts is one too; transformers' own would keep the process from ending.
        starter = threading.Thread(target=manager.start, daemon=True)
        starter.start()
        starter.join()
        self._manager = manager
        self._finish = weakref.finalize(self, _stop, manager)

    def restart(self) -> None:
        """Forget every request and all keys and values, and start again."""
        self._leave()
        self.start()

    def close(self) -> None:
        """Stop, and give the model its embedding back."""
        self._leave()
        cast(Any, self.model).set_input_embeddings(self.embedding.table)

    def submit(
        self,
        request_id: str,
        input_ids: Sequence[int],
        *,
        max_tokens: int,
        ends: Sequence[int],
        temperature: float = 0.0,
        top_p: float = 1.0,
    ) -> bool:
        """Queue a prompt; false when the engine has stopped. Ids may be slots' ids; ``ends`` end the reply."""
        options: dict[str, Any] = {}
        if self.options.mode == "sample":
            # one likeliest token is what greedy means; the sum of the likeliest tokens' shares plays no part then
            is_greedy = temperature == 0.0
            options = {
                "temperature": 1.0 if is_greedy else float(temperature),
                "top_k": 1 if is_greedy else self.num_words,
                "top_p": 1.0 if is_greedy else float(top_p),
            }
        added = self._manager.add_request(
            list(input_ids), request_id=request_id, max_new_tokens=max_tokens, streaming=True,
            eos_token_id=sorted(ends) or -1, **options,
        )  # fmt: skip
        return added is not None

    def cancel(self, request_id: str) -> None:
        """Drop a request; there is no more progress of it, but for what is under way."""
        if self._manager is not None:
            self._manager.cancel_request(request_id)

    def poll(self, *, timeout: float) -> Progress | None:
        """Wait up to ``timeout`` seconds for progress of any request."""
        found = self._manager.get_result(timeout=timeout)
        if found is None:
            return None
        return Progress(
            request_id=found.request_id,
            token_ids=tuple(found.generated_tokens),
            logprobs=tuple(found.logprobs),
            is_finished=bool(found.is_finished()),
            error=found.error,
        )

    def _leave(self) -> None:
        if self._finish is not None:
            self._finish()
        self._manager = self._finish = None

    def _generation(self) -> Any:
        from transformers import GenerationConfig

        if self.options.mode == "greedy":
            return GenerationConfig(do_sample=False, eos_token_id=-1, max_new_tokens=1)
        # Values that filter nothing, yet are not those that stand for "none": what is there may be set by request.
        return GenerationConfig(
            do_sample=True, eos_token_id=-1, max_new_tokens=1, temperature=0.999, top_k=self.num_words, top_p=0.999
        )

    def _settings(self) -> Any:
        options = self.options
        wanted: dict[str, Any] = {
            "max_requests_per_batch": options.max_rows,
            "num_blocks": options.num_pages,
            "max_batch_tokens": options.step_tokens,
            "allow_block_sharing": options.shares_prefixes,
            "use_cuda_graph": options.cuda_graphs,
            "return_logprobs": options.mode == "greedy",
            "per_request_processors": options.mode == "sample",
        }
        if options.page_size is not None:
            wanted[self._api.page_field] = options.page_size
        return self._api.settings(**wanted)


def twin_of(model: nn.Module) -> nn.Module:
    """Return a model over the same parameters, for plain passes with embeddings and masks.

    The one that the engine has computes attention over pages and cannot make these. Nothing of the weights is copied;
    to be made before `PagedBackbone` replaces the embedding.
    """
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    twin = cast(Any, copy.deepcopy(model, shared))
    twin.set_attn_implementation("sdpa")
    return cast(nn.Module, twin)


@dataclass(frozen=True, kw_only=True)
class _Api:
    """What differs between versions of transformers."""

    settings: Any
    page_field: str


def _find_api(model: nn.Module) -> _Api:
    """Find what is needed of transformers, or raise `DependencyError` that names what its version lacks."""
    import transformers

    module = importlib.import_module("transformers.generation.configuration_utils")
    settings = getattr(module, "ContinuousBatchingConfig", None)
    fields = set() if settings is None else {field.name for field in dataclasses.fields(settings)}
    page = next((name for name in ("page_size", "block_size") if name in fields), None)
    needed = {
        "num_blocks", "max_batch_tokens", "max_requests_per_batch", "allow_block_sharing", "use_cuda_graph",
        "return_logprobs", "per_request_processors",
    }  # fmt: skip
    lacks = sorted(needed - fields)
    if page is None:
        lacks.append("page_size")
    if not hasattr(model, "init_continuous_batching"):
        lacks.append("init_continuous_batching")
    if lacks:
        raise DependencyError(
            f"transformers {transformers.__version__} has no {', '.join(lacks)} for continuous batching; the paged "
            f"engine needs {_NEEDED} or later",
            field="engine",
        )
    assert page is not None
    return _Api(settings=settings, page_field=page)


def _stop(manager: Any) -> None:
    manager.stop(block=True, timeout=10.0, hard_stop=True)
