"""What a person sees of a run: a live panel on a terminal, log lines in a file, nothing from other processes."""

from __future__ import annotations

import io
import logging

import pytest
from rich.console import Console

from train.display import Clock, Display, duration


def make(*, is_terminal: bool, shows: bool = True) -> Display:
    console = Console(file=io.StringIO(), force_terminal=is_terminal, width=100)
    return Display(recipe="instruct", epochs=3, total_steps=60, step=0, shows=shows, console=console)


def tell(display: Display) -> None:
    for step, loss in ((10, 2.0), (20, 1.0)):
        display.stepped(step=step, epoch=1, seconds_left=125)
        display.logged(
            step=step, epoch=1, loss=loss, learning_rate=2e-4, tokens_per_second=12345.6, seconds_left=125
        )  # fmt: skip
    display.validated({"macro_f1": 0.512}, step=20, is_best=True)


def test_a_terminal_shows_where_the_run_is():
    display = make(is_terminal=True)
    with display:
        tell(display)
        display.console.print(display._render())
    shown = display.console.file.getvalue()
    for text in ("instruct epoch 2/3", "20/60", "2.00e-04", "12,346", "2:05", "validation at step 20, the best"):
        assert text in shown
    assert "macro_f1 0.5120" in shown


def test_only_the_last_validation_is_shown():
    display = make(is_terminal=True)
    for step, score in ((10, 0.5), (20, 0.5)):
        display.validated({"macro_f1": score}, step=step, is_best=step == 10)
    assert [name for name in display.facts if "validation" in name] == ["validation at step 20"]


def test_the_loss_is_smoothed_over_the_steps_between_two_lines():
    display = make(is_terminal=True)
    tell(display)
    kept = 0.9**10
    assert display.loss == pytest.approx(kept * 2.0 + (1 - kept) * 1.0)


def test_elsewhere_it_writes_log_lines(caplog):
    caplog.set_level(logging.INFO)
    display = make(is_terminal=False)
    with display:
        tell(display)
    assert display.console.file.getvalue() == ""
    assert "instruct epoch 2/3 step 20/60" in caplog.text
    assert "tokens/s 12,346" in caplog.text
    assert "step 20 validation (best)  macro_f1 0.5120" in caplog.text


def test_other_processes_show_nothing(caplog):
    caplog.set_level(logging.INFO)
    display = make(is_terminal=True, shows=False)
    with display:
        tell(display)
    assert display.console.file.getvalue() == ""
    assert caplog.text == ""


def test_the_clock_counts_tokens_and_the_time_that_is_left(monkeypatch):
    now = 100.0
    monkeypatch.setattr("train.display.time.monotonic", lambda: now)
    clock = Clock()
    for _ in range(4):
        now += 2.0
        clock.step(tokens=50)
    assert clock.seconds_left(10) == 20.0
    assert clock.lap() == {"seconds": 8.0, "tokens_per_second": 25.0}
    with clock.paused():
        now += 30.0
    now += 1.0
    clock.step(tokens=50)
    assert clock.lap() == {"seconds": 1.0, "tokens_per_second": 50.0}


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (65.4, "1:05"), (3723, "1:02:03")])
def test_a_duration_reads_like_a_clock(seconds, text):
    assert duration(seconds) == text
