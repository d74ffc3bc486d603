"""Every score that scikit-learn or scipy also has, on 1,000 random cases, to 1e-12."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as reference

from emollama import metrics

CASES = 1000
EXACT = 1e-12


@pytest.fixture(scope="module")
def labelled() -> list[tuple[int, np.ndarray, np.ndarray]]:
    """1,000 cases of 2 to 8 classes and 1 to 60 samples, some classes absent; every class stands in some."""
    generator = np.random.default_rng(11)
    cases = []
    for _ in range(CASES):
        size, num = int(generator.integers(2, 9)), int(generator.integers(1, 61))
        truth = generator.integers(0, size, num)
        cases.append((size, truth, np.where(generator.random(num) < 0.5, truth, generator.integers(0, size, num))))
    return cases


def test_f1_recall_and_accuracy(labelled: list[tuple[int, np.ndarray, np.ndarray]]) -> None:
    worst = 0.0
    for size, truth, predicted in labelled:
        classes = list(range(size))
        _, recall, f1, support = reference.precision_recall_fscore_support(
            truth, predicted, labels=classes, zero_division=0
        )
        weighted = reference.f1_score(truth, predicted, average="weighted", zero_division=0)
        found = metrics.per_class_recall(truth, predicted, num_classes=size)
        assert (np.isnan(found) == (support == 0)).all()
        pairs = [
            (metrics.weighted_f1(truth, predicted, num_classes=size), weighted),
            (metrics.macro_f1(truth, predicted, num_classes=size), f1.mean()),
            (metrics.accuracy(truth, predicted), (truth == predicted).mean()),
            (metrics.unweighted_average_recall(truth, predicted, num_classes=size), recall[support > 0].mean()),
            (metrics.mean_recall(truth, predicted, num_classes=size), recall.mean()),
        ]
        worst = max(worst, *(abs(ours - theirs) for ours, theirs in pairs))
        worst = max(worst, np.abs(metrics.per_class_f1(truth, predicted, num_classes=size) - f1).max())
        worst = max(worst, np.abs(np.nan_to_num(found) - recall).max())
    assert worst < EXACT


def test_macro_f1_balanced_accuracy_and_confusion_by_their_own_names(
    labelled: list[tuple[int, np.ndarray, np.ndarray]],
) -> None:
    for size, truth, predicted in labelled[:100]:
        classes = list(range(size))
        macro = reference.f1_score(truth, predicted, labels=classes, average="macro", zero_division=0)
        assert abs(metrics.macro_f1(truth, predicted, num_classes=size) - macro) < EXACT
        counts = reference.confusion_matrix(truth, predicted, labels=classes)
        assert (metrics.confusion_matrix(truth, predicted, num_classes=size)[:, :size] == counts).all()
        assert metrics.accuracy(truth, predicted) == reference.accuracy_score(truth, predicted)
        if set(predicted) <= set(truth) and len(set(truth)) > 1:
            ours = metrics.unweighted_average_recall(truth, predicted, num_classes=size)
            assert abs(ours - reference.balanced_accuracy_score(truth, predicted)) < EXACT


def test_action_units_and_multilabel() -> None:
    """A thousand binary problems at once: scikit-learn's F1 of each column, and the means over groups of 12."""
    generator = np.random.default_rng(12)
    truth = (generator.random((40, 12 * CASES)) < generator.random(12 * CASES)).astype(int)
    predicted = np.where(generator.random(truth.shape) < 0.7, truth, 1 - truth)
    truth[:, :6], predicted[:, :3] = 0, 0  # undefined ones count as 0
    f1 = reference.f1_score(truth, predicted, average=None, zero_division=0)
    assert np.abs(metrics.multilabel_f1(truth, predicted) - f1).max() < EXACT
    for case in range(CASES):
        columns = slice(12 * case, 12 * case + 12)
        ours = metrics.action_unit_f1(truth[:, columns], predicted[:, columns])
        assert abs(ours - f1[columns].mean()) < EXACT


def test_series() -> None:
    generator = np.random.default_rng(13)
    truth = generator.normal(size=(CASES, 50)) * generator.uniform(0.1, 5, (CASES, 1)) + generator.normal(
        size=(CASES, 1)
    )
    predicted = 0.5 * truth + generator.normal(size=truth.shape)
    theirs = stats.pearsonr(truth, predicted, axis=1).statistic
    ours = np.array([metrics.pearson(x, y) for x, y in zip(truth, predicted, strict=True)])
    assert np.abs(ours - theirs).max() < EXACT
    groups = theirs[: CASES // 6 * 6].reshape(-1, 6).mean(1)
    for case, expected in enumerate(groups):
        rows = slice(6 * case, 6 * case + 6)
        assert abs(metrics.mean_pearson(truth[rows].T, predicted[rows].T) - expected) < EXACT
    spread_x, spread_y = truth.std(1), predicted.std(1)  # biased
    ccc = 2 * theirs * spread_x * spread_y / (spread_x**2 + spread_y**2 + (truth.mean(1) - predicted.mean(1)) ** 2)
    ours = np.array([metrics.concordance(x, y) for x, y in zip(truth, predicted, strict=True)])
    assert np.abs(ours - ccc).max() < EXACT
    assert metrics.valence_arousal_score(truth[:2].T, predicted[:2].T) == pytest.approx(ccc[:2].mean(), abs=EXACT)
    mse = reference.mean_squared_error(truth.T, predicted.T, multioutput="raw_values")
    ours = np.array([metrics.mean_squared_error(x, y) for x, y in zip(truth, predicted, strict=True)])
    assert np.abs(ours - mse).max() < 1e-11  # the values reach 25; relative 1e-12
    assert metrics.emoval(0.8, 1.2) == pytest.approx(0.5, abs=EXACT)


def test_brier_scores() -> None:
    generator = np.random.default_rng(14)
    for _ in range(CASES):
        num = int(generator.integers(2, 40))
        probabilities = generator.dirichlet(np.ones(4), num)
        truth = generator.integers(0, 4, num)
        expected = ((probabilities - np.eye(4)[truth]) ** 2).sum() / num
        assert abs(metrics.brier(probabilities, truth) - expected) < EXACT
