"""The data card says what was counted; the one in the package is the one that its log gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from emollama.errors import DatasetError
from train.data_card import CARD, LOG, count, render, write_data_card

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"


def test_the_card_in_the_package_is_the_one_of_its_log() -> None:
    report = json.loads((ROOT / LOG).read_text(encoding="utf-8"))
    card = (ROOT / CARD).read_text(encoding="utf-8")
    assert card == render(report)
    for name in ("ferplus", "emodb", "goemotions", "xed", "emobank"):
        assert f"| {name} | train |" in card
    assert "unclear rights" in card
    assert f"{report['result']['ferplus']['train']['samples']:,}" in card


@pytest.mark.shared_data
@pytest.mark.slow
def test_the_log_is_what_is_counted_in_the_data(tmp_path: Path) -> None:
    assert json.loads((ROOT / LOG).read_text(encoding="utf-8"))["result"] == json.loads(json.dumps(count(DATA)))


def test_data_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"is missing|is not there"):
        write_data_card(tmp_path, log=tmp_path / "log.json", card=tmp_path / "card.md")
    assert list(tmp_path.iterdir()) == []
