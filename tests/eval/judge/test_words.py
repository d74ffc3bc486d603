from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from emollama.errors import DatasetError, InputError
from emollama.metrics import parse_labels_2024, parse_synonym_groups, set_score, synonym_map
from eval.judge import Judge, extract_labels, group_synonyms, write_groups, write_labels
from eval.judge.cli import app
from eval.score import find_task, score
from eval.score_rows import ScoreOptions

GOLD = {"a": "['happy', 'sad']", "b": "['unhappy']", "c": "['calm']"}
GIVEN = {"a": "['Glad', 'lonely']", "b": "['sad', 'at ease']", "c": "['calm']"}


def write(path: Path, rows: dict[str, str], *, column: str) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("name", column), *rows.items()])
    return path


def rows(path: Path) -> dict[str, str]:
    with path.open(encoding="utf-8", newline="") as file:
        return dict(list(csv.reader(file))[1:])


def test_a_score_rests_on_the_file_of_groups(judging: Any, make_judge: Callable[..., Judge], tmp_path: Path) -> None:
    union = {name: [*parse_labels_2024(GOLD[name]), *parse_labels_2024(GIVEN[name])] for name in GOLD}
    grouped = group_synonyms(make_judge(), union)
    assert grouped.values["a"] == (("glad", "happy"), ("lonely",), ("sad",))
    assert grouped.values["b"] == (("at ease",), ("sad", "unhappy"))
    assert len(judging.bodies) == 2, "a clip with one word needs no judge"
    write_groups(tmp_path / "groups.csv", grouped)
    gold, given = (write(tmp_path / f"{n}.csv", r, column="labels") for n, r in (("gold", GOLD), ("given", GIVEN)))
    document = score(find_task("mer2024_ov"), given, gold, synonyms=tmp_path / "groups.csv", options=ScoreOptions())
    # a: {glad, sad} and {glad, lonely}; b: {sad} and {sad, at ease}; c: the same word
    assert document["figures"]["score"]["value"] == pytest.approx(((0.5 + 0.5 + 1) / 3 + (0.5 + 1 + 1) / 3) / 2)
    maps = [synonym_map(parse_synonym_groups(rows(tmp_path / "groups.csv")[name])) for name in GOLD]
    by_hand = set_score(
        [parse_labels_2024(t) for t in GOLD.values()], [parse_labels_2024(t) for t in GIVEN.values()], maps
    )
    assert by_hand.score == pytest.approx(document["figures"]["score"]["value"])
    told = json.loads((tmp_path / "groups.csv.json").read_text())
    assert told["judge"]["prompts"][0]["name"] == "group_synonyms"
    assert told["unjudged"] == {}


def test_words_are_grouped_as_they_are_written(judging: Any, make_judge: Callable[..., Judge], tmp_path: Path) -> None:
    # the 2024 reader does not strip, and the metric looks words up with their blanks
    grouped = group_synonyms(make_judge(), {"a": [" Happy", "glad", "happy"]})
    assert grouped.values["a"] == (("glad", " happy", "happy"),)
    write_groups(tmp_path / "g.csv", grouped)
    assert parse_synonym_groups(rows(tmp_path / "g.csv")["a"]) == [["glad", " happy", "happy"]]
    with pytest.raises(InputError, match='word "don\'t care" holds a quote'):
        group_synonyms(make_judge(), {"a": ["don't care"]})


def test_a_clip_without_groups_has_no_row_and_too_many_have_no_file(
    judging: Any, make_judge: Callable[..., Judge], by_rule: Any, tmp_path: Path
) -> None:
    judging.verdict = lambda body: {"groups": [["glad"]]} if "unhappy" in str(body) else by_rule(body)
    union = {"a": ["happy", "glad"], "b": ["unhappy", "glad"]}
    grouped = group_synonyms(make_judge(options={"max_unjudged_share": 0.5}), union)
    assert set(grouped.values) == {"a"}
    assert "groups lacks 'unhappy'" in grouped.unjudged["b"]
    write_groups(tmp_path / "g.csv", grouped)
    assert set(rows(tmp_path / "g.csv")) == {"a"}
    with pytest.raises(DatasetError, match="is not written: 1 items got no verdict"):
        write_groups(tmp_path / "h.csv", group_synonyms(make_judge(), union))
    assert not (tmp_path / "h.csv").exists()


