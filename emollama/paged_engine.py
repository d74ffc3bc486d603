"""`PagedEngine`: the replies of `emollama.generate.Engine` through the paged backbone; add, step, stream, cancel.

transformers chooses the tokens there, so what of `Sampling` it cannot do for each request (bans, constraints,
penalties, seeds, alternatives) is refused by name, before anything is computed.

Feature tokens are projected once and lie in slots for as long as a request needs them (`emollama.backbones.slots`).
Where no slot is free a request waits its turn, in order; the queue is bounded. A clip that is asked about again is
found by the digest of its features: nothing is projected, and what is the same of the prompt is not computed again.
"""

from __future__ import annotations

import hashlib
import itertools
import threading
import time
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from emollama.backbones.paged import PagedBackbone, Progress
from emollama.backbones.slots import Lease, SlotLedger
from emollama.errors import BusyError, EmoLlamaError, InputError
from emollama.generate import Event, FinishReason, Request
from emollama.projectors import count_tokens
from emollama.runtime import Row, Sampling, is_cancelled

# How long a thread waits for news before it asks again who was cancelled and whose time is up.
_PATIENCE_SECONDS = 0.02


@dataclass(frozen=True, kw_only=True)
class _Content:
    """The feature tokens [T, D_in] of one stream, what names them, and how many slots they fill once projected."""

    stream: str
    key: bytes
    count: int
    tokens: Any


@dataclass(eq=False, kw_only=True)
class _Reply:
    request_id: str
    request: Request
    input_ids: tuple[int, ...]
    contents: tuple[_Content, ...]
    room: int
    ends: frozenset[int]
    deadline: float | None
    num_told: int = 0
    is_cancelled: bool = False
    mailbox: deque[Event] | None = field(default=None)

    def interruption(self) -> FinishReason | None:
        """Say why the reply must end now, if it must."""
        if self.is_cancelled or is_cancelled(self.request.cancel):
            return "cancelled"
        if self.deadline is not None and time.monotonic() >= self.deadline:
            return "deadline"
        return None


