"""`Display`: how a run is doing, for a person: a live panel on a terminal, log lines elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

logger = logging.getLogger(__name__)

_SMOOTHING = 0.9  # of the loss that is shown, per step


class Display:
    """Shows recipe, epoch, step, smoothed loss, rate, tokens per second, time left and the last validation.

    Only the main process has one that ``shows``. A context manager: the live panel ends with it.
    """

    def __init__(
        self, *, recipe: str, epochs: int, total_steps: int, step: int, shows: bool, console: Console | None = None
    ) -> None:
        self.recipe, self.epochs, self.total_steps, self.step = recipe, epochs, total_steps, step
        self.shows = shows
        self.console = console or Console(stderr=True)
        self.is_live = shows and self.console.is_terminal
        self.loss: float | None = None
        self.facts: dict[str, str] = {}
        self._bar = Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), console=self.console)
        self._task = self._bar.add_task(recipe, total=total_steps, completed=step)
        self._live = Live(get_renderable=self._render, console=self.console, refresh_per_second=4, transient=True)

    def __enter__(self) -> Display:
        if self.is_live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_live:
            self._live.stop()

    def stepped(self, *, step: int, epoch: int, seconds_left: float) -> None:
        """Move the bar."""
        if self.is_live:
            self._bar.update(self._task, completed=step, description=f"{self.recipe} epoch {epoch + 1}/{self.epochs}")
            self.facts["time left"] = duration(seconds_left)

    def logged(
        self, *, step: int, epoch: int, loss: float, learning_rate: float, tokens_per_second: float, seconds_left: float
    ) -> None:
        """Show the figures of a ``step`` line of ``metrics.jsonl``."""
        kept = _SMOOTHING ** max(1, step - self.step)
        self.loss = loss if self.loss is None else kept * self.loss + (1 - kept) * loss
        self.step = step
        self.facts |= {"loss": f"{self.loss:.4f}", "learning rate": f"{learning_rate:.2e}"}
        if tokens_per_second:
            self.facts["tokens/s"] = f"{tokens_per_second:,.0f}"
        self.facts["time left"] = duration(seconds_left)
        if self.shows and not self.is_live:
            logger.info("%s epoch %d/%d step %d/%d %s", self.recipe, epoch + 1, self.epochs, step, self.total_steps,
                        "  ".join(f"{name} {value}" for name, value in self.facts.items()))  # fmt: skip

    def validated(self, metrics: Mapping[str, float], *, step: int, is_best: bool) -> None:
        """Show a validation."""
        shown = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        if self.is_live:
            self.facts = {name: value for name, value in self.facts.items() if not name.startswith("validation")}
            self.facts[f"validation at step {step}" + (", the best" if is_best else "")] = shown
        elif self.shows:
            logger.info("%s step %d validation%s  %s", self.recipe, step, " (best)" if is_best else "", shown)

    def _render(self) -> Group:
        table = Table.grid(padding=(0, 2))
        for name, value in self.facts.items():
            table.add_row(name, value)
        return Group(self._bar, table)


class Clock:
    """Tokens per second since the last log line, and the seconds that the rest of a run will take."""

    def __init__(self) -> None:
        self._since = self._stepped = time.monotonic()
        self._tokens = 0
        self._seconds_per_step: float | None = None

    def step(self, *, tokens: float) -> None:
        now = time.monotonic()
        taken, self._stepped = now - self._stepped, now
        before = self._seconds_per_step
        self._seconds_per_step = taken if before is None else 0.95 * before + 0.05 * taken
        self._tokens += int(tokens)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What is done in here (validating, saving) does not count against the tokens per second."""
        begun = time.monotonic()
        yield
        self._since += time.monotonic() - begun

    def seconds_left(self, steps: int) -> float:
        return round(steps * (self._seconds_per_step or 0.0), 1)

    def lap(self) -> dict[str, float]:
        """Return ``seconds`` and ``tokens_per_second`` since the last lap, and begin the next one."""
        now = time.monotonic()
        seconds = max(now - self._since, 1e-9)
        figures = {"seconds": round(seconds, 2), "tokens_per_second": round(self._tokens / seconds, 1)}
        self._since, self._tokens = now, 0
        return figures


def duration(seconds: float) -> str:
    """Write seconds as "1:02:03" or "2:03"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
