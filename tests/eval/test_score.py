"""``emollama score``: what a user gets for files that are right, and what is said of files that are not."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score
from typer.testing import CliRunner

from emollama import metrics
from emollama.errors import DatasetError, InputError, UnknownNameError
from eval.choices import find_choice
from eval.score import app, find_task, score
from eval.score_files import LabelReader
from eval.score_rows import ScoreOptions, columns_of
from eval.score_tasks import ACTION_UNITS, INTENSITIES, MER, SCORE_TASKS

FAST = ScoreOptions(num_resamples=50)


def write(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def run(folder: Path, task: str, header: str, gold: Sequence[str], predicted: Sequence[str], **more: Any) -> Any:
    """Score two files written as lines of text under one header (or "gold header|predictions header")."""
    headers = header.split("|")
    for name, lines, top in (("gold", gold, headers[0]), ("predictions", predicted, headers[-1])):
        (folder / f"{name}.csv").write_text("\n".join([top, *lines]) + "\n", encoding="utf-8")
    options = more.pop("options", FAST)
    return score(find_task(task), folder / "predictions.csv", folder / "gold.csv", name=task, options=options, **more)


def value(document: Mapping[str, Any], figure: str) -> float:
    return document["figures"][figure]["value"]


# ---- classes ------------------------------------------------------------------------------------------------------


@pytest.fixture
def drawn(tmp_path: Path) -> tuple[Path, Path, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(3)
    truth = generator.integers(0, 6, 120)
    predicted = np.where(generator.random(120) < 0.6, truth, generator.integers(0, 6, 120))
    valence = generator.uniform(-5, 5, 120)
    guess = valence + generator.normal(size=120)
    gold = [(f"c{i}", MER[t], repr(float(v)), f"s{i % 7}") for i, (t, v) in enumerate(zip(truth, valence, strict=True))]
    answers = [(f"c{i}", MER[t], repr(float(v))) for i, (t, v) in enumerate(zip(predicted, guess, strict=True))]
    write(tmp_path / "gold.csv", ("name", "discrete", "valence", "speaker"), gold)
    write(tmp_path / "predictions.csv", ("name", "discrete", "valence"), answers[::-1])  # in any order
    return tmp_path / "predictions.csv", tmp_path / "gold.csv", truth, predicted, valence, guess


def test_mer2023_is_waf_less_a_quarter_of_the_error(drawn: Any) -> None:
    predictions, gold, truth, predicted, valence, guess = drawn
    document = score(find_task("mer2023_multi"), predictions, gold, name="mer2023_multi", options=FAST)
    waf = f1_score(truth, predicted, average="weighted")
    mse = float(((valence - guess) ** 2).mean())
    assert value(document, "waf") == pytest.approx(waf, abs=1e-12)
    assert value(document, "mse") == pytest.approx(mse, abs=1e-12)
    assert value(document, "emoval") == pytest.approx(waf - 0.25 * mse, abs=1e-12)
    assert document["primary"] == "emoval"
    assert document["n"] == 120
    assert document["bootstrap"]["unit"] == "speaker"
    assert document["bootstrap"]["num_units"] == 7
    for entry in document["figures"].values():
        assert entry["low"] <= entry["value"] <= entry["high"]
    assert document["counts"]["unparseable"] == document["counts"]["abstained"] == 0
    assert np.array(document["confusion"]["counts"]).sum() == 120


def test_the_same_files_give_the_same_document(drawn: Any) -> None:
    predictions, gold, *_ = drawn
    first, again = (score(find_task("mer2023_multi"), predictions, gold, options=FAST) for _ in range(2))
    assert json.dumps(first) == json.dumps(again)
    other = score(find_task("mer2023_multi"), predictions, gold, options=ScoreOptions(num_resamples=50, by="clip"))
    assert other["bootstrap"]["unit"] == "clip"
    assert other["figures"]["waf"]["value"] == first["figures"]["waf"]["value"]


def test_two_runs_are_compared_on_the_same_clips(drawn: Any, tmp_path: Path) -> None:
    predictions, gold, truth, _, valence, _ = drawn
    perfect = [(f"c{i}", MER[t], repr(float(v))) for i, (t, v) in enumerate(zip(truth, valence, strict=True))]
    best = write(tmp_path / "best.csv", ("name", "discrete", "valence"), perfect)
    options = ScoreOptions(num_resamples=200, by="clip")
    document = score(find_task("mer2023_multi"), best, gold, against=predictions, options=options)
    found = document["comparison"]["figures"]["waf"]
    assert found["difference"] == pytest.approx(1 - found["against"], abs=1e-12)
    assert 0 < found["low"] <= found["difference"] <= found["high"]
    assert found["p_value"] == pytest.approx(1 / 201, abs=1e-6)
    same = score(find_task("mer2023_multi"), best, gold, against=best, options=options)["comparison"]["figures"]["waf"]
    assert (same["difference"], same["p_value"]) == (0.0, 1.0)


def test_labels_may_be_other_names_of_the_same_emotion_and_it_is_said(tmp_path: Path) -> None:
    document = run(
        tmp_path, "mer2024_semi", "name,label", ["a,happy", "b,worried"], ["a,Happiness", "b,worry"],
    )  # fmt: skip
    assert value(document, "war") == 1.0
    assert document["counts"]["read_as"] == {"Happiness -> happy": 1, "worry -> worried": 1}


def test_a_name_never_merges_two_classes_of_a_task() -> None:
    ravdess = LabelReader(SCORE_TASKS["ravdess"].labels)
    assert ravdess.find("calm") != ravdess.find("neutral")
    assert ravdess.find("none") is None  # not the class neutral
    mafw = LabelReader(SCORE_TASKS["mafw"].labels)
    assert mafw.find("anxiety") != mafw.find("fear") == mafw.find("scared")
    assert LabelReader(SCORE_TASKS["meld"].labels).find("happy") == 1


def test_unparseable_and_abstained_answers_count_as_wrong_and_are_counted(tmp_path: Path) -> None:
    gold = ["a,happy", "b,sad", "c,happy", "d,sad"]
    document = run(tmp_path, "mer2024_semi", "name,label", gold, ["a,happy", "b,", "c,abstained", "d,unparseable"])
    assert document["counts"]["unparseable"] == 2
    assert document["counts"]["abstained"] == 1
    assert value(document, "war") == 0.25
    assert value(document, "war_of_answered") == 1.0
    assert document["confusion"]["counts"][3][-1] == 2  # the last column of the row "sad"


def test_confidence_gives_calibration_and_risk(tmp_path: Path) -> None:
    gold = [f"c{i},happy" for i in range(4)]
    predicted = ["c0,happy,0.9", "c1,sad,0.9", "c2,happy,0.6", "c3,happy,0.6"]
    document = run(tmp_path, "dfew", "name,label|name,label,confidence", gold, predicted)
    assert value(document, "ece") == pytest.approx(0.4)
    assert value(document, "aurc") == pytest.approx((0.5 + 0.5 + 1 / 3 + 0.25) / 4)
    assert len(document["reliability"]) == 15
    with pytest.raises(DatasetError, match=r"line 2, column confidence: 1.5 is outside 0 to 1"):
        run(tmp_path, "dfew", "name,label|name,label,confidence", gold[:1], ["c0,happy,1.5"])


def test_multiple_choice_and_preference(tmp_path: Path) -> None:
    document = run(
        tmp_path, "emobench_m", "name,label", ["a,B", "b,C", "c,A"], ["a,(b)", 'b,"C) because"', "c,A person is sad"],
        options=ScoreOptions(num_resamples=50, unknown="wrong"),
    )  # fmt: skip
    assert value(document, "war") == pytest.approx(2 / 3)
    assert document["counts"]["unparseable"] == 1
    assert find_choice("A happy person") is None
    gold = ["a,a1", "b,a2", "c,same", "d,a1"]
    answers = ["a,The answer is A1.", "b,a2 over a1", "c,a2", "d,neither"]
    document = run(tmp_path, "mer2026_prefer", "name,label", gold, answers)
    assert document["counts"]["left_out"] == 1
    assert document["counts"]["unparseable"] == 1
    assert value(document, "waf") == 1.0  # what cannot be read is "same", and that is a1
    assert "MER2026 rules" in " ".join(document["notes"])


def test_abaw_accepts_class_indices(tmp_path: Path) -> None:
    document = run(tmp_path, "abaw_expr", "name,label", ["a,0", "b,6"], ["a,neutral", "b,surprise"])
    assert value(document, "macro_f1") == pytest.approx(2 / 8)
    with pytest.raises(DatasetError, match=r"'8' is not a label.*or an index 0 to 7"):
        run(tmp_path, "abaw_expr", "name,label", ["a,0"], ["a,8"])
    document = run(
        tmp_path,
        "abaw_ce",
        "image_location,label",
        ["a,Sadly_Angry", "b,0"],
        ["a,sadly angry", "b,Fearfully Surprised"],
    )
    assert value(document, "war") == 1.0


def test_a_data_set_of_ones_own(tmp_path: Path) -> None:
    for name, rows in (("gold", ["a,up"]), ("predictions", ["a,up"])):
        (tmp_path / f"{name}.csv").write_text("\n".join(["name,label", *rows]), encoding="utf-8")
    task = find_task("classes", labels="up, down")
    document = score(task, tmp_path / "predictions.csv", tmp_path / "gold.csv", options=FAST)
    assert value(document, "war") == 1.0
    assert document["figures"]["war"]["low"] is None  # one clip has no interval
    assert "one unit only" in document["notes"][0]
    for wrong, message in (("up,up", "names a class twice"), (None, "wants --labels"), ("up", "fewer than 2")):
        with pytest.raises(InputError, match=message):
            find_task("classes", labels=wrong)
    with pytest.raises(InputError, match="no effect on task 'dfew'"):
        find_task("dfew", labels="a,b")
    with pytest.raises(UnknownNameError, match=r"known: .*mer2025_fg"):
        find_task("nope")


# ---- numbers ------------------------------------------------------------------------------------------------------


def test_valence_and_arousal(tmp_path: Path) -> None:
    generator = np.random.default_rng(4)
    truth = generator.uniform(-1, 1, (60, 2))
    guess = np.clip(truth + generator.normal(0, 0.3, (60, 2)), -1, 1)
    gold = [f"f{i},{v!r},{a!r},v{i % 5}" for i, (v, a) in enumerate(truth.tolist())] + ["bad,-5,-5,v0"]
    answers = [f"f{i},{v!r},{a!r}" for i, (v, a) in enumerate(guess.tolist())] + ["bad,0,0"]
    document = run(tmp_path, "abaw_va", "name,valence,arousal,video|name,valence,arousal", gold, answers)
    assert value(document, "ccc") == pytest.approx(metrics.valence_arousal_score(truth, guess), abs=1e-12)
    assert document["parts"]["ccc"]["valence"]["value"] == pytest.approx(metrics.concordance(truth[:, 0], guess[:, 0]))
    assert document["counts"]["not_annotated"] == 1
    assert (document["n"], document["bootstrap"]["unit"], document["bootstrap"]["num_units"]) == (60, "video", 5)
    assert "biased variance" in document["notes"][0]
    with pytest.raises(DatasetError, match=r"gold.csv, line 2, column valence: '3' is outside -1 to 1, or -5"):
        run(tmp_path, "abaw_va", "name,valence,arousal", ["a,3,0"], ["a,0,0"])


def test_action_units(tmp_path: Path) -> None:
    header = "name," + ",".join(ACTION_UNITS)
    gold = ["a," + ",".join("1" * 12), "b," + ",".join(["-1"] * 12), "c," + ",".join("0" * 12)]
    answers = ["a," + ",".join("1" * 6 + "0" * 6), "b," + ",".join("1" * 12), "c," + ",".join("0" * 12)]
    document = run(tmp_path, "abaw_au", header, gold, answers)
    assert value(document, "au_f1") == 0.5
    assert document["parts"]["f1"]["AU1"]["value"] == 1.0
    assert document["counts"]["not_annotated"] == 1
    with pytest.raises(DatasetError, match=r"line 2, column AU1: '0.5' is not allowed; one of 0, 1"):
        run(tmp_path, "abaw_au", header, gold[:1], ["a," + ",".join(["0.5"] * 12)])


def test_intensities(tmp_path: Path) -> None:
    generator = np.random.default_rng(5)
    truth, guess = generator.random((20, 6)), generator.random((20, 6))
    header = "Filename," + ",".join(INTENSITIES)
    rows = [[f"{i}," + ",".join(map(repr, row)) for i, row in enumerate(side.tolist())] for side in (truth, guess)]
    document = run(tmp_path, "abaw_emi", header, *rows)
    assert value(document, "pearson") == pytest.approx(metrics.mean_pearson(truth, guess), abs=1e-12)
    assert set(document["parts"]["pearson"]) == set(INTENSITIES)


def test_sentiment_leaves_out_zero(tmp_path: Path) -> None:
    document = run(tmp_path, "mosi", "name,val", ["a,1.2", "b,-0.2", "c,0", "d,2"], ["a,0.1", "b,0", "c,3", "d,-1"])
    assert document["counts"]["left_out"] == 1
    assert value(document, "war") == pytest.approx(2 / 3)
    with pytest.raises(DatasetError, match="no row that this task scores"):
        run(tmp_path, "mosi", "name,val", ["a,0"], ["a,1"])


def test_multilabel(tmp_path: Path) -> None:
    header = "name,labels"
    gold = ["a,\"['joy', 'love']\"", "b,['neutral']", "c,['anger']"]
    predicted = ["a,\"['joy']\"", "b,['neutral']", "c,\"['anger', 'rage']\""]
    with pytest.raises(DatasetError, match=r"line 4, column labels: 'rage' is not a label.*admiration"):
        run(tmp_path, "goemotions", header, gold, predicted)
    document = run(
        tmp_path, "goemotions", header, gold, predicted, options=ScoreOptions(num_resamples=50, unknown="wrong")
    )
    assert value(document, "micro_f1") == pytest.approx(2 * 2 / (4 + 2))
    assert value(document, "macro_f1") == pytest.approx(2 / 28)
    assert value(document, "exact_match") == pytest.approx(1 / 3)
    assert document["counts"]["unparseable"] == 1


# ---- words --------------------------------------------------------------------------------------------------------

GOLD_OV = ["a,\"['Happy', 'calm']\"", "b,['sad']", "c,\"['angry', 'upset', 'tense']\""]
PREDICTED_OV = ["a,['glad']", "b,[]", "c,\"['angry', 'bored']\"", "other,['happy']"]


def test_open_vocabulary_by_hand(tmp_path: Path) -> None:
    groups = write(
        tmp_path / "groups.csv", ("name", "groups"),
        [("a", "[['glad', 'happy']]"), ("b", "[]"), ("c", "[['angry', 'upset']]")],
    )  # fmt: skip
    document = run(tmp_path, "mer2024_ov", "name,labels", GOLD_OV, PREDICTED_OV, synonyms=groups)
    assert value(document, "set_accuracy") == pytest.approx(0.5)
    assert value(document, "set_recall") == pytest.approx(1 / 3)
    assert value(document, "score") == pytest.approx((0.5 + 1 / 3) / 2)
    assert document["counts"]["empty_predictions"] == 1
    assert document["counts"]["extra"] == 1
    assert "1 names of predictions.csv are not in gold.csv and are not scored" in document["notes"]


def test_clips_without_groups_are_not_scored_and_no_groups_is_said(tmp_path: Path) -> None:
    groups = write(tmp_path / "groups.csv", ("name", "groups"), [("a", "[['glad', 'happy']]")])
    document = run(tmp_path, "mer2024_ov", "name,labels", GOLD_OV, PREDICTED_OV, synonyms=groups)
    assert (document["n"], document["counts"]["without_synonyms"]) == (1, 2)
    assert "2 clips have no synonym groups" in " ".join(document["notes"])
    document = run(tmp_path, "mer2024_ov", "name,labels", GOLD_OV, PREDICTED_OV)
    assert "not the official figure" in " ".join(document["notes"])
    write(tmp_path / "groups.csv", ("name", "groups"), [("z", "[]")])
    with pytest.raises(DatasetError, match="'z'"):
        run(tmp_path, "mer2024_ov", "name,labels", GOLD_OV, PREDICTED_OV, synonyms=groups)


def test_a_list_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"predictions.csv, line 2, column labels: labels 'happy' are not a list"):
        run(tmp_path, "emer", "name,labels", ["a,['happy']"], ["a,happy"])
    document = run(
        tmp_path, "emer", "name,labels", ["a,['happy']", "b,['sad']"], ["a,happy", "b,abstained"],
        options=ScoreOptions(num_resamples=50, unknown="wrong"),
    )  # fmt: skip
    assert (document["counts"]["unparseable"], document["counts"]["abstained"]) == (1, 1)
    assert value(document, "score") == 0.0
    with pytest.raises(DatasetError, match=r"gold\.csv, line 2, column labels: '\[\]' holds no label"):
        run(tmp_path, "emer", "name,labels", ["a,[]"], ["a,['x']"])


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five equal wheels of two sectors; every word is its own form and synonym."""
    openpyxl = pytest.importorskip("openpyxl")
    folder = tmp_path_factory.mktemp("wheel")

    def sheet(name: str, rows: Sequence[Sequence[str | None]]) -> None:
        book = openpyxl.Workbook()
        for row in rows:
            book.active.append(list(row))
        book.save(folder / name)

    rows = [("Happy", "Glad", "Merry"), (None, "Calm", "Mild"), ("Sad", "Low", "Blue")]
    for number in range(1, 6):
        sheet(f"wheel{number}.xlsx", [("level1", "level2", "level3"), *rows])
    words = ("happy", "glad", "merry", "calm", "mild", "sad", "low", "blue")
    header = [f"{kind}_run{run}" for run in range(1, 9) for kind in ("word", "synonym")]
    sheet("synonym.xlsx", [header, *([word, f"{word}ish"] * 8 for word in words)])
    lines = ["name,format", *(f"{word},{word}ly" for word in words), "lowish,"]
    (folder / "format.csv").write_text("\n".join(lines), encoding="utf-8")
    return folder


