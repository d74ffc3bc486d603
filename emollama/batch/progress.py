"""How a batch is doing, for a person: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console

_LINE_SECONDS = 10.0
_RECENT = 200  # the rate is that of so many clips


@dataclass(frozen=True, kw_only=True)
class State:
    """How many clips there are, are answered, and have failed."""

    total: int
    done: int
    failed: int


class Progress(Protocol):
    def show(self, state: State) -> None:
        """Tell how far the run is; called at its start and after each clip."""
        ...

    def close(self) -> None: ...


class Silent:
    def show(self, state: State) -> None: ...

    def close(self) -> None: ...


class Rate:
    """Clips a second over the last ones; what was there before the run, and the time before its first, do not count."""

    def __init__(self) -> None:
        self._times: deque[tuple[float, int]] = deque(maxlen=_RECENT)
        self._at_start: int | None = None

    def tell(self, num_finished: int, now: float) -> float | None:
        """Note how many are finished at ``now`` seconds; return the rate, ``None`` while it is not known."""
        if self._at_start is None:
            self._at_start = num_finished
        if num_finished == self._at_start:
            return None
        self._times.append((now, num_finished))
        (began, before), (ended, after) = self._times[0], self._times[-1]
        return (after - before) / (ended - began) if after > before and ended > began else None


class Lines:
    """A line at the start, then every ten seconds, and at the end."""

    def __init__(self, console: Console) -> None:
        self._console, self._rate = console, Rate()
        self._next = 0.0
        self._last: str | None = None

    def show(self, state: State) -> None:
        now = time.monotonic()
        rate = self._rate.tell(state.done + state.failed, now)
        self._last = _text(state, rate)
        if now >= self._next:
            self._next = now + _LINE_SECONDS
            self._print()

    def close(self) -> None:
        self._print()

    def _print(self) -> None:
        if self._last is not None:
            self._console.out(self._last, highlight=False)
            self._last = None


class Bar:
    """A bar with clips a second, the time that is left, and the errors."""

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._rate = Rate()
        self._progress = Progress(
            TextColumn("labelling"), BarColumn(), TextColumn("{task.fields[text]}", markup=False), TimeElapsedColumn(),
            console=console,
        )  # fmt: skip
        self._task = self._progress.add_task("labelling", total=None, text="loading the model")
        self._progress.start()

    def show(self, state: State) -> None:
        finished = state.done + state.failed
        rate = self._rate.tell(finished, time.monotonic())
        self._progress.update(self._task, total=state.total, completed=finished, text=_text(state, rate))

    def close(self) -> None:
        self._progress.stop()


def progress_on(console: Console) -> Progress:
    """Return a bar where there is a terminal, else lines."""
    return Bar(console) if console.is_terminal else Lines(console)


def _text(state: State, rate: float | None) -> str:
    finished = state.done + state.failed
    text = f"{finished}/{state.total} clips"
    if rate:
        left = (state.total - finished) / rate
        text += f", {rate:.2f}/s, {_span(left)} left"
    return text + (f", {state.failed} failed" if state.failed else "")


def _span(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
