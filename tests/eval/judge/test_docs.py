"""The pages on judges and on worse clips name what exists, and all of it: commands, options, prompts, corruptions."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
from typer.testing import CliRunner

from eval.cli import app as eval_app
from eval.companions_run import MEANINGS
from eval.corruptions import CORRUPTIONS
from eval.judge.cli import app as judge_app
from eval.judge.prompts import FOLDER
from eval.robustness import parse_conditions
from eval.tasks import TASKS

DOCS = Path(__file__).resolve().parents[3] / "docs"
JUDGES, ROBUSTNESS = (DOCS / name for name in ("judges.md", "robustness.md"))
WIDE = {"COLUMNS": "240", "TERMINAL_WIDTH": "240", "NO_COLOR": "1"}


def commands() -> list[str]:
    found = []
    for page in (JUDGES, ROBUSTNESS):
        for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
            found += [line.split("  #")[0].strip() for line in block.splitlines() if line.startswith("emollama")]
    return found


@pytest.mark.parametrize("line", commands())
def test_commands_and_options_exist(line: str) -> None:
    _, command, *words = shlex.split(line)
    app = {"judge": judge_app, "eval": eval_app}[command]
    if command == "eval" and words[0] != "companions":
        assert words[0] in TASKS
        words = ["run", *words[1:]]
    shown = CliRunner().invoke(app, [words[0], "--help"], env=WIDE)
    assert shown.exit_code == 0, shown.output
    known = set(re.findall(r"--[a-z][a-z-]+", shown.output))
    assert {word for word in words if word.startswith("--")} <= known
    parse_conditions([word for before, word in pairwise(words) if before == "--corrupt"])


def test_every_corruption_prompt_and_figure_is_explained() -> None:
    text, judges = ROBUSTNESS.read_text(encoding="utf-8"), JUDGES.read_text(encoding="utf-8")
    assert [name for name in CORRUPTIONS if f"`{name}`" not in text] == []
    assert [path.stem for path in FOLDER.glob("*.md") if f"`{path.stem}`" not in judges] == []
    assert [name for name in MEANINGS if f"`{name}`" not in judges and name != "phrasing_unreadable"] == []
