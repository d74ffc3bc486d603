import json

import numpy as np
import pytest

from emollama import calibration as c
from emollama.errors import CheckpointError, InputError
from emollama.labels import NANO_LABELS


def overconfident(num: int = 2000, *, sharpness: float = 3.0, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Scores whose true distribution is softmax(scores / sharpness), with a bias of ``shift`` on the first label."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(num, 8)) * 1.5
    targets = np.array([rng.choice(8, p=c.softmax(row)) for row in truth])
    scores = truth * sharpness
    scores[:, 0] += shift * sharpness
    return scores, targets


def test_fitting_undoes_overconfidence_and_bias():
    scores, targets = overconfident(shift=2.0)
    before = c.reliability(c.softmax(scores), targets)
    fitted = c.fit_subset(scores, targets)
    after = c.reliability(fitted.apply(scores, NANO_LABELS), targets)
    assert fitted.temperature == pytest.approx(3.0, rel=0.15)
    assert fitted.bias["neutral"] < -1.0
    assert before.ece > 0.2
    assert after.ece < 0.04
    assert after.nll < before.nll
    assert sum(one.count for one in after.bins) == after.count == len(targets)


def test_fit_covers_subsets_and_its_file_reads_back_to_the_same_answers(tmp_path):
    answers = {"face": overconfident(), "words+face": overconfident(sharpness=0.5)}
    fitted = c.fit(answers, max_abstained=0.2)
    assert set(fitted.subsets) == {"face", "face+words"}
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps({**fitted.to_json_dict(), "reliability": {"kept": "beside"}}))
    again = c.Calibration.load(path)
    assert again == fitted
    scores = answers["face"][0][:3]
    both = [one.probabilities(scores, labels=NANO_LABELS, present=["face"]) for one in (fitted, again)]
    np.testing.assert_allclose(both[0], both[1])
    np.testing.assert_allclose(both[0].sum(axis=1), 1.0)


def test_abstention_threshold_is_where_answers_are_mostly_wrong():
    confidence = np.concatenate([np.full(100, 0.23), np.full(100, 0.33), np.full(800, 0.8)])
    correct = np.concatenate([np.arange(100) < 20, np.arange(100) < 60, np.ones(800, bool)])
    assert c.choose_abstention(confidence, correct, floor=0.125) == pytest.approx(0.25)
    assert c.choose_abstention(confidence, correct, floor=0.125, max_abstained=0.0) == pytest.approx(0.23)


def test_bias_follows_the_callers_word_and_unknown_labels_have_none():
    one = c.SubsetCalibration(temperature=2.0, bias={"happiness": 1.0})
    got = one.apply(np.array([2.0, 2.0, 2.0]), ("joyful", "sad", "boredom"))
    np.testing.assert_allclose(got, c.softmax(np.array([2.0, 1.0, 1.0])))
    plain = c.Calibration().probabilities(np.array([0.0, 1.0]), labels=("a", "b"), present=["voice"])
    np.testing.assert_allclose(plain, c.softmax(np.array([0.0, 1.0])))


def test_the_threshold_scales_between_chance_and_certainty():
    calibration = c.Calibration(abstain_below=0.3)
    assert calibration.threshold(8) == pytest.approx(0.3)
    assert calibration.threshold(2) == pytest.approx(0.6)
    assert calibration.abstains(0.55, num_labels=2)
    assert not calibration.abstains(0.55, num_labels=8)


def test_confidence_bands():
    calibration = c.Calibration(confidence_bands={"medium": 0.4, "high": 0.8})
    assert [calibration.band(x) for x in (0.39, 0.4, 0.81)] == ["low", "medium", "high"]


@pytest.mark.parametrize(
    "document", [{}, {"subsets": {"face": {}}}, {"subsets": [], "abstain_below": 0.3, "confidence_bands": {}}]
)
def test_a_malformed_file_is_a_checkpoint_error(document, tmp_path):
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match="calibration"):
        c.Calibration.load(path)


def test_a_missing_file_and_wrong_values_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="cannot read"):
        c.Calibration.load(tmp_path / "none.json")
    with pytest.raises(InputError, match="temperature is 0"):
        c.SubsetCalibration(temperature=0.0)
    with pytest.raises(InputError, match="face\\+hands"):
        c.Calibration(subsets={"face+hands": c.SubsetCalibration()})
    with pytest.raises(InputError, match="hands"):
        c.subset_key(["hands"])
    with pytest.raises(InputError, match="abstain_below"):
        c.Calibration(abstain_below=1.5)
    with pytest.raises(InputError, match="confidence_bands"):
        c.Calibration(confidence_bands={"high": 0.5})
    with pytest.raises(InputError, match="N targets"):
        c.fit_subset(np.zeros((3, 8)), np.zeros(2))
    with pytest.raises(InputError, match="at least one"):
        c.reliability(np.zeros((0, 8)), np.zeros(0))


def test_subset_names():
    assert c.subset_key({"words", "face", "voice"}) == c.SUBSETS[-1]
    assert len(c.SUBSETS) == 7


def test_single_opinions_steady_the_joint_one_and_weigh_nothing_unless_asked():
    joint = np.array([0.5, 0.4, 0.1])
    alone = [np.array([0.1, 0.8, 0.1]), np.array([0.2, 0.7, 0.1])]
    assert c.Calibration().pool(joint, alone) is joint
    pooled = c.Calibration(alone_weight=0.3).pool(joint, alone)
    assert pooled.sum() == pytest.approx(1.0)
    assert pooled.argmax() == 1
    by_hand = joint**0.7 * ((alone[0] + 1e-3) * (alone[1] + 1e-3)) ** 0.3
    assert pooled == pytest.approx(by_hand / by_hand.sum(), abs=1e-9)
    assert c.Calibration.from_json_dict(c.Calibration(alone_weight=0.3).to_json_dict()).alone_weight == 0.3
    with pytest.raises(InputError, match="alone_weight"):
        c.Calibration(alone_weight=1.0)
