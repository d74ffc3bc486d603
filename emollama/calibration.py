"""Scores that mean what they say: temperature and bias for every subset of present modalities, and abstention.

A label's raw score is the log-likelihood the backbone gives it. For a subset of modalities ``s`` the probability
over the asked labels is ``softmax(loglik / T_s + b_s)``: temperature scaling (Guo et al., ICML 2017, "On Calibration
of Modern Neural Networks") with a bias for each of nano's labels, fitted by minimising the negative log-likelihood on
validation data. A label outside the fitted set has bias 0.

Abstention: an answer is given as abstained when its confidence is below ``abstain_below``. That threshold is stated
for the eight labels of nano; for a set of K labels the same distance between chance and certainty is used, see
`Calibration.threshold`. The label is still reported, so that a caller may decide otherwise.

This module knows nothing of models: it sees numbers. SciPy is imported by the fit alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from emollama.errors import CheckpointError, InputError
from emollama.labels import NANO_LABELS, canonical

PARTS: tuple[str, ...] = ("face", "voice", "words")
_LEAST = 1e-3  # no single modality may rule a label out
ConfidenceBand = Literal["low", "medium", "high"]


def subset_key(present: Iterable[str]) -> str:
    """Return the name of a subset of modalities: ``{"words", "face"} -> "face+words"``."""
    chosen = set(present)
    unknown = chosen - set(PARTS)
    if unknown:
        raise InputError(f"modalities {sorted(unknown)} are unknown; allowed: {', '.join(PARTS)}", field="present")
    return "+".join(part for part in PARTS if part in chosen)


SUBSETS: tuple[str, ...] = (
    "face", "voice", "words", "face+voice", "face+words", "voice+words", "face+voice+words",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SubsetCalibration:
    """``probability = softmax(loglik / temperature + bias)``; ``bias`` is by canonical label, 0 where absent."""

    temperature: float = 1.0
    bias: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and 0.01 <= self.temperature <= 100.0):
            raise InputError(f"temperature is {self.temperature}; allowed: 0.01 to 100", field="temperature")

    def apply(self, log_likelihoods: np.ndarray, labels: Sequence[str]) -> np.ndarray:
        """Return probabilities [..., K] from log-likelihoods [..., K] of ``labels``."""
        bias = np.array([self.bias.get(canonical(name), 0.0) for name in labels])
        return softmax(np.asarray(log_likelihoods, dtype=np.float64) / self.temperature + bias)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """All subsets' calibration, the abstention threshold and the lower bounds of "medium" and "high" confidence.

    ``alone_weight`` is what the opinions of the single modalities weigh beside that of all together, see `pool`.
    """

    subsets: Mapping[str, SubsetCalibration] = field(default_factory=dict)
    abstain_below: float = 0.35
    confidence_bands: Mapping[str, float] = field(default_factory=lambda: {"medium": 0.5, "high": 0.75})
    fitted_labels: int = len(NANO_LABELS)
    alone_weight: float = 0.0

    def __post_init__(self) -> None:
        unknown = set(self.subsets) - set(SUBSETS)
        if unknown:
            raise InputError(f"calibration subsets {sorted(unknown)}; allowed: {', '.join(SUBSETS)}", field="subsets")
        if not 0.0 <= self.abstain_below < 1.0:
            raise InputError(f"abstain_below is {self.abstain_below}; allowed: 0 to 1", field="abstain_below")
        if not 0.0 <= self.alone_weight < 1.0:
            raise InputError(f"alone_weight is {self.alone_weight}; allowed: 0 up to 1", field="alone_weight")
        if set(self.confidence_bands) != {"medium", "high"}:
            raise InputError("confidence_bands needs exactly 'medium' and 'high'", field="confidence_bands")

    def probabilities(
        self, log_likelihoods: np.ndarray, *, labels: Sequence[str], present: Iterable[str]
    ) -> np.ndarray:
        """Return calibrated probabilities [..., K]; a subset that was not fitted is used as the model gives it."""
        return self.subsets.get(subset_key(present), SubsetCalibration()).apply(log_likelihoods, labels)

    def pool(self, joint: np.ndarray, alone: Sequence[np.ndarray]) -> np.ndarray:
        """Join the opinion [..., K] read from all modalities with those read from each alone.

        A logarithmic opinion pool (Genest and Zidek, Statistical Science 1, 1986): the weighted product of the joint
        opinion and of the product of the single ones, which steadies a joint reading learned from few samples.
        """
        if self.alone_weight == 0.0 or len(alone) < 2:
            return joint
        product = np.sum([np.log(one + _LEAST) for one in alone], axis=0)
        return softmax((1 - self.alone_weight) * np.log(joint + 1e-12) + self.alone_weight * product)

    def threshold(self, num_labels: int) -> float:
        """Return the confidence below which an answer over ``num_labels`` abstains.

        ``abstain_below`` was chosen with ``fitted_labels`` labels; chance (1/K) and certainty (1) are mapped onto
        the new set's: a two-label answer at 0.51 is as empty as an eight-label answer at 0.14.
        """
        chance = 1.0 / self.fitted_labels
        share = (self.abstain_below - chance) / (1.0 - chance)
        return 1.0 / num_labels + share * (1.0 - 1.0 / num_labels)

    def abstains(self, confidence: float, *, num_labels: int) -> bool:
        """Say whether an answer of this confidence should be given as abstained."""
        return confidence < self.threshold(num_labels)

    def band(self, confidence: float) -> ConfidenceBand:
        """Return how a sentence may speak of this confidence."""
        if confidence >= self.confidence_bands["high"]:
            return "high"
        return "medium" if confidence >= self.confidence_bands["medium"] else "low"

    def to_json_dict(self) -> dict[str, Any]:
        """Return the wire form of ``calibration.json``."""
        return {
            "subsets": {
                name: {"temperature": one.temperature, "bias": dict(one.bias)} for name, one in self.subsets.items()
            },
            "abstain_below": self.abstain_below,
            "confidence_bands": dict(self.confidence_bands),
            "fitted_labels": self.fitted_labels,
            "alone_weight": self.alone_weight,
        }

    @classmethod
    def from_json_dict(cls, document: Mapping[str, Any]) -> Calibration:
        """Read the wire form; keys beside the known ones (reliability tables, provenance) are left alone."""
        try:
            subsets = {
                name: SubsetCalibration(temperature=float(one["temperature"]), bias=dict(one.get("bias", {})))
                for name, one in document["subsets"].items()
            }
            return cls(
                subsets=subsets,
                abstain_below=float(document["abstain_below"]),
                confidence_bands={k: float(v) for k, v in document["confidence_bands"].items()},
                fitted_labels=int(document.get("fitted_labels", len(NANO_LABELS))),
                alone_weight=float(document.get("alone_weight", 0.0)),
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise CheckpointError(f"the calibration is malformed: {error!r}") from error

    @classmethod
    def load(cls, path: Path) -> Calibration:
        """Read ``calibration.json``; a missing or malformed file is a `CheckpointError`."""
        try:
            return cls.from_json_dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, json.JSONDecodeError) as error:
            raise CheckpointError(f"cannot read the calibration {path}: {error}") from error


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the softmax over the last axis in float64."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


# ---- fitting ------------------------------------------------------------------------------------------------------


def fit_subset(
    log_likelihoods: np.ndarray,
    targets: np.ndarray,
    *,
    labels: Sequence[str] = NANO_LABELS,
    with_bias: bool = True,
    bias_penalty: float = 0.01,
) -> SubsetCalibration:
    """Fit temperature and bias on validation answers by minimising the negative log-likelihood.

    ``log_likelihoods`` [N, K] raw label scores, ``targets`` [N] class indices. ``bias_penalty`` (L2, per sample) keeps
    the bias of a label that the validation data hardly has near 0.
    """
    from scipy.optimize import minimize

    scores = np.asarray(log_likelihoods, dtype=np.float64)
    index = np.asarray(targets, dtype=np.int64)
    num_rows, num_labels = scores.shape
    if num_labels != len(labels) or len(index) != num_rows or num_rows == 0:
        raise InputError(
            f"calibration needs [N, {len(labels)}] scores and N targets; got {scores.shape} and {index.shape}"
        )
    scores = scores - scores.max(axis=1, keepdims=True)
    hot = np.eye(num_labels)[index]

    def objective(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        inverse, bias = math.exp(parameters[0]), parameters[1:] if with_bias else np.zeros(num_labels)
        logits = scores * inverse + bias
        probabilities = softmax(logits)
        loss = -float(np.mean(np.log(np.maximum(probabilities[np.arange(num_rows), index], 1e-12))))
        error = (probabilities - hot) / num_rows  # [N, K]
        gradient = [np.sum(error * scores) * inverse]
        if with_bias:
            loss += bias_penalty * float(np.sum(bias**2))
            gradient.extend(error.sum(axis=0) + 2 * bias_penalty * bias)
        return loss, np.array(gradient)

    start = np.zeros(1 + (num_labels if with_bias else 0))
    bounds = [(-4.0, 4.0)] + [(-5.0, 5.0)] * (len(start) - 1)
    best = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    bias = {canonical(n): round(float(b), 5) for n, b in zip(labels, best[1:], strict=True)} if with_bias else {}
    return SubsetCalibration(temperature=round(math.exp(-best[0]), 5), bias=bias)


def fit(
    answers: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    labels: Sequence[str] = NANO_LABELS,
    with_bias: bool = True,
    target_accuracy: float = 0.5,
    max_abstained: float = 0.15,
) -> Calibration:
    """Fit every subset from ``{"face+words": (log_likelihoods [N, K], targets [N]), ...}`` and pick the thresholds.

    ``abstain_below`` is the lowest confidence bin whose answers are right at least ``target_accuracy`` of the time,
    bounded so that at most ``max_abstained`` of the validation answers abstain.
    """
    fitted = {
        subset_key(name.split("+")): fit_subset(scores, targets, labels=labels, with_bias=with_bias)
        for name, (scores, targets) in answers.items()
    }
    confidence, correct = [], []
    for name, (scores, targets) in answers.items():
        probabilities = fitted[subset_key(name.split("+"))].apply(np.asarray(scores), labels)
        confidence.append(probabilities.max(axis=1))
        correct.append(probabilities.argmax(axis=1) == np.asarray(targets))
    threshold = choose_abstention(
        np.concatenate(confidence),
        np.concatenate(correct),
        target_accuracy=target_accuracy,
        max_abstained=max_abstained,
        floor=1.0 / len(labels),
    )
    return Calibration(subsets=fitted, abstain_below=threshold, fitted_labels=len(labels))


def choose_abstention(
    confidence: np.ndarray,
    correct: np.ndarray,
    *,
    target_accuracy: float = 0.5,
    max_abstained: float = 0.15,
    floor: float = 0.0,
    bin_width: float = 0.05,
) -> float:
    """Return the confidence below which answers are right less than ``target_accuracy`` of the time.

    Bins of ``bin_width`` are walked upwards from ``floor`` (chance) while their answers are worse than that, and no
    further than the quantile ``max_abstained`` of the answers.
    """
    cap = float(np.quantile(confidence, max_abstained))
    threshold = floor
    for low in np.arange(math.floor(floor / bin_width) * bin_width, 1.0, bin_width):
        inside = (confidence >= low) & (confidence < low + bin_width)
        if not inside.any():
            continue
        if correct[inside].mean() >= target_accuracy:
            break
        threshold = max(floor, low + bin_width)
    return round(float(min(threshold, max(cap, floor))), 4)


# ---- reliability --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ReliabilityBin:
    """Answers whose confidence lies in [low, high): how many, how sure on average, how often right."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """The data of a calibration plot. ``ece`` is the count-weighted mean gap between confidence and accuracy."""

    bins: tuple[ReliabilityBin, ...]
    ece: float
    nll: float
    accuracy: float
    count: int


def reliability(probabilities: np.ndarray, targets: np.ndarray, *, num_bins: int = 15) -> Reliability:
    """Return the reliability of answers: ``probabilities`` [N, K], ``targets`` [N]; empty bins are left out."""
    table = np.asarray(probabilities, dtype=np.float64)
    index = np.asarray(targets, dtype=np.int64)
    if len(table) == 0 or len(table) != len(index):
        raise InputError(f"reliability needs as many targets as answers, at least one; got {len(table)}, {len(index)}")
    confidence, correct = table.max(axis=1), table.argmax(axis=1) == index
    place = np.minimum((confidence * num_bins).astype(int), num_bins - 1)
    bins = []
    for number in range(num_bins):
        inside = place == number
        if inside.any():
            bins.append(
                ReliabilityBin(
                    low=number / num_bins,
                    high=(number + 1) / num_bins,
                    count=int(inside.sum()),
                    confidence=float(confidence[inside].mean()),
                    accuracy=float(correct[inside].mean()),
                )
            )
    ece = sum(one.count * abs(one.confidence - one.accuracy) for one in bins) / len(table)
    nll = -float(np.mean(np.log(np.maximum(table[np.arange(len(table)), index], 1e-12))))
    return Reliability(bins=tuple(bins), ece=float(ece), nll=nll, accuracy=float(correct.mean()), count=len(table))