def test_emotion_wheel_by_hand(tmp_path: Path, lists: Path) -> None:
    gold = ["a,\"['merry', 'blue']\"", "b,['mild']", "c,['xyzzy']", "d,['sadly']"]
    predicted = ["a,\"['glad', 'gladly', 'quux']\"", "b,['glad']", "c,['glad']", "d,[]", "pool,['low']"]
    document = run(tmp_path, "mer2025_fg", "name,openset", gold, predicted, wheel=lists)
    # level 1: {happy, sad}/{happy}, {happy}/{happy}, skipped, {sad}/{} -> P 2/3, R 1.5/3
    level1 = 2 * (2 / 3) * 0.5 / (2 / 3 + 0.5)
    # level 2: {glad, low}/{glad}, {calm}/{glad}, skipped, {low}/{} -> P 1/3, R 0.5/3
    level2 = 2 * (1 / 3) * (0.5 / 3) / (0.5)
    assert value(document, "ew_level1") == pytest.approx(level1, abs=1e-12)
    assert value(document, "ew_level2") == pytest.approx(level2, abs=1e-12)
    assert value(document, "ew") == pytest.approx((level1 + level2) / 2, abs=1e-12)
    assert document["clips_by_wheel"] == {"level1": [3] * 5, "level2": [3] * 5}
    assert document["dropped_words"]["predicted"] == {"num_words": 5, "num_dropped": 1, "most_frequent": {"quux": 1}}
    assert document["dropped_words"]["gold"]["num_dropped"] == 1
    assert document["counts"]["empty_predictions"] == 1
    notes = " ".join(document["notes"])
    assert "the word lists hold 17 forms" in notes  # 8 words, 8 with -ly, lowish
    assert document["files"]["format"]["name"] == "format.csv"
    assert "skipped; kept by wheel: [3, 3, 3, 3, 3]" in notes
    assert "1 of 5 predicted words are outside the word lists" in notes


