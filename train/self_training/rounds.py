"""The rounds: teach an ensemble, let it label, choose, teach the next one from scratch; and the same inside each fold.

Round 0 learns from the labelled clips alone. Every later round begins at random weights and learns from the labelled
clips and from what the ensemble before it was sure of, chosen anew among all unlabelled clips. Each figure of the
cross-validation comes from a whole chain of rounds that never saw the fold: neither its teacher, nor its thresholds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from emollama import metrics
from emollama.errors import InputError
from emollama.fusion.classifier import FusionClassifier
from emollama.fusion.utterances import Utterances
from train.self_training.folds import make_folds
from train.self_training.selection import PseudoLabels, choose, thresholds_for

# (clips, a weight for each, seeds of the members) -> the ensemble
Teach = Callable[[Utterances, Sequence[float], Sequence[int]], FusionClassifier]


@dataclass(frozen=True, kw_only=True)
class SelfTraining:
    """How it is done. ``precision`` finds the thresholds by an inner cross-validation; without it they are given.

    ``threshold`` holds for each class that ``thresholds`` does not name. ``members`` seeds make an ensemble.
    ``pseudo_weight`` scales the loss of pseudo-labelled clips. ``folds`` 0 leaves the cross-validation out.
    """

    rounds: int = 3
    members: int = 3
    threshold: float = 0.6
    thresholds: Mapping[str, float] = field(default_factory=dict)
    precision: float | None = None
    agreement: float = 1.0
    balance: float | None = 2.0
    pseudo_weight: float = 1.0
    folds: int = 5
    inner_folds: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low, high in (("rounds", 1, 50), ("members", 1, 50), ("inner_folds", 2, 20)):
            if not low <= getattr(self, name) <= high:
                raise InputError(f"{name} is {getattr(self, name)}; allowed: {low} to {high}", field=name)
        if self.folds == 1 or self.folds < 0:
            raise InputError(f"folds is {self.folds}; allowed: 0 (none), or 2 and more", field="folds")
        for value in (self.threshold, *self.thresholds.values()):
            if not 0.0 <= value <= 1.0:
                raise InputError(f"threshold {value} is not allowed; 0 to 1", field="thresholds")
        if self.precision is not None and self.thresholds:
            raise InputError(
                "thresholds have no effect where precision finds them; give one of them", field="thresholds"
            )
        if not 0.0 < self.pseudo_weight <= 10.0:
            raise InputError(
                f"pseudo_weight is {self.pseudo_weight}; allowed: above 0, up to 10", field="pseudo_weight"
            )


@dataclass(frozen=True, kw_only=True)
class Round:
    """A round's ensemble and what it was taught besides the labelled clips (``pseudo`` is ``None`` in round 0)."""

    number: int
    classifier: FusionClassifier
    thresholds: Mapping[str, float]
    pseudo: PseudoLabels | None


@dataclass(frozen=True, kw_only=True)
class FoldScores:
    """Scores on one fold after each round, and how many clips were there: learned from, chosen each round, scored."""

    macro_f1: tuple[float, ...]
    waf: tuple[float, ...]
    labelled: int
    chosen: tuple[int, ...]
    scored: int


def self_train(labelled: Utterances, unlabelled: Utterances, options: SelfTraining, teach: Teach) -> list[Round]:
    """Run the rounds; labels that ``unlabelled`` may bear are not looked at. Raises `InputError` for a shared clip."""
    if shared := set(labelled.names) & set(unlabelled.names):
        raise InputError(f"{sorted(shared)[0]!r} is among the labelled and the unlabelled clips", field="names")
    seeds = [options.seed * 1000 + number for number in range(options.members)]
    teacher = teach(labelled, [1.0] * len(labelled), seeds)
    labels = teacher.labels
    counted = Counter(labelled.labels)
    shares = {label: counted[label] / len(labelled) for label in labels}
    thresholds = _thresholds(labelled, labels, options, teach)
    rounds = [Round(number=0, classifier=teacher, thresholds=thresholds, pseudo=None)]
    for number in range(1, options.rounds + 1):
        pseudo = choose(
            rounds[-1].classifier.member_probabilities(unlabelled), labels, thresholds,
            shares=shares, agreement=options.agreement, balance=options.balance,
        )  # fmt: skip
        taught, weights = labelled, [1.0] * len(labelled)
        if len(pseudo.rows):
            taught = labelled.joined(unlabelled.take(pseudo.rows).with_labels(pseudo.labels))
            weights += [options.pseudo_weight] * len(pseudo.rows)
        # Other seeds than the teacher's, so that a round does not merely repeat its teacher's mistakes.
        classifier = teach(taught, weights, [seed + 100 * number for seed in seeds])
        rounds.append(Round(number=number, classifier=classifier, thresholds=thresholds, pseudo=pseudo))
    return rounds


def cross_validate(
    labelled: Utterances, unlabelled: Utterances, options: SelfTraining, teach: Teach
) -> tuple[FoldScores, ...]:
    """Run the rounds once for each fold without the fold, and score it after each round."""
    scores = []
    for fold in make_folds(labelled, unlabelled, num_folds=options.folds, seed=options.seed):
        held = labelled.take(fold.valid)
        rounds = self_train(labelled.take(fold.train), unlabelled.take(fold.unlabelled), options, teach)
        figures = [score(each.classifier, held) for each in rounds]
        scores.append(
            FoldScores(
                macro_f1=tuple(figure["macro_f1"] for figure in figures),
                waf=tuple(figure["waf"] for figure in figures),
                labelled=len(fold.train),
                chosen=tuple(0 if each.pseudo is None else len(each.pseudo.rows) for each in rounds),
                scored=len(held),
            )
        )
    return tuple(scores)


def score(classifier: FusionClassifier, clips: Utterances) -> dict[str, float]:
    """Return macro-F1, WAF and accuracy on labelled clips."""
    told = classifier.probabilities(clips).argmax(1)
    names = list(classifier.labels)
    if unknown := sorted({str(label) for label in clips.labels} - set(names)):
        raise InputError(f"label {unknown[0]!r} was not learned; allowed: {', '.join(names)}", field="labels")
    truth = np.array([names.index(str(label)) for label in clips.labels])
    return {
        "macro_f1": metrics.macro_f1(truth, told, num_classes=len(names)),
        "waf": metrics.weighted_f1(truth, told, num_classes=len(names)),
        "accuracy": metrics.accuracy(truth, told),
    }


def _thresholds(
    labelled: Utterances, labels: Sequence[str], options: SelfTraining, teach: Teach
) -> Mapping[str, float]:
    """Return the thresholds as given, or found on inner folds of the labelled clips by one member each."""
    if options.precision is None:
        if unknown := sorted(set(options.thresholds) - set(labels)):
            raise InputError(f"threshold for {unknown[0]!r}; allowed: {', '.join(labels)}", field="thresholds")
        return {label: options.thresholds.get(label, options.threshold) for label in labels}
    probabilities = np.zeros((len(labelled), len(labels)))
    nothing = labelled.take([])
    for fold in make_folds(labelled, nothing, num_folds=options.inner_folds, seed=options.seed + 1):
        part = labelled.take(fold.train)
        inner = teach(part, [1.0] * len(part), [options.seed * 1000 + 900])
        if tuple(inner.labels) != tuple(labels):
            raise InputError("a class is missing from an inner fold; give the thresholds instead", field="precision")
        probabilities[fold.valid] = inner.probabilities(labelled.take(fold.valid))
    return thresholds_for(probabilities, [str(label) for label in labelled.labels], labels, precision=options.precision)
