"""The adaptive frame rate: which grid decides, what is read, and that nothing is read twice or in vain."""

from __future__ import annotations

import numpy as np
import pytest

from emollama.abaw.adaptive_rate import AdaptiveRate, follow
from emollama.errors import InputError


class Reader:
    def __init__(self, values: np.ndarray) -> None:
        self.values, self.asked = values, []

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        self.asked.extend(frames.tolist())
        return self.values[frames - 1]


def plain_and_torn(total: int = 60) -> np.ndarray:
    """Sure of class 0 in the first half, of nothing in the second, where classes 0 and 1 take turns."""
    values = np.tile([0.9, 0.1], (total, 1))
    values[total // 2 :] = np.where(np.arange(total // 2)[:, None] % 2, [0.6, 0.4], [0.4, 0.6])
    return values


def test_a_hand_computed_example() -> None:
    values = np.array([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8], [0.5, 0.5], [0.7, 0.3], [0.3, 0.7]])
    found = follow(AdaptiveRate(strides=(4, 2, 1), thresholds=(0.75, 0.6), reach=2), 6, Reader(values))
    # grid 4 holds frames 1 and 5, grid 2 frames 1, 3 and 5, grid 1 all six
    assert found.levels.tolist() == [0, 0, 0, 2, 2, 1]
    first = [0.9, 0.9, (0.9 + 0.7) / 2, (0.5 + 0.2 + 0.5 + 0.7 + 0.3) / 5, (0.2 + 0.5 + 0.7 + 0.3) / 4, 0.7]
    assert np.allclose(found.values, np.stack([first, 1.0 - np.array(first)], axis=1))
    assert found.read.all()


def test_sure_stretches_are_read_seldom_and_torn_ones_fully() -> None:
    reader = Reader(plain_and_torn())
    found = follow(AdaptiveRate(strides=(10, 5, 1), thresholds=(0.8, 0.8), reach=5), 60, reader)
    assert len(reader.asked) == len(set(reader.asked)) == found.read.sum()
    assert set(found.levels[:20]) == {0}
    assert set(found.levels[40:]) == {2}
    assert found.read[:20].sum() == 2  # frames 1 and 11
    assert found.read[40:].all()
    assert 0.4 < found.share < 0.8
    assert np.allclose(found.values[:20], [0.9, 0.1])


def test_frames_without_a_face_are_on_no_grid_and_far_from_one_nothing_is_decided() -> None:
    values = plain_and_torn(40)
    values[:15] = np.nan
    values[20] = np.nan  # the only frame of the coarse grid in the windows around it
    found = follow(AdaptiveRate(strides=(20, 1), thresholds=(0.5,), reach=3), 40, Reader(values))
    assert (found.levels[:12] == -1).all()
    assert np.isnan(found.values[:12]).all()
    assert (found.levels[12:] >= 0).all()
    assert found.levels[20] == 1
    assert np.allclose(found.values[12], values[15])


def test_thresholds_out_of_reach_give_the_full_rate() -> None:
    values = np.random.default_rng(0).dirichlet(np.ones(4), size=50)
    slow = follow(AdaptiveRate(strides=(10, 1), thresholds=(1.1,), reach=4), 50, Reader(values))
    full = follow(AdaptiveRate(strides=(1,), thresholds=(), reach=4), 50, Reader(values))
    assert np.allclose(slow.values, full.values)
    assert slow.share == full.share == 1.0
    by_hand = np.stack([values[max(i - 4, 0) : i + 5].mean(axis=0) for i in range(50)])
    assert np.allclose(full.values, by_hand)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strides": (1, 10), "thresholds": (0.5,)}, "coarse to fine"),
        ({"strides": (25, 10), "thresholds": (0.5,)}, "multiple of the next"),
        ({"strides": (10, 1), "thresholds": ()}, "0 thresholds; allowed: 1"),
        ({"strides": (1,), "thresholds": (), "reach": 0}, "reach is 0"),
    ],
)
def test_what_is_no_rate(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        AdaptiveRate(**options)