def test_hit_rate_by_hand(tmp_path: Path, lists: Path) -> None:
    document = run(
        tmp_path, "unibench_hit", "name,label|name,labels", ["a,happy", "b,sad"],
        ["a,\"['low', 'merry']\"", "b,['mild']"], wheel=lists,
    )  # fmt: skip
    assert value(document, "hit") == 0.5
    assert document["figures"]["hit_wheel1"]["value"] == 0.5


def test_word_lists_are_asked_for(tmp_path: Path, lists: Path) -> None:
    with pytest.raises(InputError, match="wants --wheel DIR"):
        run(tmp_path, "mer2026_fg", "name,labels", ["a,['happy']"], ["a,['happy']"])
    with pytest.raises(InputError, match="wheel has no effect on a task of kind classes"):
        run(tmp_path, "dfew", "name,label", ["a,happy"], ["a,happy"], wheel=lists)
    with pytest.raises(InputError, match="synonyms has no effect"):
        run(tmp_path, "dfew", "name,label", ["a,happy"], ["a,happy"], synonyms=lists)


# ---- files that are not right -------------------------------------------------------------------------------------

GOLD = ["a,happy", "b,sad", "c,angry"]


@pytest.mark.parametrize(
    ("task", "predicted", "message"),
    [
        ("mer2024_semi", ["a,happy", "c,angry"], r"no row for 1 of 3 names of .*gold\.csv: 'b'; --missing wrong"),
        ("dfew", [*GOLD, "d,sad", "e,sad"], r"2 names that .*gold\.csv does not: 'd', 'e'; first on line 5"),
        ("mer2024_semi", [*GOLD, "a,sad"], r"predictions\.csv, line 5, column name: 'a' already stands on line 2"),
        ("mer2024_semi", ["a,happy", "b,joyous", "c,angry"],
         r"predictions\.csv, line 3, column label: 'joyous' is .*allowed: neutral, angry, .*--unknown wrong"),
        ("mer2024_semi", ["a,happy", "b", "c,angry"], r"line 3: 1 cells where the header has 2"),
        ("mer2024_semi", ["a,happy", ",sad", "c,angry"], r"line 3, column name is empty"),
        ("mer2024_semi", [], r"holds a header and no rows"),
    ],
)  # fmt: skip
def test_files_that_are_wrong_are_named_with_line_and_value(
    tmp_path: Path, task: str, predicted: Sequence[str], message: str
) -> None:
    with pytest.raises(DatasetError, match=message):
        run(tmp_path, task, "name,label", GOLD, predicted)


