"""The README and the architecture page say only what is there: targets, commands, options, files, Python blocks."""

from __future__ import annotations

import ast
import re
import shlex
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "docs" / "architecture.md"]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[tuple[str, str]]:
    """Code blocks of a language as (where, text)."""
    found = []
    for document in DOCUMENTS:
        for kind, text in BLOCK.findall(document.read_text(encoding="utf-8")):
            if kind == language:
                found.append((document.name, text))
    return found


def shell_commands() -> list[str]:
    """Every command of the shell blocks, continuation lines joined and comments dropped."""
    commands = []
    for _, text in blocks("sh"):
        for line in text.replace("\\\n", " ").splitlines():
            command = line.split("  #")[0].strip()
            if command and not command.startswith("#"):
                commands.append(command)
    return commands


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for document in DOCUMENTS:
        named = set(re.findall(r"`?make ([a-z][a-z-]+)`", document.read_text(encoding="utf-8")))
        assert named <= targets, document.name
    used = {command.split()[1] for command in shell_commands() if command.startswith("make ")}
    assert used
    assert used <= targets


def emollama_commands() -> list[str]:
    return sorted({command for command in shell_commands() if command.startswith("emollama ")})


def help_of(words: list[str]) -> str:
    """What ``emollama WORDS --help`` shows, on a terminal wide enough for it."""
    from typer.testing import CliRunner

    from emollama.cli import app

    result = CliRunner().invoke(
        app, [*words, "--help"], env={"COLUMNS": "240", "TERMINAL_WIDTH": "240", "NO_COLOR": "1"}
    )
    assert result.exit_code == 0, f"emollama {' '.join(words)} --help ended with {result.exit_code}: {result.output}"
    return result.output


def commands_of(shown: str) -> set[str]:
    """The commands that a group's help lists."""
    _, _, listed = shown.partition("Commands")
    return set(re.findall(r"^[ │]+([a-z][a-z-]+)  ", listed, re.MULTILINE))


@pytest.mark.parametrize("line", emollama_commands())
def test_commands_and_options_exist(line: str) -> None:
    command, *words = shlex.split(line.split(" | ")[0].split(" > ")[0])[1:]
    if words and f"{command}-{words[0]}" in commands_of(help_of([])):  # `bench train` is the command bench-train
        command, words = f"{command}-{words[0]}", words[1:]
    shown = help_of([command])
    under = commands_of(shown)
    if under:  # a group: the command that is named, or the one that is meant without a name
        shown += help_of([command, words[0] if words and words[0] in under else "run"])
    known = set(re.findall(r"--[a-z][a-z-]+", shown))
    for option in (word.split("=")[0] for word in words if word.startswith("--")):
        assert option in known, f"{line}: no option {option}"


@pytest.mark.parametrize(("where", "text"), blocks("python"))
def test_python_blocks_import_what_exists(where: str, text: str) -> None:
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "emollama":
            module = __import__(node.module, fromlist=[alias.name for alias in node.names])
            for alias in node.names:
                assert hasattr(module, alias.name), f"{where}: {node.module} has no {alias.name}"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "emollama":
            import emollama

            assert hasattr(emollama, node.attr), f"{where}: emollama has no {node.attr}"


def test_links_to_files_resolve() -> None:
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_the_annotated_tree_is_true() -> None:
    """Every file and folder that the tree of the architecture page names exists."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    tree = next(block for kind, block in BLOCK.findall(text) if kind == "text")
    folders: list[str] = []
    for line in tree.splitlines():
        if not line.strip():
            continue
        depth = (len(line) - len(line.lstrip())) // 2
        name = line.split()[0]
        path = "/".join([*folders[:depth], name.rstrip("/")])
        assert (ROOT / path).exists(), path
        if name.endswith("/"):
            folders = [*folders[:depth], name.rstrip("/")]


def test_every_module_is_in_the_annotated_tree() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for package in ("emollama", "server", "train", "eval"):
        for path in (ROOT / package).glob("*.py"):
            if not path.name.startswith("_"):
                assert path.name in text, f"{package}/{path.name}"


def test_entry_points_name_what_exists() -> None:
    points = metadata.entry_points(group="emollama.commands")
    assert {point.name for point in points} >= {"serve", "train", "eval", "bench"}
    for point in points:
        assert point.load() is not None
