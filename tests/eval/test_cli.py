"""``emollama eval``: what a user sees, what is written, and what is said when something is missing."""

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
from eval.cli import app, find_data
from eval.part import read_settings, run_part
from eval.parts import PARTS, load_part
from eval.task import EvalTask
from eval.tasks import TASKS, describe_task, load_task
from tests.eval.tasks.miniatures import emodb, ferplus, goemotions
from tests.eval.toy import ToyModel, same_origin, toy_task


def quiet() -> Console:
    return Console(file=io.StringIO(), width=100)


@pytest.fixture
def data(tmp_path: Path, media: type, monkeypatch: pytest.MonkeyPatch) -> Path:
    for build in (ferplus, emodb, goemotions):
        build(tmp_path / "data", media)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data"


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """Run the command with the toy task under the name ferplus, and a toy model."""
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments: str, model: ToyModel | None = None, task: EvalTask | None = None) -> Any:
        chosen = model or ToyModel()
        monkeypatch.setattr("eval.cli.open_model", lambda *args, **named: chosen)
        monkeypatch.setattr("eval.cli.load_task", lambda name: task or toy_task())
        return CliRunner().invoke(app, [*arguments])

    return invoke


# ---- tasks --------------------------------------------------------------------------------------------------------


def test_without_a_task_the_tasks_are_listed() -> None:
    result = CliRunner().invoke(app, [])
    assert result.exit_code == 0
    for name in TASKS:
        assert name in result.stdout


def test_help_names_the_commands() -> None:
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    for name in ("run", "compare", "leaderboard", "part", "results"):
        assert name in result.stdout


def test_an_unknown_task_names_the_known_ones() -> None:
    result = CliRunner().invoke(app, ["nonsense"])
    assert result.exit_code == 2
    assert "ferplus" in result.stderr
    with pytest.raises(UnknownNameError):
        describe_task("nonsense")


def test_nano_runs_several_tasks_in_one_call(data: Path, tmp_path: Path) -> None:
    command = ["ferplus", "goemotions", "--data", str(data), "--run-dir", "out", "--resamples", "20"]
    result = CliRunner().invoke(app, [*command, "--json", "logs/{task}.json"])
    assert result.exit_code == 0, result.output
    for name in ("ferplus", "goemotions"):
        assert (tmp_path / "out" / name / "report.html").is_file()
        log = json.loads((tmp_path / "logs" / f"{name}.json").read_text())
        assert log["result"]["task"] == name
        assert log["result"]["n"] == 2
        assert {"command", "git_revision", "versions", "machine", "date"} <= set(log)
    assert "the official figure" in result.stdout
    refused = CliRunner().invoke(app, [*command, "--json", "one.json"])
    assert refused.exit_code == 2
    assert "{task}" in refused.stderr
    page = CliRunner().invoke(app, ["results", "logs/ferplus.json", "--output", "docs/results.md"])
    assert page.exit_code == 0
    assert "FER+" in (tmp_path / "docs" / "results.md").read_text()


def test_ctrl_c_says_how_to_go_on_and_going_on_ends_the_same(
    toy: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    same_origin(monkeypatch)
    command = ("ferplus", "--data", ".", "--run-dir", "cut", "--resamples", "20", "--no-ablate")
    cut = toy(*command, model=ToyModel(wrong=["clip01"], stop_after=10))
    assert cut.exit_code == 130
    assert "--run-dir" in cut.stderr
    assert "--resume" in cut.stderr
    assert len((tmp_path / "cut" / "predictions.jsonl").read_text().splitlines()) == 10
    again = ToyModel(wrong=["clip01"])
    assert toy(*command, "--resume", model=again).exit_code == 0
    assert len(again.asked) == 14
    whole = [word if word != "cut" else "whole" for word in command]
    assert toy(*whole, model=ToyModel(wrong=["clip01"])).exit_code == 0
    one, two = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("cut", "whole"))
    assert {**one, "latency": None} == {**two, "latency": None}


def test_resume_without_a_folder_takes_the_newest_unfinished_run(toy: Callable[..., Any], tmp_path: Path) -> None:
    command = ("toy", "--data", ".", "--resamples", "20", "--no-ablate")
    assert toy(*command, model=ToyModel(stop_after=5)).exit_code == 130
    again = ToyModel()
    assert toy(*command, "--resume", model=again).exit_code == 0
    assert len(again.asked) == 19
    assert len(list((tmp_path / "runs" / "eval").iterdir())) == 1
    fresh = ToyModel()
    assert toy(*command, "--resume", model=fresh).exit_code == 0  # nothing is unfinished: a new run
    assert len(fresh.asked) == 24


def test_failed_items_make_the_exit_code_1_and_are_shown(toy: Callable[..., Any]) -> None:
    result = toy("toy", "--data", ".", "--resamples", "20", "--run-dir", "x", model=ToyModel(fails=["clip03"]))
    assert result.exit_code == 1
    assert "What failed" in result.stdout
    assert "clip03" in result.stdout