def test_an_unknown_label_in_the_truth_is_always_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"gold\.csv, line 2, column label: 'joyous'"):
        run(tmp_path, "mer2024_semi", "name,label", ["a,joyous"], ["a,happy"], options=ScoreOptions(unknown="wrong"))


def test_what_is_missing_or_unknown_may_count_as_wrong(tmp_path: Path) -> None:
    options = ScoreOptions(num_resamples=50, missing="wrong", unknown="wrong")
    document = run(tmp_path, "mer2024_semi", "name,label", GOLD, ["a,happy", "c,joyous"], options=options)
    assert value(document, "war") == pytest.approx(1 / 3)
    assert (document["counts"]["missing"], document["counts"]["unparseable"]) == (1, 1)
    assert "1 clips have no prediction and count as wrong" in document["notes"]


def test_a_missing_number_cannot_count_as_wrong(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="a number cannot be counted as wrong"):
        run(
            tmp_path, "mer2023_multi", "name,label,valence", ["a,happy,1", "b,sad,1"], ["a,happy,1"],
            options=ScoreOptions(missing="wrong"),
        )  # fmt: skip
    with pytest.raises(DatasetError, match="line 2, column valence: 'nan' is not a number"):
        run(tmp_path, "mer2023_multi", "name,label,valence", ["a,happy,1"], ["a,happy,nan"])


