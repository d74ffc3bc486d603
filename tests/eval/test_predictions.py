"""From an answer to a cell: every kind of task, answered and not answered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eval.predictions import Record, write_tables
from eval.score_tasks import ACTION_UNITS, INTENSITIES
from eval.scoring import ScoreSettings, score_records
from tests.eval.toy import toy_task

QUICK = ScoreSettings(num_resamples=20)
ANYTHING = {"modalities": ("visual",), "labels": ("a", "b")}
# score task, asks, two truths, two answers that are not quite right, primary figure of the truth itself
KINDS: list[tuple[str, str, list[Any], list[Any]]] = [
    ("iemocap", "label", ["happy", "sad"], ["happy", "neutral"]),
    ("mer2023_multi", "label", [{"label": "happy", "valence": 2.0}, {"label": "sad", "valence": -1.5}],
     [{"label": "happy", "valence": 1.0}, {"label": "angry", "valence": 0.0}]),
    ("goemotions", "labels", [["joy", "love"], ["anger"]], [["joy"], ["anger", "fear"]]),
    ("emer", "open", [["happy", "at ease"], ["it's odd"]], [["happy"], ["it's odd", "sad"]]),
    ("emer", "rationale", [["happy"], ["sad"]],
     [{"text": "So.", "labels": ["happy"]}, {"text": "So.", "labels": ["tired"]}]),
    ("abaw_emi", "labels", [dict.fromkeys(INTENSITIES, 0.25), dict.fromkeys(INTENSITIES, 0.75)],
     [dict.fromkeys(INTENSITIES, 0.5), dict.fromkeys(INTENSITIES, 0.5)]),
    ("mosi", "affect", [1.5, -2.0], [{"valence": -0.5, "arousal": 0.0}, {"valence": -0.5, "arousal": 0.0}]),
    ("abaw_va", "affect", [{"valence": 0.5, "arousal": 0.25}, {"valence": -0.5, "arousal": 0.0}],
     [{"valence": 0.4, "arousal": 0.25}, {"valence": 0.5, "arousal": 0.1}]),
    ("emobench_m", "choice", ["A", "C"], ["A", "B"]),
]  # fmt: skip


def records(golds: list[Any], answers: list[Any], **changes: Any) -> list[Record]:
    return [
        Record(id=f"r{place}", gold=gold, prediction=answer, **changes)
        for place, (gold, answer) in enumerate(zip(golds, answers, strict=True))
    ]


@pytest.mark.parametrize(("score", "asks", "golds", "answers"), KINDS, ids=[f"{k[0]}-{k[1]}" for k in KINDS])
def test_every_kind_is_scored_and_no_answer_is_worth_less_than_the_truth(
    score: str, asks: str, golds: list[Any], answers: list[Any], tmp_path: Path
) -> None:
    task = toy_task(score=score, asks=asks, **ANYTHING)

    def figure(rows: list[Record], name: str) -> dict[str, Any]:
        document = score_records(rows, task, tmp_path / name, QUICK)
        return {**document, "value": document["figures"][document["primary"]]["value"]}

    perfect = [{"text": "So.", "labels": gold} for gold in golds] if asks == "rationale" else golds
    best = figure(records(golds, perfect), "best")
    some = figure(records(golds, answers), "some")
    none = figure(records(golds, [None, None], abstained=True), "none")
    failed = figure(records(golds, [None, None], error="InputError: no"), "failed")
    assert best["value"] > some["value"] >= none["value"]
    assert none["value"] == failed["value"]
    is_number = score in ("abaw_emi", "mosi", "abaw_va", "mer2023_multi")
    assert any("2 rows had no answer where a number is wanted" in note for note in none["notes"]) == is_number
    if score not in ("abaw_emi", "mosi", "abaw_va"):
        assert none["counts"]["abstained"] == 2
        assert failed["counts"]["unparseable"] == 2


def test_a_wrong_sign_is_what_a_missing_sentiment_is_worth(tmp_path: Path) -> None:
    task = toy_task(score="mosi", asks="affect", **ANYTHING)
    document = score_records(records([1.5, -2.0], [None, None]), task, tmp_path, QUICK)
    assert document["figures"]["waf"]["value"] == 0.0


def test_a_series_has_a_row_for_each_frame_answered_or_not(tmp_path: Path) -> None:
    units = [[1] + [0] * 11, [0] * 12, [1] * 12]
    for score, values, answers in (
        ("abaw_expr", ["happiness", "other", "fear"], ["happiness", None, "fear"]),
        ("abaw_va", [{"valence": v, "arousal": 0.2 * v} for v in (0.1, 0.5, -0.4)], [None] * 3),
        ("abaw_au", units, [units[0], units[0], units[2]]),
    ):
        gold = {"frames": ["v/1.jpg", "v/2.jpg", "v/3.jpg"], "times": [0.0, 0.1, 0.2], "values": values}
        task = toy_task(score=score, asks="series", **ANYTHING)
        rows = [
            Record(id="v", gold=gold, prediction=answers, group="v"),
            Record(id="w", gold={**gold, "frames": ["w/1", "w/2", "w/3"]}, error="MediaError: x", group="w"),
        ]
        document = score_records(rows, task, tmp_path / score, QUICK)
        assert document["n"] == 6
        assert document["bootstrap"]["num_units"] == 2
        lines = (tmp_path / score / "predictions.csv").read_text().splitlines()
        assert [line.split(",")[0] for line in lines] == ["name", "v/1.jpg", "v/2.jpg", "v/3.jpg", "w/1", "w/2", "w/3"]
        if score == "abaw_au":
            assert lines[0].split(",")[1:] == list(ACTION_UNITS)


def test_confidence_is_written_only_where_every_answer_has_one(tmp_path: Path) -> None:
    task = toy_task(modalities=("visual",))
    sure = records(["happy", "sad"], ["happy", "angry"], probabilities={"happy": 0.6, "angry": 0.3})
    write_tables(sure, task, tmp_path)
    lines = (tmp_path / "predictions.csv").read_text().splitlines()
    assert lines == ["name,label,confidence", "r0,happy,0.6", "r1,angry,0.3"]
    write_tables([*sure, Record(id="x", gold="sad", prediction="sad")], task, tmp_path)
    assert (tmp_path / "predictions.csv").read_text().splitlines()[0] == "name,label"


def test_rows_survive_the_file(tmp_path: Path) -> None:
    row = Record(id="a", gold=["ü"], prediction=["x"], probabilities={"x": 0.1}, given=("text",), notes={"n": 1})
    assert Record.from_json_dict(row.to_json_dict()) == row
