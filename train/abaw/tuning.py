"""What is tuned with heads on videos held back: smoothing, shares of opinions, thresholds, trust, adaptive rate.

One thing at a time, the others held: smoothing, then the head's share beside the pre-trained model's, then the sound's;
again until nothing changes, three times at most; thresholds and trust last. Of equals the plainer stays (less
smoothing, the head alone, no sound). Grids are those of HSEmotion's notebooks where they name one. The order, the
Gaussian beside the box and the thresholds of expressions are our choice. Every figure is over all annotated frames,
those without a face, too.

`Bench` holds the opinions; it never sees the part that is reported on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from emollama.abaw.adaptive_rate import AdaptiveRate, follow, grid_means
from emollama.abaw.answers import NUM_BASIC, Opinions, compound_parts, decide
from emollama.abaw.heads import Plan
from emollama.datasets import cexpr
from emollama.errors import DatasetError
from emollama.labels import ABAW_8
from emollama.temporal import frame_filter
from train.abaw.scores import columns, score, six_part_f1

BOXES = (0, 1, 3, 5, 7, 10, 15, 20, 25, 50, 100, 200)
GAUSSIANS = (2.0, 5.0, 10.0, 25.0, 50.0)
SHARES = tuple(round(0.1 * step, 1) for step in range(11))
UNIT_THRESHOLDS = tuple(round(0.1 * step, 1) for step in range(1, 10))
CLASS_FACTORS = (1.0, 0.6, 0.8, 1.25, 1.6, 2.0)
TRUSTS = (0.5, 0.6, 0.7, 0.8, 0.9)
PARTS = tuple(sorted({ABAW_8.index(part) for label in cexpr.COMPOUNDS for part in compound_parts(label)}))
_PASSES = 3
_GAIN = 1e-9


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One value that was tried for one thing, and the figure it gave."""

    what: str
    value: Any
    figure: float


@dataclass(kw_only=True)
class Tuned:
    """The plan that was best, its figure and that of the heads alone, and everything that was tried."""

    plan: Plan
    figure: float
    untuned: float
    trials: list[Trial] = field(default_factory=list)
    rates: list[dict[str, Any]] = field(default_factory=list)


class Bench:
    """The opinions of the held-back videos beside what is true of their annotated frames.

    ``truth`` maps a video to the numbers of its annotated frames [M] and their values [M] or [M, K]. Videos of which
    nobody has an opinion are left out: no plan changes their answers.
    """

    def __init__(
        self, task: str, opinions: Mapping[str, Opinions], truth: Mapping[str, tuple[np.ndarray, np.ndarray]]
    ) -> None:
        self.task = task
        self.opinions, self.rows, values = [], [], []
        for video, each in opinions.items():
            if video in truth and each.mixed(Plan()) is not None:
                frames, known = truth[video]
                self.opinions.append(each)
                self.rows.append(np.asarray(frames) - 1)
                values.append(known)
        if not values or not sum(map(len, values)):
            raise DatasetError("the videos that are held back for tuning have no annotated frame that can be answered")
        self.truth = np.concatenate(values)
        self._smoothed: dict[tuple[str, float], dict[str, np.ndarray | None]] = {}
        self.has = {
            name: any(getattr(each, name) is not None for each in self.opinions) for name in ("head", "own", "sound")
        }
        # A compound is judged by how well its parts are told apart, on frames that are annotated with one of them.
        self.kept = np.isin(self.truth, PARTS) if task == "ce" else np.ones(len(self.truth), bool)
        if not self.kept.any():
            raise DatasetError("the videos that are held back for tuning have no frame of an expression that is wanted")

    def values(self, plan: Plan) -> np.ndarray:
        """Return the smoothed and mixed values [M, K] of the annotated frames."""
        found = self._by_source(plan)
        mixed = _mix(found["sound"], _mix(found["head"], found["own"], plan.head), plan.sound)
        assert mixed is not None
        return mixed

    def own(self, plan: Plan) -> np.ndarray | None:
        """Return the pre-trained model's smoothed opinion [M, K]; NaN in videos without a face."""
        return self._by_source(plan)["own"]

    def figure(self, plan: Plan) -> float:
        """Return the task's figure by a plan; of units by the thresholds that are best with it."""
        values = self.values(plan)
        if self.task == "au":
            return float(_best_thresholds(self.truth, values)[1].mean())
        if self.task == "emi":
            return score("emi", self.truth, values)
        if self.task == "ce":
            among = np.full_like(values, -np.inf)
            among[:, PARTS] = values[:, PARTS]
            return six_part_f1(self.truth[self.kept], among[self.kept].argmax(axis=1), PARTS)
        return score(self.task, self.truth, self.decided(plan, values))

    def decided(self, plan: Plan, values: np.ndarray) -> np.ndarray:
        """Return the answers for values, with what the pre-trained model overrules."""
        answers = decide(self.task, values, plan)
        own = self.own(plan)
        if plan.trust is not None and own is not None:
            sure = np.nan_to_num(own[:, :NUM_BASIC], nan=-1.0)
            answers = frame_filter(sure, answers, threshold=plan.trust)
        return answers

    def columns(self, plan: Plan) -> np.ndarray:
        """Return the figure of each column, where the task's is their mean."""
        values = self.values(plan)
        return _best_thresholds(self.truth, values)[1] if self.task == "au" else columns(self.task, self.truth, values)

    def _by_source(self, plan: Plan) -> dict[str, np.ndarray | None]:
        key = (plan.smoothing, plan.width)
        if key not in self._smoothed:
            self._smoothed[key] = {name: self._joined(name, plan) for name in self.has}
        return self._smoothed[key]

    def _joined(self, name: str, plan: Plan) -> np.ndarray | None:
        if not self.has[name]:
            return None
        width = next(getattr(each, name).shape[1] for each in self.opinions if getattr(each, name) is not None)
        parts = []
        for each, rows in zip(self.opinions, self.rows, strict=True):
            series = getattr(each, name)
            parts.append(np.full((len(rows), width), np.nan) if series is None else plan.smooth(series)[rows])
        return np.concatenate(parts)


