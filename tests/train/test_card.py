"""The model card shows what the logs hold, and nothing that they do not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from emollama.errors import DatasetError
from train.card import write_card


def reliability(count: int) -> dict[str, Any]:
    bins = [{"low": 0.4, "high": 0.5, "count": count, "confidence": 0.45, "accuracy": 0.5}]
    return {"after": {"bins": bins, "ece": 0.05, "nll": 1.0, "accuracy": 0.5, "count": count}, "before": {"ece": 0.1}}


def write_logs(folder: Path) -> None:
    recall = {"recall": {"anger": 0.25, "fear": None}, "support": {"anger": 4, "fear": 0}}
    composed = {
        "samples": 500, "voice_out_of_fold": True, "accuracy": 0.8, "ece": 0.04321, "parsed": 1.0, "label_kept": 1.0,
        "absent_claimed": 0.0, "abstained": 0.02, "falls": [], "accuracy_by_subset": {"face": 0.7},
    }  # fmt: skip
    results: dict[str, dict[str, Any]] = {
        "ferplus": {"majority_pictures": 9, "accuracy": 0.87654, "macro_f1": 0.6, "parameters": 2_000_000, **recall},
        "emodb": {"uar": 0.76543, "folds": {"03+08": 0.7}, **recall},
        "goemotions": {"n": 9, "macro_f1": 0.54321, "accuracy": 0.6, **recall},
        "composed": composed,
    }
    folder.mkdir()
    for name, result in results.items():
        (folder / f"{name}.json").write_text(json.dumps({"command": f"emollama eval part {name}", "result": result}))
    fitted = {"abstain_below": 0.31, "alone_weight": 0.1, "confidence_bands": {"medium": 0.55, "high": 0.8}}
    document = {"fitted": fitted, "reliability": {"face": reliability(7), "all": reliability(7)}}
    (folder / "calibration.json").write_text(json.dumps(document))


def test_every_figure_of_the_card_comes_from_a_log_beside_its_command(tmp_path: Path) -> None:
    write_logs(tmp_path / "logs")
    (tmp_path / "assets").mkdir()
    card = write_card(logs=tmp_path / "logs", assets=tmp_path / "assets", plot=tmp_path / "images" / "plot.png")
    text = card.read_text()
    for figure in ("0.8765", "0.7654", "0.5432", "0.043", "0.31", "`emollama eval part composed`"):
        assert figure in text
    assert "| recall | 0.250 |" in text
    assert (tmp_path / "images" / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_a_missing_log_stops_the_card_and_names_the_command(tmp_path: Path) -> None:
    write_logs(tmp_path / "logs")
    (tmp_path / "logs" / "composed.json").unlink()
    with pytest.raises(DatasetError, match="emollama eval part composed"):
        write_card(logs=tmp_path / "logs", assets=tmp_path, plot=tmp_path / "plot.png")
