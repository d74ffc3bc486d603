"""What an adapter folder says of itself, and that a model loaded with it answers accordingly."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from emollama.adapter import AdapterInfo, base_digest
from emollama.analyze import Analyzer
from emollama.checkpoint import ASSETS
from emollama.errors import CheckpointError, InputError

NANO = ASSETS / "nano"
LABELS = ("boredom", "neutral", "sadness")


def info(**changes: object) -> AdapterInfo:
    fields = {
        "base": "nano", "base_sha256": base_digest(NANO / "backbone", NANO / "tokenizer.json"), "labels": LABELS,
        "answers": "supported", "recipe": "instruct", "created": 1,
    }  # fmt: skip
    return AdapterInfo(**{**fields, **changes})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """nano's own adapter as if it had been trained on three labels."""
    shutil.copytree(NANO / "adapter", tmp_path / "bored")
    info().save(tmp_path / "bored")
    return tmp_path / "bored"


def test_what_is_saved_is_loaded_again(tmp_path: Path) -> None:
    saved = info(figures={"macro_f1": 0.5}, license="CC0")
    saved.save(tmp_path)
    assert AdapterInfo.load(tmp_path) == saved


def test_a_folder_without_the_file_is_somebody_elses(tmp_path: Path) -> None:
    assert AdapterInfo.load(tmp_path) is None


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 2}', '{"format": 1, "base": "nano"}', '{"format": 1, "x": 1}'])
def test_a_malformed_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "emollama.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"emollama\.json"):
        AdapterInfo.load(tmp_path)


def test_values_are_checked() -> None:
    with pytest.raises(InputError, match="answers is 'free'"):
        info(answers="free")
    with pytest.raises(InputError, match="same emotion"):
        info(labels=("bored", "boredom"))


def test_the_adapters_labels_are_answered_with_unless_others_are_asked_for(folder: Path) -> None:
    analyzer = Analyzer.load("nano", adapter=folder)
    assert analyzer.labels == LABELS
    answer = analyzer.analyze(None, transcript="Nothing ever happens here.")
    assert tuple(answer.emotion.scores) == LABELS
    assert answer.adapter == "bored"
    asked = analyzer.analyze(None, transcript="Nothing ever happens here.", labels=["anger", "fear"])
    assert tuple(asked.emotion.scores) == ("anger", "fear")


def test_a_verdict_that_nano_has_no_word_for_is_still_put_into_sentences(folder: Path) -> None:
    (folder / "calibration.json").write_text(
        json.dumps(
            {
                **json.loads((NANO / "calibration.json").read_text()),
                "subsets": {"words": {"temperature": 1.0, "bias": {"boredom": 50.0}}},
            }
        )
    )
    answer = Analyzer.load("nano", adapter=folder).analyze(None, transcript="Nothing ever happens here.")
    assert answer.emotion.label == "boredom"
    assert "bored" in answer.rationale
    assert "<q" not in answer.rationale
    assert not [warning for warning in answer.warnings if "replaced" in warning]


def test_an_adapter_of_another_base_is_refused(folder: Path) -> None:
    info(base_sha256="0" * 64).save(folder)
    with pytest.raises(CheckpointError, match="trained on another 'nano'"):
        Analyzer.load("nano", adapter=folder)