def tune(bench: Bench, *, class_thresholds: bool = True, trust: bool = True) -> Tuned:
    """Return the best plan for a bench; ``trust`` and ``class_thresholds`` are tried for expressions alone."""
    start = Plan()
    trials: list[Trial] = []
    untuned = _at_half(bench, start)
    plan = start
    for _ in range(_PASSES):
        before = plan
        if bench.task != "emi":
            smoothings = [("box", float(width)) for width in BOXES] + [("gaussian", width) for width in GAUSSIANS]
            plan = _best(bench, plan, "smoothing", smoothings, _smoothed_by, trials)
        if bench.has["head"] and bench.has["own"]:
            plan = _best_share(bench, plan, "head", tuple(reversed(SHARES)), trials)
        if bench.has["sound"]:
            plan = _best_share(bench, plan, "sound", SHARES, trials)
        if plan == before:
            break
    if bench.task == "au":
        plan = dataclasses.replace(plan, thresholds=_best_thresholds(bench.truth, bench.values(plan))[0])
    if bench.task == "expr" and class_thresholds:
        plan = _class_thresholds(bench, plan, trials)
    if bench.task == "expr" and trust and bench.has["head"]:
        plan = _best(
            bench, plan, "trust", (None, *TRUSTS), lambda p, value: dataclasses.replace(p, trust=value), trials
        )
    return Tuned(plan=plan, figure=bench.figure(plan), untuned=untuned, trials=trials)


def _at_half(bench: Bench, plan: Plan) -> float:
    """The figure of the heads alone, without smoothing, units at 0.5."""
    if bench.task != "au":
        return bench.figure(plan)
    return score("au", bench.truth, (bench.values(plan) > 0.5).astype(np.int64))


def _smoothed_by(plan: Plan, value: Any) -> Plan:
    return dataclasses.replace(plan, smoothing=value[0], width=value[1])


def _best(
    bench: Bench,
    plan: Plan,
    what: str,
    candidates: Iterable[Any],
    change: Callable[[Plan, Any], Plan],
    trials: list[Trial],
) -> Plan:
    """Return the plan with the best of ``candidates``; the first of equals."""
    best, highest = plan, -np.inf
    for value in candidates:
        changed = change(plan, value)
        figure = bench.figure(changed)
        trials.append(Trial(what=what, value=value, figure=round(figure, 6)))
        if figure > highest + _GAIN:
            best, highest = changed, figure
    return best


def _best_share(bench: Bench, plan: Plan, name: str, candidates: tuple[float, ...], trials: list[Trial]) -> Plan:
    """Return the plan with the best share, of each column alone where the task's figure is a mean over columns."""
    if bench.task not in ("va", "au", "emi"):
        return _best(bench, plan, name, candidates, lambda p, value: _with_shares(p, name, (value,)), trials)
    width = bench.truth.shape[1]
    best, highest = [candidates[0]] * width, np.full(width, -np.inf)
    for value in candidates:
        found = bench.columns(_with_shares(plan, name, (value,)))
        trials.append(Trial(what=name, value=value, figure=round(float(found.mean()), 6)))
        for column in np.flatnonzero(found > highest + _GAIN):
            best[column], highest[column] = value, found[column]
    return _with_shares(plan, name, tuple(best))


def _with_shares(plan: Plan, name: str, shares: tuple[float, ...]) -> Plan:
    return dataclasses.replace(plan, head=shares) if name == "head" else dataclasses.replace(plan, sound=shares)


def _best_thresholds(truth: np.ndarray, values: np.ndarray) -> tuple[tuple[float, ...], np.ndarray]:
    """Return for each unit the threshold with the best F1, of equals the nearest to 0.5, and those F1 [K]."""
    ordered = sorted(UNIT_THRESHOLDS, key=lambda value: (abs(value - 0.5), value))
    found = np.stack([columns("au", truth, (values > value).astype(np.int64)) for value in ordered])  # [9, K]
    best = (found > found.max(axis=0) - _GAIN).argmax(axis=0)
    return tuple(ordered[index] for index in best), found.max(axis=0)


