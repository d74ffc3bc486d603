"""Pseudo-labels: who is believed, who is never touched, and what a round's report says."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from emollama.errors import InputError
from emollama.fusion.classifier import FusionClassifier, FusionConfig, FusionNet
from emollama.fusion.utterances import Utterances
from train.self_training.folds import make_folds
from train.self_training.report import as_markdown, describe_rounds
from train.self_training.rounds import SelfTraining, Teach, cross_validate, self_train
from train.self_training.selection import UNREACHED, choose, thresholds_for

LABELS = ("happy", "neutral", "sad")
EQUAL = dict.fromkeys(LABELS, 1 / 3)


def clips(count: int, *, prefix: str, seed: int = 0, groups: int = 6) -> Utterances:
    """Clips whose one modality says the class by where it is large, with noise."""
    random = np.random.default_rng(seed)
    columns = np.arange(count) % 3
    features = random.normal(0, 0.5, (count, 3)).astype(np.float32)
    features[np.arange(count), columns] += 2.0
    return Utterances(
        names=tuple(f"{prefix}{n}" for n in range(count)),
        features={"face": features},
        labels=tuple(LABELS[column] for column in columns),
        groups=tuple(f"speaker{(n // 3) % groups}" for n in range(count)),
    )


def centroids(log: list[tuple[Utterances, list[float]]] | None = None) -> Teach:
    """A teacher without a loop: logits are the nearness to the weighted class means of what it was taught."""

    def teach(taught: Utterances, weights: Sequence[float], seeds: Sequence[int]) -> FusionClassifier:
        if log is not None:
            log.append((taught, list(weights)))
        config = FusionConfig(labels=LABELS, widths={"face": 3}, hidden=6, dropout=0.0)
        members = []
        for _ in seeds:
            net = FusionNet(config)
            with torch.no_grad():
                for parameter in net.parameters():
                    parameter.zero_()
                both = torch.cat((torch.eye(3), -torch.eye(3)))
                net.enter["face"][1].weight.copy_(both)  # x+ and x-, which rectifiers let through
                net.enter["face"][4].weight.copy_(torch.eye(6))
                rows = taught.features["face"]
                for column, label in enumerate(LABELS):
                    own = np.array(
                        [w if each == label else 0.0 for w, each in zip(weights, taught.labels, strict=True)]
                    )
                    mean = torch.from_numpy((own[:, None] * rows).sum(0) / max(own.sum(), 1e-9)).float()
                    net.leave.weight[column].copy_(torch.cat((mean, -mean)))
                    net.leave.bias[column] = -mean.square().sum() / 2
            members.append(net)
        return FusionClassifier(members)

    return teach


# ---- selection -------------------------------------------------------------------------------------------------------


def judged(*rows: Sequence[float]) -> np.ndarray:
    return np.array(rows)[None]  # one member


def test_each_class_has_its_own_threshold() -> None:
    probabilities = judged([0.9, 0.05, 0.05], [0.05, 0.9, 0.05], [0.05, 0.05, 0.9])
    thresholds = {"happy": 0.95, "neutral": 0.9, "sad": 0.5}
    chosen = choose(probabilities, LABELS, thresholds, shares=EQUAL)
    assert chosen.rows.tolist() == [1, 2]
    assert chosen.labels == ("neutral", "sad")
    assert chosen.passed == {"happy": 0, "neutral": 1, "sad": 1}
    np.testing.assert_allclose(chosen.confidence, 0.9)


def test_members_must_agree_however_sure_their_mean_is() -> None:
    split = np.array([[[0.98, 0.01, 0.01]], [[0.98, 0.01, 0.01]], [[0.30, 0.69, 0.01]]])
    thresholds = dict.fromkeys(LABELS, 0.7)
    assert choose(split, LABELS, thresholds, shares=EQUAL).rows.tolist() == []
    assert choose(split, LABELS, thresholds, shares=EQUAL, agreement=0.6).labels == ("happy",)


def test_a_frequent_class_is_bounded_by_the_rarest_and_keeps_its_surest() -> None:
    sure = [0.99, 0.91, 0.98, 0.92, 0.97, 0.93]
    rows = [[p, 1 - p, 0.0] for p in sure] + [[0.05, 0.95, 0.0]]
    thresholds = dict.fromkeys(LABELS, 0.9)
    chosen = choose(judged(*rows), LABELS, thresholds, shares=EQUAL, balance=2.0)
    assert chosen.counts() == {"happy": 2, "neutral": 1, "sad": 0}
    assert chosen.rows.tolist() == [0, 2, 6]
    assert len(choose(judged(*rows), LABELS, thresholds, shares=EQUAL, balance=None).rows) == 7
    shares = {"happy": 0.6, "neutral": 0.2, "sad": 0.2}  # three times as many happy clips are in balance then
    assert choose(judged(*rows), LABELS, thresholds, shares=shares, balance=1.0).counts()["happy"] == 3


def test_nothing_passes_and_nothing_breaks() -> None:
    chosen = choose(judged([0.4, 0.3, 0.3]), LABELS, dict.fromkeys(LABELS, 0.9), shares=EQUAL)
    assert chosen.labels == ()
    assert chosen.counts() == dict.fromkeys(LABELS, 0)
    with pytest.raises(InputError, match="'sad'"):
        choose(judged([1.0, 0, 0]), LABELS, {"happy": 0.5, "neutral": 0.5}, shares=EQUAL)


def test_thresholds_are_the_lowest_confidence_that_was_right_often_enough() -> None:
    told = np.array([[0.95, 0.05, 0], [0.9, 0.1, 0], [0.8, 0.2, 0], [0.7, 0.3, 0], [0.1, 0.9, 0], [0.2, 0, 0.8]])
    truth = ["happy", "happy", "sad", "happy", "sad", "sad"]
    found = thresholds_for(told, truth, LABELS, precision=0.74)
    assert found["happy"] == pytest.approx(0.7)  # three of four; at 0.8 it was two of three
    assert found["neutral"] == UNREACHED
    assert found["sad"] == pytest.approx(0.8)
    assert thresholds_for(told, truth, LABELS, precision=0.95)["happy"] == pytest.approx(0.9)


# ---- folds -----------------------------------------------------------------------------------------------------------


def test_folds_hold_every_labelled_clip_once_and_no_speaker_on_two_sides() -> None:
    labelled, unlabelled = clips(36, prefix="l"), clips(30, prefix="u", seed=1)
    folds = make_folds(labelled, unlabelled, num_folds=3, seed=0)
    assert sorted(np.concatenate([fold.valid for fold in folds]).tolist()) == list(range(36))
    for fold in folds:
        scored = {labelled.groups[row] for row in fold.valid}
        assert scored.isdisjoint(labelled.groups[row] for row in fold.train)
        assert scored.isdisjoint(unlabelled.groups[row] for row in fold.unlabelled)
        assert {labelled.labels[row] for row in fold.valid} == set(LABELS)
        assert 18 <= len(fold.unlabelled) <= 21  # all clips of the other four speakers
    with pytest.raises(InputError, match="2 to 6"):
        make_folds(labelled, unlabelled, num_folds=7, seed=0)
    with pytest.raises(InputError, match="'l0' is among"):
        make_folds(labelled, labelled, num_folds=3, seed=0)


@pytest.mark.parametrize("precision", [None, 0.9])
def test_no_fold_is_touched_by_a_pseudo_label_nor_by_anything_that_saw_it(precision: float | None) -> None:
    labelled, unlabelled = clips(36, prefix="l"), clips(60, prefix="u", seed=1)
    log: list[tuple[Utterances, list[float]]] = []
    options = SelfTraining(rounds=2, members=2, threshold=0.6, precision=precision, folds=3, inner_folds=2)
    scores = cross_validate(labelled, unlabelled.with_labels([None] * 60), options, centroids(log))
    folds = make_folds(labelled, unlabelled, num_folds=3, seed=0)
    for number, fold in enumerate(folds):
        size = len(log) // 3
        held = {labelled.names[row] for row in fold.valid}
        speakers = {labelled.groups[row] for row in fold.valid}
        taught = log[number * size : (number + 1) * size]
        assert any(name.startswith("u") for part, _ in taught for name in part.names), "no pseudo-label was used at all"
        for part, _ in taught:
            assert held.isdisjoint(part.names)
            assert speakers.isdisjoint(part.groups)
        assert scores[number].scored == len(held)  # and what is scored is labelled clips alone
        assert all(name.startswith("l") for name in held)
    assert min(score.macro_f1[-1] for score in scores) > 0.8


def test_what_a_fold_is_labelled_changes_nothing_that_is_taught_for_it() -> None:
    labelled, unlabelled = clips(36, prefix="l"), clips(60, prefix="u", seed=1)
    options = SelfTraining(rounds=2, members=1, threshold=0.6, folds=3)
    fold = make_folds(labelled, unlabelled, num_folds=3, seed=0)[0]
    poisoned = ["sad" if row in fold.valid else label for row, label in enumerate(labelled.labels)]

    def answers(known: Utterances) -> list[np.ndarray]:
        rounds = self_train(known.take(fold.train), unlabelled.take(fold.unlabelled), options, centroids())
        return [each.classifier.probabilities(labelled.take(fold.valid)) for each in rounds]

    for before, after in zip(answers(labelled), answers(labelled.with_labels(poisoned)), strict=True):
        np.testing.assert_array_equal(before, after)


# ---- rounds ----------------------------------------------------------------------------------------------------------


def test_labels_that_unlabelled_clips_bear_are_not_looked_at() -> None:
    labelled, unlabelled = clips(18, prefix="l"), clips(30, prefix="u", seed=1)
    options = SelfTraining(rounds=2, members=1, threshold=0.6, pseudo_weight=0.25, folds=0)
    wrong = unlabelled.with_labels(["sad"] * 30)
    log: list[tuple[Utterances, list[float]]] = []
    rounds = self_train(labelled, wrong, options, centroids(log))
    assert rounds[0].pseudo is None
    assert rounds[1].pseudo is not None
    truth = [unlabelled.labels[row] for row in rounds[1].pseudo.rows]
    assert np.mean([a == b for a, b in zip(truth, rounds[1].pseudo.labels, strict=True)]) > 0.9
    taught, weights = log[1]
    assert weights == [1.0] * 18 + [0.25] * len(rounds[1].pseudo.rows)
    assert taught.names[18:] == tuple(unlabelled.names[row] for row in rounds[1].pseudo.rows)
    with pytest.raises(InputError, match="'l0' is among"):
        self_train(labelled, labelled, options, centroids())


def test_every_round_is_reported_for_programs_and_for_people() -> None:
    labelled, unlabelled, valid = clips(18, prefix="l"), clips(30, prefix="u", seed=1), clips(12, prefix="v", seed=2)
    options = SelfTraining(rounds=2, members=2, threshold=0.6, folds=3, thresholds={"sad": 0.55})
    rounds = self_train(labelled, unlabelled, options, centroids())
    folds = cross_validate(labelled, unlabelled, options, centroids())
    truth = {name: str(label) for name, label in zip(unlabelled.names, unlabelled.labels, strict=True)}
    described = describe_rounds(rounds, unlabelled, valid=valid, folds=folds, truth=truth)
    assert [each["round"] for each in described] == [0, 1, 2]
    assert "pseudo_labels" not in described[0]
    pseudo = described[1]["pseudo_labels"]
    assert pseudo["classes"]["sad"]["threshold"] == 0.55
    assert pseudo["taken"] == sum(row["taken"] for row in pseudo["classes"].values())
    assert pseudo["right"] > 0.9
    assert described[1]["cross_validation"]["pseudo_labels_in_validation"] == 0
    assert len(described[2]["cross_validation"]["macro_f1"]["values"]) == 3
    page = as_markdown({"rounds": described})
    assert f"| 1 | {pseudo['taken']} of 30 |" in page
    assert "| sad | 0.55 |" in page


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"rounds": 0}, "1 to 50"),
        ({"folds": 1}, "0 .none., or 2"),
        ({"threshold": 1.5}, "0 to 1"),
        ({"precision": 0.9, "thresholds": {"sad": 0.5}}, "no effect"),
        ({"pseudo_weight": 0.0}, "above 0"),
    ],
)
def test_options_out_of_range_are_told(options: dict[str, object], told: str) -> None:
    with pytest.raises(InputError, match=told):
        SelfTraining(**options)  # type: ignore[arg-type]


def test_a_threshold_for_a_class_that_is_not_there_is_told() -> None:
    options = SelfTraining(thresholds={"angry": 0.5})
    with pytest.raises(InputError, match="'angry'; allowed: happy, neutral, sad"):
        self_train(clips(18, prefix="l"), clips(6, prefix="u"), options, centroids())
