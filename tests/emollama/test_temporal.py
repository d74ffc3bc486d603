"""Every rule of the post-processing against a slow loop written from its formula."""

from __future__ import annotations

import math

import numpy as np
import pytest

from emollama.errors import InputError
from emollama.temporal import blend, box, dense, frame_filter, gaussian, interpolate
from emollama.timeline import smooth


def slow_dense(frames, values, until):
    rows = []
    for frame in range(1, until + 1):
        if frame <= frames[0]:
            rows.append(values[0])
        elif frame >= frames[-1]:
            rows.append(values[-1])
        else:
            following = next(i for i, number in enumerate(frames) if number >= frame)
            if frames[following] == frame:
                rows.append(values[following])
                continue
            before, after = frames[following - 1], frames[following]
            w = 1 - (frame - before) / (after - before)
            rows.append(w * values[following - 1] + (1 - w) * values[following])
    return np.array(rows)


def slow_mean(values, weights_of):
    rows = []
    for i in range(len(values)):
        weights = [weights_of(j - i) for j in range(len(values))]
        rows.append(sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights))
    return np.array(rows)


@pytest.fixture
def series() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(37, 3))


def test_frames_without_a_face_are_filled_from_their_neighbours() -> None:
    filled = dense(np.array([2, 3, 7]), np.array([1.0, 2.0, 6.0]), until=9)
    np.testing.assert_allclose(filled, [1, 1, 2, 3, 4, 5, 6, 6, 6])
    assert len(dense(np.array([2, 7]), np.zeros((2, 8)))) == 7  # without a last frame: up to the last face


def test_filling_equals_the_published_rule() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        frames = np.sort(rng.choice(np.arange(1, 60), size=rng.integers(1, 20), replace=False))
        values = rng.normal(size=(len(frames), 4))
        until = int(rng.integers(1, 80))
        np.testing.assert_allclose(dense(frames, values, until=until), slow_dense(frames, values, until), atol=1e-12)


@pytest.mark.parametrize("half_width", [0, 1, 5, 36, 500])
def test_the_box_is_the_mean_of_a_window_cut_at_the_ends(series: np.ndarray, half_width: int) -> None:
    expected = slow_mean(series, lambda offset: float(abs(offset) <= half_width))
    np.testing.assert_allclose(box(series, half_width), expected, atol=1e-12)


@pytest.mark.parametrize("deviation", [0.3, 2.0, 7.5, 100.0])
def test_the_gaussian_is_a_weighted_mean_cut_at_the_ends(series: np.ndarray, deviation: float) -> None:
    reach = round(4 * deviation)
    expected = slow_mean(
        series, lambda offset: math.exp(-0.5 * (offset / deviation) ** 2) if abs(offset) <= reach else 0.0
    )
    np.testing.assert_allclose(gaussian(series, deviation), expected, atol=1e-10)


def test_no_smoothing_changes_nothing_and_a_constant_stays(series: np.ndarray) -> None:
    np.testing.assert_allclose(box(series, 0), series, atol=1e-12)
    np.testing.assert_array_equal(gaussian(series, 0.0), series)
    for smoothed in (box(np.full(9, 0.7), 3), gaussian(np.full(9, 0.7), 3.0)):
        np.testing.assert_allclose(smoothed, 0.7)


def test_the_timeline_smooths_by_the_same_window(series: np.ndarray) -> None:
    times = np.arange(len(series)) / 25
    np.testing.assert_allclose(smooth(times, series, half_window_seconds=5 / 25), box(series, 5), atol=1e-12)


def test_two_sources_are_blended_by_weight(series: np.ndarray) -> None:
    np.testing.assert_allclose(blend(series, np.zeros_like(series), 0.7), 0.7 * series)
    with pytest.raises(InputError, match=r"weight is 1\.2"):
        blend(series, series, 1.2)
    with pytest.raises(InputError, match="cannot be blended"):
        blend(series, series[:5], 0.5)


def test_a_sure_reading_overrules_the_head() -> None:
    trusted = np.array([[0.1, 0.9], [0.4, 0.6], [0.7, 0.3], [0.71, 0.29]])
    np.testing.assert_array_equal(frame_filter(trusted, np.array([7, 7, 7, 7]), threshold=0.7), [1, 7, 7, 0])


def test_what_cannot_be_filled_is_refused() -> None:
    with pytest.raises(InputError, match="no frame has a face"):
        dense(np.array([], int), np.zeros((0, 8)), until=5)
    with pytest.raises(InputError, match="frame 0"):
        dense(np.array([0, 1]), np.zeros(2))
    with pytest.raises(InputError, match="ascend"):
        interpolate(np.array([1, 1]), np.zeros(2), np.arange(3))
    with pytest.raises(InputError, match="half_width is -1"):
        box(np.zeros(3), -1)