def _class_thresholds(bench: Bench, plan: Plan, trials: list[Trial]) -> Plan:
    """Return the plan with a divisor for each class: one class after the other, twice at most."""
    factors = [1.0] * len(ABAW_8)
    highest = bench.figure(plan)
    for _ in range(2):
        before = list(factors)
        for column in range(len(factors)):
            for value in CLASS_FACTORS:
                tried = [*factors[:column], value, *factors[column + 1 :]]
                figure = bench.figure(dataclasses.replace(plan, thresholds=tuple(tried)))
                trials.append(Trial(what=f"threshold of {ABAW_8[column]}", value=value, figure=round(figure, 6)))
                if figure > highest + _GAIN:
                    factors, highest = tried, figure
        if factors == before:
            break
    return plan if factors == [1.0] * len(factors) else dataclasses.replace(plan, thresholds=tuple(factors))


# ---- adaptive frame rate -----------------------------------------------------------------------------------------


def tune_rate(
    series: Mapping[str, np.ndarray],
    truth: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    strides: tuple[int, ...],
    reach: int = 100,
    alpha: float = 0.1,
) -> AdaptiveRate:
    """Return the thresholds at which, of K strides, the i-th accepts at most ``alpha * i / K`` of its wrong decisions.

    ``series`` are a video's probabilities [T, 8] with NaN rows where there is no face. A stride's wrong decisions are
    those on annotated frames that no coarser one has taken. That the rate of false positives is this share is our
    reading of the published rule.
    """
    known = {video: values for video, values in series.items() if video in truth}
    open_ = {video: truth[video][0] - 1 for video in known}
    labels = {video: truth[video][1] for video in known}
    thresholds = []
    for level, stride in enumerate(strides[:-1], start=1):
        means = {video: grid_means(values, open_[video], stride=stride, reach=reach) for video, values in known.items()}
        wrong = [
            each.max(axis=1)[(each.argmax(axis=1) != labels[video]) & ~np.isnan(each).any(axis=1)]
            for video, each in means.items()
        ]
        threshold = _accepting(np.concatenate(wrong), alpha * level / len(strides))
        thresholds.append(threshold)
        for video, each in means.items():
            with np.errstate(invalid="ignore"):
                left = ~(each.max(axis=1) >= threshold)
            open_[video], labels[video] = open_[video][left], labels[video][left]
    return AdaptiveRate(strides=strides, thresholds=tuple(thresholds), reach=reach)


def rate_figures(
    series: Mapping[str, np.ndarray],
    truth: Mapping[str, tuple[np.ndarray, np.ndarray]],
    rate: AdaptiveRate,
) -> list[dict[str, Any]]:
    """Return macro-F1 and share of frames read: by the rate, by every frame, and by each of its strides alone."""
    plain = [AdaptiveRate(strides=(stride,), thresholds=(), reach=rate.reach) for stride in {*rate.strides, 1}]
    found = []
    for each in (rate, *sorted(plain, key=lambda one: one.strides)):
        answers, labels, num_read, num_frames = [], [], 0, 0
        for video, values in series.items():
            if video not in truth:
                continue
            followed = follow(each, len(values), partial(_rows, values))
            rows = truth[video][0] - 1
            answered = followed.levels[rows] >= 0
            decided = np.nan_to_num(followed.values[rows], nan=-1.0).argmax(axis=1)
            answers.append(np.where(answered, decided, -1))
            labels.append(truth[video][1])
            num_read, num_frames = num_read + int(followed.read.sum()), num_frames + len(values)
        figure = score("expr", np.concatenate(labels), np.concatenate(answers))
        found.append(
            {
                "strides": list(each.strides),
                "adaptive": each is rate,
                "macro_f1": round(figure, 6),
                "frames_read": round(num_read / num_frames, 6),
            }
        )
    return found


def _rows(values: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    found: np.ndarray = values[numbers - 1]
    return found


def _accepting(confidences: np.ndarray, share: float) -> float:
    """Return the least threshold that at most ``share`` of ``confidences`` reach; 0 when there is none."""
    allowed = int(np.floor(share * len(confidences)))
    if allowed >= len(confidences):
        return 0.0
    ordered = np.sort(confidences)[::-1]
    return float(np.nextafter(ordered[allowed], np.inf))


def _mix(first: np.ndarray | None, second: np.ndarray | None, shares: tuple[float, ...]) -> np.ndarray | None:
    """Mix [M, K] as `emollama.abaw.answers.mix` does a video; a row of NaN has no opinion."""
    if first is None or second is None:
        return second if first is None else first
    share = np.asarray(shares, np.float64)
    both = share * first + (1.0 - share) * second
    return np.where(np.isnan(first), second, np.where(np.isnan(second), first, both))