class PagedEngine:
    """Several replies in flight over one `PagedBackbone`. Any thread may call any method; whoever waits drives.

    As many requests are answered together as the backbone's ``max_rows``, ``max_waiting`` more may wait for a place or
    for slots; beyond that `add` raises `BusyError`.
    """

    def __init__(
        self,
        backbone: PagedBackbone,
        projectors: Mapping[str, nn.Module],
        placeholder_ids: Mapping[str, int],
        *,
        eos_ids: frozenset[int] | None = None,
        max_waiting: int = 64,
    ) -> None:
        if max_waiting < 1:
            raise InputError(f"max_waiting is {max_waiting!r}; allowed: 1 or more", field="max_waiting")
        if set(projectors) != set(placeholder_ids):
            raise InputError("projectors and placeholder_ids must name the same streams", field="projectors")
        self.backbone, self.max_waiting = backbone, max_waiting
        self.max_rows = backbone.options.max_rows
        self.projectors = {
            name: module.eval().to(backbone.embedding.slots.device) for name, module in projectors.items()
        }
        self.placeholder_ids = dict(placeholder_ids)
        self.eos_ids = backbone.eos_ids if eos_ids is None else eos_ids
        self._ledger = SlotLedger(num_slots=backbone.options.num_slots, first_id=backbone.num_words)
        self._numbers = itertools.count(1)
        self._waiting: deque[_Reply] = deque()
        self._running: dict[str, _Reply] = {}
        self._replies: dict[str, _Reply] = {}
        self._untold: list[Event] = []  # of requests that nobody streams, until the next step
        self._lock = threading.RLock()  # guards all of these, held for moments (and for a projector)
        self._turn = threading.Condition()
        self._is_driven = False

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_slots_used(self) -> int:
        """Slots that hold tokens of requests which have not ended."""
        return self._ledger.num_used

    @property
    def has_work(self) -> bool:
        return bool(self._waiting or self._running or self._untold)

    def add(self, request: Request) -> str:
        """Queue a request and return its id; raises `BusyError`, or `InputError` for what it cannot do."""
        return self._add(request, mailbox=None).request_id

    def cancel(self, request_id: str) -> bool:
        """End a request now with reason "cancelled"; false when it has ended or never was."""
        with self._lock:
            reply = self._replies.get(request_id)
            if reply is None:
                return False
            reply.is_cancelled = True
            self._leave_early()
            self._admit()
        with self._turn:
            self._turn.notify_all()
        return True

    def step(self) -> list[Event]:
        """Wait a moment for progress and return what happened to requests that nobody streams."""
        with self._turn:
            while self._is_driven:
                self._turn.wait(_PATIENCE_SECONDS)
            self._is_driven = True
        self._drive(timeout=0.0 if self._untold else _PATIENCE_SECONDS)
        with self._lock:
            events, self._untold = self._untold, []
        return events

    def stream(self, request: Request) -> Generator[Event, None, None]:
        """Yield the events of one request until its end; closing the iterator cancels the request."""
        mailbox: deque[Event] = deque()
        reply = self._add(request, mailbox=mailbox)
        try:
            while True:
                while mailbox:
                    event = mailbox.popleft()
                    yield event
                    if event.reason is not None:
                        return
                with self._turn:
                    while self._is_driven and not mailbox:
                        self._turn.wait(_PATIENCE_SECONDS)
                    if mailbox:
                        continue
                    self._is_driven = True
                self._drive(timeout=_PATIENCE_SECONDS)
        finally:
            self.cancel(reply.request_id)

    def close(self) -> None:
        """End every request with reason "cancelled" and stop the backbone."""
        with self._lock:
            for reply in list(self._replies.values()):
                reply.is_cancelled = True
            self._leave_early()
            self.backbone.close()

    # ---- a request's way in --------------------------------------------------------------------------------------

    def _add(self, request: Request, *, mailbox: deque[Event] | None) -> _Reply:
        self._check(request.sampling)
        if request.row is None:
            raise InputError("a paged engine takes prompts (row) and no computed prefix", field="prefix")
        ids, contents = self._read(request.row)
        if len(ids) > self.backbone.max_positions:
            raise InputError(
                f"{len(ids)} tokens do not fit; this backbone reads at most {self.backbone.max_positions}",
                field="prompt",
            )
        with self._lock:
            self._start()
            room = max(0, min(request.sampling.max_tokens, self.backbone.max_positions - len(ids)))
            if len(ids) + room > self.backbone.capacity:
                raise InputError(
                    f"a prompt of {len(ids)} tokens and a reply of {room} do not fit; allowed: at most "
                    f"{self.backbone.capacity} together",
                    field="max_tokens",
                )
            if sum({part.key: part.count for part in contents}.values()) > self._ledger.num_slots:
                raise InputError(
                    f"{sum(part.count for part in contents)} feature tokens; allowed: at most {self._ledger.num_slots}",
                    field="features",
                )
            if len(self._waiting) >= self.max_waiting:
                raise BusyError(f"{self.max_waiting} requests are waiting already", retry_after_seconds=1.0)
            reply = _Reply(
                request_id=f"gen-{next(self._numbers)}",
                request=request,
                input_ids=tuple(ids),
                contents=contents,
                room=room,
                ends=self.eos_ids | frozenset(request.sampling.stop_ids),
                deadline=None if request.timeout_seconds is None else time.monotonic() + request.timeout_seconds,
                mailbox=mailbox,
            )
            self._replies[reply.request_id] = reply
            if room == 0:
                self._end(reply, "length")
            else:
                self._waiting.append(reply)
                self._admit()
        return reply

    def _check(self, sampling: Sampling) -> None:
        """Refuse what transformers' engine does not do for each request."""
        is_greedy, mode = sampling.temperature == 0.0, self.backbone.options.mode
        refused = (
            ("banned", bool(sampling.banned), "none"),
            ("constraint", sampling.constraint is not None, "none"),
            ("repetition_penalty", sampling.repetition_penalty != 1.0, "1"),
            ("temperature", mode == "greedy" and not is_greedy, "0 (an engine of mode 'sample' draws)"),
            ("seed", sampling.seed is not None and not is_greedy, "none, for a reply that is drawn"),
            ("num_logprobs", bool(sampling.num_logprobs), "0 or none"),
            ("num_logprobs", mode == "sample" and sampling.num_logprobs is not None, "none in mode 'sample'"),
        )
        for name, is_refused, allowed in refused:
            if is_refused:
                given = getattr(sampling, name)
                said = "set" if name in ("banned", "constraint") else repr(given)
                raise InputError(f"{name} is {said}; the paged engine allows: {allowed}", field=name)

    def _read(self, row: Row) -> tuple[list[int], tuple[_Content, ...]]:
        """Check a prompt against its features and name their contents."""
        row = Row(*row)
        ids = [int(token) for token in row.input_ids]
        if not ids:
            raise InputError("a prompt needs 1 or more tokens", field="input_ids")
        outside = next((token for token in ids if not 0 <= token < self.backbone.num_words), None)
        if outside is not None:
            raise InputError(
                f"input_ids holds {outside}; allowed: 0 to {self.backbone.num_words - 1}", field="input_ids"
            )
        unknown = sorted(set(row.features) - set(self.projectors))
        if unknown:
            known = ", ".join(self.projectors) or "(none)"
            raise InputError(f"features of unknown stream {', '.join(unknown)}; known: {known}", field="features")
        contents = []
        for name, placeholder in self.placeholder_ids.items():
            tokens = row.features.get(name)
            width = int(self.projectors[name].width_in)  # type: ignore[arg-type]
            if tokens is not None and (tokens.ndim != 2 or tokens.shape[1] != width):
                raise InputError(f"{name} has shape {tuple(tokens.shape)}; allowed: [T, {width}]", field=name)
            wanted = ids.count(placeholder)
            count = 0 if tokens is None else count_tokens(self.projectors[name], len(tokens))
            if wanted != count:
                raise InputError(
                    f"stream {name!r} gives {count} feature tokens for {wanted} placeholders (token id {placeholder})",
                    field=name,
                )
            if tokens is not None and count:
                contents.append(_Content(stream=name, key=_digest(name, tokens), count=count, tokens=tokens))
        return ids, tuple(contents)

    def _start(self) -> None:
        """Start the backbone; one that died of an error is started again, with nothing of before."""
        if self.backbone.is_running:
            return
        self._fail_all("the engine stopped")
        self.backbone.restart()
        self._ledger.renew()

    def _admit(self) -> None:
        """Hand waiting requests to the backbone, in order, while there are places and slots."""
        while self._waiting and len(self._running) < self.max_rows:
            reply = self._waiting[0]
            leases = self._ledger.acquire([(part.key, part.count) for part in reply.contents])
            if leases is None:
                if not self._ledger.is_worn_out or self._running:
                    return
                # Ids have run out and nobody uses any: begin again with the first, and nothing remembered of them.
                self.backbone.restart()
                self._ledger.renew()
                continue
            self._waiting.popleft()
            self._running[reply.request_id] = reply
            ids = list(reply.input_ids)
            self._write(reply, leases)
            for part, lease in zip(reply.contents, leases, strict=True):
                places = iter(lease.ids)
                placeholder = self.placeholder_ids[part.stream]
                ids = [next(places) if token == placeholder else token for token in ids]
            sampling = reply.request.sampling
            is_taken = self.backbone.submit(
                reply.request_id, ids, max_tokens=reply.room, ends=tuple(reply.ends),
                temperature=sampling.temperature, top_p=sampling.top_p,
            )  # fmt: skip
            if not is_taken:
                self._fail_all("the engine stopped")

    def _write(self, reply: _Reply, leases: Sequence[Lease]) -> None:
        """Project what is new into its slots; what goes wrong there (memory) ends this request and is raised."""
        fresh = [(part, lease) for part, lease in zip(reply.contents, leases, strict=True) if lease.is_new]
        is_written = False
        try:
            for part, lease in fresh:
                self.backbone.embedding.write(lease.rows, self._project(part))
            is_written = True
        finally:
            if not is_written:
                self._end(reply, "error", EmoLlamaError("the features could not be projected"))
                for part, _ in fresh:
                    self._ledger.forget(part.key)

    @torch.inference_mode()
    def _project(self, content: _Content) -> Tensor:
        tokens = content.tokens
        tensor = torch.from_numpy(np.ascontiguousarray(tokens)) if isinstance(tokens, np.ndarray) else tokens
        projector = self.projectors[content.stream]
        like = next(projector.parameters())
        projected: Tensor = projector(tensor.to(like.device, like.dtype))
        return projected

    # ---- and out -------------------------------------------------------------------------------------------------

    def _drive(self, *, timeout: float) -> None:
        """Wait for progress, tell it, let requests leave and come in; for everybody, by one thread at a time."""
        try:
            progress = self.backbone.poll(timeout=timeout) if self._running else None
            with self._lock:
                while progress is not None:
                    self._take(progress)
                    progress = self.backbone.poll(timeout=0.0)
                if self._running and not self.backbone.is_running:
                    self._fail_all("the engine stopped")
                self._leave_early()
                if self._waiting:
                    self._start()
                    self._admit()
        finally:
            with self._turn:
                self._is_driven = False
                self._turn.notify_all()

    def _take(self, progress: Progress) -> None:
        reply = self._running.get(progress.request_id)
        if reply is None:
            return  # it was cancelled, and this was under way
        reason = reply.interruption()
        if reason is not None:
            self._end(reply, reason)
            return
        tokens, start = progress.token_ids, reply.num_told
        has_ended = progress.is_finished and progress.error is None
        for index in range(start, len(tokens)):
            token = tokens[index]
            if token in reply.ends:
                self._end(reply, "stop")
                return
            reply.num_told += 1
            is_last = has_ended and index == len(tokens) - 1
            wants = reply.request.sampling.num_logprobs is not None
            event = Event(
                request_id=reply.request_id,
                token_id=token,
                logprob=progress.logprobs[index] if wants else None,
                reason="length" if is_last else None,
            )
            self._tell(reply, event)
            if is_last:
                return
        if progress.error is not None:
            self._end(reply, "error", EmoLlamaError(f"the engine could not answer: {progress.error}"))
        elif progress.is_finished:
            self._end(reply, "length")

    def _leave_early(self) -> None:
        for reply in [*self._waiting, *self._running.values()]:
            reason = reply.interruption()
            if reason is not None:
                self._end(reply, reason)

    def _fail_all(self, message: str) -> None:
        for reply in list(self._running.values()):
            self._end(reply, "error", EmoLlamaError(message))

    def _end(self, reply: _Reply, reason: FinishReason, error: EmoLlamaError | None = None) -> None:
        self._tell(reply, Event(request_id=reply.request_id, reason=reason, error=error))

    def _tell(self, reply: _Reply, event: Event) -> None:
        (self._untold if reply.mailbox is None else reply.mailbox).append(event)
        if event.reason is None:
            return
        self._replies.pop(reply.request_id, None)
        if self._running.pop(reply.request_id, None) is not None:
            if event.reason in ("cancelled", "deadline"):
                self.backbone.cancel(reply.request_id)
            for part in reply.contents:
                self._ledger.release(part.key)
        elif reply in self._waiting:
            self._waiting.remove(reply)


def _digest(stream: str, tokens: np.ndarray | Tensor) -> bytes:
    """Name feature tokens by what they hold."""
    array = tokens if isinstance(tokens, np.ndarray) else tokens.detach().float().cpu().numpy()
    digest = hashlib.blake2b(f"{stream}/{array.shape}/{array.dtype.str}/".encode(), digest_size=16)
    digest.update(array.tobytes())
    return digest.digest()
