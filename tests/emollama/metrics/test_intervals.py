"""Bootstrap intervals and paired tests: seeded, by cluster, and of the right width."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from emollama import metrics
from emollama.errors import InputError


def mean_of(totals: np.ndarray) -> np.ndarray:
    return totals[:, 0] / totals[:, 1]


def column(values: np.ndarray) -> np.ndarray:
    return np.column_stack([values, np.ones(len(values))])


def test_the_interval_of_a_mean_is_as_wide_as_theory_says() -> None:
    values = np.random.default_rng(1).normal(size=400)
    (found,) = metrics.bootstrap_totals(column(values), mean_of, num_resamples=2000)
    theory = stats.norm.interval(0.95, values.mean(), values.std() / 20)
    assert (found.low, found.high) == pytest.approx(theory, abs=0.01)
    assert found.num_undefined == 0


def test_the_same_seed_gives_the_same_interval_and_another_seed_another() -> None:
    sums = column(np.random.default_rng(2).normal(size=50))
    first = metrics.bootstrap_totals(sums, mean_of, seed=3)
    assert metrics.bootstrap_totals(sums, mean_of, seed=3) == first
    assert metrics.bootstrap_totals(sums, mean_of, seed=4) != first


def test_both_ways_of_resampling_agree_to_the_last_draw() -> None:
    values = np.random.default_rng(5).normal(size=30)
    clusters = np.arange(30) // 5
    (totals,) = metrics.bootstrap_totals(column(values), mean_of, clusters=clusters, num_resamples=200)
    indices = metrics.bootstrap_interval(lambda index: values[index].mean(), 30, clusters=clusters, num_resamples=200)
    assert (totals.low, totals.high) == pytest.approx((indices.low, indices.high), abs=1e-12)
    assert metrics.bootstrap_interval(lambda index: 1.0, 30).low == 1.0


def test_clips_of_one_speaker_are_drawn_together() -> None:
    """Forty copies of five speakers' values say no more than five values do."""
    values = np.repeat(np.array([0.0, 1.0, 2.0, 3.0, 4.0]), 40)
    speakers = np.repeat(np.array(list("abcde")), 40)
    (alone,) = metrics.bootstrap_totals(column(values), mean_of)
    (together,) = metrics.bootstrap_totals(column(values), mean_of, clusters=speakers)
    assert together.high - together.low > 4 * (alone.high - alone.low)


def test_resamples_without_a_score_are_counted() -> None:
    sums = column(np.array([1.0, 2.0, 3.0]))
    sums[1:, 1] = 0.0

    def score(totals: np.ndarray) -> np.ndarray:
        return np.divide(totals[:, 0], totals[:, 1], out=np.full(len(totals), np.nan), where=totals[:, 1] > 0)

    (found,) = metrics.bootstrap_totals(sums, score, num_resamples=500)
    assert 100 < found.num_undefined < 200  # (2/3)^3 = 30 %
    assert np.isfinite(found.low)


def test_two_runs_that_differ_and_two_that_do_not() -> None:
    generator = np.random.default_rng(6)
    base = generator.random(200)
    better, other = (base > 0.2).astype(float), (generator.random(200) > 0.5).astype(float)
    (far,) = metrics.paired_test(column(better), column(other), mean_of)
    assert far.difference == pytest.approx(better.mean() - other.mean())
    assert far.p_value == pytest.approx(1 / 1001)
    assert 0 < far.interval.low < far.difference < far.interval.high
    (same,) = metrics.paired_test(column(better), column(better), mean_of)
    assert (same.difference, same.p_value) == (0.0, 1.0)


def test_the_p_value_of_a_small_case_by_hand() -> None:
    """Four units that all favour the first run: of 16 ways to swap them, 2 are as far from zero."""
    (found,) = metrics.paired_test(column(np.ones(4)), column(np.zeros(4)), mean_of, num_resamples=4000)
    assert found.p_value == pytest.approx(2 / 16, abs=0.02)
    (by_pair,) = metrics.paired_test(
        column(np.ones(4)), column(np.zeros(4)), mean_of, clusters=np.array([0, 0, 1, 1]), num_resamples=4000
    )
    assert by_pair.p_value == pytest.approx(2 / 4, abs=0.03)
    assert by_pair.num_clusters == 2


def test_unusable_input_is_refused() -> None:
    sums = column(np.ones(3))
    with pytest.raises(InputError, match="at least 2 clusters"):
        metrics.bootstrap_totals(sums, mean_of, clusters=np.zeros(3))
    with pytest.raises(InputError, match="2 clusters for 3 units"):
        metrics.bootstrap_totals(sums, mean_of, clusters=np.zeros(2))
    with pytest.raises(InputError, match="2 clusters for 3 units"):
        metrics.bootstrap_interval(lambda index: 0.0, 3, clusters=np.zeros(2))
    with pytest.raises(InputError, match="at least one row"):
        metrics.cluster_totals(np.zeros((0, 2)), None)
    with pytest.raises(InputError, match="num_resamples"):
        metrics.bootstrap_totals(sums, mean_of, num_resamples=0)
    with pytest.raises(InputError, match="level"):
        metrics.bootstrap_totals(sums, mean_of, level=1.0)
    with pytest.raises(InputError, match="same units"):
        metrics.paired_test(sums, column(np.ones(4)), mean_of)
