"""How sure a score is: cluster bootstrap intervals and paired tests of two runs.

Most scores are functions of totals (a confusion matrix, sums of squares, counts of hits), so a resample is a
weighted sum over units and a thousand of them are one matrix product. Units that belong together (the clips of a
speaker, the frames of a video) are drawn together: the cluster bootstrap (Davison and Hinkley, Bootstrap Methods,
1997, section 3.8), percentile interval. The paired test swaps the two runs' answers by cluster (approximate
randomisation: Noreen, Computer-Intensive Methods, 1989).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from emollama.errors import InputError

Totals = Callable[[np.ndarray], np.ndarray]  # totals [B, K] -> scores [B] or [B, M]
_CHUNK = 4_000_000  # numbers drawn at a time


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A percentile interval; ``num_undefined`` resamples gave no score and are left out."""

    low: float
    high: float
    level: float
    num_resamples: int
    num_undefined: int = 0


@dataclass(frozen=True, kw_only=True)
class PairedTest:
    """Two runs on the same units: the difference first - second, its interval, and how often chance does as much.

    ``p_value`` is two-sided, (1 + number of swaps at least as far from zero) / (1 + number of swaps).
    """

    difference: float
    interval: Interval
    p_value: float
    num_clusters: int


def cluster_totals(sums: np.ndarray, clusters: np.ndarray | None) -> np.ndarray:
    """Add the rows of units [N, K] by cluster -> [G, K]; without ``clusters`` [N] each unit is its own."""
    sums = np.asarray(sums, np.float64)
    if sums.ndim != 2 or not len(sums):
        raise InputError(f"sums {sums.shape} must be a matrix [N, K] with at least one row", field="sums")
    if clusters is None:
        return sums
    if len(clusters) != len(sums):
        raise InputError(f"{len(clusters)} clusters for {len(sums)} units; one for each is wanted", field="clusters")
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    totals = np.zeros((int(index.max()) + 1, sums.shape[1]))
    np.add.at(totals, index, sums)
    return totals


def bootstrap_totals(
    sums: np.ndarray,
    score: Totals,
    *,
    clusters: np.ndarray | None = None,
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[Interval, ...]:
    """Return the interval of each score that is a function of totals over units.

    ``sums`` [N, K] is what each unit adds; ``score`` maps totals [B, K] to scores [B] or [B, M]. Raises `InputError`
    for fewer than two clusters: one cluster says nothing of how much clusters differ.
    """
    per_cluster = cluster_totals(sums, clusters)
    _check(len(per_cluster), num_resamples, level)
    drawn = [
        _columns(score(weights @ per_cluster)) for weights in resample_weights(len(per_cluster), num_resamples, seed)
    ]
    return tuple(_interval(column, level) for column in np.concatenate(drawn).T)


def bootstrap_interval(
    statistic: Callable[[np.ndarray], float],
    num_units: int,
    *,
    clusters: np.ndarray | None = None,
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return the interval of any statistic of unit indices [n] (with repeats), for scores that are not of totals."""
    index = np.arange(num_units) if clusters is None else np.unique(np.asarray(clusters), return_inverse=True)[1]
    if len(index) != num_units or not num_units:
        raise InputError(f"{len(index)} clusters for {num_units} units; one for each is wanted", field="clusters")
    members = np.split(np.argsort(index, kind="stable"), np.cumsum(np.bincount(index))[:-1])
    _check(len(members), num_resamples, level)
    drawn = [
        statistic(np.concatenate([members[cluster] for cluster in np.repeat(np.arange(len(members)), counts)]))
        for weights in resample_weights(len(members), num_resamples, seed)
        for counts in weights.astype(int)
    ]
    return _interval(np.asarray(drawn, np.float64), level)


def paired_test(
    first: np.ndarray,
    second: np.ndarray,
    score: Totals,
    *,
    clusters: np.ndarray | None = None,
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[PairedTest, ...]:
    """Compare two runs on the same units by what each unit adds to their totals, ``first`` and ``second`` [N, K]."""
    one, two = cluster_totals(first, clusters), cluster_totals(second, clusters)
    if one.shape != two.shape:
        raise InputError(f"the runs hold {one.shape} and {two.shape} totals; the same units are wanted", field="second")
    _check(len(one), num_resamples, level)
    observed = (_columns(score(one.sum(0)[None])) - _columns(score(two.sum(0)[None])))[0]
    drawn = [
        _columns(score(weights @ one)) - _columns(score(weights @ two))
        for weights in resample_weights(len(one), num_resamples, seed)
    ]
    intervals = [_interval(column, level) for column in np.concatenate(drawn).T]
    generator = np.random.default_rng((seed, 1))
    at_least = np.zeros(len(observed))
    done = 0
    while done < num_resamples:
        size = min(num_resamples - done, max(1, _CHUNK // len(one)))
        swap = (generator.random((size, len(one))) < 0.5).astype(float)
        moved = swap @ (two - one)
        chance = _columns(score(one.sum(0) + moved)) - _columns(score(two.sum(0) - moved))
        at_least += (np.abs(np.nan_to_num(chance)) >= np.abs(observed) - 1e-12).sum(0)
        done += size
    return tuple(
        PairedTest(difference=float(d), interval=i, p_value=float((1 + a) / (1 + num_resamples)), num_clusters=len(one))
        for d, i, a in zip(observed, intervals, at_least, strict=True)
    )


def resample_weights(num_clusters: int, num_resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield how often each cluster is drawn, [chunk, num_clusters]; the draws depend on the seed alone."""
    generator = np.random.default_rng(seed)
    done = 0
    while done < num_resamples:
        size = min(num_resamples - done, max(1, _CHUNK // num_clusters))
        drawn = generator.integers(0, num_clusters, (size, num_clusters))
        drawn += np.arange(size)[:, None] * num_clusters
        yield np.bincount(drawn.ravel(), minlength=size * num_clusters).reshape(size, num_clusters).astype(float)
        done += size


def _check(num_clusters: int, num_resamples: int, level: float) -> None:
    if num_clusters < 2:
        raise InputError("an interval wants at least 2 clusters; there is 1", field="clusters")
    if num_resamples < 1:
        raise InputError(f"num_resamples {num_resamples} must be at least 1", field="num_resamples")
    if not 0 < level < 1:
        raise InputError(f"level {level} must lie between 0 and 1", field="level")


def _columns(scores: np.ndarray) -> np.ndarray:
    scores = np.asarray(scores, np.float64)
    return scores[:, None] if scores.ndim == 1 else scores


def _interval(drawn: np.ndarray, level: float) -> Interval:
    defined = drawn[np.isfinite(drawn)]
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2]) if len(defined) else (np.nan, np.nan)
    return Interval(
        low=float(low),
        high=float(high),
        level=level,
        num_resamples=len(drawn),
        num_undefined=len(drawn) - len(defined),
    )
