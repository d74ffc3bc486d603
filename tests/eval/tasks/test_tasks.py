"""Every registered task: what it finds in a miniature of its data set, what it says of itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from emollama.errors import DatasetError
from eval.score_tasks import SCORE_TASKS
from eval.task import EvalTask
from eval.tasks import TASKS, describe_task, load_task
from tests.eval.tasks.miniatures import MINIATURES


def test_every_task_has_a_miniature() -> None:
    assert sorted(MINIATURES) == sorted(TASKS)


@pytest.mark.parametrize("name", TASKS)
def test_a_task_yields_what_its_data_set_holds(name: str, miniature: Callable[[str], Path]) -> None:
    task, data = load_task(name), miniature(name)
    assert task.split in MINIATURES[name].expected
    for split, expected in MINIATURES[name].expected.items():
        assert split in task.splits
        items = list(task.items(data, split))
        assert [item.id for item in items] == [wanted.id for wanted in expected]
        for item, wanted in zip(items, expected, strict=True):
            assert item.gold == wanted.gold
            assert item.group == wanted.group
            assert item.transcript == wanted.transcript
            assert item.clip == (None if wanted.clip is None else data / wanted.clip)
            assert item.clip is None or item.clip.is_file()


@pytest.mark.parametrize("name", TASKS)
def test_a_task_says_what_it_is_and_fits_its_scoring(name: str) -> None:
    task: EvalTask = load_task(name)
    assert task.name == name
    assert describe_task(name) == task.title
    assert task.instruction
    assert task.licence
    assert task.home.startswith("http")
    rules = SCORE_TASKS[task.score]
    if rules.kind in ("classes", "multilabel", "intensities", "action_units") and task.asks != "choice":
        assert set(task.labels) == set(rules.labels)
    for published in task.published:
        assert published.source
        assert published.figure == "mse" or 0 < published.value < 1


@pytest.mark.parametrize("name", TASKS)
def test_an_empty_folder_is_refused_with_what_is_missing_and_where_it_is_had(name: str, tmp_path: Path) -> None:
    task = load_task(name)
    with pytest.raises(DatasetError) as caught:
        list(task.items(tmp_path, task.split))
    message = str(caught.value)
    assert str(tmp_path) in message
    if name not in ("ferplus", "emodb", "goemotions", "emobank", "xed"):  # these come with the project's own raw data
        assert task.home.split(" ")[0] in message


def test_the_page_of_benchmarks_names_every_task_and_its_default_split_first() -> None:
    page = (Path(__file__).parents[3] / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| `")]
    found = {name.strip("`"): cells for cells in rows for name in cells[0].split(", ")}
    assert sorted(found) == sorted(TASKS)
    for name, (_, splits, _, figures) in found.items():
        task = load_task(name)
        assert f"`{SCORE_TASKS[task.score].primary}`" in figures
        if ";" not in splits and not name.startswith("unibench"):
            assert splits.startswith(task.split)