def test_semi_scores_only_the_names_of_the_truth_and_says_so(tmp_path: Path) -> None:
    document = run(tmp_path, "mer2023_semi", "name,discrete", GOLD, [*GOLD, "x,sad", "y,not even a label"])
    assert value(document, "waf") == 1.0
    assert document["counts"]["extra"] == 2
    assert "2 names of predictions.csv are not in gold.csv and are not scored" in document["notes"]
    gold = [f"{line},0" for line in GOLD]
    with pytest.raises(DatasetError, match="same names in both"):
        run(tmp_path, "mer2023_multi", "name,discrete,valence", gold, [*gold, "x,sad,0"])


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    good = write(tmp_path / "good.csv", ("name", "label"), [("a", "happy")])
    cases = {
        "empty.csv": (b"", "is empty; a header line with name, label"),
        "header.csv": (b"name,emotion\na,happy\n", "has no column label or discrete; found: name, emotion"),
        "both.csv": (b"name,label,discrete\na,happy,happy\n", "has both columns label and discrete"),
        "twice.csv": (b"name,name,label\na,a,happy\n", "names column 'name' twice"),
        "binary.csv": (b"name,label\na,\xff\xfe\n", "not a CSV file in UTF-8"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DatasetError, match=message):
            score(find_task("dfew"), tmp_path / name, good, options=FAST)
    with pytest.raises(DatasetError, match="does not exist"):
        score(find_task("dfew"), tmp_path / "absent.csv", good, options=FAST)
    with pytest.raises(DatasetError, match="is a folder"):
        score(find_task("dfew"), tmp_path, good, options=FAST)


def test_a_byte_order_mark_and_a_line_break_in_a_cell_are_fine(tmp_path: Path) -> None:
    gold = write(tmp_path / "gold.csv", ("name", "label", "text"), [("a", "happy", "one\ntwo"), ("b", "sad", "")])
    (tmp_path / "p.csv").write_bytes(b"\xef\xbb\xbfname,label\r\na,happy\r\n\r\nb,glum\r\n")
    with pytest.raises(DatasetError, match=r"p\.csv, line 4, column label: 'glum'"):
        score(find_task("dfew"), tmp_path / "p.csv", gold, options=FAST)


def test_clusters_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no column 'film' to draw by; found: name, label"):
        run(tmp_path, "dfew", "name,label", GOLD, GOLD, options=ScoreOptions(by="film"))
    with pytest.raises(DatasetError, match="line 3, column speaker is empty; --by clip"):
        run(tmp_path, "dfew", "name,label,speaker|name,label", ["a,happy,x", "b,sad,"], ["a,happy", "b,sad"])
    for wrong in ({"num_resamples": 0}, {"seed": -1}):
        with pytest.raises(InputError):
            ScoreOptions(**wrong)


# ---- the command --------------------------------------------------------------------------------------------------


def invoke(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "200", "NO_COLOR": "1"})


