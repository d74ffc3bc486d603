"""Reliability and risk: worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from emollama import metrics
from emollama.errors import InputError


def test_reliability_rows_by_hand() -> None:
    rows = metrics.reliability(np.array([0.9, 0.9, 0.6, 0.5]), np.array([1, 0, 1, 1]), num_bins=2)
    assert rows.tolist() == [[0.5, 1.0, 1.0], [pytest.approx(0.8), pytest.approx(2 / 3), 3.0]]
    assert np.isnan(metrics.reliability(np.array([0.9]), np.array([1]), num_bins=2)[0, :2]).all()


def test_an_edge_belongs_to_the_bin_below() -> None:
    # 0.2 * 15 is a little over 3 in binary; the bin is (2/15, 3/15] all the same
    rows = metrics.reliability(np.array([0.2]), np.array([1]), num_bins=15)
    assert rows[2, 2] == 1


def test_risk_falls_when_the_sure_answers_are_right() -> None:
    confidence, is_right = np.array([0.6, 0.9, 0.8, 0.7]), np.array([0, 1, 1, 0])
    assert metrics.risk_coverage(confidence, is_right).tolist() == [0, 0, pytest.approx(1 / 3), 0.5]
    assert metrics.area_under_risk_coverage(confidence, is_right) == pytest.approx((1 / 3 + 0.5) / 4)


def test_equal_confidence_does_not_depend_on_the_order_of_rows() -> None:
    for is_right in ([1, 0, 1, 0], [0, 0, 1, 1]):
        assert metrics.risk_coverage(np.full(4, 0.5), np.array(is_right)).tolist() == [0.5] * 4


@pytest.mark.parametrize("value", [1.5, -0.1, np.nan])
def test_confidence_outside_0_to_1_is_refused(value: float) -> None:
    with pytest.raises(InputError, match="confidence"):
        metrics.calibration_error(np.array([value]), np.array([1]))


def test_action_units_leave_out_what_is_not_annotated() -> None:
    truth = np.array([[1, 0], [-1, 1], [1, 1]])
    predicted = np.array([[1, 0], [0, 0], [1, 0]])
    assert metrics.action_unit_f1(truth, predicted, average="none").tolist() == [1.0, 0.0]
    assert metrics.action_unit_f1(truth, predicted) == 0.5


def test_matrices_that_do_not_fit_are_refused() -> None:
    for score in (metrics.multilabel_f1, metrics.action_unit_f1, metrics.mean_pearson, metrics.valence_arousal_score):
        with pytest.raises(InputError, match="matrices"):
            score(np.ones((3, 2)), np.ones((2, 2)))
    with pytest.raises(InputError, match="other than 0 and 1"):
        metrics.multilabel_f1(np.array([[2]]), np.array([[1]]))
