from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from emollama.errors import DatasetError, InputError
from eval.ask import Answer, Given
from eval.judge import Pair, clue_overlap
from eval.judge.runs import pairs_of_run
from eval.run import EvalOptions, evaluate
from eval.scoring import ScoreSettings
from eval.task import EvalTask
from tests.eval.toy import ToyModel, toy_items, toy_task

QUICK = EvalOptions(ablate=False, score=ScoreSettings(num_resamples=20))
TOLD = [replace(item, meta={"reason": f"looks {item.gold}"}) for item in toy_items(6)]


class Teller(ToyModel):
    def answer(self, given: Given, task: EvalTask) -> Answer:
        return replace(super().answer(given, task), text=f"seems {given.item.gold}")


def test_a_run_beside_the_true_descriptions(tmp_path: Path, judging: Any, make_judge: Any) -> None:
    task = toy_task(items=lambda data, split: TOLD)
    evaluate(task, Teller(fails=["clip02"]), tmp_path, tmp_path / "run", QUICK)
    pairs = pairs_of_run(tmp_path / "run", tmp_path, task=task)
    assert pairs[0] == Pair(name="clip00", gold="looks happy", prediction="seems happy", group="speaker0")
    assert pairs[2].prediction == "", "an item that failed told nothing"
    result = clue_overlap(make_judge(), pairs)
    # one word of two is found again, and the failed item scores 0
    assert result.value == pytest.approx(5.0 * 5 / 6)
    assert result.num_empty == 1


def test_a_run_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    task = toy_task(items=lambda data, split: TOLD)
    evaluate(task, Teller(), tmp_path, tmp_path / "run", QUICK)
    with pytest.raises(DatasetError, match=r"holds 5 items that .* does not, first 'clip01'"):
        pairs_of_run(tmp_path / "run", tmp_path, task=toy_task(items=lambda data, split: TOLD[:1]))
    with pytest.raises(InputError, match="task 'toy' has no true description of item 'clip00'"):
        pairs_of_run(tmp_path / "run", tmp_path, task=toy_task(items=lambda data, split: toy_items(6)))
    lines = (tmp_path / "run" / "predictions.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "run" / "predictions.jsonl").write_text("".join(lines[:4]))
    with pytest.raises(DatasetError, match="holds 4 of 6 answers; finish the run first"):
        pairs_of_run(tmp_path / "run", tmp_path, task=task)
    assert json.loads(lines[0])["id"] == "clip00"