def test_the_command_prints_a_table_or_json(drawn: Any, tmp_path: Path) -> None:
    predictions, gold, *_ = drawn
    words = ("mer2023_noise", predictions, "--gold", gold, "--resamples", 50)
    shown = invoke(*words)
    assert shown.exit_code == 0, shown.output
    assert "emoval (official)" in shown.output
    assert "resamples of 7 (speaker)" in shown.output
    printed = invoke(*words, "--json", "--output", tmp_path / "out" / "score.json", "--against", predictions)
    document = json.loads(printed.output)
    assert {"format", "task", "primary", "n", "counts", "bootstrap", "figures", "parts", "confusion", "notes", "origin",
            "files", "source", "support", "comparison"} == set(document)  # fmt: skip
    assert document["format"] == "emollama-score/1"
    assert re.fullmatch("[0-9a-f]{64}", document["files"]["gold"]["sha256"])
    assert json.loads((tmp_path / "out" / "score.json").read_text())["figures"] == document["figures"]
    compared = invoke(*words, "--against", predictions)
    assert "waf: difference" in compared.output


def test_the_command_lists_tasks_and_says_what_is_wrong(drawn: Any) -> None:
    predictions, gold, *_ = drawn
    listed = invoke()
    assert all(name in listed.output for name in SCORE_TASKS)
    for words, message in (
        (("dfew", predictions), "--gold FILE"),
        (("nope", predictions, "--gold", gold), "unknown task 'nope'"),
        (("dfew", predictions, "--gold", gold, "--missing", "perhaps"), "missing 'perhaps' is not allowed"),
        (("dfew", predictions, "--gold", gold), "'worried' is not a label of this task"),
    ):
        result = invoke(*words)
        assert result.exit_code == 2
        assert message in " ".join(result.output.split())