def test_a_leak_is_refused_and_allowed_by_name(toy: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"id": "a", "clip": "gone.wav", "label": "sad", "speaker": "speaker1"}\n')
    command = ("toy", "--data", ".", "--resamples", "20", "--no-ablate", "--train-manifest", "train.jsonl")
    refused = toy(*command, "--run-dir", "x")
    assert refused.exit_code == 2
    assert "5 of 24 items share a speaker with the training manifest train.jsonl: 'speaker1'" in refused.stderr
    assert toy(*command, "--run-dir", "x", "--allow-leak", "speaker:speaker1").exit_code == 0
    assert "LEAK" in (tmp_path / "x" / "report.html").read_text()


def test_two_runs_are_compared_and_ranked(toy: Callable[..., Any], tmp_path: Path) -> None:
    for name, wrong in (("a", ["clip01"]), ("b", [f"clip{i:02d}" for i in range(9)])):
        folder = ("--run-dir", f"runs/{name}")
        assert toy("toy", "--data", ".", "--no-ablate", *folder, model=ToyModel(name=name, wrong=wrong)).exit_code == 0
    compared = toy("compare", "runs/a", "runs/b", "--json", "c.json")
    assert compared.exit_code == 0, compared.output
    assert "McNemar" in compared.stdout
    assert json.loads((tmp_path / "c.json").read_text())["num_differing"] == 8
    ranked = toy("leaderboard", "runs", "--html", "board.html", "--markdown", "board.md")
    assert ranked.exit_code == 0, ranked.output
    text = (tmp_path / "board.md").read_text()
    assert text.index("| 1 | a |") < text.index("| 2 | b |") < text.index("Somebody")
    assert "<table>" in (tmp_path / "board.html").read_text()
    missing = toy("compare", "runs/a", "nowhere")
    assert missing.exit_code == 2
    assert "not there" in missing.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--endpoint", "http://localhost:1"], "--endpoint-model NAME"),
        (["--endpoint-model", "m"], "no effect without --endpoint"),
        (["--retry-failed"], "no effect without --resume"),
        (["--limit", "0"], "limit 0"),
        (["--split", "elsewhere"], "no split 'elsewhere'"),
        (["--data", "absent"], "does not exist"),
        (["--allow-leak", "all"], "clip, speaker"),
    ],
)
def test_settings_without_sense_are_refused(data: Path, arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(
        app, ["goemotions", *(["--data", str(data)] if "--data" not in arguments else []), *arguments]
    )
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("name", TASKS)
def test_every_task_loads_and_says_what_it_is(name: str) -> None:
    task = load_task(name)
    assert task.name == name
    assert describe_task(name)


def test_data_is_found_by_option_then_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMOLLAMA_DATA", str(tmp_path))
    assert find_data(None) == tmp_path
    with pytest.raises(DatasetError, match="--data"):
        find_data(tmp_path / "absent")


# ---- parts --------------------------------------------------------------------------------------------------------


def test_a_part_leaves_its_result_and_its_origin(tmp_path: Path) -> None:
    def part(data: Path) -> dict[str, Any]:
        return {"uar": 0.75, "recall": {"anger": 0.5}, "confusion": [[1, 0], [0, 1]], "data": data.name}

    console = quiet()
    run_part(console, "toy", part, data=tmp_path, json_path=tmp_path / "logs" / "toy.json")
    report = json.loads((tmp_path / "logs" / "toy.json").read_text())
    assert report["result"]["confusion"] == [[1, 0], [0, 1]]
    assert {"task", "command", "git_revision", "versions", "machine", "date", "seconds"} <= set(report)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "recall.anger" in shown
    assert "0.7500" in shown


def test_settings_reach_the_part_that_takes_them(tmp_path: Path) -> None:
    def part(data: Path, *, model: str, progress: Callable[[int, int], None]) -> dict[str, Any]:
        progress(1, 2)
        return {"model": model}

    assert run_part(quiet(), "toy", part, data=tmp_path, options={"model": "mine"})["result"] == {"model": "mine"}
    with pytest.raises(InputError, match="no effect on part 'toy'; it takes: no settings"):
        run_part(quiet(), "toy", lambda data: {}, data=tmp_path, options={"model": "mine"})


def test_settings_are_json_or_text() -> None:
    wanted = {"limit": 500, "adapter": False, "split": "dev"}
    assert read_settings(["limit=500", "adapter=false", "split=dev"]) == wanted
    with pytest.raises(InputError, match="key=value"):
        read_settings(["limit"])


def test_parts_are_listed_and_run_by_name(data: Path) -> None:
    listed = CliRunner().invoke(app, ["part"])
    assert listed.exit_code == 0
    for name in PARTS:
        assert name in listed.stdout
        assert callable(load_part(name))
    run = CliRunner().invoke(app, ["part", "ferplus", "--data", str(data), "--json", "p.json"])
    assert run.exit_code == 0, run.output
    assert json.loads(Path("p.json").read_text())["result"]["majority_pictures"] == 2
    unknown = CliRunner().invoke(app, ["part", "nonsense", "--data", str(data)])
    assert unknown.exit_code == 2
    assert "composed" in unknown.stderr
