"""The bench of training: both ways compute the same losses on the same batches, and the figures add up."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from train.bench import app

pytestmark = pytest.mark.slow  # transformers' Trainer takes long to import


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, str]:
    output = tmp_path_factory.mktemp("bench") / "bench.json"
    arguments = ["--steps", "3", "--batch-size", "4", "--repetitions", "1", "--threads", "1", "--json", str(output)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    return json.loads(output.read_text()), done.output


def test_both_learn_the_same_from_the_same_batches(outcome):
    figures, _ = outcome
    assert figures["steps"] == 3
    assert figures["largest_loss_difference"] < 1e-4
    assert figures["ours_final_loss"] == pytest.approx(figures["trainer_final_loss"], abs=1e-4)
    assert 0 < figures["answer_tokens"] < figures["tokens"] < figures["padded_tokens"]


def test_the_ratio_is_that_of_the_speeds_it_reports(outcome):
    figures, printed = outcome
    assert figures["ratio"] == pytest.approx(
        figures["ours_tokens_per_second"] / figures["trainer_tokens_per_second"], abs=1e-3
    )
    assert len(figures["ours_runs"]) == len(figures["trainer_runs"]) == 1
    assert f"{figures['ratio']:.2f} times the speed" in printed
    assert "transformers Trainer + PEFT" in printed