@pytest.mark.parametrize("name", sorted(SCORE_TASKS))
def test_every_task_scores_its_own_truth_as_perfect(name: str, tmp_path: Path, lists: Path) -> None:
    """A miniature of each task's files, the truth given back as the answer; intervals agree with the point values."""
    task = SCORE_TASKS[name]
    generator = np.random.default_rng(7)

    def cell(column: str, index: int) -> object:
        if column == "label" and task.kind != "hit":
            return task.labels[index % len(task.labels)]
        if column in ("label", "labels"):
            word = ("happy", "sad")[index % 2] if task.kind != "multilabel" else task.labels[index % len(task.labels)]
            return word if column == "label" else f"['{word}']"
        return int(index % 2) if task.kind == "action_units" else round(float(generator.uniform(0.1, 0.9)), 3)

    columns = columns_of(task, is_gold=True)
    rows = [(f"c{i}", *(cell(column, i) for column in columns)) for i in range(56)]
    gold = write(tmp_path / "gold.csv", ("name", *columns), rows)
    answer = gold
    if task.kind == "hit":
        answer = write(tmp_path / "answer.csv", ("name", "labels"), [(key, f"['{word}']") for key, word in rows])
    wheel = lists if task.kind in ("wheel", "hit") else None
    document = score(task, answer, gold, wheel=wheel, options=FAST)
    assert value(document, task.primary) == pytest.approx(1.0, abs=1e-12)
    assert document["figures"][task.primary]["high"] <= 1.0 + 1e-9
    assert document["n"] == 56


