"""An adapter's card says what was counted and measured, and says so where something is not known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from emollama.adapter import AdapterInfo
from emollama.manifest import read_manifest
from train.data_facts import OWN_SPLIT, DataFacts, SplitFacts, data_facts, split_facts
from train.trainees import Outcome
from train.trainees.card import render_card

LABELS = ("bored", "eager")


def info(**changes: Any) -> AdapterInfo:
    given: dict[str, Any] = {
        "base": "nano", "base_sha256": "0" * 64, "labels": LABELS, "recipe": "instruct", "created": 1_790_000_000,
        "license": "CC0", "figures": {"macro_f1": 0.25},
    }  # fmt: skip
    return AdapterInfo(**{**given, **changes})


def facts(**changes: Any) -> DataFacts:
    train = SplitFacts(
        modalities={"face+words": 3}, speakers=4, unnamed=0, seconds=90.0, languages={"en": 3}, left_out=2
    )
    valid = SplitFacts(modalities={"face": 40}, speakers=2, unnamed=0, seconds=60.0, languages={})
    given = {"name": "calls", "license": "CC0", "sha256": "f" * 64, "validation": OWN_SPLIT}
    return DataFacts(**{**given, "splits": {"train": train, "valid": valid}, **changes})


def outcome(**changes: Any) -> Outcome:
    # Ten of "bored", all but two of them right; thirty of "eager", all of them right.
    truth = np.array([0] * 10 + [1] * 30)
    scores = np.eye(2)[truth]
    scores[:2] = [0.0, 1.0]
    given: dict[str, Any] = {
        "recipe": "instruct", "figures": {"macro_f1": 0.25}, "calibration": {"face": (scores, truth)},
        "counts": {"train": {"bored": 1, "eager": 2}, "valid": {"bored": 10, "eager": 30}}, "data": facts(),
    }  # fmt: skip
    return Outcome(**{**given, **changes})


def section(card: str, name: str) -> str:
    return card.split(f"## {name}\n")[1].split("\n## ")[0]


def test_purpose_data_splits_figures_and_limits_are_all_there() -> None:
    card = render_card(info(), outcome())
    assert "5(1)(f)" in section(card, "Purpose")
    assert "An expression is not a feeling" in section(card, "Purpose")
    data = section(card, "Data and licences")
    assert "licence of the training data: CC0" in data
    assert "data set: calls; its manifest has the sha256 `ffff" in data
    splits = section(card, "Splits")
    assert "| train | 3 | bored 1, eager 2 | face+words 3 | 4 | 1.5 |" in splits
    assert "| valid | 40 | bored 10, eager 30 | face 40 | 2 | 1.0 |" in splits
    assert "the manifest's own split `valid`" in splits
    assert "Of the split train, 2 samples hold nothing that it learns from" in splits
    figures = section(card, "Figures")
    assert "| macro_f1 | 0.2500 |" in figures
    assert "| bored | 10 | 0.800 |" in figures
    assert "| eager | 30 | 1.000 |" in figures
    assert "| face | 40 | 0.950 |" in figures
    limits = section(card, "Limits")
    assert "fewer than 20 samples, so its recall says little: bored 10." in limits
    assert "Never trained with: voice." in limits
    assert "taught with 4 people" in limits
    assert "in one language: en" in limits


def test_people_on_both_sides_and_people_without_a_name_are_told() -> None:
    assert "2 people are in training and in validation" in render_card(info(), outcome(data=facts(shared_speakers=2)))
    nobody = SplitFacts(modalities={"voice": 3}, speakers=0, unnamed=3, seconds=3.0, languages={})
    card = render_card(info(), outcome(data=facts(splits={"train": nobody})))
    assert "| not named |" in card
    assert "may be on both sides" in card


def test_what_is_not_known_is_said_to_be_unknown() -> None:
    card = render_card(
        info(license=None, figures={"loss": 1.0}), outcome(data=facts(validation="none"), calibration={})
    )
    assert "not stated in the manifest" in card
    assert "nothing is known of how well it does" in card
    assert "loss" not in section(card, "Figures")


def test_a_label_cannot_break_the_table() -> None:
    assert "| a\\|b |" in render_card(info(labels=("a|b", "c")), outcome())


def test_a_manifest_is_counted_as_it_is(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"manifest_version": 1, "name": "calls", "license": "CC0"},
        {"id": "a", "clip": None, "transcript": "x", "label": "bored", "speaker": "ann", "language": "en"},
        {"id": "b", "clip": None, "transcript": "y", "label": "eager", "split": "valid", "speaker": "ann"},
        {"id": "c", "clip": None, "transcript": "z", "label": "eager"},
    ]
    path = tmp_path / "manifest.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    manifest = read_manifest(path)
    samples = {split: manifest.of_split(split) for split in ("train", "valid")}  # type: ignore[arg-type]
    train = split_facts(samples["train"], [("words",), ()], [1.0, 2.0], left_out=1)
    assert train == SplitFacts(
        modalities={"words": 1, "nothing": 1}, speakers=1, unnamed=1, seconds=3.0, languages={"en": 1}, left_out=1
    )
    found = data_facts(manifest, manifest, samples, {"train": train}, rule=OWN_SPLIT)
    assert (found.name, found.license, found.shared_speakers, found.validation) == ("calls", "CC0", 1, OWN_SPLIT)
    assert data_facts(manifest, manifest, {"train": samples["train"]}, {}, rule=OWN_SPLIT).validation == "none"
