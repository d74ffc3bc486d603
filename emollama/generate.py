"""`Engine`: several replies in flight, decoded as one batch; add, step, stream, cancel.

The engine schedules and knows no tensors: `emollama.runtime.Runtime` computes. New requests join between two steps,
so a long reply never holds up a short one. Where a constraint leaves one token only, that token and those that follow
by force cost no step of their own: they are computed together with the next choice. Greedy replies are the same
whether they are decoded alone or together (in fp32; a test holds it), and every reply has its own random generator, so
seeds keep their meaning in company.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from emollama.errors import BusyError, EmoLlamaError, InputError

if TYPE_CHECKING:
    from emollama.runtime import Cancel, Choice, Chooser, DecodeBatch, Prefix, Row, Runtime, Sampling

FinishReason = Literal["stop", "length", "cancelled", "deadline", "error"]
_RESERVE = 256  # room for a reply in the cache of a batch; it grows where that is not enough
_LONGEST_RUN = 16  # forced tokens of one reply in one step; the other replies' rows are padded to it


@dataclass(frozen=True, kw_only=True)
class Request:
    """A reply that is wanted: to ``row`` (a prompt still to be computed) or to row ``prefix_row`` of ``prefix``.

    ``timeout_seconds`` counts from `Engine.add`; ``cancel`` is asked before every token.
    """

    sampling: Sampling
    row: Row | None = None
    prefix: Prefix | None = None
    prefix_row: int = 0
    timeout_seconds: float | None = None
    cancel: Cancel | Callable[[], bool] | None = None

    def __post_init__(self) -> None:
        if (self.row is None) == (self.prefix is None):
            raise InputError("a request holds either row or prefix", field="row")
        if self.timeout_seconds is not None and self.timeout_seconds <= 0:
            raise InputError(f"timeout_seconds is {self.timeout_seconds!r}; allowed: above 0", field="timeout_seconds")


@dataclass(frozen=True, kw_only=True)
class Event:
    """What happened to one request in one step: a token, or the end.

    ``token_id`` is ``None`` when only the end is told; ``reason`` is ``None`` while the reply goes on; ``error`` says
    what was wrong with the request. An end or stop token is not part of the reply and is not told.
    """

    request_id: str
    token_id: int | None = None
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    reason: FinishReason | None = None
    error: EmoLlamaError | None = None


@dataclass(eq=False)
class _Reply:
    request_id: str
    request: Request
    chooser: Chooser
    ends: frozenset[int]
    deadline: float | None
    room: int = 0
    is_cancelled: bool = False
    mailbox: deque[Event] | None = field(default=None)
    wake: threading.Condition | None = field(default=None)  # of the thread that waits for the mailbox

    def interruption(self) -> FinishReason | None:
        """Say why the reply must end now, if it must."""
        if self.is_cancelled:
            return "cancelled"
        if self.request.cancel is not None:
            from emollama.runtime import is_cancelled

            if is_cancelled(self.request.cancel):
                return "cancelled"
        if self.deadline is not None and time.monotonic() >= self.deadline:
            return "deadline"
        return None


class Engine:
    """Continuous batching over one runtime. Any thread may call any method; whoever waits drives the steps.

    ``max_rows`` replies are decoded together, ``max_waiting`` more may wait; beyond that `add` raises `BusyError`.
    """

    def __init__(self, runtime: Runtime, *, max_rows: int = 8, max_waiting: int = 64) -> None:
        for name, value in (("max_rows", max_rows), ("max_waiting", max_waiting)):
            if value < 1:
                raise InputError(f"{name} is {value!r}; allowed: 1 or more", field=name)
        self.runtime, self.max_rows, self.max_waiting = runtime, max_rows, max_waiting
        self.on_step: Callable[[int], None] = lambda num_rows: None  # told how many replies each step goes on by
        self._numbers = itertools.count(1)
        self._waiting: deque[_Reply] = deque()
        self._running: list[_Reply] = []  # in the order of the batch's rows
        self._batch: DecodeBatch = runtime.batch()
        self._likeliest: list[int] = []  # the likeliest next token of every row, once a step has asked for them
        self._replies: dict[str, _Reply] = {}
        self._queue_lock = threading.Lock()  # guards the queues, held for moments
        self._step_lock = threading.Lock()  # held while a step computes
        self._left: deque[_Reply] = deque()  # running replies whose readers have left
        self._turn = threading.Lock()  # guards who steps and who sleeps, held for moments
        self._is_stepping = False
        self._sleepers: list[_Reply] = []

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def has_work(self) -> bool:
        return bool(self._waiting or self._running)

    def add(self, request: Request) -> str:
        """Queue a request and return its id; raises `BusyError` when ``max_waiting`` requests wait already."""
        return self._add(request, mailbox=None).request_id

    def cancel(self, request_id: str) -> bool:
        """End a request at the next step with reason "cancelled"; false when it has ended or never was."""
        reply = self._replies.get(request_id)
        if reply is None:
            return False
        reply.is_cancelled = True
        return True

    def step(self) -> list[Event]:
        """Let waiting requests in, decode one token for every reply, and return what happened.

        Events of a request that is being streamed go to its stream as well.
        """
        with self._step_lock:
            events: list[Event] = []
            self._leave_early(events)
            self._admit(events)
            self._decode(events)
        self._let_go()
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
                self._step_or_sleep(reply)
        finally:
            if self.cancel(reply.request_id):
                self._left.append(reply)
                self._let_go()

    def _let_go(self) -> None:
        """Drop the rows of replies that nobody reads any more; during a step, whoever computes it does so after it.

        There may be no further step, and a row holds memory. This waits for no lock: a generator may be closed by the
        garbage collector, wherever its thread is.
        """
        while self._left and self._step_lock.acquire(blocking=False):
            try:
                for reply in [self._left.popleft() for _ in range(len(self._left))]:
                    if reply in self._running:
                        self._remove(self._running.index(reply))
                        self._replies.pop(reply.request_id, None)
            finally:
                self._step_lock.release()

    def _step_or_sleep(self, reply: _Reply) -> None:
        """Return when the reply's mailbox may hold something: somebody else's step filled it, or this thread's did.

        One thread steps at a time, for everybody; it wakes whom the step gave something, and one more, who goes on
        stepping in case it does not come back.
        """
        assert reply.mailbox is not None
        with self._turn:
            while self._is_stepping and not reply.mailbox:
                reply.wake = reply.wake or threading.Condition(self._turn)
                self._sleepers.append(reply)
                reply.wake.wait()
                self._sleepers.remove(reply)
            if reply.mailbox:
                return
            self._is_stepping = True
        try:
            self.step()
        finally:
            with self._turn:
                self._is_stepping = False
                is_handed_on = False
                for sleeper in self._sleepers:
                    assert sleeper.wake is not None
                    if sleeper.mailbox or not is_handed_on:
                        is_handed_on = is_handed_on or not sleeper.mailbox
                        sleeper.wake.notify()

    def _add(self, request: Request, *, mailbox: deque[Event] | None) -> _Reply:
        from emollama.runtime import Chooser

        sampling = request.sampling
        with self._queue_lock:
            if len(self._waiting) >= self.max_waiting:
                raise BusyError(f"{self.max_waiting} requests are waiting already", retry_after_seconds=1.0)
            reply = _Reply(
                request_id=f"gen-{next(self._numbers)}",
                request=request,
                chooser=Chooser(sampling),
                ends=self.runtime.eos_ids | frozenset(sampling.stop_ids),
                deadline=None if request.timeout_seconds is None else time.monotonic() + request.timeout_seconds,
                mailbox=mailbox,
            )
            self._waiting.append(reply)
            self._replies[reply.request_id] = reply
        return reply

    def _tell(self, events: list[Event], reply: _Reply, event: Event) -> None:
        events.append(event)
        if reply.mailbox is not None:
            reply.mailbox.append(event)
        if event.reason is not None:
            self._replies.pop(reply.request_id, None)

    def _end(
        self, events: list[Event], reply: _Reply, reason: FinishReason, error: EmoLlamaError | None = None
    ) -> None:
        self._tell(events, reply, Event(request_id=reply.request_id, reason=reason, error=error))

    def _leave_early(self, events: list[Event]) -> None:
        with self._queue_lock:
            waiting, self._waiting = list(self._waiting), deque()
            for reply in waiting:
                reason = reply.interruption()
                if reason is None:
                    self._waiting.append(reply)
                else:
                    self._end(events, reply, reason)
        for index in reversed(range(len(self._running))):
            reason = self._running[index].interruption()
            if reason is not None:
                self._end(events, self._running[index], reason)
                self._remove(index)

    def _remove(self, index: int) -> None:
        self._batch.drop(index)
        last = self._running.pop()  # it takes the place, here as in the batch
        if index < len(self._running):
            self._running[index] = last

    def _admit(self, events: list[Event]) -> None:
        with self._queue_lock:
            free = self.max_rows - len(self._running)
            fresh = [self._waiting.popleft() for _ in range(min(free, len(self._waiting)))]
        good: list[_Reply] = []
        for reply in fresh:
            if reply.request.row is not None:
                try:
                    self.runtime.embed([reply.request.row])  # a bad request must not spoil the others' prefill
                except EmoLlamaError as error:
                    self._end(events, reply, "error", error)
                    continue
            good.append(reply)
        rows = [reply.request.row for reply in good if reply.request.row is not None]
        computed = self._prefill(events, good, rows)
        fresh_prefix = self._whole(good, computed)
        if fresh_prefix is not None:
            self._batch.adopt(fresh_prefix)
        for reply in good:
            prefix, row = computed.get(reply.request_id, (reply.request.prefix, reply.request.prefix_row))
            if prefix is None:
                continue  # its prefill failed and it has been told
            reply.room = self.runtime.room(prefix.lengths[row], reply.request.sampling)
            if reply.room == 0:
                self._end(events, reply, "length")
                continue
            if fresh_prefix is None:
                self._batch.admit(prefix, row, reserve=min(reply.room, _RESERVE))
            self._running.append(reply)

    def _whole(self, replies: list[_Reply], computed: dict[str, tuple[Prefix, int]]) -> Prefix | None:
        """Return the prefix that was just computed for all of these replies, when it can become the empty batch."""
        if self._running or not replies or len(computed) < len(replies):
            return None
        prefix = computed[replies[0].request_id][0]
        for place, reply in enumerate(replies):
            its_prefix, row = computed[reply.request_id]
            room = self.runtime.room(prefix.lengths[row], reply.request.sampling) if its_prefix is prefix else 0
            if row != place or room == 0:
                return None
        return prefix

    def _prefill(self, events: list[Event], replies: list[_Reply], rows: list[Row]) -> dict[str, tuple[Prefix, int]]:
        """Compute the prompts together; when that fails (one is too long), one by one, so only the culprit ends."""
        owners = [reply for reply in replies if reply.request.row is not None]
        if not owners:
            return {}
        try:
            prefix = self.runtime.prefill(
                rows, reserve=min(_RESERVE, max(r.request.sampling.max_tokens for r in owners))
            )
            return {reply.request_id: (prefix, index) for index, reply in enumerate(owners)}
        except InputError:
            computed: dict[str, tuple[Prefix, int]] = {}
            for reply, row in zip(owners, rows, strict=True):
                try:
                    computed[reply.request_id] = (self.runtime.prefill([row]), 0)
                except InputError as error:
                    self._end(events, reply, "error", error)
            return computed

    def _decode(self, events: list[Event]) -> None:
        """Choose one token for every reply, take those that follow by force, and compute them all in one pass."""
        if not self._running:
            return
        self._likeliest = []
        runs = [self._run(events, reply, index) for index, reply in enumerate(self._running)]
        for index in reversed(range(len(runs))):
            if runs[index] is None:
                self._remove(index)
                last = runs.pop()
                if index < len(runs):
                    runs[index] = last
        if self._running:
            self.on_step(len(self._running))
            self._batch.advance([run for run in runs if run is not None])

    def _run(self, events: list[Event], reply: _Reply, index: int) -> list[int] | None:
        """Return the tokens that one reply goes on by, 1 or more, or ``None`` when it has ended."""
        run: list[int] = []
        while len(run) < _LONGEST_RUN:
            choice = reply.chooser.follow()
            if choice is None:
                if run:
                    return run  # what comes next depends on what is not computed yet
                choice = self._choose(events, reply, index)
                if choice is None:
                    return None
            if choice.token_id in reply.ends:
                self._end(events, reply, "stop")
                return None
            is_last = len(reply.chooser.token_ids) >= reply.room
            event = Event(
                request_id=reply.request_id,
                token_id=choice.token_id,
                logprob=choice.logprob,
                top=choice.top,
                reason="length" if is_last else None,
            )
            self._tell(events, reply, event)
            if is_last:
                return None
            run.append(choice.token_id)
        return run

    def _choose(self, events: list[Event], reply: _Reply, index: int) -> Choice | None:
        if reply.chooser.takes_likeliest:
            self._likeliest = self._likeliest or self._batch.likeliest()
            return reply.chooser.take(self._likeliest[index])
        try:
            return reply.chooser.choose(self._batch.logits()[index])
        except InputError as error:
            self._end(events, reply, "error", error)
            return None
