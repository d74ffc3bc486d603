"""Metrics against scikit-learn and scipy, and worked examples by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as reference

from emollama import metrics
from emollama.errors import InputError


@pytest.fixture(scope="module")
def drawn():
    generator = np.random.default_rng(1)
    truth = generator.choice(5, 300, p=[0.5, 0.2, 0.15, 0.1, 0.05])
    predicted = np.where(generator.random(300) < 0.6, truth, generator.integers(0, 5, 300))
    probabilities = generator.dirichlet(np.full(5, 0.5), 300)
    return truth, predicted, probabilities


def test_class_scores_equal_scikit_learn(drawn):
    truth, predicted, _ = drawn
    assert metrics.accuracy(truth, predicted) == pytest.approx(reference.accuracy_score(truth, predicted))
    assert metrics.unweighted_average_recall(truth, predicted, num_classes=5) == pytest.approx(
        reference.balanced_accuracy_score(truth, predicted)
    )
    for average, score in (("macro", metrics.macro_f1), ("weighted", metrics.weighted_f1)):
        expected = reference.f1_score(truth, predicted, average=average)
        assert score(truth, predicted, num_classes=5) == pytest.approx(expected)
    counts = metrics.confusion_matrix(truth, predicted, num_classes=5)
    assert (counts[:, :5] == reference.confusion_matrix(truth, predicted)).all()
    assert metrics.per_class_recall(truth, predicted, num_classes=5) == pytest.approx(
        reference.recall_score(truth, predicted, average=None)
    )


def test_an_unparseable_answer_is_wrong_and_no_class():
    truth, predicted = np.array([0, 0, 1, 1]), np.array([0, -1, 1, -1])
    assert metrics.accuracy(truth, predicted) == 0.5
    assert metrics.confusion_matrix(truth, predicted, num_classes=2).tolist() == [[1, 0, 1], [0, 1, 1]]
    assert metrics.per_class_f1(truth, predicted, num_classes=2) == pytest.approx([2 / 3, 2 / 3])


def test_a_class_without_samples():
    truth, predicted = np.array([0, 0, 1]), np.array([0, 1, 1])
    recall = metrics.per_class_recall(truth, predicted, num_classes=3)
    assert recall[:2].tolist() == [0.5, 1.0]
    assert np.isnan(recall[2])
    assert metrics.unweighted_average_recall(truth, predicted, num_classes=3) == 0.75
    assert metrics.macro_f1(truth, predicted, num_classes=3) == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
    assert metrics.weighted_f1(truth, predicted, num_classes=3) == pytest.approx(2 / 3)


def test_series_scores():
    generator = np.random.default_rng(2)
    x = generator.normal(size=200)
    y = 0.5 * x + generator.normal(size=200) + 0.3
    assert metrics.pearson(x, y) == pytest.approx(stats.pearsonr(x, y).statistic)
    covariance = np.cov(x, y, ddof=0)
    expected = 2 * covariance[0, 1] / (covariance[0, 0] + covariance[1, 1] + (x.mean() - y.mean()) ** 2)
    assert metrics.concordance(x, y) == pytest.approx(expected)
    assert metrics.concordance(x, x) == pytest.approx(1.0)
    assert metrics.concordance(x, x + 10) < 0.05
    assert metrics.concordance(np.ones(3), np.ones(3)) == 1.0
    assert metrics.concordance(np.ones(3), np.zeros(3)) == 0.0
    assert metrics.pearson(x, np.ones(200)) == 0.0


def test_calibration_by_hand():
    # two answers at 0.9 of which one is right, two at 0.6 of which both are: gaps 0.4 and 0.4
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
    truth = np.array([0, 1, 0, 0])
    assert metrics.expected_calibration_error(probabilities, truth) == pytest.approx(0.4)
    assert metrics.calibration_error(np.array([1.0, 1.0]), np.array([True, True])) == 0.0
    assert metrics.calibration_error(np.array([0.0, 1.0]), np.array([True, True])) == pytest.approx(0.5)


def test_brier_equals_the_sum_over_classes(drawn):
    truth, _, probabilities = drawn
    columns = [reference.brier_score_loss(truth == k, probabilities[:, k]) for k in range(5)]
    assert metrics.brier(probabilities, truth) == pytest.approx(sum(columns))


def test_unusable_input_is_refused():
    with pytest.raises(InputError, match="same length"):
        metrics.accuracy(np.array([1]), np.array([1, 2]))
    with pytest.raises(InputError, match="non-empty"):
        metrics.pearson(np.array([]), np.array([]))
    with pytest.raises(InputError, match="predicted"):
        metrics.macro_f1(np.array([0]), np.array([5]), num_classes=2)
    with pytest.raises(InputError, match="truth"):
        metrics.macro_f1(np.array([-1]), np.array([0]), num_classes=2)
    with pytest.raises(InputError, match=r"\[N, C\]"):
        metrics.brier(np.ones(3), np.array([0, 1, 2]))
