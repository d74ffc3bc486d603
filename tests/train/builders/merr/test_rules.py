import json
from pathlib import Path

import pytest

from emollama import evidence
from emollama.errors import DatasetError
from emollama.labels import NANO_LABELS
from train.builders.merr.rules import HOW, RULES_FILE, RulesFile, load_rules


def test_every_label_of_nano_has_a_rule_and_every_rule_a_source(rules: RulesFile) -> None:
    assert set(NANO_LABELS) <= set(rules.rules.emotions)
    for name, rule in rules.rules.emotions.items():
        assert rule.expressions_source
        assert all(row.source for row in rule.combinations), name
        # neutral is the absence of movement; boredom has no published combination
        assert rule.combinations or name in ("neutral", "boredom")


def test_the_facts_that_everything_rests_on(rules: RulesFile) -> None:
    rows = {name: [set(row.action_units) for row in rule.combinations] for name, rule in rules.rules.emotions.items()}
    assert {"AU06", "AU12"} in rows["happiness"]
    assert {"AU01", "AU04", "AU15"} in rows["sadness"]
    assert (rules.rules.firing.presence, rules.rules.firing.mean_intensity) == (0.5, 0.8)
    assert [(level.name, level.start) for level in rules.rules.intensity.levels] == [
        ("slight", 0.8), ("moderate", 1.6), ("strong", 2.4),
    ]  # fmt: skip


def test_strength_words_follow_the_evidence(rules: RulesFile) -> None:
    for probability in (0.0, 0.54, 0.55, 0.79, 0.8, 1.0):
        level = rules.rules.expression_strength.level(probability)
        assert level is not None
        assert level.name == evidence.strength(probability)


def test_fine_words_go_by_their_group(rules: RulesFile) -> None:
    for label, name in (("Happy", "happiness"), ("grief", "sadness"), ("nervousness", "fear"), ("worried", "worry")):
        found = rules.rules.emotion(label)
        assert found is not None
        assert found[0] == name
    assert rules.rules.emotion("hunger") is None


def test_no_phrase_breaks_the_rules_own_list(rules: RulesFile) -> None:
    phrases = [p for rule in rules.rules.action_units.values() for p in rule.phrases]
    phrases += [p for group in rules.rules.expressions.values() for p in group]
    phrases += [p for levels in rules.rules.prosody.values() for group in levels.values() for p in group]
    for kind, pattern in rules.never.items():
        assert not [p for p in phrases if pattern.search(p)], kind


def _changed(tmp_path: Path, change: object) -> Path:
    document = json.loads(RULES_FILE.read_text())
    change(document)  # type: ignore[operator]
    path = tmp_path / "rules.json"
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.update(rules_version=2), "rules_version"),
        (lambda d: d.update(surprise=1), "surprise"),
        (lambda d: d["action_units"].update(AU1={"name": "x", "phrases": []}), "'AU1' is not a code"),
        (lambda d: d["action_units"]["AU12"]["phrases"].append("the lips are " + HOW + " parted"), "stands already"),
        (lambda d: d["action_units"]["AU12"].update(phrases=["the mouth smiles"] * 2), "must hold {how} once"),
        (lambda d: d["action_units"]["AU12"].update(phrases=["a {how} smile"]), "at least 2"),
        (lambda d: d["emotions"].update(hunger=d["emotions"]["fear"]), "'hunger' is not a known emotion"),
        (lambda d: d["emotions"].update(happy=d["emotions"]["happiness"]), "'happy' is not a known emotion"),
        (lambda d: d["emotions"]["fear"]["combinations"][0].update(action_units=["AU99"]), "'AU99'"),
        (lambda d: d["emotions"]["fear"]["combinations"][0].update(action_units=["AU45"]), "'AU45'"),
        (lambda d: d["emotions"]["fear"]["combinations"][0].update(action_units=["AU01", "AU01"]), "twice in one row"),
        (lambda d: d["emotions"]["fear"].update(expressions=["dread"]), "'dread' is not an expression"),
        (lambda d: d["expressions"].pop("fear"), "['fear'] missing"),
        (lambda d: d["firing"].update(presence=1.5), "firing.presence"),
        (lambda d: d["firing"].update(mean_intensity=-1.0), "firing.mean_intensity"),
        (lambda d: d["intensity"]["levels"].reverse(), "allowed: rising"),
        (lambda d: d["expression_strength"]["levels"].pop(0), "must begin at 0"),
        (lambda d: d["melody_semitones"].update(low_below=20.0), "low_below must be less"),
        (lambda d: d["prosody"]["pitch"].pop("low"), "prosody.pitch"),
        (lambda d: d["prosody"].pop("rate"), "prosody"),
    ],
)  # fmt: skip
def test_a_wrong_rule_is_named(tmp_path: Path, change: object, said: str) -> None:
    path = _changed(tmp_path, change)
    with pytest.raises(DatasetError) as raised:
        load_rules(path)
    assert said in str(raised.value)
    assert str(path) in str(raised.value)


def test_a_field_that_stands_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rules.json"
    path.write_text(RULES_FILE.read_text().replace('"AU02": {', '"AU01": {', 1))
    with pytest.raises(DatasetError, match="'AU01' stands twice"):
        load_rules(path)


def test_no_file_and_no_json(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="cannot be read"):
        load_rules(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(DatasetError, match=r"bad\.json"):
        load_rules(tmp_path / "bad.json")
