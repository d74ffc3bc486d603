"""``emollama fusion``: from feature folders to a submission file, as a person would type it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from emollama.fusion.utterances import Utterances
from eval.submissions.formats import find_format
from train.fusion_cli import app

LABELS = ("angry", "happy")


def invoke(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Vectors of 24 labelled and 12 unlabelled clips in MERBench's layout; both modalities say the class."""
    random = np.random.default_rng(0)
    rows = []
    for number in range(36):
        sign = 1.0 if number % 2 else -1.0
        for folder, width in (("hubert-UTT", 4), ("clip-UTT", 3)):
            (tmp_path / folder).mkdir(exist_ok=True)
            np.save(tmp_path / folder / f"clip{number}.npy", sign + 0.1 * random.normal(size=width))
        rows.append((f"clip{number}", LABELS[number % 2], f"speaker{(number // 2) % 4}"))
    for name, part in (("labels.csv", rows[:24]), ("all.csv", rows)):
        with (tmp_path / name).open("w", newline="") as file:
            csv.writer(file).writerows([("name", "discrete", "group"), *part])
    with (tmp_path / "unlabelled.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("name", "group"), *((name, group) for name, _, group in rows[24:])])
    return tmp_path


def test_folders_become_tables_rounds_and_a_submission(folders: Path) -> None:
    features = (f"audio={folders / 'hubert-UTT'}", f"face={folders / 'clip-UTT'}")
    said = invoke("gather", folders / "labelled.safetensors", *features, "--labels", folders / "labels.csv")
    assert "24 clips, 24 with a label" in said
    invoke("gather", folders / "rest.safetensors", *features, "--labels", folders / "unlabelled.csv")
    assert Utterances.load(folders / "rest.safetensors").labels == (None,) * 12
    out = folders / "out"
    page = invoke(
        "self-train", folders / "labelled.safetensors", folders / "rest.safetensors", out, "task.hidden=8",
        "learning_rate=0.01", "--steps", 25, "--rounds", 1, "--members", 2, "--threshold", 0.6, "--folds", 2,
    )  # fmt: skip
    assert "| 1 | 12 of 12 |" in page
    report = json.loads((out / "report.json").read_text())
    assert report["rounds"][1]["pseudo_labels"]["taken"] == 12
    assert report["rounds"][1]["cross_validation"]["pseudo_labels_in_validation"] == 0
    assert {"command", "date", "git_revision"} <= set(report)
    assert json.loads((out / "round-1" / "fusion.json").read_text())["attention"] == "votes"
    with (out / "pseudo-1.csv").open() as file:
        told = {row["name"]: row["discrete"] for row in csv.DictReader(file)}
    assert told == {f"clip{n}": LABELS[n % 2] for n in range(24, 36)}
    said = invoke("predict", out / "round-1", folders / "rest.safetensors", folders / "submission.csv")
    lines = (folders / "submission.csv").read_text().splitlines()
    assert lines[0] == ",".join(find_format("mer").header)
    assert lines[1:] == [f"clip{n},{LABELS[n % 2]}" for n in range(24, 36)]


def test_a_labelled_table_is_scored_whole_and_without_each_modality(folders: Path) -> None:
    from emollama.fusion.classifier import FusionClassifier, FusionConfig, FusionNet

    invoke("gather", folders / "t.safetensors", f"audio={folders / 'hubert-UTT'}", f"face={folders / 'clip-UTT'}",
           "--labels", folders / "all.csv")  # fmt: skip
    FusionClassifier([FusionNet(FusionConfig(labels=LABELS, widths={"audio": 4, "face": 3}, hidden=4))]).save(
        folders / "m"
    )
    said = invoke("predict", folders / "m", folders / "t.safetensors", folders / "a.csv", "--scores", folders / "s.csv")
    assert "without audio: 36 clips" in said
    with (folders / "s.csv").open() as file:
        scores = list(csv.DictReader(file))
    assert float(scores[0]["angry"]) + float(scores[0]["happy"]) == pytest.approx(1.0, abs=1e-5)


def test_words_become_vectors_with_a_cue_of_an_endpoint_in_the_prompt(
    tmp_path, endpoint, completion, monkeypatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    endpoint.reply = lambda body, n: (200, {}, completion("It is said with force."))
    (tmp_path / "t.csv").write_text('name,sentence\na,"I am so happy"\nb,\n')
    out = invoke("words", tmp_path / "t.csv", tmp_path / "plain")
    assert "1 vectors" in out
    assert "1 clips without words" in out
    invoke("words", tmp_path / "t.csv", tmp_path / "cued", "--endpoint", endpoint.url, "--endpoint-model", "m",
           "--cache", tmp_path / "cache")  # fmt: skip
    plain, cued = (np.load(tmp_path / name / "a.npy") for name in ("plain", "cued"))
    assert plain.shape == cued.shape == (256,)
    assert not np.allclose(plain, cued)
    assert len(endpoint.bodies) == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("gather", "t.safetensors", "hubert-UTT"), "MODALITY=FOLDER"),
        (("gather", "t.safetensors", "audio=x"), "--labels or --names"),
        (("predict", "nowhere", "t.safetensors", "a.csv"), "emollama train fusion"),
        (("self-train", "a", "b", "c", "--threshold", "2"), "0 to 1"),
        (("dropout-study", "--seeds", "one"), "whole numbers"),
        (("dropout-study", "task.modality_dropout=0"), "to compare with none"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(tmp_path, monkeypatch, arguments, told) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 2
    assert told in done.output
    assert "Traceback" not in done.output
