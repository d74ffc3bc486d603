"""What a run's metrics become: every line told once, whatever happens to the file and its readers."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from server.jobs.progress import News, Progress, read_lines, read_news
from server.jobs.results import write_curves

MODEL = "ft:nano:acme:x:1"


def append(run: Path, *lines: dict[str, Any] | str) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        for line in lines:
            file.write(line if isinstance(line, str) else json.dumps(line) + "\n")


def step(number: int, **figures: Any) -> dict[str, Any]:
    return {"event": "step", "time": 1.0, "step": number, "loss": 1 / number, **figures}


def messages(news: News) -> list[str]:
    return [event.message for event in news.events]


def read(run: Path, progress: Progress) -> News:
    return read_news(run, progress, model=MODEL, now=1000.0)


def test_a_run_that_has_written_nothing_has_no_news(tmp_path: Path) -> None:
    assert read(tmp_path, Progress()) == News(progress=Progress())


def test_lines_are_told_once_as_they_come(tmp_path: Path) -> None:
    append(tmp_path, {"event": "start", "time": 1.0, "total_steps": 4, "trained": 7}, step(1, seconds_left=9))
    first = read(tmp_path, Progress())
    assert messages(first) == ["Training started: 4 steps", "Step 1/4: training loss=1.0000"]
    assert first.estimated_finish == 1009.0
    assert messages(read(tmp_path, first.progress)) == []
    append(tmp_path, step(2))
    assert messages(read(tmp_path, first.progress)) == ["Step 2/4: training loss=0.5000"]
    # The same from what was stored.
    stored = Progress.from_json(json.loads(json.dumps(first.progress.to_json())))
    assert messages(read(tmp_path, stored)) == ["Step 2/4: training loss=0.5000"]
    # A later version's fields are nothing to stumble over.
    assert Progress.from_json({**first.progress.to_json(), "new": 1}) == first.progress


def test_a_line_that_is_being_written_waits_and_a_torn_one_is_passed_over(tmp_path: Path) -> None:
    append(tmp_path, step(1), '{"event": "st')
    first = read(tmp_path, Progress())
    assert messages(first) == ["Step 1/0: training loss=1.0000"]
    append(tmp_path, 'ep", "time": 1.0, "step": 2, "loss": 0.5}\n')
    second = read(tmp_path, first.progress)
    assert messages(second) == ["Step 2/0: training loss=0.5000"]
    append(tmp_path, '{"torn\n', "[1]\n", {"event": "unheard of"}, step(3))
    assert messages(read(tmp_path, second.progress)) == ["Step 3/0: training loss=0.3333"]


def test_steps_that_a_resumed_run_repeats_are_told_once(tmp_path: Path) -> None:
    append(tmp_path, step(1, tokens=10), step(2, tokens=10), step(3, tokens=10))
    before = read(tmp_path, Progress())
    append(tmp_path, {"event": "resume", "time": 2.0, "step": 2}, step(3, tokens=10), step(4, tokens=10))
    after = read(tmp_path, before.progress)
    assert messages(after) == [
        "Training goes on from the checkpoint of step 2", "Step 4/0: training loss=0.2500",
    ]  # fmt: skip
    assert (before.trained_tokens, after.trained_tokens) == (30, 40)


def test_a_file_that_was_written_anew_is_read_anew_without_repeating(tmp_path: Path) -> None:
    start = {"event": "start", "time": 1.0, "total_steps": 3}
    resume = {"event": "resume", "time": 2.0, "step": 1}
    append(tmp_path, start, step(1), resume, step(2), {"event": "end", "time": 3.0, "note": "x" * 99})
    before = read(tmp_path, Progress())
    (tmp_path / "metrics.jsonl").unlink()
    append(tmp_path, start, step(1), resume, step(2), step(3))
    assert messages(read(tmp_path, before.progress)) == ["Step 3/3: training loss=0.3333"]


def test_tokens_are_counted_from_their_rate_when_no_count_is_given(tmp_path: Path) -> None:
    append(tmp_path, step(10, tokens_per_second=50.0, seconds=4.0), step(20))
    assert read(tmp_path, Progress()).trained_tokens == 200


def test_validations_and_checkpoints_are_told_with_their_figures(tmp_path: Path) -> None:
    validate = {"event": "validate", "time": 1.0, "step": 4, "best": True, "macro_f1": 0.5, "loss": 0.25, "note": "x"}
    append(tmp_path, step(4), validate, {"event": "checkpoint", "time": 1.0, "step": 4, "export": "exports/step-4"})
    append(tmp_path, validate, {"event": "checkpoint", "time": 1.0, "step": 4, "export": "exports/step-4"})
    append(tmp_path, {"event": "checkpoint", "time": 1.0, "step": 6, "export": None})
    news = read(tmp_path, Progress())
    assert messages(news)[1:] == [
        "Validation at step 4: macro_f1=0.5000, loss=0.2500", f"Checkpoint of step 4: {MODEL}:ckpt-step-4",
    ]  # fmt: skip
    assert news.events[1].data == {"step": 4, "valid_macro_f1": 0.5, "valid_loss": 0.25}
    (checkpoint,) = news.checkpoints
    assert checkpoint.metrics == {
        "step": 4, "train_loss": 0.25, "valid_loss": 0.25, "full_valid_macro_f1": 0.5, "full_valid_loss": 0.25,
    }  # fmt: skip


def test_what_was_chosen_is_read_from_the_runs_config(tmp_path: Path) -> None:
    append(tmp_path, {"event": "start", "time": 1.0, "total_steps": 4})
    assert read(tmp_path, Progress()).hyperparameters == {}
    (tmp_path / "config.json").write_text('{"epochs": 3, "batch_size": 8, "recipe": "instruct"}')
    assert read(tmp_path, Progress()).hyperparameters == {"n_epochs": 3, "batch_size": 8}


def test_a_long_file_is_read_in_turns_to_its_end(tmp_path: Path) -> None:
    append(tmp_path, *(step(number, note="x" * 200) for number in range(1, 8001)))
    turns, offset, count = 0, 0, 0
    while lines := list(read_lines(tmp_path / "metrics.jsonl", offset=offset)):
        turns, offset, count = turns + 1, lines[-1][1], count + len(lines)
    assert count == 8000
    assert turns > 1
    write_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.csv")
    rows = list(csv.DictReader((tmp_path / "curves.csv").read_text().splitlines()))
    assert [int(row["step"]) for row in rows] == list(range(1, 8001))


def test_curves_hold_a_step_once_with_what_the_resumed_run_says(tmp_path: Path) -> None:
    append(tmp_path, step(1), step(2, loss=9.0), {"event": "resume", "time": 2.0, "step": 1}, step(2))
    append(tmp_path, {"event": "validate", "time": 1.0, "step": 2, "macro_f1": 0.75})
    write_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.csv")
    first, second = csv.DictReader((tmp_path / "curves.csv").read_text().splitlines())
    assert (first["train_loss"], first["valid_macro_f1"]) == ("1.0", "")
    assert (second["train_loss"], second["valid_macro_f1"]) == ("0.5", "0.75")
