"""The engine: what a run leaves behind, and that it is the same however it came about."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emollama.errors import DatasetError, InputError
from eval.run import EvalOptions, evaluate
from eval.run_dir import read_records
from eval.score import score
from eval.score_rows import ScoreOptions
from eval.score_tasks import SCORE_TASKS
from eval.scoring import ScoreSettings
from eval.task import Item
from tests.eval.toy import LABELS, ToyModel, same_origin, toy_items, toy_task

QUICK = EvalOptions(score=ScoreSettings(num_resamples=50))


def run(folder: Path, model: ToyModel | None = None, options: EvalOptions = QUICK, **changes: Any) -> dict[str, Any]:
    return evaluate(toy_task(**changes), model or ToyModel(), folder, folder / "run", options).document


def test_a_run_explains_itself(tmp_path: Path) -> None:
    document = run(tmp_path)
    folder = tmp_path / "run"
    for name in (
        "config.json",
        "environment.json",
        "predictions.jsonl",
        "ablation.jsonl",
        "predictions.csv",
        "gold.csv",
    ):
        assert (folder / name).is_file(), name
    assert json.loads((folder / "result.json").read_text()) == document
    config = json.loads((folder / "config.json").read_text())
    assert config["model"] == {"kind": "toy", "name": "toy-model"}
    assert config["num_items"] == 24
    rows = list(read_records(folder / "predictions.jsonl"))
    assert [row.id for row in rows] == [item.id for item in toy_items()]
    assert rows[0].prediction == rows[0].gold == "happy"
    assert rows[0].probabilities is not None
    assert rows[0].probabilities["happy"] == 0.7
    assert rows[0].given == ("visual", "audio", "text")
    assert document["figures"]["waf"]["value"] == 1.0
    assert document["bootstrap"] == {"unit": "group", "num_units": 5, "resamples": 50, "level": 0.95, "seed": 0}
    assert document["figures"]["ece"]["value"] == pytest.approx(0.3)
    assert document["latency"]["num_items"] == 24


def test_the_files_of_a_run_score_to_the_same_figures_without_a_model(tmp_path: Path) -> None:
    model = ToyModel(fails=["clip03"], mumbles=["clip04"], wrong=["clip05", "clip09"], silent=["clip06"])
    document = run(tmp_path, model)
    folder = tmp_path / "run"
    alone = score(
        SCORE_TASKS["iemocap"], folder / "predictions.csv", folder / "gold.csv",
        options=ScoreOptions(num_resamples=50),
    )  # fmt: skip
    for key in ("figures", "parts", "confusion", "reliability", "bootstrap", "support"):
        assert document[key] == alone[key], key
    assert document["figures"]["war"]["value"] == pytest.approx(20 / 24)


def test_what_goes_wrong_with_an_item_is_counted_and_stops_nothing(tmp_path: Path) -> None:
    def broken() -> Any:
        raise DatasetError("row 7 holds no picture")

    items = [
        *toy_items(),
        Item(id="broken", gold="sad", load=broken),
        Item(id="gone", gold="sad", clip=tmp_path / "no.mp4"),
    ]
    model = ToyModel(fails=["clip03"], mumbles=["clip04"], silent=["clip06"])
    document = run(tmp_path, model, items=lambda data, split: items)
    counts = document["counts"]
    assert (counts["items"], counts["failed"], counts["unparseable"], counts["abstained"]) == (26, 3, 1, 1)
    assert document["figures"]["war"]["value"] == pytest.approx(22 / 26)
    errors = {error["id"]: error["error"] for error in document["errors"]}
    assert errors["clip03"] == "InputError: the clip | broke in two"
    assert "row 7 holds no picture" in errors["broken"]
    assert "no.mp4" in errors["gone"]
    assert any("3 of 26 items failed" in note for note in document["notes"])
    assert document["not_abstained"]["num_items"] == 21
    assert document["not_abstained"]["value"] == 1.0
    assert document["confusion"]["counts"][LABELS.index("angry")][-1] >= 1


def test_twice_and_interrupted_and_in_threads_it_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    same_origin(monkeypatch)

    def kept(folder: str) -> dict[str, Any]:
        document = json.loads((tmp_path / folder / "run" / "result.json").read_text())
        return {name: value for name, value in document.items() if name != "latency"}

    for name in ("once", "twice", "cut", "threads"):
        (tmp_path / name).mkdir()
    wrong = ["clip05", "clip09", "clip14"]
    run(tmp_path / "once", ToyModel(wrong=wrong, fails=["clip02"]))
    run(tmp_path / "twice", ToyModel(wrong=wrong, fails=["clip02"]))
    run(tmp_path / "threads", ToyModel(wrong=wrong, fails=["clip02"]), replace(QUICK, workers=4))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", ToyModel(wrong=wrong, fails=["clip02"], stop_after=33))
    answers = tmp_path / "cut" / "run" / "predictions.jsonl"
    num_before = len(answers.read_text().splitlines())
    assert 0 < num_before < 24
    with answers.open("a") as file:
        file.write('{"id": "clip07", "gol')  # what a kill in the middle of a line leaves
    second = ToyModel(wrong=wrong, fails=["clip02"])
    run(tmp_path / "cut", second, replace(QUICK, resume=True))
    assert "clip00" not in {name for name, _ in second.asked}
    assert kept("once") == kept("twice") == kept("cut") == kept("threads")
    for name in ("predictions.csv", "gold.csv"):
        one, two = ((tmp_path / folder / "run" / name).read_bytes() for folder in ("once", "cut"))
        assert one == two
    environment = json.loads((tmp_path / "cut" / "run" / "environment.json").read_text())
    assert len(environment["resumed"]) == 1


def test_a_run_is_neither_overwritten_nor_continued_as_another(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(InputError, match="already holds a run"):
        run(tmp_path)
    with pytest.raises(InputError, match=r"another model.*other.*name another"):
        run(tmp_path, ToyModel(name="other"), replace(QUICK, resume=True))
    with pytest.raises(InputError, match="items_sha256"):
        run(tmp_path, options=replace(QUICK, resume=True), items=lambda data, split: toy_items(12))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "run").mkdir()
    (tmp_path / "full" / "run" / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="not empty"):
        run(tmp_path / "full")


def test_what_failed_may_be_asked_again(tmp_path: Path) -> None:
    assert run(tmp_path, ToyModel(fails=["clip03"]))["counts"]["failed"] == 1
    assert run(tmp_path, ToyModel(), replace(QUICK, resume=True))["counts"]["failed"] == 1
    again = ToyModel()
    assert run(tmp_path, again, replace(QUICK, resume=True, retry_failed=True))["counts"]["failed"] == 0
    assert {name for name, _ in again.asked} == {"clip03"}


def test_a_run_resumed_with_other_code_says_so(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, ToyModel(stop_after=20))
    path = tmp_path / "run" / "environment.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "git_revision": "older"}))
    document = run(tmp_path, options=replace(QUICK, resume=True))
    assert any("resumed with another revision" in note for note in document["notes"])


def test_modalities_are_dropped_one_by_one_and_left_one_by_one(tmp_path: Path) -> None:
    model = ToyModel()
    document = run(tmp_path, model)
    table = {row["name"]: row for row in document["ablation"]}
    assert list(table) == [
        "visual alone", "audio alone", "text alone", "without visual", "without audio", "without text",
    ]  # fmt: skip
    assert table["text alone"]["figures"]["war"]["value"] == 1.0
    assert table["audio alone"]["figures"]["war"]["value"] == pytest.approx(16 / 24)
    assert table["visual alone"]["figures"]["war"]["value"] == pytest.approx(12 / 24)
    assert table["without text"]["figures"]["war"]["value"] == pytest.approx(16 / 24)
    assert table["without text"]["difference"]["difference"] < -0.2
    assert table["without text"]["difference"]["p_value"] < 0.2
    assert table["without visual"]["difference"]["difference"] == 0.0
    assert ("clip00", ("audio",)) in model.asked
    assert len(model.asked) == 24 * 7
    (tmp_path / "off").mkdir()
    quiet = ToyModel()
    assert run(tmp_path / "off", quiet, replace(QUICK, ablate=False))["ablation"] == []
    assert len(quiet.asked) == 24


def test_an_item_without_a_modality_is_not_asked_for_nothing(tmp_path: Path) -> None:
    items = [*toy_items(8), Item(id="words", gold="sad", transcript="sad")]
    model = ToyModel()
    document = run(tmp_path, model, items=lambda data, split: items)
    table = {row["name"]: row for row in document["ablation"]}
    assert table["visual alone"]["nothing_left"] == 1
    assert table["visual alone"]["without_answer"] == 1
    assert [given for name, given in model.asked if name == "words"] == [("text",)]


def test_modalities_that_no_item_has_are_not_in_the_table(tmp_path: Path) -> None:
    items = [replace(item, transcript=None) for item in toy_items()]
    document = run(tmp_path, items=lambda data, split: items)
    assert [row["name"] for row in document["ablation"]] == ["visual alone", "audio alone"]


def test_a_limit_takes_items_from_all_over_the_split(tmp_path: Path) -> None:
    document = run(tmp_path, options=replace(QUICK, limit=6, ablate=False))
    rows = list(read_records(tmp_path / "run" / "predictions.jsonl"))
    assert [row.id for row in rows] == [f"clip{place:02d}" for place in (0, 4, 8, 12, 16, 20)]
    assert document["num_items"] == 6
    assert "Only 6 items" in (tmp_path / "run" / "report.md").read_text()


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([], "holds no item"),
        ([Item(id="a", gold="sad", transcript="sad"), Item(id="a", gold="sad", transcript="sad")], "'a' twice"),
        ([Item(id="a", gold="furious-ish", transcript="sad")], "furious-ish"),
        ([Item(id="a", gold=None, transcript="sad"), Item(id="b", gold="sad", transcript="sad")], "None"),
    ],
)
def test_a_truth_that_cannot_be_scored_stops_before_anything_is_asked(
    tmp_path: Path, items: list[Item], message: str
) -> None:
    model = ToyModel()
    with pytest.raises(DatasetError, match=message):
        run(tmp_path, model, items=lambda data, split: items)
    assert model.asked == []
    assert not (tmp_path / "run").exists()


def test_options_are_checked() -> None:
    with pytest.raises(InputError, match="limit 0"):
        EvalOptions(limit=0)
    with pytest.raises(InputError, match="workers 0"):
        EvalOptions(workers=0)


def test_an_unknown_split_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no split 'dev'; there are: test"):
        run(tmp_path, options=replace(QUICK, split="dev"))


def test_wrong_answers_are_seen_in_the_confusion(tmp_path: Path) -> None:
    document = run(tmp_path, ToyModel(wrong=["clip00"]))
    counts = np.array(document["confusion"]["counts"])
    assert counts[LABELS.index("happy"), LABELS.index("sad")] == 1
    assert counts.trace() == 23
    assert document["parts"]["recall"]["happy"]["value"] == pytest.approx(5 / 6)
