"""Two runs against each other, and many in a row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from scipy.stats import binomtest

from emollama.errors import DatasetError, InputError
from eval.compare import compare_runs, comparison_sections, mcnemar
from eval.leaderboard import find_results, leaderboard, leaderboard_html, leaderboard_markdown
from eval.predictions import Record
from eval.run import EvalOptions, evaluate
from eval.scoring import ScoreSettings
from tests.eval.toy import ToyModel, toy_items, toy_task

QUICK = EvalOptions(ablate=False, score=ScoreSettings(num_resamples=100))


def run(folder: Path, model: ToyModel, options: EvalOptions = QUICK) -> Path:
    return evaluate(toy_task(), model, folder.parent, folder, options).path


def test_a_comparison_names_the_clips_that_differ_and_tests_the_difference(tmp_path: Path) -> None:
    wrong = [item.id for item in toy_items()][:9]
    first = run(tmp_path / "a", ToyModel(name="good", wrong=["clip20"]))
    second = run(tmp_path / "b", ToyModel(name="bad", wrong=wrong, fails=["clip23"]))
    document = compare_runs(first, second, toy_task(), ScoreSettings(num_resamples=200))
    assert document["n"] == 24
    assert {d["id"] for d in document["differing"]} == {*wrong, "clip20", "clip23"}
    figure = document["figures"]["war"]
    assert figure["difference"] == pytest.approx(9 / 24)
    assert figure["low"] <= figure["difference"] <= figure["high"]
    test = document["mcnemar"]
    assert (test["only_first_right"], test["only_second_right"], test["both_right"]) == (10, 1, 13)
    assert test["p_value"] == pytest.approx(binomtest(1, 11).pvalue, abs=1e-12)
    shown = {section.key: section for section in comparison_sections(document, most=3)}
    assert len(shown["differing"].rows) == 3
    assert "8 more" in shown["differing"].text
    assert "good (a)" in shown["comparison"].text


@pytest.mark.parametrize(("only_first", "only_second"), [(0, 0), (5, 0), (3, 9), (40, 41)])
def test_mcnemar_is_the_exact_binomial_test(only_first: int, only_second: int) -> None:
    def rows(right: list[bool]) -> list[Record]:
        return [Record(id=str(i), gold="x", prediction="x" if ok else "y") for i, ok in enumerate(right)]

    pattern = [(True, False)] * only_first + [(False, True)] * only_second + [(True, True)] * 3
    found = mcnemar(rows([a for a, _ in pattern]), rows([b for _, b in pattern]))
    expected = binomtest(only_first, only_first + only_second).pvalue if only_first + only_second else 1.0
    assert found["p_value"] == pytest.approx(expected, abs=1e-12)


def test_a_run_against_itself_differs_in_nothing(tmp_path: Path) -> None:
    path = run(tmp_path / "a", ToyModel(wrong=["clip01"]))
    document = compare_runs(path, path, toy_task())
    assert document["num_differing"] == 0
    assert document["figures"]["waf"]["difference"] == 0.0
    assert document["figures"]["waf"]["p_value"] == 1.0


def test_runs_of_other_items_are_compared_on_what_they_share(tmp_path: Path) -> None:
    first = run(tmp_path / "a", ToyModel())
    second = run(tmp_path / "b", ToyModel(), replace(QUICK, limit=6))
    document = compare_runs(first, second, toy_task())
    assert (document["n"], document["only_first"], document["only_second"]) == (6, 18, 0)


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    first = run(tmp_path / "a", ToyModel())
    other = evaluate(toy_task(name="other"), ToyModel(), tmp_path, tmp_path / "b", QUICK).path
    with pytest.raises(InputError, match="another task: 'toy' and 'other'"):
        compare_runs(first, other, toy_task())
    with pytest.raises(DatasetError, match=r"result.json is not there"):
        compare_runs(first, tmp_path / "nothing", toy_task())


def test_the_leaderboard_ranks_runs_beside_what_was_published(tmp_path: Path) -> None:
    run(tmp_path / "runs" / "a", ToyModel(name="good", wrong=["clip20"]))
    bad = ToyModel(name="bad", wrong=[item.id for item in toy_items()][:20], fails=["clip23"])
    run(tmp_path / "runs" / "b", bad)
    run(tmp_path / "runs" / "c", ToyModel(name="part"), replace(QUICK, limit=6))
    (table,) = leaderboard(find_results([tmp_path / "runs"]))
    assert [row[1] for row in table.rows] == ["part", "good", "Somebody <1999>", "bad"]
    assert table.rows[0][-1] == "run c, 6 items of the split"
    assert table.rows[2][-1] == "published: a paper; other split"
    assert "1 failed" in table.rows[3][-1]
    page = leaderboard_html([table])
    assert "Somebody &lt;1999&gt;" in page
    assert "Somebody <1999>" not in page
    assert "| 1 | part |" in leaderboard_markdown([table])


def test_a_leaderboard_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no finished run"):
        find_results([tmp_path])
