from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from emollama.types import Analysis, Clip
from eval import companions_run
from eval.cli import app
from eval.companions import ONE_WORD_QUESTION
from eval.companions_run import companion_section, gold_words, run_companions
from eval.run import EvalOptions
from eval.scoring import ScoreSettings
from eval.task import Item
from tests.eval.test_companions import GOOD, analysis
from tests.eval.toy import toy_items, toy_task

QUICK = EvalOptions(score=ScoreSettings(num_resamples=20))


class Fake:
    """Finds every clip sad, and breaks on one."""

    def __init__(self) -> None:
        self.labels: set[Any] = set()

    def analyze(self, clip: Clip, *, labels: Any) -> Analysis:
        self.labels.add(labels)
        if clip.transcript is not None and clip.transcript.text == "angry":
            raise ValueError("too loud")
        return replace(analysis(), rationale=GOOD)

    def understand(self, clip: Clip, *, labels: Any) -> str:
        return "seen"

    def answer(self, seen: Any, question: str) -> str:
        return "sad" if question == ONE_WORD_QUESTION else "The person appears sad."


def test_a_task_is_asked_and_what_failed_is_counted(tmp_path: Path) -> None:
    fake = Fake()
    seen: list[tuple[int, int]] = []
    document = run_companions(
        toy_task(), fake, tmp_path, QUICK, model="fake",  # type: ignore[arg-type]
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    json.dumps(document)
    assert (document["n"], document["failed"]) == (24, 6)
    assert document["errors"]["clip03"] == "ValueError: too loud"
    assert seen[-1] == (24, 24)
    assert fake.labels == {("happy", "sad", "neutral", "angry")}
    figures = document["figures"]
    assert figures["evidence_agreement"]["value"] == 1.0
    assert (figures["one_word"]["value"], figures["json"]["value"]) == (1.0, 0.0)
    # the open word is grief, which is true of none
    assert figures["label_f1"]["value"] == 0.0
    assert figures["label_f1"]["n"] == 18
    rows = {row[0]: row for row in companion_section(document).rows}
    assert rows["checkable claims that the readings bear out"][1:] == ("1.0000", "[1.0000, 1.0000]", "18")


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (Item(id="a", gold="sad"), ("sad",)),
        (Item(id="a", gold=["sad", "at ease"]), ("sad", "at ease")),
        (Item(id="a", gold={"label": "sad", "valence": -1.0}), ("sad",)),
        (Item(id="a", gold={"valence": 0.1, "arousal": 0.2}), None),
        (Item(id="a", gold="B", choices=("one", "two")), None),
        (Item(id="a", gold=[0, 1, 0]), None),
        (Item(id="a", gold=[]), None),
    ],
)
def test_true_words_of_an_item(item: Item, words: tuple[str, ...] | None) -> None:
    assert gold_words(item) == words


def test_every_figure_has_a_meaning(tmp_path: Path) -> None:
    document = run_companions(toy_task(), Fake(), tmp_path, QUICK, model="fake")  # type: ignore[arg-type]
    # kappa is not defined where every answer is the same one
    assert set(companions_run.MEANINGS) == {*document["figures"], "kappa"}
    assert len(toy_items()) == 24


def test_the_command_names_what_is_missing(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["companions", "nosuch", "--data", str(tmp_path)])
    assert done.exit_code == 2
    assert "unknown task 'nosuch'" in done.output
