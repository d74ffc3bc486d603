from collections.abc import Callable

import pytest

from emollama.errors import InputError
from train.builders.merr.matching import MatchOptions, match
from train.builders.merr.observation import Observation
from train.builders.merr.rules import RulesFile

Seen = Callable[..., Observation]


def verdict(observation: Observation, rules: RulesFile, **options: object) -> tuple[bool, str]:
    found = match(observation, rules.rules, MatchOptions(**options))  # type: ignore[arg-type]
    assert found.reason
    return found.kept, found.code


def test_the_face_bears_the_label_out_or_not(seen: Seen, rules: RulesFile) -> None:
    assert verdict(seen(label="sad", face="sadness", p=0.8), rules) == (True, "expression_matches")
    assert verdict(seen(label="sad", face="sadness", p=0.4), rules) == (False, "expression_differs")
    assert verdict(seen(label="sad", face="sadness", p=0.4), rules, min_expression=0.3) == (True, "expression_matches")
    assert verdict(seen(label="angry", face="sadness", p=0.8), rules) == (False, "expression_differs")
    # worry has no expression of its own; fear and sadness speak for it
    assert verdict(seen(label="worried", face="fear", p=0.8), rules) == (True, "expression_matches")


def test_action_units_come_before_the_expression(seen: Seen, rules: RulesFile) -> None:
    smiling = {"AU06": (2.0, True), "AU12": (2.5, True), "AU04": (0.0, False), "AU01": (0.0, False)}
    assert verdict(seen(label="happy", face="sadness", units=smiling), rules) == (True, "units_match")
    found = match(seen(label="sad", face="sadness", units=smiling), rules.rules, MatchOptions())
    assert (found.kept, found.code) == (False, "units_differ")
    assert "happiness" in found.reason
    assert verdict(seen(label="neutral", units=smiling), rules) == (False, "units_differ")
    still = {"AU06": (0.1, False), "AU12": (0.1, False)}
    assert verdict(seen(label="neutral", units=still, peak_reached=False), rules) == (True, "units_match")
    assert verdict(seen(label="bored", units=smiling), rules) == (False, "no_rule")


def test_without_a_face_voice_and_words_are_asked(seen: Seen, rules: RulesFile) -> None:
    assert verdict(seen(label="sad", face=None, voice="sadness"), rules) == (True, "voice_matches")
    assert verdict(seen(label="sad", face=None, voice="anger"), rules) == (False, "voice_differs")
    assert verdict(seen(label="sad", face=None, words=("it hurts", "sadness")), rules) == (True, "words_matches")


def test_any_modality_is_enough_when_asked_for(seen: Seen, rules: RulesFile) -> None:
    clip = seen(label="sad", face="neutral", voice="sadness")
    assert verdict(clip, rules) == (False, "expression_differs")
    assert verdict(clip, rules, by="any") == (True, "voice_matches")


def test_unsure_labels_are_dropped(seen: Seen, rules: RulesFile) -> None:
    assert verdict(seen(source="pseudo", confidence=0.55), rules) == (False, "pseudo_label_unsure")
    assert verdict(seen(source="pseudo", confidence=0.65), rules)[0]
    assert verdict(seen(source="pseudo", confidence=0.65), rules, min_confidence=0.7) == (False, "pseudo_label_unsure")
    assert verdict(seen(source="pseudo", confidence=0.9, abstained=True), rules) == (False, "pseudo_label_unsure")
    assert verdict(seen(source="distribution", confidence=0.4), rules) == (False, "label_unsure")
    assert verdict(seen(source="manifest"), rules, min_confidence=1.0)[0]


def test_a_label_without_a_rule_is_said_and_off_keeps_all(seen: Seen, rules: RulesFile) -> None:
    assert verdict(seen(label="hungry"), rules) == (False, "no_rule")
    assert verdict(seen(label="hungry"), rules, by="off") == (True, "not_asked")
    assert verdict(seen(source="pseudo", confidence=0.2), rules, by="off") == (False, "pseudo_label_unsure")


def test_options_are_checked() -> None:
    with pytest.raises(InputError, match="match is 'all'; allowed: face, any, off"):
        MatchOptions(by="all")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="min_expression is 2"):
        MatchOptions(min_expression=2)
