"""Every `emollama` command of the documents parses: the command, its options, what it wants, a recipe's keys."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from emollama.cli import app
from train.cli import CALIBRATE, CARD
from train.config import override
from train.recipes import load_recipe

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^ *```(?:sh|bash|console)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
PARTS = re.compile(r"\s(?:&&|\|\|?|;|>>?|2>&1|&)(?:\s|$)")
VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*=")


def shell_lines() -> list[tuple[str, str]]:
    """Every simple command of the shell blocks as (document, command), with neither comments nor redirections."""
    found = []
    for document in DOCUMENTS:
        for text in BLOCK.findall(document.read_text(encoding="utf-8")):
            for line in text.replace("\\\n", " ").splitlines():
                line = line.strip()
                if line and not line.startswith("#"):
                    found += [
                        (document.name, part.strip()) for part in PARTS.split(line.split("  #")[0]) if part.strip()
                    ]
    return found


def words_of(line: str) -> list[str]:
    """Split a line as a shell does, without the variables that are set for it alone."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError:  # a part of a quoted text that goes over several lines
        return []
    while words and VARIABLE.match(words[0]):
        words = words[1:]
    return words


def commands() -> list[Any]:
    found = {}
    for document, line in shell_lines():
        words = words_of(line)
        if words[:1] == ["emollama"]:
            found.setdefault(tuple(words[1:]), document)
        elif "train.cli" in words:  # under the launcher of several processes
            found.setdefault(("train", *words[words.index("train.cli") + 1 :]), document)
    return [pytest.param(list(words), id=f"{document}: {' '.join(words)}") for words, document in found.items()]


def parsed(words: list[str]) -> tuple[list[str], Any]:
    """Parse words as the command line does, down to the command; return its path and its context. Nothing is run."""
    command, context, path = typer.main.get_command(app), None, []
    name, rest = "emollama", words
    while True:
        context = command.make_context(name, list(rest), parent=context)
        if not hasattr(command, "resolve_command"):
            return path, context
        left = [*context._protected_args, *context.args]
        if not left:
            return path, context
        name, command, rest = command.resolve_command(context, left)
        path.append(name)


@pytest.mark.parametrize("words", commands())
def test_a_documented_command_parses(words: list[str]) -> None:
    path, context = parsed(words)
    if path == ["train"] and context.params["recipe"] not in (None, CALIBRATE, CARD):
        config = override(load_recipe(context.params["recipe"]), context.params["overrides"] or ())
        for option in ("data", "manifest"):
            if context.params[option] is not None:
                assert hasattr(config.task, option), f"{config.recipe} has no {option}"


def test_there_are_commands_to_parse_and_wrong_ones_do_not() -> None:
    assert len(commands()) > 80
    for wrong in ("evaluate", "train --no-such-option", "export onnx a.safetensors", "eval read-crops a b c d"):
        with pytest.raises(Exception, match=r"No such|Missing|unexpected"):
            parsed(wrong.split())


def test_documented_scripts_exist_and_know_their_options() -> None:
    known = {}
    for document, line in shell_lines():
        words = words_of(line)
        if words[:1] == ["python"] and len(words) > 1 and words[1].endswith(".py"):
            script = ROOT / words[1]
            assert script.is_file(), f"{document}: {words[1]}"
            text = known.setdefault(script, script.read_text(encoding="utf-8"))
            for option in (word.split("=")[0] for word in words[2:] if word.startswith("--")):
                named = (option, option.removeprefix("--").replace("-", "_"))
                assert any(each in text for each in named), f"{document}: {words[1]} has no {option}"
