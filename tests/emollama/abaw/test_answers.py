"""Opinions of face, pre-trained model and sound made one; what is absent; heads that survive their folder."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from emollama.abaw.adaptive_rate import AdaptiveRate
from emollama.abaw.answers import TO_ABAW, answer_clips, answer_frames, mix, opinions_of, without_heads
from emollama.abaw.heads import Plan, TunedHeads
from emollama.datasets.frame_scores import FrameScores
from emollama.datasets.sound_features import SoundFeatures
from emollama.encoders.frame_head import FrameHead
from emollama.errors import CheckpointError, InputError
from emollama.labels import ABAW_8, HSEMOTION_8


def constant(task: str, values: list[float], *, reads: str = "scores", inputs: int = 10) -> FrameHead:
    """A head that always says the same; ``values`` are what comes out."""
    wanted = np.asarray(values, np.float64)
    inverse = {"expr": np.log, "va": np.arctanh}.get(task, lambda p: np.log(p / (1 - p)))
    bias = inverse(wanted)
    thresholds = (0.5,) * 12 if task == "au" else ()
    return FrameHead(
        task=task, reads=reads, weights=(np.zeros((len(wanted), inputs)),), biases=(bias,), thresholds=thresholds
    )  # type: ignore[arg-type]


def faces(video: str, frames: list[int], scores: np.ndarray) -> FrameScores:
    return FrameScores(video=video, frames=np.array(frames, np.int64), scores=scores.astype(np.float32))


def affect(*rows: tuple[float, float]) -> np.ndarray:
    return np.array([[0.0] * 8 + list(row) for row in rows]).reshape(len(rows), 10)


SOUND = {"a": SoundFeatures(video="a", times=np.array([0.0, 1.0]), features=np.array([[0.0], [1.0]]), fps=4.0)}


def test_mixing_by_column_and_with_one_that_is_absent() -> None:
    first, second = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    assert mix(first, second, (0.25,)).tolist() == [[0.25, 0.75]]
    assert mix(first, second, (1.0, 0.5)).tolist() == [[1.0, 0.5]]
    assert mix(None, second, (1.0,)) is second
    assert mix(first, None, (0.0,)) is first
    assert mix(None, None, (0.0,)) is None


def test_affect_of_head_pretrained_model_and_sound() -> None:
    heads = TunedHeads(
        task="va",
        face=constant("va", [0.5, -0.5]),
        sound=constant("va", [-0.9, 0.1], reads="sound", inputs=1),
        plan=Plan(head=(0.5,), sound=(0.2, 0.0)),
    )
    readings = {"a": faces("a", [2, 4], affect((1.0, 0.0), (0.0, 0.6)))}
    found = answer_frames(heads, readings, {"a": 4}, sounds=SOUND).answers["a"]
    face = 0.5 * np.array([[0.5, -0.5]] * 4) + 0.5 * np.array([[1, 0], [1, 0], [0.5, 0.3], [0, 0.6]])
    assert np.allclose(found, np.stack([0.2 * -0.9 + 0.8 * face[:, 0], face[:, 1]], axis=1))


def test_a_video_without_a_face_is_answered_by_its_sound_and_one_without_either_by_the_mean() -> None:
    heads = TunedHeads(
        task="va",
        face=constant("va", [0.5, -0.5]),
        sound=constant("va", [-0.9, 0.1], reads="sound", inputs=1),
        plan=Plan(sound=(0.0,)),
    )
    none = faces("x", [], np.zeros((0, 10)))
    readings = {
        "a_left": dataclasses.replace(none, video="a_left"),
        "b": faces("b", [1], affect((0.0, 0.0))),
        "c": dataclasses.replace(none, video="c"),
    }
    found = answer_frames(heads, readings, {"a_left": 2, "b": 2, "c": 1}, sounds=SOUND)
    assert np.allclose(found.answers["a_left"], [[-0.9, 0.1]] * 2)  # the sound of both people in video a
    assert np.allclose(found.answers["b"], [[0.5, -0.5]] * 2)
    assert np.allclose(found.answers["c"], [[-0.2, -0.2]])
    assert found.faceless == ("a_left", "c")
    assert found.silent == ("c",)


def test_the_sound_at_a_frame_is_that_of_its_time() -> None:
    # frame n is shown at (n - 1) / fps; before the first and after the last time the nearest holds
    assert SOUND["a"].at_frames(np.array([1, 3, 5, 9])).ravel().tolist() == [0.0, 0.5, 1.0, 1.0]


def test_divisors_of_classes_and_a_sure_pretrained_model() -> None:
    probabilities = np.full(8, 0.05)
    probabilities[[0, 5]] = 0.4, 0.3  # neutral before sadness
    scores = np.zeros((2, 10))
    scores[1, HSEMOTION_8.index("anger")] = 6.0
    readings = {"a": faces("a", [1, 2], scores)}
    plain = TunedHeads(task="expr", face=constant("expr", probabilities.tolist()))

    def labels(plan: Plan) -> list[str]:
        found = answer_frames(dataclasses.replace(plain, plan=plan), readings, {"a": 2}).answers["a"]
        return [ABAW_8[index] for index in found]

    assert labels(Plan()) == ["neutral", "neutral"]
    assert labels(Plan(thresholds=(2.0, *[1.0] * 7))) == ["sadness", "sadness"]
    assert labels(Plan(trust=0.9)) == ["neutral", "anger"]
    assert labels(Plan(head=(0.0,))) == [ABAW_8[int(readings["a"].probabilities()[0, TO_ABAW].argmax())], "anger"]


def test_smoothing_looks_beyond_the_end_of_a_list() -> None:
    readings = {"a": faces("a", [1, 2, 3], affect((0.0, 0.0), (0.0, 0.0), (0.9, 0.3)))}
    short = answer_frames(without_heads("va", width=1), readings, {"a": 2}).answers["a"]
    assert np.allclose(short, [[0.0, 0.0], [0.3, 0.1]])
    gauss = TunedHeads(task="va", plan=Plan(smoothing="gaussian", width=1.0))
    weights = np.exp(-0.5 * np.arange(3) ** 2)
    assert np.allclose(answer_frames(gauss, readings, {"a": 1}).answers["a"][0, 0], 0.9 * weights[2] / weights.sum())


def test_several_faces_are_refused_where_one_is_meant() -> None:
    readings = faces("a", [1, 1], affect((0.0, 0.0), (0.0, 0.0)))
    with pytest.raises(InputError, match="several faces"):
        opinions_of(without_heads("expr"), readings, 1)


def test_an_expression_head_answers_compounds_of_the_face_that_shows_them_most() -> None:
    weight = np.zeros((8, 10))
    weight[[ABAW_8.index("happiness"), ABAW_8.index("surprise")], 8] = 5.0  # where the first extra number is high
    head = FrameHead(task="expr", reads="scores", weights=(weight,), biases=(np.zeros(8),))
    readings = {"01": faces("01", [1, 1], affect((0.0, 0.0), (1.0, 0.0)))}
    found = answer_frames(TunedHeads(task="ce", face=head), readings, {"01": 1})
    assert found.answers["01"].tolist() == [1]  # happily surprised


def test_clips_without_faces_are_heard_and_silent_ones_have_the_mean() -> None:
    face = constant("emi", [0.2] * 6, inputs=40)
    heads = TunedHeads(
        task="emi",
        face=face,
        sound=constant("emi", [0.6] * 6, reads="sound", inputs=4),
        plan=Plan(sound=(0.5, *[0.0] * 5)),
    )
    readings = {
        "a.mp4": faces("a", [1], affect((0.0, 0.0))),
        "b.mp4": faces("b", [], np.zeros((0, 10))),
        "c.mp4": faces("c", [1], affect((0.0, 0.0))),
    }
    sounds = SOUND | {"b": dataclasses.replace(SOUND["a"], video="b")}
    found = answer_clips(heads, readings, sounds=sounds)
    assert np.allclose(found.answers["a.mp4"], [0.4] + [0.2] * 5)
    assert np.allclose(found.answers["b.mp4"], 0.6)
    assert np.allclose(found.answers["c.mp4"], 0.2)
    assert found.faceless == ("b.mp4",)


def test_an_adaptive_rate_gives_the_same_answers_from_the_frames_it_read_alone() -> None:
    rng = np.random.default_rng(4)
    frames = [n for n in range(1, 121) if not 50 <= n < 80]
    scores = rng.normal(size=(len(frames), 10))
    scores[:30, 2] += 8.0
    rate = AdaptiveRate(strides=(20, 5, 1), thresholds=(0.6, 0.5), reach=10)
    heads = TunedHeads(task="expr", plan=Plan(rate=rate))
    whole = {"a": faces("a", frames, scores)}
    found = answer_frames(heads, whole, {"a": 125})
    assert found.share_read is not None
    assert 0.1 < found.share_read < 0.95
    from emollama.abaw.adaptive_rate import follow
    from emollama.abaw.answers import face_opinion

    read = follow(rate, 125, lambda numbers: face_opinion(heads, whole["a"], numbers)).read
    kept = [index for index, number in enumerate(frames) if read[number - 1]]
    assert len(kept) < len(frames)
    sparse = {"a": faces("a", [frames[index] for index in kept], scores[kept])}
    assert np.array_equal(answer_frames(heads, sparse, {"a": 125}).answers["a"], found.answers["a"])


def test_heads_survive_their_folder_and_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    heads = TunedHeads(
        task="expr",
        face=constant("expr", [0.125] * 8),
        sound=constant("expr", [0.125] * 8, reads="sound", inputs=3),
        plan=Plan(width=5.0, sound=(0.3,), thresholds=(1.5,) * 8, rate=AdaptiveRate(strides=(5, 1), thresholds=(0.7,))),
    )
    heads.save(tmp_path / "heads")
    loaded = TunedHeads.load(tmp_path / "heads")
    assert loaded.plan == heads.plan
    assert loaded.sound is not None
    assert np.allclose(loaded.sound.biases[0], heads.sound.biases[0])
    path = tmp_path / "heads" / "plan.json"
    document = json.loads(path.read_text())
    for change, message in (
        ({"format": 2}, "format 2"),
        ({"task": "va"}, "one for expr; allowed: one for va"),
        ({"plan": {**document["plan"], "window": 3}}, "has window; known"),
        ({"heads": ["face", "nose"]}, "nose"),
    ):
        path.write_text(json.dumps({**document, **change}))
        with pytest.raises(CheckpointError, match=message):
            TunedHeads.load(tmp_path / "heads")
    with pytest.raises(CheckpointError, match="no plan"):
        TunedHeads.load(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "au"}, "au wants a trained head"),
        ({"task": "mtl"}, "task is 'mtl'"),
        ({"task": "va", "face": constant("expr", [0.125] * 8)}, "one for expr; allowed: one for va"),
        ({"task": "va", "plan": Plan(sound=(0.1,) * 3)}, "3 shares; allowed: 1 or 2"),
        ({"task": "va", "plan": Plan(thresholds=(0.5,))}, "thresholds"),
        ({"task": "va", "plan": Plan(rate=AdaptiveRate(strides=(1,), thresholds=()))}, "for expr alone"),
    ],
)
def test_what_are_no_heads(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        TunedHeads(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"smoothing": "median"}, "allowed: box, gaussian"),
        ({"width": 2.5}, "whole frames for a box"),
        ({"sound": (1.2,)}, "shares of 0 to 1"),
        ({"trust": 0.5, "rate": AdaptiveRate(strides=(1,), thresholds=())}, "every frame read"),
    ],
)
def test_what_is_no_plan(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Plan(**options)
