"""The split by video, the losses by hand, and tuning on opinions whose best plan is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from emollama.abaw.adaptive_rate import grid_means
from emollama.abaw.answers import Opinions
from emollama.abaw.heads import Plan
from emollama.errors import DatasetError, InputError
from emollama.metrics import macro_f1
from train.abaw import losses
from train.abaw.split import refuse_shared_scenes, tuning_videos
from train.abaw.tuning import Bench, rate_figures, tune, tune_rate

SIZES = {"a_left": 10, "a_right": 30, "b": 20, "c": 20, "d": 20}


def test_whole_scenes_are_held_back_and_the_seed_alone_decides() -> None:
    drawn = {seed: tuning_videos(SIZES, share=0.3, seed=seed) for seed in range(20)}
    for held in drawn.values():
        assert ("a_left" in held) == ("a_right" in held)
        assert 20 <= sum(SIZES[name] for name in held) < 100
    assert len(set(drawn.values())) > 3
    assert drawn[3] == tuning_videos(dict(reversed(SIZES.items())), share=0.3, seed=3)
    assert len(tuning_videos({"a": 1, "b": 1}, share=0.99, seed=0)) == 1
    with pytest.raises(DatasetError, match="1 videos; expected: 2"):
        tuning_videos({"a_left": 5, "a_right": 5}, share=0.5, seed=0)
    with pytest.raises(InputError, match="tuning_share is 1"):
        tuning_videos(SIZES, share=1.0, seed=0)


def test_one_scene_in_both_parts_is_refused() -> None:
    refuse_shared_scenes(["a_left"], ["b"])
    with pytest.raises(DatasetError, match="the first is 'a'"):
        refuse_shared_scenes(["a_left", "b"], ["a_right", "c"])


def test_weights_of_classes_are_the_published_ones() -> None:
    counts = torch.tensor([177198, 16573, 10771, 9080, 95463, 78751, 31615, 165866])
    published = torch.tensor([1, 10.69, 16.45, 19.52, 1.856, 2.250, 5.605, 1.068])
    assert torch.allclose(losses.class_weights(counts), published, rtol=1e-3)
    assert losses.class_weights(torch.tensor([4, 0])).tolist() == [1.0, 0.0]
    flags = torch.zeros(1359, 1)
    flags[:160] = 1.0  # T / (2 n): rare units weigh more
    assert torch.allclose(losses.unit_weights(flags)[:, 0], torch.tensor([1359 / 2398, 1359 / 320]))


def test_losses_by_hand() -> None:
    logits, classes = torch.tensor([[0.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 1])
    entropy = [np.log(2.0), np.log(1 + np.exp(2.0))]
    loss = losses.expression_loss(logits, classes, torch.tensor([1.0, 3.0]))
    assert loss.item() == pytest.approx((entropy[0] + 3 * entropy[1]) / 2, rel=1e-5)
    weights = torch.tensor([[0.5], [2.0]])
    units = losses.unit_loss(torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [0.0]]), weights)
    assert units.item() == pytest.approx((2 * np.log(2.0) + 0.5 * np.log(1 + np.e)) / 2, rel=1e-5)
    rng = np.random.default_rng(0)
    truth, values = rng.normal(size=(9, 6)), rng.normal(size=(9, 6))
    published = np.array(losses.EMI_WEIGHTS)
    r = np.array([np.corrcoef(truth[:, k], values[:, k])[0, 1] for k in range(6)])
    found = losses.intensity_loss(torch.tensor(values), torch.tensor(truth), torch.tensor(published))
    assert found.item() == pytest.approx(1 - (published * r).sum() / published.sum(), rel=1e-6)
    assert losses.affect_loss(torch.tensor(truth), torch.tensor(truth)).item() == pytest.approx(0.0, abs=1e-9)


def noisy_expressions(seed: int, *, noise: float, total: int = 400) -> tuple[dict, dict]:
    """Classes that hold for 40 frames, and opinions whose noise is drawn for each frame alone."""
    rng = np.random.default_rng(seed)
    opinions, truth = {}, {}
    for video in ("a", "b", "c"):
        classes = np.repeat(rng.permutation(np.arange(total // 40) % 8), 40)
        clean = np.eye(8)[classes]
        frames = np.flatnonzero(rng.random(total) > 0.2) + 1
        opinions[video] = Opinions(head=clean + rng.normal(size=clean.shape) * noise, own=None, sound=None)
        truth[video] = (frames, classes[frames - 1])
    return opinions, truth


def test_noise_of_single_frames_is_smoothed_away() -> None:
    opinions, truth = noisy_expressions(0, noise=0.8)
    tuned = tune(Bench("expr", opinions, truth), class_thresholds=False, trust=False)
    assert 2 <= tuned.plan.width <= 25
    assert tuned.figure > tuned.untuned + 0.2
    assert {trial.what for trial in tuned.trials} == {"smoothing"}
    decided = np.concatenate([tuned.plan.smooth(opinions[v].head)[f - 1].argmax(1) for v, (f, _) in truth.items()])
    labels = np.concatenate([labels for _, labels in truth.values()])
    assert tuned.figure == pytest.approx(macro_f1(labels, decided, num_classes=8))


def test_what_cannot_be_bettered_is_left_alone() -> None:
    opinions, truth = noisy_expressions(1, noise=0.0)
    tuned = tune(Bench("expr", opinions, truth))
    assert tuned.plan == Plan()
    assert tuned.figure == tuned.untuned == 1.0


def test_the_better_opinion_gets_the_larger_share_column_by_column() -> None:
    rng = np.random.default_rng(2)
    truth = rng.uniform(-1, 1, size=(300, 2))
    other = rng.uniform(-1, 1, size=(300, 2))
    # the head knows valence and the sound arousal
    head = np.stack([truth[:, 0], other[:, 0]], axis=1)
    sound = np.stack([other[:, 1], truth[:, 1]], axis=1)
    frames = np.arange(1, 301)
    bench = Bench("va", {"a": Opinions(head=head, own=None, sound=sound)}, {"a": (frames, truth)})
    tuned = tune(bench)
    assert tuned.plan.sound == (0.0, 1.0)
    assert tuned.plan.width == 0
    assert tuned.figure == pytest.approx(1.0)


def test_thresholds_are_of_each_unit_alone() -> None:
    rng = np.random.default_rng(3)
    flags = rng.integers(0, 2, size=(400, 12))
    cuts = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.5, 0.5, 0.5])
    values = np.where(flags, cuts + 0.05, cuts - 0.05)
    frames = np.arange(1, 401)
    tuned = tune(Bench("au", {"a": Opinions(head=values, own=None, sound=None)}, {"a": (frames, flags)}))
    assert tuned.plan.width == 0
    assert tuned.plan.thresholds == tuple(cuts)
    assert tuned.figure == 1.0
    assert tuned.untuned < 0.9


def test_a_class_that_is_said_too_often_gets_a_larger_divisor() -> None:
    rng = np.random.default_rng(4)
    classes = rng.integers(0, 8, size=600)
    values = np.eye(8)[classes] * 0.4 + rng.uniform(0, 0.3, size=(600, 8))
    values[:, 7] *= 2.2
    frames = np.arange(1, 601)
    tuned = tune(Bench("expr", {"a": Opinions(head=values, own=None, sound=None)}, {"a": (frames, classes)}))
    assert tuned.plan.width == 0
    assert tuned.plan.thresholds[7] > max(tuned.plan.thresholds[:7])
    assert tuned.figure > tuned.untuned


def test_a_pretrained_model_is_trusted_only_where_it_is_right() -> None:
    frames, classes = np.arange(1, 201), np.repeat([1, 7], 100)
    head = np.tile(np.eye(8)[7] * 0.6 + 0.05, (200, 1))  # always says other
    own = np.tile(np.full(8, 0.125), (200, 1))
    own[:100] = np.eye(8)[1] * 0.72 + 0.02
    own[100:, 2] = 0.65  # wrong, and less sure
    opinions = {"a": Opinions(head=head, own=own, sound=None)}
    found = tune(Bench("expr", opinions, {"a": (frames, classes)}), class_thresholds=False)
    assert found.figure == pytest.approx(2 / 8)  # the two classes that occur, both right
    right = Bench("expr", opinions, {"a": (frames, classes)})
    assert right.figure(Plan(trust=0.7)) == pytest.approx(2 / 8)
    assert right.figure(Plan(trust=0.6)) < right.figure(Plan(trust=0.7))
    assert right.figure(Plan(trust=0.9)) < right.figure(Plan(trust=0.7))


def test_compounds_are_tuned_by_their_parts_alone() -> None:
    frames, classes = np.arange(1, 9), np.arange(8)
    opinions = {"a": Opinions(head=np.eye(8) + np.array([3.0, *[0.0] * 6, 3.0]), own=None, sound=None)}
    bench = Bench("ce", opinions, {"a": (frames, classes)})
    assert bench.figure(Plan()) == 1.0  # neutral and other, which no compound has, are not among the answers
    with pytest.raises(DatasetError, match="no frame of an expression that is wanted"):
        Bench("ce", {"a": opinions["a"]}, {"a": (np.array([1, 8]), np.array([0, 7]))})


def test_videos_without_an_opinion_are_left_out_and_a_bench_without_any_is_refused() -> None:
    opinions, truth = noisy_expressions(5, noise=0.1)
    nothing = Opinions(head=None, own=None, sound=None)
    assert len(Bench("expr", {**opinions, "b": nothing}, truth).opinions) == 2
    with pytest.raises(DatasetError, match="no annotated frame that can be answered"):
        Bench("expr", {"b": nothing}, truth)


def test_a_rate_accepts_as_many_wrong_decisions_as_it_may() -> None:
    opinions, truth = noisy_expressions(6, noise=0.5)
    series = {}
    for video, each in opinions.items():
        raised = np.exp(3 * each.head)
        series[video] = raised / raised.sum(axis=1, keepdims=True)
        series[video][5:9] = np.nan
    rate = tune_rate(series, truth, strides=(20, 5, 1), reach=20, alpha=0.3)
    confidences = []
    for video, values in series.items():
        means = grid_means(values, truth[video][0] - 1, stride=20, reach=20)
        confidences.append(means.max(axis=1)[means.argmax(axis=1) != truth[video][1]])
    wrong = np.concatenate(confidences)
    allowed = int(0.3 / 3 * len(wrong))  # neighbours share their grid, so some are equally sure
    threshold = rate.thresholds[0]
    assert (wrong >= threshold).sum() <= allowed < (wrong >= wrong[wrong < threshold].max()).sum()
    adaptive, *plain = rate_figures(series, truth, rate)
    assert [each["strides"] for each in plain] == [[1], [5], [20]]
    assert adaptive["adaptive"]
    assert plain[2]["frames_read"] < adaptive["frames_read"] <= plain[0]["frames_read"]
