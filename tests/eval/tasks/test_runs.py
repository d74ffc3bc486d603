"""Every registered task through the engine, on a miniature of its data set: clips are decoded, answers are scored."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from eval.ask import Answer, Given, modalities_of
from eval.run import EvalOptions, evaluate
from eval.score_tasks import SCORE_TASKS
from eval.scoring import ScoreSettings
from eval.task import EvalTask
from eval.tasks import TASKS, load_task
from tests.eval.tasks.miniatures import MINIATURES


class Fake:
    """A model that knows the truth and tells it, or never does; it writes down what it was given."""

    def __init__(self, *, is_right: bool) -> None:
        self.name = "right" if is_right else "wrong"
        self.is_right = is_right
        self.given: dict[str, tuple[str, ...]] = {}
        self.num_pictures: dict[str, int] = {}

    def describe(self) -> dict[str, Any]:
        return {"name": self.name}

    def check(self, task: EvalTask) -> None:
        pass

    def answer(self, given: Given, task: EvalTask) -> Answer:
        item, clip = given.item, given.clip
        self.given[item.id] = modalities_of(clip)
        self.num_pictures[item.id] = 0 if clip.frames is None else len(clip.frames.times)
        truth = item.gold["values"] if task.asks == "series" else item.gold
        if not self.is_right:
            truth = [_wrong(value, task) for value in truth] if task.asks == "series" else _wrong(truth, task)
        elif SCORE_TASKS[task.score].kind == "hit":
            truth = [truth, "merry"]  # a wrong word beside the right one costs nothing
        return Answer(prediction={"text": "So it appears.", "labels": truth} if task.asks == "rationale" else truth)


def _wrong(truth: Any, task: EvalTask) -> Any:
    kind = SCORE_TASKS[task.score].kind
    if kind == "classes":
        if isinstance(truth, Mapping):
            return {"label": _wrong(truth["label"], task), "valence": -truth["valence"]}
        labels = task.labels or tuple("AB")
        return next(label for label in labels if label != truth)
    if kind == "action_units":
        return [1 - flag for flag in truth]
    if isinstance(truth, Mapping):
        limit = 1.0 if kind == "intensities" else 0.0
        return {name: limit - value for name, value in truth.items()}
    if kind == "multilabel":
        return [next(label for label in task.labels if label not in truth)]
    return ["merry"] if kind == "wheel" and "blue" in truth else ["nothing of it"]


@pytest.mark.parametrize("name", TASKS)
def test_a_whole_run(name: str, miniature: Callable[[str], Path], lists: Path, tmp_path: Path) -> None:
    task, data = load_task(name), miniature(name)
    rules = SCORE_TASKS[task.score]
    score = ScoreSettings(num_resamples=20, wheel=lists if rules.kind in ("wheel", "hit") else None)
    options = EvalOptions(ablate=False, score=score)
    figures = {}
    for is_right in (True, False):
        model = Fake(is_right=is_right)
        run = evaluate(task, model, data, tmp_path / model.name, options).document
        assert run["errors"] == []
        expected = MINIATURES[name].expected[task.split]
        assert run["num_items"] == len(expected)
        rows = sum(len(wanted.gold["frames"]) if task.asks == "series" else 1 for wanted in expected)
        assert run["n"] == rows
        figures[is_right] = run["figures"][rules.primary]["value"]
        assert {published.figure for published in task.published} <= set(run["figures"])  # what can stand beside them
        assert set(model.given) == {wanted.id for wanted in expected}
        for given in model.given.values():
            assert given  # every item has something to go by
            assert set(given) <= set(task.modalities)
        if task.asks == "series":
            assert all(model.num_pictures.values())
        with (tmp_path / model.name / "predictions.csv").open(encoding="utf-8", newline="") as file:
            names = [row["name"] for row in csv.DictReader(file)]
        frames = [frame for wanted in expected for frame in wanted.gold["frames"]] if task.asks == "series" else None
        assert names == (frames or [wanted.id for wanted in expected])
    assert figures[True] > figures[False]
    if rules.primary in ("waf", "war", "score", "ew", "emoval", "ccc", "pearson", "hit", "ew_level1"):
        assert figures[True] == pytest.approx(1.0)
