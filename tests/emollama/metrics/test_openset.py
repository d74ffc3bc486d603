"""The readers of 2024 and 2025, and the set metric of MER2024-OV, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from emollama import metrics
from emollama.errors import InputError


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("['happy', 'at ease']", ["happy", "at ease"]),
        ('["happy", "sad"]', ["happy", "sad"]),
        ("[happy, sad]", ["happy, sad"]),  # without quotes it is one piece
        ("noise [' happy '] and ['sad']", [" happy "]),  # the first brackets only; words are not stripped
        ("[]", []),
        ("", []),
        ("['don't']", ["don", "t"]),
        ("['happy' , 'sad']", ["happy", "sad"]),
    ],
)
def test_lists_as_mer2024_reads_them(text: str, words: list[str]) -> None:
    assert metrics.parse_labels_2024(text) == words


def test_text_without_a_list_is_an_error_in_2024() -> None:
    with pytest.raises(InputError, match=r"'happy' are not a list such as \['happy', 'at ease'\]"):
        metrics.parse_labels_2024("happy")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("['happy', 'at ease']", ["happy", "at ease"]),
        ("[happy, sad]", ["happy", "sad"]),
        ("happy, sad", ["happy", "sad"]),
        ("[' happy ','']", ["happy"]),
        ("[]", []),
        ("", []),
        ("[[happy]]", ["[happy]"]),  # one bracket is stripped on each side
        (["real", " list"], ["real", " list"]),  # passes through
    ],
)
def test_lists_as_mer2025_reads_them(text: str | list[str], words: list[str]) -> None:
    assert metrics.parse_labels_2025(text) == words


def test_synonym_groups_and_the_later_group_wins() -> None:
    groups = metrics.parse_synonym_groups("[['glad', 'happy'], ['sad', 'down'], ['calm', 'happy']]")
    assert groups == [["glad", "happy"], ["sad", "down"], ["calm", "happy"]]
    assert metrics.synonym_map(groups) == {
        "glad": "glad", "happy": "calm", "sad": "sad", "down": "sad", "calm": "calm",
    }  # fmt: skip


def test_the_score_is_a_mean_of_accuracy_and_recall_not_an_f() -> None:
    gold = [["Happy", "calm"], ["sad"], ["angry", "upset", "tense"]]
    predicted = [["glad"], [], ["angry", "bored", "ANGRY"]]
    synonyms = [metrics.synonym_map([["glad", "happy"]]), {}, metrics.synonym_map([["angry", "upset"]])]
    found = metrics.set_score(gold, predicted, synonyms)
    # clip 1: {glad, calm} and {glad} -> 1, 1/2; clip 2: empty -> 0, 0; clip 3: {angry, tense} and {angry, bored}
    assert found.accuracies.tolist() == [1.0, 0.0, 0.5]
    assert found.recalls.tolist() == [0.5, 0.0, 0.5]
    assert found.accuracy == pytest.approx(0.5)
    assert found.recall == pytest.approx(1 / 3)
    assert found.score == pytest.approx((0.5 + 1 / 3) / 2)


def test_an_empty_gold_set_is_an_error() -> None:
    with pytest.raises(InputError, match="gold set is empty"):
        metrics.set_score([[]], [["happy"]], [{}])
    with pytest.raises(InputError, match="one each is wanted"):
        metrics.set_score([["happy"]], [], [{}])


def test_hits_skip_what_has_no_gold() -> None:
    hits = metrics.hit_counts(
        [frozenset({"sad"}), frozenset(), frozenset({"mad"})],
        [frozenset({"sad", "mad"}), frozenset({"sad"}), frozenset()],
    )
    assert hits[[0, 2]].tolist() == [1.0, 0.0]
    assert np.isnan(hits[1])
