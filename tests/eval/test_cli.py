"""``emollama eval``: the table and the file a user gets, and what is said when something is missing."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from emollama.errors import DatasetError, InputError, UnknownNameError
from eval.cli import app, find_data, read_settings, run
from eval.tasks import TASKS, describe_task, load_task


def quiet() -> Console:
    return Console(file=io.StringIO(), width=100)


def test_report_holds_the_result_and_its_origin(tmp_path: Path) -> None:
    def task(data: Path) -> dict[str, Any]:
        return {"uar": 0.75, "recall": {"anger": 0.5}, "confusion": [[1, 0], [0, 1]], "data": data.name}

    console = quiet()
    run(console, "toy", task, data=tmp_path, json_path=tmp_path / "logs" / "toy.json")
    report = json.loads((tmp_path / "logs" / "toy.json").read_text())
    assert report["result"]["confusion"] == [[1, 0], [0, 1]]
    assert {"task", "command", "git_revision", "versions", "machine", "date", "seconds"} <= set(report)
    assert "python" in report["versions"]
    shown = console.file.getvalue()
    assert "recall.anger" in shown
    assert "0.7500" in shown


def test_options_reach_the_task_that_takes_them(tmp_path: Path) -> None:
    def task(data: Path, *, model: str, progress: Callable[[int, int], None]) -> dict[str, Any]:
        progress(1, 2)
        return {"model": model}

    assert run(quiet(), "toy", task, data=tmp_path, options={"model": "mine"})["result"] == {"model": "mine"}


def test_a_setting_without_effect_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no effect on task 'toy'; it takes: no settings"):
        run(quiet(), "toy", lambda data: {}, data=tmp_path, options={"model": "mine"})


def test_settings_are_json_or_text() -> None:
    assert read_settings(["limit=500", "adapter=false", "split=dev"]) == {
        "limit": 500,
        "adapter": False,
        "split": "dev",
    }
    with pytest.raises(InputError, match="key=value"):
        read_settings(["limit"])


def test_data_is_found_by_option_then_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMOLLAMA_DATA", str(tmp_path))
    assert find_data(None) == tmp_path
    with pytest.raises(DatasetError, match="--data"):
        find_data(tmp_path / "absent")


def test_without_a_task_the_tasks_are_listed() -> None:
    result = CliRunner().invoke(app, [])
    assert result.exit_code == 0
    for name in TASKS:
        assert name in result.stdout


def test_an_unknown_task_names_the_known_ones() -> None:
    result = CliRunner().invoke(app, ["nonsense"])
    assert result.exit_code == 2
    assert "ferplus" in result.stderr
    with pytest.raises(UnknownNameError):
        describe_task("nonsense")


@pytest.mark.parametrize("name", TASKS)
def test_every_task_loads_and_says_what_it_is(name: str) -> None:
    assert callable(load_task(name))
    assert describe_task(name)