def test_labels_of_descriptions(judging: Any, make_judge: Callable[..., Judge], by_rule: Any, tmp_path: Path) -> None:
    judging.verdict = lambda body: {"labels": "angry"} if "Odd" in str(body) else by_rule(body)
    told = {"a": "sad lonely", "b": "", "c": "Odd"}
    extracted = extract_labels(make_judge(options={"max_unjudged_share": 0.5}), told)
    assert extracted.values == {"a": ("sad", "lonely"), "b": ()}
    write_labels(tmp_path / "labels.csv", extracted)
    assert rows(tmp_path / "labels.csv") == {"a": "['sad', 'lonely']", "b": "[]", "c": "unparseable"}


# ---- the command --------------------------------------------------------------------------------------------------


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_overlap_at_the_command_line(judging: Any, tmp_path: Path) -> None:
    gold = write(tmp_path / "gold.csv", {"a": "wet eyes", "b": "a wide smile"}, column="reasons")
    given = write(tmp_path / "given.csv", {"a": "wet eyes", "b": "a frown"}, column="reason")
    common = ("--gold", gold, "--model", "m", "--base-url", judging.url, "--cache", tmp_path / "cache")
    done = run("overlap", given, *common, "--output", tmp_path / "one.json")
    assert done.exit_code == 0, done.output
    assert "clues overlap 6.667" in done.output
    assert "2 of 2 judged, 0 unjudged, 0 empty predictions" in done.output
    document = json.loads((tmp_path / "one.json").read_text())
    assert document["value"] == pytest.approx(20 / 3)
    assert set(document["files"]) == {"predictions", "gold"}
    done = run("overlap", given, *common, "--output", tmp_path / "two.json", "--seed", 5)
    assert done.exit_code == 0
    compared = run("compare", tmp_path / "one.json", tmp_path / "two.json")
    assert compared.exit_code == 0, compared.output
    assert "share_near" in compared.output
    judging.verdict = lambda body: {"score": 11}
    done = run("overlap", given, *common, "--output", tmp_path / "bad.json", "--seed", 9)
    assert done.exit_code == 1
    assert "no figure: " in done.output
    assert json.loads((tmp_path / "bad.json").read_text())["value"] is None


def test_groups_and_labels_at_the_command_line(judging: Any, tmp_path: Path) -> None:
    gold, given = (write(tmp_path / f"{n}.csv", r, column="labels") for n, r in (("gold", GOLD), ("given", GIVEN)))
    common = ("--model", "m", "--base-url", judging.url, "--cache", tmp_path / "cache")
    done = run("groups", given, "--gold", gold, *common, "--output", tmp_path / "groups.csv")
    assert done.exit_code == 0, done.output
    assert rows(tmp_path / "groups.csv")["b"] == "[['at ease'], ['sad', 'unhappy']]"
    told = write(tmp_path / "told.csv", {"a": "sad lonely"}, column="reason")
    done = run("labels", told, *common, "--output", tmp_path / "labels.csv")
    assert done.exit_code == 0, done.output
    assert rows(tmp_path / "labels.csv") == {"a": "['sad', 'lonely']"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"b": None}, "has no row for 1 of 2 names"),
        ({"z": "x"}, "holds 1 names that"),
    ],
)
def test_files_that_do_not_fit_are_refused(
    judging: Any, tmp_path: Path, change: dict[str, str | None], message: str
) -> None:
    told = {"a": "x", "b": "y", **change}
    gold = write(tmp_path / "gold.csv", {"a": "x", "b": "y"}, column="reason")
    given = write(tmp_path / "given.csv", {k: v for k, v in told.items() if v is not None}, column="reason")
    common = ("--gold", gold, "--model", "m", "--base-url", judging.url, "--cache", tmp_path / "cache")
    done = run("overlap", given, *common, "--output", tmp_path / "o.json")
    assert done.exit_code == 2
    assert message in done.output
    assert judging.bodies == []
    if "z" not in change:
        done = run("overlap", given, *common, "--output", tmp_path / "o.json", "--missing", "wrong")
        assert done.exit_code == 0, done.output
        assert "1 empty predictions" in done.output


def test_no_endpoint_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    told = write(tmp_path / "told.csv", {"a": "sad"}, column="reason")
    done = run("labels", told, "--model", "m", "--output", tmp_path / "l.csv")
    assert done.exit_code == 2
    assert "name the endpoint with --base-url or OPENAI_BASE_URL" in done.output
