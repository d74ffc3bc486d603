"""What a person is told while a batch runs."""

from __future__ import annotations

import io

from rich.console import Console

from emollama.batch.progress import Bar, Lines, Rate, State, progress_on


def test_the_rate_counts_what_this_run_did_since_its_first_clip():
    rate = Rate()
    assert rate.tell(50, 0.0) is None  # there already; the model is being loaded
    assert rate.tell(51, 30.0) is None
    assert rate.tell(53, 31.0) == 2.0
    assert rate.tell(59, 34.0) == 2.0


def test_without_a_terminal_there_are_plain_lines():
    text = io.StringIO()
    progress = progress_on(Console(file=text))
    assert isinstance(progress, Lines)
    for done in range(100):
        progress.show(State(total=200, done=done, failed=1))
    progress.close()
    first, *_, last = text.getvalue().splitlines()
    assert first == "1/200 clips, 1 failed"
    assert last.startswith("100/200 clips")
    assert len(text.getvalue().splitlines()) == 2


def test_on_a_terminal_there_is_a_bar():
    text = io.StringIO()
    progress = progress_on(Console(file=text, force_terminal=True, width=120))
    assert isinstance(progress, Bar)
    progress.show(State(total=4, done=1, failed=0))
    progress.show(State(total=4, done=2, failed=1))
    progress.close()
    assert "3/4 clips" in text.getvalue()
    assert "1 failed" in text.getvalue()
