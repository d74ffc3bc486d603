"""`emollama chat` with nano: one question, a conversation, and the end of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from emollama import cli

WORDS = "I cannot believe they did that to me. This is outrageous, I am furious."


@pytest.fixture(scope="module")
def nano() -> Any:
    from emollama.analyze import Analyzer

    return Analyzer.load("nano")


@pytest.fixture
def chat(nano: Any, media: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(cli, "load_analyzer", lambda *_, **__: nano)
    clip = media.wav(tmp_path / "clip.wav", seconds=0.6)

    def call(*options: str, lines: str = "") -> Any:
        return CliRunner().invoke(cli.app, ["chat", str(clip), "--transcript", WORDS, *options], input=lines)

    return call


def test_questions_of_the_command_line_are_answered(chat: Any) -> None:
    result = chat("-q", "In one word?", "-q", "What does the face say?")
    assert result.exit_code == 0, result.output
    lines = result.output.strip().splitlines()
    assert lines[0].strip(".").lower() == "angry"
    assert "no face" in " ".join(lines[1:])


def test_a_conversation_knows_its_commands_and_ends(chat: Any) -> None:
    result = chat(lines="/help\n/labels\n/evidence\n/nonsense\nIn one word?\n/quit\nWhy?\n")
    assert result.exit_code == 0, result.output
    for said in ("/evidence", "anger", "the words", "no command /nonsense", "ngry"):
        assert said in result.output
    assert "appears" not in result.output  # nothing is answered after /quit


def test_the_end_of_the_input_ends_it(chat: Any) -> None:
    assert chat(lines="In one word?\n").exit_code == 0


def test_a_clip_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli.app, ["chat", str(tmp_path / "no.mp4")])
    assert result.exit_code == 2
    assert "no clip at" in result.output
