"""A sweep in a run: its files, its table, and that it is the same when it is made again or goes on."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from emollama.errors import InputError
from eval.ask import Answer, Given
from eval.cli import app
from eval.robustness import parse_conditions, read_manifest
from eval.robustness_run import Sweep, run_sweep
from eval.run import EvalOptions, RunResult, evaluate
from eval.scoring import ScoreSettings
from eval.task import EvalTask
from tests.eval.toy import LABELS, ToyModel, toy_task

QUICK = EvalOptions(ablate=False, score=ScoreSettings(num_resamples=50))
SWEEP = Sweep(conditions=parse_conditions(["dark=2,20", "words=1", "noise_white=20"]), seed=3)


class Looks(ToyModel):
    """Believes the picture, as far as there is light: below grey 5 it says ``angry``."""

    def answer(self, given: Given, task: EvalTask) -> Answer:
        answer = super().answer(given, task)
        assert given.clip.frames is not None
        grey = int(np.asarray(given.clip.frames.images).max())
        return replace(answer, prediction="angry" if grey < 5 else LABELS[0], probabilities=None)


def run(folder: Path, model: ToyModel, *, sweep: Sweep = SWEEP, options: EvalOptions = QUICK) -> RunResult:
    clean = evaluate(toy_task(), model, folder, folder / "run", options)
    return run_sweep(toy_task(), model, folder, clean, options, sweep)


def test_a_sweep_leaves_a_manifest_answers_and_a_table(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    model = Looks()
    clean = evaluate(toy_task(), model, tmp_path, tmp_path / "run", QUICK)
    result = run_sweep(
        toy_task(), model, tmp_path, clean, QUICK, SWEEP, progress=lambda done, total: seen.append((done, total))
    )
    rows = {(row["corruption"], row["level"]): row for row in result.document["robustness"]["rows"]}
    assert list(rows) == [("dark", "2"), ("dark", "20"), ("words", "1"), ("noise_white", "20")]
    # clips of grey 10 are black under this gamma, and the model then says another class
    assert rows["dark", "20"]["changed_answers"] == 24
    assert rows["noise_white", "20"]["changed_answers"] == 0
    assert rows["words", "1"]["changed_answers"] == 0
    assert rows["noise_white", "20"]["difference"]["difference"] == 0.0
    assert rows["dark", "20"]["without_modality"] == 0
    draws = read_manifest(tmp_path / "run" / "corruptions.csv")
    assert len(draws) == 4 * 24
    folder = tmp_path / "run" / "corrupted" / "dark-20"
    with (folder / "predictions.csv").open() as file:
        assert {row["label"] for row in csv.DictReader(file)} == {"angry"}
    assert seen[-1] == (96, 96)
    assert json.loads((tmp_path / "run" / "result.json").read_text()) == result.document
    for name in ("report.md", "report.html"):
        text = (tmp_path / "run" / name).read_text()
        assert "When the clip gets worse" in text
        assert "white noise made by rule" in text
    # a leaderboard reads result.json: a spoiled run must not stand there as one of its own
    assert not (folder / "result.json").exists()


def test_words_are_taken_from_the_model(tmp_path: Path) -> None:
    """Without its words the toy believes the sound, which is wrong in every third item."""
    result = run(tmp_path, ToyModel(), sweep=Sweep(conditions=parse_conditions(["words=1"])))
    (row,) = result.document["robustness"]["rows"]
    assert result.document["figures"]["war"]["value"] == 1.0
    assert row["figures"]["war"]["value"] == pytest.approx(16 / 24)
    assert row["difference"]["difference"] < 0
    assert row["changed_answers"] == 8


def content(folder: Path) -> dict[str, Any]:
    document = json.loads((folder / "run" / "result.json").read_text())
    return {
        "rows": document["robustness"],
        "manifest": (folder / "run" / "corruptions.csv").read_text(),
        "answers": {
            path.parent.name: path.read_text() for path in (folder / "run" / "corrupted").glob("*/predictions.csv")
        },
    }


def test_interrupted_and_resumed_it_is_the_same(tmp_path: Path) -> None:
    run(tmp_path / "whole", Looks())
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "torn", Looks(stop_after=24 + 24 + 7))
    model = Looks()
    run(tmp_path / "torn", model, options=replace(QUICK, resume=True))
    assert len(model.asked) == 4 * 24 - 24 - 7
    assert content(tmp_path / "torn") == content(tmp_path / "whole")
    # with more conditions it goes on, with another seed it does not
    more = replace(SWEEP, conditions=(*SWEEP.conditions, *parse_conditions(["cut_last=0.5"])))
    run(tmp_path / "torn", model, sweep=more, options=replace(QUICK, resume=True))
    assert len(read_manifest(tmp_path / "torn" / "run" / "corruptions.csv")) == 5 * 24
    with pytest.raises(InputError, match="was drawn with another seed or other noise: 'clip00' under words=1 differs"):
        run(tmp_path / "torn", model, sweep=replace(SWEEP, seed=4), options=replace(QUICK, resume=True))


def test_what_has_no_effect_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="conditions are empty"):
        Sweep(conditions=())
    with pytest.raises(InputError, match="noise has no effect without the corruption 'noise'"):
        Sweep(conditions=parse_conditions(["blur=2"]), noise=tmp_path)
    with pytest.raises(InputError, match="blur=2 spoils visual, which the items of toy do not have; they have: audio"):
        Sweep(conditions=parse_conditions(["blur=2"])).check(toy_task(modalities=("audio",)))


def test_recordings_of_noise_are_named(tmp_path: Path, media: Any) -> None:
    (tmp_path / "musan").mkdir()
    media.wav(tmp_path / "musan" / "hum.wav", seconds=0.3)
    sweep = Sweep(conditions=parse_conditions(["noise=5..10"]), noise=tmp_path / "musan")
    result = run(tmp_path, Looks(), sweep=sweep)
    assert result.document["robustness"]["noise"] == "1 recordings of the folder 'musan'"
    draws = read_manifest(tmp_path / "run" / "corruptions.csv")
    assert {row.parameters["file"] for row in draws} == {"hum.wav"}
    assert {row.parameters["snr_db"] for row in draws} <= {5.0, 6.0, 7.0, 8.0, 9.0, 10.0}
    made = run(tmp_path / "b", Looks(), sweep=Sweep(conditions=parse_conditions(["noise=0"])))
    assert "not those of MUSAN" in made.document["robustness"]["noise"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--corrupt", "blur=2"], "corrupt blur=2 spoils visual, which the items of emodb do not have"),
        (["--corrupt", "fog"], "unknown corruption 'fog'; known: band, blur"),
        (["--corrupt", "noise=loud"], "noise level 'loud' is not allowed; dB from -30 to 60"),
        (["--noise", "."], "--noise has no effect without --corrupt noise"),
    ],
)
def test_a_wrong_sweep_is_refused_before_anything_is_asked(tmp_path: Path, arguments: list[str], message: str) -> None:
    folder = tmp_path / "run"
    done = CliRunner().invoke(app, ["emodb", "--data", str(tmp_path), "--run-dir", str(folder), *arguments])
    assert done.exit_code == 2
    assert message in " ".join(done.output.split())
    assert not folder.exists()