@pytest.mark.parametrize(
    "name", ["dfew", "mer2023_multi", "abaw_va", "abaw_au", "abaw_emi", "mer2025_fg", "goemotions"]
)
def test_what_is_resampled_is_what_is_reported(name: str, tmp_path: Path, lists: Path, monkeypatch: Any) -> None:
    """The totals over all units give the point values, to 1e-12."""
    from eval import score_rows

    seen = []
    original = score_rows.ScoredRun

    def keep(**parts: Any) -> Any:
        seen.append(parts["scored"])
        return original(**parts)

    monkeypatch.setattr(score_rows, "ScoredRun", keep)
    task = SCORE_TASKS[name]
    generator = np.random.default_rng(8)
    words = task.labels if task.kind == "multilabel" else ("happy", "glad", "calm", "low", "xyzzy")

    def cell(column: str) -> object:
        if column == "label":
            return str(generator.choice(task.labels))
        if column == "labels":
            return str([str(word) for word in generator.choice(words, generator.integers(1, 4))])
        return int(generator.integers(0, 2)) if task.kind == "action_units" else float(generator.uniform(0, 1))

    columns = columns_of(task, is_gold=True)
    files = [
        write(tmp_path / f"{side}.csv", ("name", *columns), [(f"c{i}", *map(cell, columns)) for i in range(40)])
        for side in ("predictions", "gold")
    ]
    score(task, files[0], files[1], wheel=lists if task.kind == "wheel" else None, options=FAST)
    (scored,) = seen
    again = scored.of_totals(scored.sums.sum(0)[None])[0]
    assert list(scored.values.values()) == pytest.approx(again.tolist(), abs=1e-12, nan_ok=True)
